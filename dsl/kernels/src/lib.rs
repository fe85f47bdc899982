//! The kernel library. One file is one idea: the algorithm, its source, and its registration.
//!
//! [`registry::KERNELS`] lists all of it for the command line and the tests.

pub mod attention;
pub mod block;
pub mod embed;
pub mod gated;
pub mod gather;
pub mod heads;
pub mod matmul;
pub mod norm;
pub mod packed;
pub mod planted;
pub mod registry;
pub mod residual;
pub mod rope;
pub mod sample;
pub mod select;
pub mod stream;
pub mod turbo;
