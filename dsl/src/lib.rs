//! Tilekiln's kernel language.
//!
//! See `ARCHITECTURE.md` for the map; start at [`ir`] for what a recorded kernel is.

pub mod ir;
pub mod target;
