//! The attribute macros of Tilekiln's kernel language.
//!
//! `#[kernel]`, `#[device_fn]` and `#[tile_fn]` keep an author's Rust function as it is and rewrite only the syntax
//! that Rust cannot overload: `let`, assignment, comparison, `&&`, `||`, `if`, `for`, `while`, `break`, `continue`,
//! `return`, indexing, and doc comments on statements. Every rewritten token keeps the author's span, so that rustc's
//! errors and the recorder's locations point at the author's line. What the rewritten forms mean is decided by types
//! in `tilekiln_dsl::operators`.

mod body;
mod comptime;
mod function;
mod kernel;
mod parameters;

use proc_macro::TokenStream;

/// Turns a function into a constructor of a kernel definition.
///
/// `#[kernel(threads = EXPR)]` with `EXPR` over the comptime parameters gives the block size. Parameters marked
/// `#[comptime]` become the arguments of the constructor; the others are the kernel's run-time parameters, in order:
/// `u32`, `i32`, `u64`, `f32`, `In<T>`, `Out<T>`, `InOut<T>`. `#[shape(rows, cols)]` on a buffer names its dimensions
/// and allows tuple indices. Type parameters must be [`Named`] and become settings under their name in snake case.
///
/// [`Named`]: ../tilekiln_dsl/value/trait.Named.html
#[proc_macro_attribute]
pub fn kernel(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(kernel::expand(arguments.into(), item.into()))
}

/// A function that stays a function in the generated text, with its name and doc comment.
///
/// Takes device values and memory, and `#[comptime]` parameters (one function per set of them); returns one device
/// value or nothing.
#[proc_macro_attribute]
pub fn device_fn(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(function::device_fn(arguments.into(), item.into()))
}

/// A function whose text is expanded where it is called: for tiles, closures and comptime structure.
#[proc_macro_attribute]
pub fn tile_fn(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(function::tile_fn(arguments.into(), item.into()))
}

/// Makes a struct (one setting per field) or an enum of unit variants a comptime parameter.
#[proc_macro_derive(Comptime)]
pub fn derive_comptime(item: TokenStream) -> TokenStream {
    expand(comptime::expand(item.into()))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.into_compile_error()).into()
}
