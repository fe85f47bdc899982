//! Times launches of a product on a device.
//!
//! As in a step, the launches are a graph, each may start while the one in front of it ends, and each finds its weights in
//! memory: there are so many copies of them that a cache has forgotten the first when the last was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tilekiln_dsl::ir::Kernel;
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::{Buffer, Device, Graph, Loaded};
use tilekiln_runtime::error::DeviceError;

use super::stages::{Memory, Sample};
use crate::plan::{KernelSpec, PlanError};

/// Bytes of weights that a graph goes through before it comes back to the first ones: more than any cache holds.
const ROTATION: usize = 400 << 20;
/// Copies of weights at least and at most.
const COPIES: std::ops::RangeInclusive<usize> = 2..=60;
/// Launches of a graph at least, so that its start does not count.
const LAUNCHES: usize = 24;
/// Bytes of random contents, repeated in larger buffers.
const NOISE: usize = 64 << 20;
/// Kernels that are compiled at once: between two of these, progress is shown.
const AT_ONCE: usize = 32;

/// A device with the kernels that are tried.
pub struct Bench {
    device: Arc<dyn Device>,
    kernels: BTreeMap<KernelSpec, Loaded>,
    noise: Vec<u8>,
}

/// Memory that launches of a product work on.
pub struct Bed {
    /// Copies of the weights.
    weights: Vec<BTreeMap<String, Buffer>>,
    others: BTreeMap<String, Buffer>,
    launches: usize,
}

