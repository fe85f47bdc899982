//! The half of code generation that all target languages share.
//!
//! 1. [`analysis`] decides for every value whether it is dead, printed inside its use, or declared.
//! 2. [`body`], [`statement`] and [`expression`] print bodies, asking the [`language::Language`] for spellings.
//! 3. [`file`] puts header, includes, helpers, constants, tables, functions and the kernel in order.
//!
//! # Invariants
//! - A value is printed inside its use only if nothing it reads can change, and no barrier is passed,
//!   between its `Eval` and the statement its text lands in (`analysis`).
//! - Nothing is printed that the kernel does not use: helpers, includes, constants, arrays, temporaries.
//! - A name depends only on the author's names visible at its declaration, so a small edit stays small.
//! - No function of the front knows a target language, no language knows a kernel.

pub(crate) mod analysis;
pub(crate) mod body;
pub(crate) mod effects;
pub(crate) mod expression;
pub(crate) mod file;
pub(crate) mod keywords;
pub(crate) mod language;
pub(crate) mod names;
pub(crate) mod output;
pub(crate) mod shared;
pub(crate) mod statement;
