//! `#[device_fn]` and `#[tile_fn]`

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{GenericParam, ImplItemFn, ReturnType, Type, parse_quote};

use crate::body::{self, Context};
use crate::parameters::{self, Errors};

fn no_arguments(arguments: &TokenStream, what: &str, errors: &mut Errors) {
    if !arguments.is_empty() {
        errors.push(syn::Error::new_spanned(
            arguments,
            format!("#[{what}] takes no arguments"),
        ));
    }
}

pub fn device_fn(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut function: ImplItemFn = syn::parse2(item)?;
    let mut errors = Errors::default();
    no_arguments(&arguments, "device_fn", &mut errors);
    parameters::check_signature(&function.sig, "device function", &mut errors);
    if let Some(receiver) = function.sig.receiver() {
        errors.push(syn::Error::new_spanned(
            receiver,
            "a device function takes no `self`: pass values and memory one by one, or make it a #[tile_fn]",
        ));
    }
    let parameters = parameters::take(&mut function.sig, false, &mut errors);
    let comptime = parameters
        .iter()
        .filter(|p| p.comptime)
        .map(|p| p.name.to_string())
        .collect();
    let has_result = matches!(function.sig.output, ReturnType::Type(..));
    let context = Context::device_fn(comptime, has_result);
    body::rewrite(&mut function.block, &context, &mut errors);
    errors.finish()?;

    let doc = body::doc_lines(&function.attrs);
    let name = function.sig.ident.to_string();
    let result = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => quote!(#ty),
    };
    let declared = quote_spanned!(function.sig.ident.span()=> ::tilekiln_dsl::ir::Location::caller());
    let settings = parameters.iter().filter(|p| p.comptime).map(|p| {
        let (ident, key) = (&p.name, p.name.to_string());
        quote_spanned!(p.ty.span()=> ::tilekiln_dsl::comptime::Comptime::settings(&#ident, #key, &mut __settings);)
    });
    let types = function.sig.generics.params.iter().filter_map(|p| match p {
        GenericParam::Type(ty) => Some(&ty.ident),
        _ => None,
    });
    let passed: Vec<_> = parameters.iter().filter(|p| !p.comptime).collect();
    let pass = passed.iter().map(|p| {
        let (ident, key) = (&p.name, p.name.to_string());
        quote_spanned!(p.ty.span()=> __call.pass(#key, &#ident);)
    });
    let declare = passed.iter().enumerate().map(|(index, p)| {
        let ident = &p.name;
        let index = index as u32;
        quote_spanned!(p.ty.span()=> let #ident = ::tilekiln_dsl::record::FunctionArgument::parameter(&#ident, #index, __call.declared_at);)
    });
    let block = &function.block;
    let body: TokenStream = quote! {{
        use ::tilekiln_dsl::operators::{PlainBinding as _, PlainComparison as _, PlainPlace as _};
        let mut __settings: ::std::vec::Vec<::tilekiln_dsl::ir::Setting> = ::std::vec::Vec::new();
        #(#settings)*
        let __types: &[&str] = &[#(::std::any::type_name::<#types>()),*];
        let __called_at = ::tilekiln_dsl::ir::Location::caller();
        // inside a closure the location is the function's own, not its caller's
        let __declared_at = (|| #declared)();
        let mut __call = ::tilekiln_dsl::record::DeviceFunction::new(
            #name, &[#(#doc),*], __declared_at, __called_at, &__settings, &__types.join(","));
        #(#pass)*
        if __call.begin() {
            #(#declare)*
            let __result: #result = (|| #block)();
            __call.end(__result);
        }
        __call.finish::<#result>()
    }};
    function.block = syn::parse2(body)?;
    let lints = body::allowed_lints();
    function.attrs.push(parse_quote!(#[track_caller]));
    Ok(quote!(#lints #function))
}

pub fn tile_fn(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut function: ImplItemFn = syn::parse2(item)?;
    let mut errors = Errors::default();
    no_arguments(&arguments, "tile_fn", &mut errors);
    let parameters = if function.sig.inputs.iter().all(is_plain) {
        parameters::take(&mut function.sig, false, &mut errors)
    } else {
        Vec::new()
    };
    let comptime = parameters
        .iter()
        .filter(|p| p.comptime)
        .map(|p| p.name.to_string())
        .collect();
    body::rewrite(&mut function.block, &Context::tile_fn(comptime), &mut errors);
    errors.finish()?;
    // a variable passed by value is read at the call, as in Rust
    let settle = parameters.iter().filter(|p| is_value(&p.ty)).map(|p| {
        let (ident, name) = (&p.name, p.name.to_string());
        let name = name.trim_start_matches('_');
        quote!(let #ident = #ident.by_value(#name);)
    });
    let statements = &function.block.stmts;
    let body: TokenStream = quote! {{
        use ::tilekiln_dsl::operators::{PlainBinding as _, PlainComparison as _, PlainPlace as _};
        let __depth = ::tilekiln_dsl::record::depth();
        #(#settle)*
        #(#statements)*
    }};
    function.block = syn::parse2(body)?;
    let lints = body::allowed_lints();
    Ok(quote!(#lints #function))
}

/// `self`, or a plain name.
fn is_plain(input: &syn::FnArg) -> bool {
    match input {
        syn::FnArg::Receiver(_) => true,
        syn::FnArg::Typed(typed) => matches!(&*typed.pat, syn::Pat::Ident(_)),
    }
}

/// Written as `Val<…>`.
fn is_value(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|s| s.ident == "Val"),
        _ => false,
    }
}
