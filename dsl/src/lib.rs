//! Tilekiln's kernel language: typed Rust that records kernels.
//!
//! An author writes an ordinary-looking function, `#[kernel]` turns it into one that **records IR when called with
//! comptime arguments**. Device values are typed handles ([`value::Val`]), so `rustc` rejects wrong element types,
//! wrong memory spaces and missing conversions; shapes and layouts are checked while recording
//! ([`record`]), and the kernel as a whole afterwards ([`check`]). What comes out is [`ir::Kernel`], which the code
//! generators print and the host device executes.
//!
//! ```
//! use tilekiln_dsl::prelude::*;
//!
//! /// y = a·x + y
//! #[kernel(threads = threads)]
//! pub fn axpy(x: In<f32>, y: InOut<f32>, n: u32, a: f32, #[comptime] threads: usize) {
//!     let i = block_index() * threads + thread_index();
//!     if i < n {
//!         y[i] = a * x[i] + y[i];
//!     }
//! }
//!
//! let kernel = axpy(256).record(&tilekiln_dsl::target::HOST)?;
//! assert_eq!(kernel.symbol, "axpy_t256");
//! # Ok::<(), tilekiln_dsl::record::Rejected>(())
//! ```

// the attribute macros name this crate by its full path, also inside of it
extern crate self as tilekiln_dsl;

pub mod check;
pub mod comptime;
pub mod ir;
pub mod memory;
pub mod operators;
pub mod record;
pub mod target;
mod tile;
pub mod value;

pub use tilekiln_macros::{Comptime, device_fn, kernel, tile_fn};

/// Everything a kernel file needs.
pub mod prelude {
    pub use crate::comptime::{Comptime, KernelDef};
    pub use crate::memory::{
        Accumulator, Accumulators, ColumnOperand, CopyRing, HalfElement, In, InOut, IndexStore, Indexed, MatrixElement,
        OperandA, OperandB, Out, Product, Products, Registers, RowOperand, RowSums, Shared, SharedTile, TileLayout,
        async_commit, async_copy, async_wait, mma, multiply, operand_column, operand_part, operand_row,
    };
    pub use crate::operators::device_range;
    pub use crate::record::target;
    pub use crate::value::literals::*;
    pub use crate::value::*;
    pub use crate::{Comptime, device_fn, kernel, tile_fn};
}
