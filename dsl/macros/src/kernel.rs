//! `#[kernel]`

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Expr, GenericParam, ItemFn, MetaNameValue, ReturnType, Token, Type};

use crate::body::{self, Context};
use crate::parameters::{self, Errors};

/// Scalar types that are passed by value at launch.
const SCALARS: &[&str] = &["u32", "i32", "u64", "f32"];

/// Threads of a block, and how many blocks shall fit beside each other.
fn launch_bounds(arguments: TokenStream) -> syn::Result<(Expr, Expr)> {
    let help = "a kernel says how many threads a block has: #[kernel(threads = 256)], or an expression over its comptime parameters";
    if arguments.is_empty() {
        return Err(syn::Error::new(proc_macro2::Span::call_site(), help));
    }
    let arguments = Punctuated::<MetaNameValue, Token![,]>::parse_terminated.parse2(arguments)?;
    let mut threads = None;
    let mut blocks = syn::parse_quote!(0);
    for argument in arguments {
        if argument.path.is_ident("threads") {
            threads = Some(argument.value);
        } else if argument.path.is_ident("blocks") {
            blocks = argument.value;
        } else {
            return Err(syn::Error::new_spanned(&argument.path, help));
        }
    }
    match threads {
        Some(threads) => Ok((threads, blocks)),
        None => Err(syn::Error::new(proc_macro2::Span::call_site(), help)),
    }
}

pub fn expand(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut function: ItemFn = syn::parse2(item)?;
    let mut errors = Errors::default();
    let (threads, blocks) = launch_bounds(arguments).unwrap_or_else(|error| {
        errors.push(error);
        (syn::parse_quote!(0), syn::parse_quote!(0))
    });
    parameters::check_signature(&function.sig, "kernel", &mut errors);
    if let Some(receiver) = function.sig.receiver() {
        errors.push(syn::Error::new_spanned(
            receiver,
            "a kernel is a free function and takes no `self`: pass what it needs as parameters",
        ));
    }
    if let ReturnType::Type(_, ty) = &function.sig.output {
        errors.push(syn::Error::new_spanned(
            ty,
            "a kernel returns nothing: store results through an `Out<T>` parameter",
        ));
    }
    let parameters = parameters::take(&mut function.sig, true, &mut errors);
    let comptime: Vec<_> = parameters.iter().filter(|p| p.comptime).collect();
    let context = Context::kernel(comptime.iter().map(|p| p.name.to_string()).collect());
    body::rewrite(&mut function.block, &context, &mut errors);
    errors.finish()?;

    let at = |span| quote_spanned!(span=> ::tilekiln_dsl::ir::Location::caller());
    let declare = parameters.iter().filter(|p| !p.comptime).map(|p| {
        let (name, ty) = (&p.name, &p.ty);
        let text = name.to_string();
        let names = p.shape.iter().map(|dim| quote!(#dim).to_string().replace(' ', ""));
        let ty = match ty {
            Type::Path(path) if SCALARS.iter().any(|s| path.path.is_ident(s)) => {
                quote_spanned!(ty.span()=> ::tilekiln_dsl::value::Val<#ty>)
            }
            _ => quote!(#ty),
        };
        let declare = quote_spanned!(ty.span()=> <#ty as ::tilekiln_dsl::memory::KernelParameter>::declare);
        let at = at(name.span());
        quote!(let mut #name = #declare(#text, &[#(#names),*], #at);)
    });
    // sizes may be parameters that are declared later, hence a second round
    // a dimension that names no parameter only documents the buffer, which then takes flat indices alone
    let is_known = |dim: &Expr| match dim {
        Expr::Path(path) => path.path.get_ident().is_none_or(|name| {
            let name_text = name.to_string();
            name_text.chars().any(char::is_uppercase) || parameters.iter().any(|p| p.name == *name)
        }),
        _ => true,
    };
    let has_sizes = |p: &&parameters::Parameter| p.shape.len() > 1 && p.shape.iter().skip(1).all(is_known);
    let shapes = parameters.iter().filter(has_sizes).map(|p| {
        let name = &p.name;
        let inner = p.shape.iter().skip(1).map(|dim| {
            let at = at(dim.span());
            quote_spanned!(dim.span()=> ::tilekiln_dsl::memory::GlobalMemory::<f32, ()>::extent(#dim, #at))
        });
        quote!(#name.set_shape(vec![#(#inner),*]);)
    });
    let shapes: Vec<_> = shapes.collect();

    let mut settings = Vec::new();
    for parameter in &function.sig.generics.params {
        match parameter {
            GenericParam::Type(ty) => {
                let ident = &ty.ident;
                let key = snake_case(&ident.to_string());
                settings.push(quote_spanned!(ident.span()=> settings.push(::tilekiln_dsl::comptime::type_setting::<#ident>(#key));));
            }
            GenericParam::Const(constant) => {
                let ident = &constant.ident;
                let key = snake_case(&ident.to_string());
                settings.push(quote_spanned!(ident.span()=> ::tilekiln_dsl::comptime::Comptime::settings(&#ident, #key, &mut settings);));
            }
            _ => {}
        }
    }
    for parameter in &comptime {
        let (name, key) = (&parameter.name, parameter.name.to_string());
        settings.push(quote_spanned!(parameter.ty.span()=> ::tilekiln_dsl::comptime::Comptime::settings(&#name, #key, &mut settings);));
    }

    let doc = body::doc_lines(&function.attrs);
    let attributes = &function.attrs;
    let visibility = &function.vis;
    let ident = &function.sig.ident;
    let family = ident.to_string();
    let (generics, _, clause) = function.sig.generics.split_for_impl();
    let constructor: Vec<_> = comptime
        .iter()
        .map(|p| {
            let (name, ty) = (&p.name, &p.ty);
            quote!(#name: #ty)
        })
        .collect();
    let captured: Vec<_> = comptime.iter().map(|p| &p.name).collect();
    let copies: Vec<_> = captured.iter().map(|name| format_ident!("{name}")).collect();
    let block = &function.block;
    let location = at(ident.span());
    let lints = body::allowed_lints();
    Ok(quote! {
        #(#attributes)*
        #lints
        #visibility fn #ident #generics (#(#constructor),*) -> ::tilekiln_dsl::comptime::KernelDef #clause {
            use ::tilekiln_dsl::operators::{PlainBinding as _, PlainComparison as _, PlainPlace as _};
            let mut settings = ::std::vec::Vec::new();
            #(#settings)*
            let block_threads: usize = #threads;
            let blocks_beside: usize = #blocks;
            ::tilekiln_dsl::comptime::KernelDef::new(
                #family,
                &[#(#doc),*],
                #location,
                settings,
                [block_threads, blocks_beside],
                ::std::rc::Rc::new(move || {
                    #(let #copies = ::std::clone::Clone::clone(&#captured);)*
                    #(#declare)*
                    #(#shapes)*
                    #block
                }),
            )
        }
    })
}

/// `KvCodec` to `kv_codec`.
pub fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.char_indices() {
        if c.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
