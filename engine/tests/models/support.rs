//! Golden files, devices, and how results are compared.

use std::path::PathBuf;
use std::sync::Arc;

use tilekiln::gguf::File;
use tilekiln::kv::{Geometry, KvType, KvTypes};
use tilekiln::model::{LoadOptions, Precision, Row, Target, Want};
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::golden::{Golden, shared_folder};
use tilekiln_tests::requirement::require;

/// A golden file and the model beside it.
pub struct Case {
    /// `e_tiny.q8_0`
    pub name: String,
    /// The model.
    pub file: File,
    /// What a reference computed.
    pub golden: Golden,
}

/// The folder of the golden models, where there is one.
pub fn folder() -> Option<PathBuf> {
    Some(require("shared", shared_folder())?.join("golden/gemma4"))
}

/// Opens a file of the golden folder.
pub fn open(name: &str) -> File {
    let path = shared_folder()
        .unwrap()
        .join("golden/gemma4")
        .join(format!("{name}.gguf"));
    File::open(&path).unwrap()
}

/// All golden files whose model has this architecture and is no mixture of experts.
pub fn cases(architecture: &str) -> Vec<Case> {
    let Some(folder) = folder() else { return Vec::new() };
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".golden.safetensors").map(str::to_owned)
        })
        .collect();
    names.sort();
    let cases = names.into_iter().map(|name| Case {
        file: open(&name),
        golden: Golden::open(&format!("golden/gemma4/{name}.golden.safetensors")).unwrap(),
        name,
    });
    let wanted = |case: &Case| {
        let metadata = case.file.metadata();
        let experts = metadata.u64("gemma4.expert_count").unwrap().unwrap_or(0);
        experts == 0 && metadata.str("general.architecture").unwrap() == Some(architecture)
    };
    let cases: Vec<Case> = cases.filter(wanted).collect();
    assert!(
        !cases.is_empty(),
        "no golden files of {architecture} in {}",
        folder.display()
    );
    cases
}

/// The CPU, and a GPU where there is one.
pub fn devices() -> Vec<Arc<dyn Device>> {
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    // a GPU machine has few cores to spare for what the CPU has shown elsewhere
    if std::env::var_os("TILEKILN_SKIP_HOST").is_none() {
        devices.push(Arc::new(HostDevice::new()));
    }
    if let Some(cuda) = require("cuda", CudaDevice::open(0)) {
        devices.push(Arc::new(cuda));
    }
    devices
}

/// Environment variable that makes the CPU do everything that a GPU does.
const FULL_VARIABLE: &str = "TILEKILN_FULL";

/// Whether a test does everything on this device. The CPU does a sample of the long ones, unless `TILEKILN_FULL` is set:
/// all of them take it more than half an hour.
pub fn in_full(device: &Arc<dyn Device>) -> bool {
    device.properties().target.vendor != Vendor::Host || std::env::var_os(FULL_VARIABLE).is_some()
}

/// f32 throughout.
pub const EXACT: (Precision, KvType) = (Precision::Exact, KvType::F32);
/// int8 activations, half-precision cache.
pub const FAST: (Precision, KvType) = (Precision::Fast, KvType::F16);

/// Loads a model for some sequences and steps.
pub fn load(
    device: &Arc<dyn Device>,
    file: &File,
    assistant: Option<&File>,
    (precision, kv): (Precision, KvType),
    (slots, max_rows): (usize, usize),
) -> Target {
    let options = LoadOptions {
        precision,
        kv: KvTypes::uniform(kv),
        geometry: Geometry {
            slots,
            context: 96,
            max_rows,
            run: 16,
        },
        outputs: 16,
    };
    Target::load(file, assistant, device.clone(), options, &mut |_| ()).unwrap_or_else(|error| panic!("{error}"))
}

/// Rows of one sequence from a position on.
pub fn rows(slot: u32, first: usize, tokens: &[u32], want: Want) -> Vec<Row> {
    (first as u32..)
        .zip(tokens)
        .map(|(position, token)| Row {
            token: *token,
            slot,
            position,
            want,
        })
        .collect()
}

/// Tokens of a golden file.
pub fn tokens(golden: &Golden, name: &str) -> Vec<u32> {
    golden
        .i32(name)
        .unwrap()
        .values
        .into_iter()
        .map(|token| token as u32)
        .collect()
}

/// How far two lists of numbers are apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    /// Largest difference.
    pub max: f64,
    /// Root of the mean square of the differences.
    pub rms: f64,
    /// Norm of the differences over the norm of what is wanted.
    pub relative: f64,
}

impl Distance {
    /// Compares; NaN is infinitely far.
    pub fn between(got: &[f32], want: &[f32]) -> Self {
        assert_eq!(got.len(), want.len());
        let (mut max, mut squares, mut norm) = (0.0f64, 0.0, 0.0);
        for (got, want) in got.iter().zip(want) {
            let difference = (f64::from(*got) - f64::from(*want)).abs();
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            max = max.max(difference);
            squares += difference * difference;
            norm += f64::from(*want) * f64::from(*want);
        }
        Self {
            max,
            rms: (squares / got.len().max(1) as f64).sqrt(),
            relative: (squares / norm.max(f64::MIN_POSITIVE)).sqrt(),
        }
    }

    /// Fails where results of exact arithmetic are too far from the reference.
    pub fn assert_exact(self, what: &str) {
        assert!(self.max <= 2e-3 && self.relative <= 5e-5, "{what}: {self:?}");
    }
}

/// The position of the largest value.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best as u32
}
