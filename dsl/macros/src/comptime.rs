//! `#[derive(Comptime)]`

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields};

use crate::kernel::snake_case;

pub fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let ident = &input.ident;
    let body = match &input.data {
        Data::Struct(data) => {
            let Fields::Named(fields) = &data.fields else {
                return Err(syn::Error::new_spanned(
                    ident,
                    "a comptime struct needs named fields, because each is a setting on the command line",
                ));
            };
            let names: Vec<_> = fields.named.iter().filter_map(|f| f.ident.as_ref()).collect();
            let keys = names.iter().map(ToString::to_string);
            quote!(#(::tilekiln_dsl::comptime::Comptime::settings(&self.#names, #keys, out);)*)
        }
        Data::Enum(data) => {
            let mut arms = Vec::new();
            for variant in &data.variants {
                if !matches!(variant.fields, Fields::Unit) {
                    return Err(syn::Error::new_spanned(
                        variant,
                        "a comptime enum has plain variants only, because each is one word on the command line",
                    ));
                }
                let (name, text) = (&variant.ident, snake_case(&variant.ident.to_string()));
                arms.push(quote!(Self::#name => #text));
            }
            quote! {
                let value: &'static str = match self { #(#arms),* };
                ::tilekiln_dsl::comptime::Comptime::settings(&value, key, out);
            }
        }
        Data::Union(_) => {
            return Err(syn::Error::new_spanned(ident, "a union cannot be a comptime parameter"));
        }
    };
    Ok(quote! {
        impl ::tilekiln_dsl::comptime::Comptime for #ident {
            fn settings(&self, key: &str, out: &mut ::std::vec::Vec<::tilekiln_dsl::ir::Setting>) {
                let _ = key;
                #body
            }
        }
    })
}
