//! Launches as data, and the machine that does them on any device.
//!
//! A [`Plan`] lists the launches of one step: kernel, grid, operands. It knows no device: buffers are entries of a
//! [`BufferTable`], grids and sizes are functions of the [`Size`] of a step: its rows (tokens), how they are shared among
//! sequences, and how long those are. A [`Machine`] gives the buffers memory, loads the kernels, and runs plans for steps
//! of any size up to the table's limit. A step whose launches are those of one before is replayed as a graph.
//!
//! **Batch invariance.** What a row of a step computes is bit-identical whatever other rows are in the step; the kernels
//! promise it and plans keep it. A verified draft therefore equals what single steps would have computed.

pub mod cards;
mod cost;
mod inputs;
mod machine;
pub mod predict;
mod product;
mod stage;

pub use cost::{Bytes, Cost, Step, Unit};
pub use machine::{Machine, PlanError, Progress};
pub use product::{Divided, Product};
pub use stage::{BufferId, BufferKind, BufferSpec, BufferTable, Count, KernelSpec, Operand, Plan, Size, Stage};
