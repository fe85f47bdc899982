//! Parameters of kernels and device functions.

use proc_macro2::Span;
use syn::{Attribute, Expr, FnArg, Ident, Pat, Signature, Token, Type, punctuated::Punctuated};

/// One parameter as the author wrote it, its own attributes taken off.
pub struct Parameter {
    pub name: Ident,
    pub ty: Type,
    pub comptime: bool,
    pub shape: Vec<Expr>,
}

/// Collects mistakes so that an author sees all of them.
#[derive(Default)]
pub struct Errors(Option<syn::Error>);

impl Errors {
    pub fn add(&mut self, span: Span, message: impl std::fmt::Display) {
        self.push(syn::Error::new(span, message));
    }

    pub fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub fn finish(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Reads the parameters and removes `#[comptime]` and `#[shape]` from the signature.
pub fn take(signature: &mut Signature, allow_shape: bool, errors: &mut Errors) -> Vec<Parameter> {
    let mut out = Vec::new();
    for input in &mut signature.inputs {
        let FnArg::Typed(typed) = input else { continue };
        let mut comptime = false;
        let mut shape = Vec::new();
        let mut kept: Vec<Attribute> = Vec::new();
        for attribute in std::mem::take(&mut typed.attrs) {
            if attribute.path().is_ident("comptime") {
                comptime = true;
            } else if attribute.path().is_ident("shape") {
                match attribute.parse_args_with(Punctuated::<Expr, Token![,]>::parse_terminated) {
                    Ok(dims) if allow_shape => shape = dims.into_iter().collect(),
                    Ok(_) => errors.push(syn::Error::new_spanned(
                        &attribute,
                        "#[shape(…)] belongs to a kernel's own parameters; pass rows or flat indices to functions",
                    )),
                    Err(error) => errors.push(error),
                }
            } else if !attribute.path().is_ident("doc") {
                kept.push(attribute);
            }
        }
        typed.attrs = kept;
        let Pat::Ident(pattern) = &*typed.pat else {
            errors.push(syn::Error::new_spanned(
                &typed.pat,
                "parameters of kernels and device functions need a plain name, because the name appears in the generated source: write one parameter for each part",
            ));
            continue;
        };
        if comptime && !shape.is_empty() {
            errors.push(syn::Error::new_spanned(
                &typed.pat,
                "a comptime parameter has no #[shape(…)]",
            ));
        }
        out.push(Parameter {
            name: pattern.ident.clone(),
            ty: (*typed.ty).clone(),
            comptime,
            shape,
        });
    }
    out
}

/// Mistakes that kernels and device functions share.
pub fn check_signature(signature: &Signature, what: &str, errors: &mut Errors) {
    if let Some(token) = &signature.asyncness {
        errors.push(syn::Error::new_spanned(
            token,
            format!("a {what} cannot be async: its body is recorded, not run; remove `async`"),
        ));
    }
    if let Some(token) = &signature.constness {
        errors.push(syn::Error::new_spanned(
            token,
            format!("a {what} cannot be const: its body is recorded at run time; remove `const`"),
        ));
    }
    if let Some(token) = &signature.abi {
        errors.push(syn::Error::new_spanned(
            token,
            format!("a {what} has no ABI of its own; remove `extern`"),
        ));
    }
    for parameter in signature.generics.lifetimes() {
        errors.push(syn::Error::new_spanned(
            parameter,
            format!("a {what} has no lifetimes: device memory is passed as `In<T>`, `Out<T>` or `InOut<T>`"),
        ));
    }
}
