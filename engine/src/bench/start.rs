//! What starting takes: the device, the kernels with an empty and with a full cache.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::compiler::cache::Cache;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::hip::HipDevice;
use tilekiln_runtime::host::HostDevice;

use super::run::BenchError;
use crate::plan::{KernelSpec, PlanError};

/// Times of loading all kernels.
pub struct Compiled {
    /// Kernels.
    pub kernels: usize,
    /// With an empty cache.
    pub cold: Duration,
    /// With the cache that this left.
    pub warm: Duration,
    /// Of these, taken from the cache.
    pub from_cache: usize,
}

/// The kind of device that is given, opened again with the cache in a folder. The CPU compiles nothing that is kept.
fn reopen(device: &dyn Device, folder: &Path) -> Result<Arc<dyn Device>, DeviceError> {
    let cache = Some(Cache::at(folder));
    Ok(match device.properties().target.vendor {
        Vendor::Nvidia => Arc::new(CudaDevice::open(0)?.with_cache(cache)),
        Vendor::Amd => Arc::new(HipDevice::open(0)?.with_cache(cache)),
        Vendor::Host => Arc::new(HostDevice::new()),
    })
}

/// Records, compiles and loads kernels twice, in devices of their own: first with an empty cache, then with what is in it.
///
/// # Errors
/// Kernels that cannot be made, no place for temporary files.
pub fn compile(device: &dyn Device, kernels: &BTreeSet<KernelSpec>) -> Result<Compiled, BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::Temporary)?;
    let load = || -> Result<(Duration, usize), PlanError> {
        let device = reopen(device, folder.path())?;
        let start = Instant::now();
        let target = &device.properties().target;
        let recorded = kernels.par_iter().map(|spec| spec.record(target).map(Arc::new));
        let loaded = device.load(recorded.collect::<Result<Vec<_>, PlanError>>()?)?;
        let from_cache = loaded.iter().filter(|kernel| kernel.from_cache).count();
        Ok((start.elapsed(), from_cache))
    };
    let (cold, _) = load()?;
    let (warm, from_cache) = load()?;
    Ok(Compiled {
        kernels: kernels.len(),
        cold,
        warm,
        from_cache,
    })
}
