//! Rewriting the body of a kernel or device function.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, BinOp, Block, Expr, Lit, Meta, Pat, RangeLimits, Stmt, Token};

use crate::parameters::Errors;

/// What kind of function is rewritten.
enum Kind {
    Kernel,
    DeviceFn { has_result: bool },
    TileFn,
}

/// Facts about the function that the rewriting needs.
pub struct Context {
    kind: Kind,
    comptime: HashSet<String>,
}

impl Context {
    pub fn kernel(comptime: HashSet<String>) -> Self {
        Self {
            kind: Kind::Kernel,
            comptime,
        }
    }
    pub fn device_fn(comptime: HashSet<String>, has_result: bool) -> Self {
        Self {
            kind: Kind::DeviceFn { has_result },
            comptime,
        }
    }
    pub fn tile_fn(comptime: HashSet<String>) -> Self {
        Self {
            kind: Kind::TileFn,
            comptime,
        }
    }
}

/// Rewrites all statements of a body.
pub fn rewrite(block: &mut Block, context: &Context, errors: &mut Errors) {
    Rewriter {
        context,
        errors,
        closures: 0,
    }
    .visit_block_mut(block);
}

/// Lints that the rewritten text, not the author's, would set off.
pub fn allowed_lints() -> TokenStream {
    quote!(#[allow(clippy::all, clippy::pedantic, unused_mut, unused_braces, unused_parens, unused_imports, unused_variables, unreachable_code)])
}

/// Lines of the doc comments among some attributes.
pub fn doc_lines(attributes: &[Attribute]) -> Vec<String> {
    let mut lines = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(literal) = &meta.value
            && let Lit::Str(text) = &literal.lit
        {
            // rustdoc's escapes mean nothing in the generated source
            let text = text.value().replace("\\[", "[").replace("\\]", "]");
            lines.extend(
                text.lines()
                    .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_string()),
            );
            if text.is_empty() {
                lines.push(String::new());
            }
        }
    }
    lines
}

struct Rewriter<'a> {
    context: &'a Context,
    errors: &'a mut Errors,
    closures: usize,
}

/// The author's line, as an expression of the generated code.
fn at(span: Span) -> TokenStream {
    quote_spanned!(span=> ::tilekiln_dsl::ir::Location::caller())
}

/// Attributes of a statement expression. syn hangs them on the leftmost operand.
fn attributes(expr: &mut Expr) -> Option<&mut Vec<Attribute>> {
    Some(match expr {
        Expr::Assign(e) => return attributes(&mut e.left),
        Expr::Binary(e) => return attributes(&mut e.left),
        Expr::Cast(e) => return attributes(&mut e.expr),
        Expr::Array(e) => &mut e.attrs,
        Expr::Block(e) => &mut e.attrs,
        Expr::Break(e) => &mut e.attrs,
        Expr::Call(e) => &mut e.attrs,
        Expr::Closure(e) => &mut e.attrs,
        Expr::Continue(e) => &mut e.attrs,
        Expr::Field(e) => &mut e.attrs,
        Expr::ForLoop(e) => &mut e.attrs,
        Expr::If(e) => &mut e.attrs,
        Expr::Index(e) => &mut e.attrs,
        Expr::Lit(e) => &mut e.attrs,
        Expr::Loop(e) => &mut e.attrs,
        Expr::Macro(e) => &mut e.attrs,
        Expr::Match(e) => &mut e.attrs,
        Expr::MethodCall(e) => &mut e.attrs,
        Expr::Paren(e) => &mut e.attrs,
        Expr::Path(e) => &mut e.attrs,
        Expr::Reference(e) => &mut e.attrs,
        Expr::Return(e) => &mut e.attrs,
        Expr::Tuple(e) => &mut e.attrs,
        Expr::Unary(e) => &mut e.attrs,
        Expr::While(e) => &mut e.attrs,
        _ => return None,
    })
}

