//! Every proof kernel against its reference, on any device: one table of cases.
//!
//! A [`Case`] is a kernel of the library with comptime settings, and a check that draws inputs of random odd sizes,
//! launches, and compares. [`run`] records all cases for a target, loads them at once (so that a device can compile in
//! parallel), and checks one after the other. The same cases run on every device; only the sizes differ ([`Extent`]).

mod attention;
pub mod caches;
mod candidates;
mod embed;
mod gated;
mod gather;
mod heads;
mod linear;
mod matmul;
mod norm;
mod outcome;
mod packed;
mod quantise;
mod residual;
mod rope;
mod row_product;
mod sample;
mod select;
mod stream;
mod trial;
mod turbo;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use tilekiln_dsl::ir::Kernel;
use tilekiln_dsl::record::Rejected;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::registry::{self, SettingError, Settings};
use tilekiln_runtime::device::{Device, Loaded};
use tilekiln_runtime::error::DeviceError;

use crate::golden::GoldenError;
use crate::random;

pub use outcome::{Equality, Outcome, Report};
pub use trial::{Output, Trial};

/// How large the inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// For a sanitizer: every path once.
    Small,
    /// For the host device.
    Medium,
    /// For a GPU.
    Large,
}

/// Why a case could not be run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CaseError {
    #[error("the library has no kernel `{0}`")]
    UnknownKernel(&'static str),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

/// What a case does once its kernel is loaded.
pub type Check = Box<dyn Fn(&mut Trial<'_>) -> Result<(), CaseError>>;

/// A kernel with settings, and how to check it.
pub struct Case {
    /// Name in the registry.
    pub kernel: &'static str,
    /// `key=value`, as on the command line.
    pub settings: Vec<String>,
    check: Check,
}

impl Case {
    /// A case of the library's kernel `kernel`.
    pub fn new(
        kernel: &'static str,
        settings: &[&str],
        check: impl Fn(&mut Trial<'_>) -> Result<(), CaseError> + 'static,
    ) -> Self {
        Self {
            kernel,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            check: Box::new(check),
        }
    }

    fn record(&self, target: &Target) -> Result<Kernel, CaseError> {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        record(self.kernel, &settings, target)
    }

    fn title(&self) -> String {
        [&[self.kernel.to_owned()], self.settings.as_slice()].concat().join(" ")
    }
}

fn record(name: &'static str, settings: &[&str], target: &Target) -> Result<Kernel, CaseError> {
    let entry = registry::find(name).ok_or(CaseError::UnknownKernel(name))?;
    let settings = Settings::parse(entry, settings.iter().copied())?;
    Ok((entry.build)(&settings)?.record(target)?)
}

/// All cases.
pub fn all() -> Vec<Case> {
    [
        norm::cases(),
        residual::cases(),
        rope::cases(),
        heads::cases(),
        gather::cases(),
        embed::cases(),
        gated::cases(),
        quantise::cases(),
        row_product::cases(),
        linear::cases(),
        candidates::cases(),
        packed::cases(),
        matmul::cases(),
        turbo::cases(),
        caches::cases(),
        attention::cases(),
        select::cases(),
        stream::cases(),
        sample::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Name of the environment variable that leaves only cases whose title (kernel and settings) contains it.
pub const FILTER_VARIABLE: &str = "TILEKILN_CASES";

/// Runs all cases on a device with kernels recorded for `target`.
pub fn run(device: &dyn Device, target: &Target, extent: Extent) -> Report {
    let mut report = Report::new(format!(
        "{}, kernels recorded for {}",
        device.properties().name,
        target.name
    ));
    let mut ready = Vec::new();
    let mut kernels = BTreeMap::new();
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    for case in all().into_iter().filter(|case| case.title().contains(&wanted)) {
        match case.record(target) {
            Ok(kernel) => {
                ready.push((case, kernel.symbol.clone()));
                kernels.entry(kernel.symbol.clone()).or_insert_with(|| Arc::new(kernel));
            }
            Err(error) => report.fail(&case.title(), random::seed(), error),
        }
    }
    let loaded = load(device, kernels.into_values().collect(), &mut report);
    for (case, symbol) in ready {
        // Why a kernel is missing is in the report already.
        let Some(kernel) = loaded.get(&symbol) else {
            continue;
        };
        let mut trial = Trial::new(device, case.kernel, kernel, extent);
        if let Err(error) = (case.check)(&mut trial) {
            report.fail(&trial.title(), random::seed(), error);
        }
        report.outcomes.extend(trial.into_outcomes());
    }
    report
}

/// Loads all kernels together; where that fails, one by one, to say which are to blame.
fn load(device: &dyn Device, kernels: Vec<Arc<Kernel>>, report: &mut Report) -> BTreeMap<String, Loaded> {
    let keyed = |loaded: Loaded| (loaded.symbol.clone(), loaded);
    if let Ok(loaded) = device.load(kernels.clone()) {
        return loaded.into_iter().map(keyed).collect();
    }
    let mut found = BTreeMap::new();
    for kernel in kernels {
        let symbol = kernel.symbol.clone();
        match device.load(vec![kernel]) {
            Ok(loaded) => found.extend(loaded.into_iter().map(keyed)),
            Err(error) => report.fail(&symbol, random::seed(), error),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilekiln_dsl::target::TARGETS;

    #[test]
    fn every_kernel_of_the_library_has_a_case() {
        let cases = all();
        for entry in registry::KERNELS {
            assert!(cases.iter().any(|case| case.kernel == entry.name), "{}", entry.name);
        }
    }

    #[test]
    fn every_case_records_for_every_target() {
        for case in all() {
            for target in TARGETS {
                if let Err(error) = case.record(target) {
                    panic!("{} for {}: {error}", case.title(), target.name);
                }
            }
        }
    }
}
