//! The kernel library. One file is one idea: the algorithm, its source, and its registration.
//!
//! [`registry::KERNELS`] lists all of it for the command line and the tests.

pub mod attention;
pub mod block;
pub mod gather;
pub mod matmul;
pub mod norm;
pub mod planted;
pub mod registry;
pub mod rope;
pub mod select;
pub mod turbo;
