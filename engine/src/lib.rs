//! The Tilekiln engine and its command line.
//!
//! This is where kernels and devices meet: nothing below knows both.

pub mod cli;
pub mod sanitize;
