//! Matrices in the order in which matrix instructions take them.
//!
//! A packed matrix consists of *tiles* of 32 rows and 256 columns, row group after row group and inside of a group along
//! the columns: `[groups, tiles, bytes]`. A tile has as many bytes as its rows have in a file. Its quants come first, in
//! planes of 1, 2, 4 or 8 bits and in the order of the lanes that multiply them ([`layout`]); what scales them follows in
//! planes of its own, row after row. Every access of a warp is 16 bytes a lane, consecutive lanes side by side. Rows and
//! columns that a matrix does not have are zeros.
//!
//! [`format`] says what a format adds to that, [`pack`] makes tiles of rows of a file. [`tile`] multiplies one tile,
//! [`lone`] with one token; [`stream`] brings tiles and adds up what warps have; products are made of these.

pub mod columns;
pub mod format;
pub mod gated;
pub mod halves;
pub mod layout;
pub mod lone;
pub mod pack;
pub mod product;
pub mod stream;
pub mod tile;
pub mod worth;

pub use format::{Packed, PackedFormat};
pub use layout::{SUB_BLOCK, SUB_BLOCKS, Sections, TILE_COLS, TILE_ROWS, groups_down, tiles_across};