impl Bench {
    /// On a device.
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self {
            device,
            kernels: BTreeMap::new(),
            noise: Vec::new(),
        }
    }

    /// Compiles kernels that are not there yet. Those that the target cannot have are left out, as is what its compiler
    /// rejects; `progress` is told how many of how many are done.
    ///
    /// # Errors
    /// The device fails at something else.
    pub fn load<'k>(
        &mut self,
        wanted: impl IntoIterator<Item = &'k KernelSpec>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), PlanError> {
        let mut wanted: Vec<&KernelSpec> = wanted.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|spec| !self.kernels.contains_key(spec));
        let target = self.device.properties().target.clone();
        let mut done = 0;
        progress(done, wanted.len());
        for some in wanted.chunks(AT_ONCE) {
            let mut recorded = Vec::new();
            for spec in some {
                match spec.record(&target) {
                    Ok(kernel) => recorded.push((*spec, Arc::new(kernel))),
                    Err(error) => tracing::info!("not tried: {error}"),
                }
            }
            let all = recorded.iter().map(|(_, kernel)| kernel.clone()).collect();
            match self.device.load(all) {
                Ok(loaded) => {
                    let specs = recorded.iter().map(|(spec, _)| (*spec).clone());
                    self.kernels.extend(specs.zip(loaded));
                }
                Err(DeviceError::Compile(_)) => self.load_each(&recorded)?,
                Err(error) => return Err(error.into()),
            }
            done += some.len();
            progress(done, wanted.len());
        }
        Ok(())
    }

    /// Kernels one by one, without those that the vendor's compiler rejects.
    fn load_each(&mut self, recorded: &[(&KernelSpec, Arc<Kernel>)]) -> Result<(), PlanError> {
        for (spec, kernel) in recorded {
            match self.device.load(vec![kernel.clone()]) {
                Ok(loaded) => self
                    .kernels
                    .extend(loaded.into_iter().map(|loaded| ((*spec).clone(), loaded))),
                Err(DeviceError::Compile(error)) => tracing::info!("not tried: {spec}: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether a kernel was loaded.
    pub fn has(&self, kernel: &KernelSpec) -> bool {
        self.kernels.contains_key(kernel)
    }

    /// Memory for all of some launches of a product.
    ///
    /// # Errors
    /// The device has too little.
    pub fn bed<'s>(&mut self, samples: impl IntoIterator<Item = &'s Sample>) -> Result<Bed, PlanError> {
        let mut wanted: BTreeMap<&str, &Memory> = BTreeMap::new();
        for memory in samples.into_iter().flat_map(Sample::memory) {
            let known = wanted.entry(&memory.name).or_insert(memory);
            if memory.bytes > known.bytes {
                *known = memory;
            }
        }
        let (weights, others): (Vec<&Memory>, Vec<&Memory>) =
            wanted.into_values().partition(|memory| memory.is_weights);
        let bytes: usize = weights.iter().map(|memory| memory.bytes).sum();
        let (copies, launches) = match self.device.properties().target.vendor {
            // it takes far longer to compute than to read
            Vendor::Host => (1, 1),
            _ => {
                let copies = ROTATION.div_ceil(bytes.max(1)).clamp(*COPIES.start(), *COPIES.end());
                (copies, copies.max(LAUNCHES))
            }
        };
        let largest = weights
            .iter()
            .chain(&others)
            .map(|memory| memory.bytes)
            .max()
            .unwrap_or(0);
        self.make_noise(largest.min(NOISE));
        let buffers = |all: &[&Memory]| -> Result<BTreeMap<String, Buffer>, DeviceError> {
            let each = all
                .iter()
                .map(|memory| Ok((memory.name.clone(), self.buffer(memory.bytes)?)));
            each.collect()
        };
        Ok(Bed {
            weights: (0..copies).map(|_| buffers(&weights)).collect::<Result<_, _>>()?,
            others: buffers(&others)?,
            launches,
        })
    }

    /// Random bytes that are numbers in every format of floats: the top bit of each exponent is 0, so none is infinite.
    /// Zeros would take less power than weights do, and so more speed.
    fn make_noise(&mut self, bytes: usize) {
        if self.noise.len() >= bytes {
            return;
        }
        self.noise.resize(bytes, 0);
        StdRng::seed_from_u64(1).fill_bytes(&mut self.noise);
        self.noise.iter_mut().skip(1).step_by(2).for_each(|byte| *byte &= !0x40);
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let buffer = self.device.allocate(bytes.max(4))?;
        for first in (0..bytes).step_by(self.noise.len().max(1)) {
            let some = self.noise.len().min(bytes - first);
            self.device.upload(&buffer, first, &self.noise[..some])?;
        }
        Ok(buffer)
    }

    /// Launches of a sample for so many rows, as a graph. None for a sample whose kernel is not there.
    ///
    /// # Errors
    /// Those of the device.
    pub fn record(&self, sample: &Sample, rows: usize, bed: &Bed) -> Result<Option<Graph>, PlanError> {
        let Some(kernel) = self.kernels.get(&sample.kernel) else {
            return Ok(None);
        };
        self.device.begin_graph()?;
        let mut launched = Ok(());
        for weights in bed.weights.iter().cycle().take(bed.launches) {
            let of = |memory: &Memory| weights.get(&memory.name).or_else(|| bed.others.get(&memory.name));
            launched = match sample.launch(rows, of) {
                Some(launch) => self.device.launch(kernel, &launch),
                None => Err(DeviceError::BadLaunch {
                    kernel: sample.kernel.to_string(),
                    reason: "one of its buffers is missing".to_owned(),
                }),
            };
            if launched.is_err() {
                break;
            }
        }
        // the recording has to end even where a launch was refused
        let graph = self.device.end_graph();
        launched?;
        Ok(Some(graph?))
    }

    /// Seconds of a launch, by one replay of a graph of them.
    ///
    /// # Errors
    /// Those of the device.
    pub fn time(&self, graph: &Graph) -> Result<f64, PlanError> {
        let start = self.device.mark()?;
        self.device.replay(graph)?;
        let end = self.device.mark()?;
        Ok(self.device.elapsed(&start, &end)?.as_secs_f64() / graph.launches.max(1) as f64)
    }

    /// Seconds of a launch, by some replays behind one that warms up.
    ///
    /// # Errors
    /// Those of the device.
    pub fn times(&self, graph: &Graph, repetitions: usize) -> Result<Samples, PlanError> {
        self.time(graph)?;
        let times = (0..repetitions.max(1)).map(|_| self.time(graph));
        Ok(Samples(times.collect::<Result<_, PlanError>>()?))
    }

    /// Two graphs in turns, so that what changes meanwhile (clocks, temperature) changes both.
    ///
    /// # Errors
    /// Those of the device.
    pub fn compare(&self, graphs: [&Graph; 2], repetitions: usize) -> Result<[Samples; 2], PlanError> {
        let mut all = [Vec::new(), Vec::new()];
        for round in 0..=repetitions.max(1) {
            for (graph, samples) in graphs.iter().zip(&mut all) {
                let time = self.time(graph)?;
                // the first round warms up
                if round > 0 {
                    samples.push(time);
                }
            }
        }
        Ok(all.map(Samples))
    }
}

/// Seconds of a launch, measured some times.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let index = ((sorted.len().max(1) - 1) as f64 * part).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::INFINITY)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// From the first quarter to the third, in parts of the median: what one more or less slow run does not change.
    pub fn spread(&self) -> f64 {
        (self.at(0.75) - self.at(0.25)) / self.median()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_leave_extremes_out() {
        for (samples, median, spread) in [
            (vec![3.0], 3.0, 0.0),
            (vec![100.0, 1.0, 4.0, 2.0, 3.0], 3.0, 2.0 / 3.0),
            (vec![2.0, 2.0, 2.0, 9.0, 2.0], 2.0, 0.0),
        ] {
            let samples = Samples(samples);
            assert_eq!((samples.median(), samples.spread()), (median, spread), "{samples:?}");
        }
    }

    #[test]
    fn noise_is_numbers() {
        let mut bench = Bench::new(Arc::new(tilekiln_runtime::host::HostDevice::new()));
        bench.make_noise(4096);
        let halves: &[half::f16] = bytemuck::cast_slice(&bench.noise);
        let floats = bench
            .noise
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        assert!(halves.iter().all(|half| half.is_finite() && half.to_f32().abs() < 2.0));
        assert!(floats.into_iter().all(|float| float.is_finite() && float.abs() < 2.0));
    }
}
