//! From generated text to a binary a driver can load. No device is needed.
//!
//! [`nvrtc::Nvrtc`] compiles `.cu` text to a cubin, [`hiprtc::Hiprtc`] compiles `.hip` text to a code object;
//! [`compile_all`] does many at once and asks the disk cache ([`cache`]) first. What the compiler says about
//! registers, shared memory and spills comes with the binary; a rejection shows the author's line
//! ([`CompileError`]).

pub mod cache;
mod code_object;
mod diagnostics;
mod error;
pub mod hiprtc;
pub mod nvrtc;
mod ptxas;
mod rtc;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tilekiln_codegen::Generated;
use tilekiln_dsl::ir::Kernel;

use crate::device::Resources;
use crate::error::DeviceError;

pub use diagnostics::{Diagnostic, Severity};
pub use error::CompileError;

use cache::{Cache, Key};

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What the driver loads: a cubin or a code object.
    pub binary: Vec<u8>,
    /// What the kernel costs.
    pub resources: Resources,
    /// Everything the compiler said. NVRTC's holds the resource lines even when all is well.
    pub log: String,
    /// How long it took, or how long reading it from the cache took.
    pub time: Duration,
    /// It came from the disk cache.
    pub from_cache: bool,
}

impl Compiled {
    /// Warnings in the log. Text of ours must give none.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut found = diagnostics::parse(&self.log);
        found.retain(|diagnostic| diagnostic.severity == Severity::Warning);
        found
    }
}

/// A vendor's run-time compiler.
pub trait Compiler: Send + Sync {
    /// Name and version for people: `NVRTC 13.0`.
    fn name(&self) -> &str;
    /// Tells this very build of the compiler from any other; part of the cache key.
    fn fingerprint(&self) -> &str;
    /// Options for one architecture.
    fn options(&self, architecture: &str) -> Vec<String>;
    /// Compiles for an architecture, no cache asked. Usually it is the name of the text's target; a device that
    /// runs the text of a neighbouring target asks for its own.
    fn build(&self, generated: &Generated, architecture: &str) -> Result<Compiled, Box<CompileError>>;
}

/// Compiles one text for its own target, no cache asked.
pub fn compile(compiler: &dyn Compiler, generated: &Generated) -> Result<Compiled, Box<CompileError>> {
    compiler.build(generated, generated.target.name)
}

/// Compiles many texts, as many at a time as the machine has cores; results in the order given.
///
/// `architecture` is the name of each text's target when `None`. NVRTC and hipRTC may both be called from
/// several threads on different programs (hipRTC takes a lock of its own where it needs one).
pub fn compile_all(
    compiler: &dyn Compiler,
    cache: Option<&Cache>,
    sources: &[Generated],
    architecture: Option<&str>,
) -> Vec<Result<Compiled, Box<CompileError>>> {
    let one = |generated: &Generated| {
        let architecture = architecture.unwrap_or(generated.target.name);
        match cache {
            Some(cache) => cached(compiler, cache, generated, architecture),
            None => compiler.build(generated, architecture),
        }
    };
    sources.par_iter().map(one).collect()
}

fn cached(
    compiler: &dyn Compiler,
    cache: &Cache,
    generated: &Generated,
    architecture: &str,
) -> Result<Compiled, Box<CompileError>> {
    let start = Instant::now();
    let key = Key::new(compiler, generated, architecture);
    if let Some(mut found) = cache.get(&key) {
        found.time = start.elapsed();
        return Ok(found);
    }
    let compiled = compiler.build(generated, architecture)?;
    cache.put(&key, &compiled);
    Ok(compiled)
}

/// One kernel of [`prepare`]: its text and its binary.
pub(crate) struct Prepared {
    pub kernel: Arc<Kernel>,
    pub generated: Generated,
    pub compiled: Compiled,
}

/// Generates and compiles kernels for a device, on all cores: what both vendors' `Device::load` begin with.
pub(crate) fn prepare(
    compiler: &dyn Compiler,
    cache: Option<&Cache>,
    kernels: Vec<Arc<Kernel>>,
    target: &str,
    architecture: &str,
) -> Result<Vec<Prepared>, DeviceError> {
    let sources = kernels
        .par_iter()
        .map(|kernel| {
            if kernel.target.name != target {
                return Err(DeviceError::Unsupported {
                    message: format!(
                        "{} was recorded for {}, this device runs kernels recorded for {target}; record it for {target}",
                        kernel.symbol, kernel.target.name
                    ),
                    at: kernel.at,
                });
            }
            tilekiln_codegen::generate(kernel).map_err(|error| DeviceError::Unsupported {
                message: error.message,
                at: error.at,
            })
        })
        .collect::<Result<Vec<Generated>, DeviceError>>()?;
    let compiled = compile_all(compiler, cache, &sources, Some(architecture));
    kernels
        .into_iter()
        .zip(sources)
        .zip(compiled)
        .map(|((kernel, generated), compiled)| {
            Ok(Prepared {
                kernel,
                generated,
                compiled: compiled?,
            })
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod testing;
