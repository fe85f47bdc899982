//! Runs a kernel of the library under the host's sanitizer, on inputs it generates itself.

use std::sync::Arc;

use tilekiln_dsl::target::Target;
use tilekiln_kernels::registry::{Argument, Entry, Example, Random, Settings};
use tilekiln_runtime::device::{self, Device, Launch};
use tilekiln_runtime::host::{HostDevice, Report};

/// What came of checking one kernel.
pub struct Outcome {
    /// The kernel's symbol.
    pub symbol: String,
    /// Launches that were run.
    pub rounds: usize,
    /// Operations times lanes that were executed.
    pub lane_operations: u64,
    /// One report per launch that has findings, with its seed.
    pub reports: Vec<(u64, Report)>,
}

/// Why a kernel could not be checked.
#[derive(Debug)]
pub enum CheckError {
    /// The settings do not fit: a usage error.
    Settings(String),
    /// The kernel is rejected, or the launch cannot be made.
    Failed(String),
}

/// Checks one kernel, recorded for `target`, on `rounds` launches with random inputs of random sizes.
///
/// # Errors
/// Settings that do not fit, a rejected kernel, a launch that does not fit it.
pub fn check(
    entry: &Entry,
    settings: &Settings,
    target: &Target,
    seed: u64,
    rounds: usize,
) -> Result<Outcome, CheckError> {
    let def = (entry.build)(settings).map_err(|e| CheckError::Settings(e.to_string()))?;
    let kernel = def.record(target).map_err(|e| CheckError::Failed(e.to_string()))?;
    let host = HostDevice::sanitizing();
    let failed = |e: tilekiln_runtime::error::DeviceError| CheckError::Failed(e.to_string());
    let loaded = host.load(vec![Arc::new(kernel)]).map_err(failed)?.remove(0);
    let mut outcome = Outcome {
        symbol: loaded.symbol.clone(),
        rounds,
        lane_operations: 0,
        reports: Vec::new(),
    };
    for round in 0..rounds as u64 {
        let seed = seed.wrapping_add(round);
        let example =
            (entry.example)(settings, &mut Random::new(seed)).map_err(|e| CheckError::Settings(e.to_string()))?;
        let launch = launch(&host, &example).map_err(failed)?;
        let report = host.check(&loaded, &launch).map_err(failed)?;
        outcome.lane_operations += report.lane_operations;
        if !report.findings.is_empty() {
            outcome.reports.push((seed, report));
        }
    }
    Ok(outcome)
}

/// Uploads an example's inputs.
///
/// # Errors
/// Out of memory.
pub fn launch(device: &dyn Device, example: &Example) -> Result<Launch, tilekiln_runtime::error::DeviceError> {
    let mut arguments = Vec::with_capacity(example.arguments.len());
    for argument in &example.arguments {
        arguments.push(match argument {
            Argument::Input(bytes) => {
                let buffer = device.allocate(bytes.len())?;
                device.upload(&buffer, 0, bytes)?;
                device::Argument::Buffer(buffer, 0)
            }
            Argument::Output(bytes) => device::Argument::Buffer(device.allocate(*bytes)?, 0),
            Argument::U32(value) => device::Argument::U32(*value),
            Argument::F32(value) => device::Argument::F32(*value),
        });
    }
    Ok(Launch {
        grid: example.grid,
        arguments,
        dependent: false,
    })
}