/// Takes the doc comments off.
fn take_docs(attributes: &mut Vec<Attribute>) -> Option<(Vec<String>, Span)> {
    let (docs, rest): (Vec<_>, Vec<_>) = std::mem::take(attributes)
        .into_iter()
        .partition(|a| a.path().is_ident("doc"));
    *attributes = rest;
    let span = docs.first()?.span();
    Some((doc_lines(&docs), span))
}

fn comment(docs: Option<(Vec<String>, Span)>) -> Option<Stmt> {
    let (lines, span) = docs?;
    let text = lines.join("\n");
    let at = at(span);
    Some(syn::parse_quote!(::tilekiln_dsl::record::comment(#text, #at);))
}

fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(e) => has_let(&e.left) || has_let(&e.right),
        Expr::Paren(e) => has_let(&e.expr),
        _ => false,
    }
}

impl Rewriter<'_> {
    /// The name a comptime operand has in the author's source: a comptime parameter, a field of one, or a constant.
    fn comptime_name(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Paren(e) => self.comptime_name(&e.expr),
            Expr::Path(e) => {
                let name = e.path.get_ident()?.to_string();
                let is_constant = name.chars().any(|c| c.is_ascii_uppercase())
                    && name
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
                (is_constant || self.context.comptime.contains(&name)).then_some(name)
            }
            Expr::Field(e) => {
                let mut base = &*e.base;
                while let Expr::Field(inner) = base {
                    base = &inner.base;
                }
                let Expr::Path(path) = base else { return None };
                let root = path.path.get_ident()?.to_string();
                let syn::Member::Named(field) = &e.member else {
                    return None;
                };
                // (the fields of `self` may be device values: those ignore the name)
                (root == "self" || self.context.comptime.contains(&root)).then(|| field.to_string())
            }
            _ => None,
        }
    }

    /// Wraps a comptime operand so that its name reaches the generated source.
    fn operand(&self, side: usize, original: &Expr, rewritten: &Expr) -> (TokenStream, bool) {
        match self.comptime_name(original) {
            Some(name) => {
                let span = original.span();
                let tokens = quote_spanned!(span=> ::tilekiln_dsl::operators::operand(#side, #name, #rewritten));
                (tokens, true)
            }
            None => (rewritten.to_token_stream(), false),
        }
    }

    fn local(&mut self, local: &mut syn::Local) -> Option<Stmt> {
        let docs = take_docs(&mut local.attrs);
        if let Some(init) = &mut local.init {
            self.visit_expr_mut(&mut init.expr);
            if let Some((_, diverge)) = &mut init.diverge {
                self.visit_expr_mut(diverge);
            }
            let mut pattern = &local.pat;
            if let Pat::Type(typed) = pattern {
                pattern = &typed.pat;
            }
            if let Pat::Ident(ident) = pattern
                && ident.subpat.is_none()
                && ident.by_ref.is_none()
                && !ident.ident.to_string().starts_with('_')
                && init.diverge.is_none()
            {
                let name = ident.ident.to_string();
                let name = name.strip_prefix("r#").unwrap_or(&name);
                let at = at(ident.ident.span());
                let value = &init.expr;
                let span = value.span();
                *init.expr = if ident.mutability.is_some() {
                    Expr::Verbatim(
                        quote_spanned!(span=> ::tilekiln_dsl::operators::Binding(#value).mutable(#name, #at)),
                    )
                } else {
                    Expr::Verbatim(
                        quote_spanned!(span=> ::tilekiln_dsl::operators::Binding(#value).immutable(#name, #at)),
                    )
                };
            }
        }
        comment(docs)
    }

    fn binary(&mut self, e: &mut syn::ExprBinary) -> Option<TokenStream> {
        let span = e.op.span();
        let (left, right) = (e.left.clone(), e.right.clone());
        let at = at(span);
        if matches!(e.op, BinOp::And(_) | BinOp::Or(_)) {
            self.visit_expr_mut(&mut e.left);
            self.visit_expr_mut(&mut e.right);
            let (l, r) = (&e.left, &e.right);
            let method = if matches!(e.op, BinOp::And(_)) {
                quote_spanned!(span=> and)
            } else {
                quote_spanned!(span=> or)
            };
            return Some(quote_spanned!(span=> ::tilekiln_dsl::operators::JoinsWith::#method(#l, || #r, #at)));
        }
        let comparison = match e.op {
            BinOp::Eq(_) => Some("equal"),
            BinOp::Ne(_) => Some("not_equal"),
            BinOp::Lt(_) => Some("less"),
            BinOp::Le(_) => Some("less_equal"),
            BinOp::Gt(_) => Some("greater"),
            BinOp::Ge(_) => Some("greater_equal"),
            _ => None,
        };
        let compound = matches!(
            e.op,
            BinOp::AddAssign(_)
                | BinOp::SubAssign(_)
                | BinOp::MulAssign(_)
                | BinOp::DivAssign(_)
                | BinOp::RemAssign(_)
                | BinOp::BitXorAssign(_)
                | BinOp::BitAndAssign(_)
                | BinOp::BitOrAssign(_)
                | BinOp::ShlAssign(_)
                | BinOp::ShrAssign(_)
        );
        if compound {
            return self.compound(e);
        }
        self.visit_expr_mut(&mut e.left);
        self.visit_expr_mut(&mut e.right);
        let (l, named_left) = self.operand(0, &left, &e.left);
        let (r, named_right) = self.operand(1, &right, &e.right);
        let named = named_left || named_right;
        let operation = match comparison {
            Some(method) => {
                let method = syn::Ident::new(method, span);
                quote_spanned!(span=> ::tilekiln_dsl::operators::Compare(&(#l), &(#r)).#method())
            }
            None if named => {
                let op = &e.op;
                quote!(#l #op #r)
            }
            None => return None,
        };
        Some(if named {
            quote_spanned!(span=> ::tilekiln_dsl::operators::operation(#operation))
        } else {
            operation
        })
    }

    /// `place += value` and its kin.
    fn compound(&mut self, e: &mut syn::ExprBinary) -> Option<TokenStream> {
        let span = e.op.span();
        let right = e.right.clone();
        self.visit_expr_mut(&mut e.right);
        let (value, named) = self.operand(1, &right, &e.right);
        if let Expr::Index(place) = &mut *e.left {
            // the base is a place: only what is inside of it is rewritten
            self.visit_place(&mut place.expr);
            self.visit_expr_mut(&mut place.index);
            let (base, index) = (&place.expr, &place.index);
            let op = plain_operator(&e.op)?;
            return Some(quote_spanned!(span=> {
                let __value = #value;
                let __index = #index;
                let __old = ::tilekiln_dsl::memory::Indexed::read_at(&#base, __index);
                let __new = ::tilekiln_dsl::operators::operation(__old #op __value);
                ::tilekiln_dsl::memory::IndexStore::store_at(&#base, __index, __new)
            }));
        }
        self.visit_place(&mut e.left);
        if !named {
            return None;
        }
        let (place, op) = (&e.left, &e.op);
        Some(quote_spanned!(span=> ::tilekiln_dsl::operators::operation({ #place #op #value; })))
    }

    /// A place that is written: a path or a field stays as it is, expressions inside of it are rewritten.
    fn visit_place(&mut self, place: &mut Expr) {
        match place {
            Expr::Field(e) => self.visit_place(&mut e.base),
            Expr::Paren(e) => self.visit_place(&mut e.expr),
            Expr::Index(e) => {
                self.visit_place(&mut e.expr);
                self.visit_expr_mut(&mut e.index);
            }
            Expr::Path(_) => {}
            other => self.visit_expr_mut(other),
        }
    }

    fn assign(&mut self, e: &mut syn::ExprAssign) -> TokenStream {
        let span = e.eq_token.span();
        self.visit_expr_mut(&mut e.right);
        let value = &e.right;
        if let Expr::Infer(_) = &*e.left {
            return quote_spanned!(span=> { let _ = #value; });
        }
        if let Expr::Index(place) = &mut *e.left {
            self.visit_place(&mut place.expr);
            self.visit_expr_mut(&mut place.index);
            let (base, index) = (&place.expr, &place.index);
            return quote_spanned!(span=> {
                let __value = #value;
                let __index = #index;
                ::tilekiln_dsl::memory::IndexStore::store_at(&#base, __index, __value)
            });
        }
        self.visit_place(&mut e.left);
        let place = &e.left;
        quote_spanned!(span=> {
            let __value = #value;
            ::tilekiln_dsl::operators::Variable(&mut #place).assign(__value)
        })
    }

    fn branch(&mut self, e: &mut syn::ExprIf) -> TokenStream {
        let span = e.if_token.span();
        let at = at(span);
        self.visit_expr_mut(&mut e.cond);
        self.visit_block_mut(&mut e.then_branch);
        let otherwise = match &mut e.else_branch {
            Some((_, expr)) => {
                self.visit_expr_mut(expr);
                quote!(#expr)
            }
            None => quote!({}),
        };
        let (condition, then) = (&e.cond, &e.then_branch);
        let condition_span = condition.span();
        let open = quote_spanned!(condition_span=> ::tilekiln_dsl::operators::Condition::branch(#condition, #at));
        quote_spanned!(span=> {
            let mut __branch = #open;
            let __then = if __branch.then() { ::std::option::Option::Some(#then) } else { ::std::option::Option::None };
            let __otherwise = if __branch.otherwise() { ::std::option::Option::Some(#otherwise) } else { ::std::option::Option::None };
            __branch.close(__then, __otherwise)
        })
    }

    fn for_loop(&mut self, e: &mut syn::ExprForLoop) -> TokenStream {
        let span = e.for_token.span();
        let at = at(span);
        self.label(e.label.as_ref());
        let rounds = match &mut *e.expr {
            // two bare numbers: left to Rust, which finds their type from their use
            Expr::Range(range) if is_number(range.start.as_deref()) && is_number(range.end.as_deref()) => {
                quote!(#range)
            }
            Expr::Range(range)
                if matches!(range.limits, RangeLimits::HalfOpen(_)) && range.start.is_some() && range.end.is_some() =>
            {
                let mut side = |index: usize, bound: &mut Option<Box<Expr>>| {
                    let original = bound.clone();
                    if let Some(bound) = bound {
                        self.visit_expr_mut(bound);
                    }
                    match (&original, &bound) {
                        (Some(original), Some(rewritten)) => self.operand(index, original, rewritten).0,
                        _ => TokenStream::new(),
                    }
                };
                let start = side(0, &mut range.start);
                let end = side(1, &mut range.end);
                quote_spanned!(span=> ::tilekiln_dsl::operators::operation(
                    ::tilekiln_dsl::operators::LoopRange::rounds(#start, #end, #at)))
            }
            other => {
                self.visit_expr_mut(other);
                quote!(#other)
            }
        };
        self.visit_block_mut(&mut e.body);
        let name_variable = match &*e.pat {
            Pat::Ident(ident) => {
                let (variable, name) = (&ident.ident, ident.ident.to_string());
                let name = name.trim_start_matches('_');
                let mutability = &ident.mutability;
                quote!(let #mutability #variable = ::tilekiln_dsl::operators::Binding(#variable).loop_variable(#name);)
            }
            _ => TokenStream::new(),
        };
        let (pattern, statements) = (&e.pat, &e.body.stmts);
        quote_spanned!(span=> for #pattern in #rounds {
            let __loop = ::tilekiln_dsl::record::enter_loop();
            #name_variable
            #(#statements)*
        })
    }

    fn while_loop(&mut self, e: &mut syn::ExprWhile) -> TokenStream {
        let span = e.while_token.span();
        let at = at(span);
        self.label(e.label.as_ref());
        self.visit_expr_mut(&mut e.cond);
        self.visit_block_mut(&mut e.body);
        let (condition, statements) = (&e.cond, &e.body.stmts);
        if has_let(condition) {
            return quote_spanned!(span=> while #condition {
                let __loop = ::tilekiln_dsl::record::enter_loop();
                #(#statements)*
            });
        }
        let condition = quote_spanned!(condition.span()=> ::tilekiln_dsl::operators::while_condition(#condition));
        quote_spanned!(span=> {
            let mut __while = ::tilekiln_dsl::record::WhileScope::new(#at);
            while {
                __while.open_test();
                ::tilekiln_dsl::record::test_round(&mut __while, #condition)
            } {
                let __loop = ::tilekiln_dsl::record::enter_loop();
                #(#statements)*
            }
        })
    }

    fn label(&mut self, label: Option<&syn::Label>) {
        if let Some(label) = label {
            self.errors.add(
                label.span(),
                "loops in kernels have no labels: `break` and `continue` leave the innermost loop; use a `let mut` flag for outer ones",
            );
        }
    }

    fn jump(&mut self, is_break: bool, span: Span, labelled: bool, valued: bool) -> TokenStream {
        if labelled || valued {
            self.errors.add(
                span,
                "`break` and `continue` in kernels take no label and no value: assign a `let mut` before leaving the loop",
            );
        }
        let at = at(span);
        let word = if is_break {
            quote_spanned!(span=> break)
        } else {
            quote_spanned!(span=> continue)
        };
        quote_spanned!(span=> if ::tilekiln_dsl::record::leave_loop(#is_break, #at) { #word })
    }

    fn leave(&mut self, e: &mut syn::ExprReturn) -> TokenStream {
        let span = e.return_token.span();
        let at = at(span);
        if let Some(value) = &mut e.expr {
            self.visit_expr_mut(value);
        }
        let value = &e.expr;
        match self.context.kind {
            Kind::TileFn => quote_spanned!(span=> {
                ::tilekiln_dsl::record::leave_inlined(__depth, #at);
                return #value
            }),
            Kind::DeviceFn { has_result: true } => quote_spanned!(span=> {
                let __result = #value;
                if ::tilekiln_dsl::record::leave_with(&__result, #at) { return __result }
            }),
            _ => {
                quote_spanned!(span=> if ::tilekiln_dsl::record::leave_function(::std::option::Option::None, #at) { return #value })
            }
        }
    }
}

fn is_number(bound: Option<&Expr>) -> bool {
    matches!(bound, Some(Expr::Lit(literal)) if matches!(literal.lit, Lit::Int(_)))
}

/// `+=` to `+`.
fn plain_operator(op: &BinOp) -> Option<BinOp> {
    let span = op.span();
    Some(match op {
        BinOp::AddAssign(_) => BinOp::Add(Token![+](span)),
        BinOp::SubAssign(_) => BinOp::Sub(Token![-](span)),
        BinOp::MulAssign(_) => BinOp::Mul(Token![*](span)),
        BinOp::DivAssign(_) => BinOp::Div(Token![/](span)),
        BinOp::RemAssign(_) => BinOp::Rem(Token![%](span)),
        BinOp::BitXorAssign(_) => BinOp::BitXor(Token![^](span)),
        BinOp::BitAndAssign(_) => BinOp::BitAnd(Token![&](span)),
        BinOp::BitOrAssign(_) => BinOp::BitOr(Token![|](span)),
        BinOp::ShlAssign(_) => BinOp::Shl(Token![<<](span)),
        BinOp::ShrAssign(_) => BinOp::Shr(Token![>>](span)),
        _ => return None,
    })
}

impl VisitMut for Rewriter<'_> {
    fn visit_block_mut(&mut self, block: &mut Block) {
        let mut out = Vec::new();
        let mut jump: Option<&'static str> = None;
        for mut stmt in std::mem::take(&mut block.stmts) {
            if let (Some(word), false) = (jump.take(), matches!(stmt, Stmt::Item(_))) {
                self.errors.add(
                    stmt.span(),
                    format!("this is never reached: a `{word}` stands right before it; remove one of them, or put the `{word}` under a condition"),
                );
            }
            jump = match &stmt {
                Stmt::Expr(Expr::Return(_), _) => Some("return"),
                Stmt::Expr(Expr::Break(_), _) => Some("break"),
                Stmt::Expr(Expr::Continue(_), _) => Some("continue"),
                _ => None,
            };
            let comment = match &mut stmt {
                Stmt::Local(local) => self.local(local),
                Stmt::Expr(expr, _) => {
                    let docs = attributes(expr).and_then(take_docs);
                    self.visit_expr_mut(expr);
                    comment(docs)
                }
                Stmt::Macro(macro_) => comment(take_docs(&mut macro_.attrs)),
                // items inside a kernel are ordinary Rust
                Stmt::Item(_) => None,
            };
            out.extend(comment);
            // a rewritten `x = y;` or `for` is an expression of its own
            out.push(stmt);
        }
        block.stmts = out;
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        let rewritten = match expr {
            Expr::Binary(e) => match self.binary(e) {
                Some(tokens) => tokens,
                None => return,
            },
            Expr::Assign(e) => self.assign(e),
            Expr::If(e) if !has_let(&e.cond) => self.branch(e),
            Expr::ForLoop(e) => self.for_loop(e),
            Expr::While(e) => self.while_loop(e),
            Expr::Loop(e) => {
                self.label(e.label.as_ref());
                self.visit_block_mut(&mut e.body);
                let statements = &e.body.stmts;
                quote_spanned!(e.loop_token.span()=> loop {
                    let __loop = ::tilekiln_dsl::record::enter_loop();
                    #(#statements)*
                })
            }
            Expr::Break(e) => {
                let (span, labelled, valued) = (e.break_token.span(), e.label.is_some(), e.expr.is_some());
                self.jump(true, span, labelled, valued)
            }
            Expr::Continue(e) => {
                let (span, labelled) = (e.continue_token.span(), e.label.is_some());
                self.jump(false, span, labelled, false)
            }
            Expr::Return(e) if self.closures == 0 => self.leave(e),
            Expr::Index(e) => {
                self.visit_expr_mut(&mut e.expr);
                self.visit_expr_mut(&mut e.index);
                let span = e.bracket_token.span.join();
                let (base, index) = (&e.expr, &e.index);
                quote_spanned!(span=> ::tilekiln_dsl::memory::Indexed::read_at(&#base, #index))
            }
            Expr::Reference(e) => {
                self.visit_place(&mut e.expr);
                return;
            }
            Expr::Closure(_) => {
                self.closures += 1;
                visit_mut::visit_expr_mut(self, expr);
                self.closures -= 1;
                return;
            }
            Expr::Try(e) => {
                self.errors.add(
                    e.question_token.span(),
                    "`?` in a kernel: there is nobody to return an error to while recording; check comptime arguments before calling the kernel",
                );
                return;
            }
            Expr::Async(_) | Expr::Await(_) => {
                self.errors
                    .add(expr.span(), "async code in a kernel: its body is recorded, not run");
                return;
            }
            Expr::Unsafe(e) => {
                self.errors.add(
                    e.unsafe_token.span(),
                    "`unsafe` in a kernel: everything a kernel can do is checked, and target instructions live in the code generator; remove `unsafe`",
                );
                return;
            }
            other => {
                visit_mut::visit_expr_mut(self, other);
                return;
            }
        };
        *expr = Expr::Verbatim(rewritten);
    }
}
