//! Errors of devices and compilers: what was asked, what is there, the way out.

use tilekiln_dsl::ir::Location;

/// Why a device could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A vendor library is not installed.
    #[error("{library} is not available: {reason}\n  {remedy}")]
    MissingLibrary {
        /// Library file names that were tried.
        library: String,
        /// What the loader said.
        reason: String,
        /// What to install or set.
        remedy: String,
    },
    /// The libraries are there, a device is not.
    #[error("no {vendor} device: {reason}")]
    NoDevice {
        /// NVIDIA or AMD.
        vendor: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The vendor compiler rejected generated text. The display shows DSL line, numbered generated lines, log and kept file.
    #[error(transparent)]
    Compile(#[from] Box<crate::compiler::CompileError>),
    /// The kernel has no text for the target.
    #[error("{at}: {message}")]
    Unsupported {
        /// What was asked, what exists, the nearest that works.
        message: String,
        /// The author's line.
        at: Location,
    },
    /// The launch does not fit the kernel or the device.
    #[error("cannot launch {kernel}: {reason}")]
    BadLaunch {
        /// The kernel's symbol.
        kernel: String,
        /// Which argument or dimension, what was expected.
        reason: String,
    },
    /// A copy outside a buffer.
    #[error("{bytes} bytes at offset {offset} are outside a buffer of {size} bytes")]
    OutOfBuffer {
        /// Bytes to copy.
        bytes: usize,
        /// From here on.
        offset: usize,
        /// The buffer's size.
        size: usize,
    },
    /// Out of device memory.
    #[error("the device has no {bytes} bytes left ({free} free)")]
    OutOfMemory {
        /// Bytes asked.
        bytes: usize,
        /// Bytes free, where known.
        free: u64,
    },
    /// A kernel did something undefined (host device).
    #[error("{0}")]
    Fault(String),
    /// A driver call failed.
    #[error("{call} failed: {reason}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// Its error, in words.
        reason: String,
    },
}
