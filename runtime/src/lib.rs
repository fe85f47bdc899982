//! Devices that run kernels.
//!
//! `cuda` and `hip` compile generated text just in time, `host` executes the IR itself. Vendor libraries are
//! opened at run time: one binary for every machine. The runtime knows nothing of any model.

pub mod compiler;
pub mod cuda;
pub mod device;
pub mod error;
pub mod hip;
pub mod host;
mod launch;
mod library;
pub mod map;
pub mod probe;
mod retire;
