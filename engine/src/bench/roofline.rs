//! What the memory of a device gives, measured: a kernel of the library reads a buffer that no cache holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::{Argument, Buffer, Device, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;

use super::results::Spread;
use crate::plan::{KernelSpec, PlanError};

/// Blocks per multiprocessor: with 256 threads each they fill it.
const BLOCKS_PER_UNIT: usize = 8;
/// Bytes of the buffer on a GPU with enough memory: far beyond every cache.
const GPU_BYTES: usize = 1 << 30;
/// On the CPU, whose threads interpret the kernel and are far from the memory's limit.
const HOST_BYTES: usize = 64 << 20;
/// Every byte of the buffer: the sum of what was read shows whether all of it was.
const BYTE: u8 = 0x5b;
/// How long a device reads before it is timed.
const RISE: Duration = Duration::from_millis(40);
/// Launches in the graph whose time gives that of a launch.
const LAUNCHES: u32 = 100;

/// What the memory gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Roofline {
    /// Bytes of the buffer that was read.
    pub buffer_bytes: u64,
    /// Bytes a second, median.
    pub bytes_per_second: f64,
    /// From slowest to fastest, in parts of the median.
    pub spread_percent: f64,
    /// Microseconds of a launch that has nothing to do, in a graph of such.
    pub launch_us: f64,
}

/// A buffer and the launch that reads it.
pub struct Stream {
    device: Arc<dyn Device>,
    kernel: Loaded,
    buffer: Buffer,
    sums: Buffer,
    blocks: u32,
}

impl Stream {
    /// A buffer of that many bytes, a multiple of 16.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, PlanError> {
        let properties = device.properties();
        let recorded = KernelSpec::new("stream_read", &[]).record(&properties.target)?;
        let blocks = (properties.units.max(1) * BLOCKS_PER_UNIT) as u32;
        let sums = blocks as usize * recorded.threads * 4;
        let kernel = device.load(vec![Arc::new(recorded)])?.into_iter().next();
        let kernel = kernel.ok_or_else(|| PlanError::UnknownKernel("stream_read (not loaded)".to_owned()))?;
        let buffer = device.allocate(bytes)?;
        device.fill(&buffer, BYTE)?;
        Ok(Self {
            kernel,
            buffer,
            sums: device.allocate(sums)?,
            blocks,
            device: device.clone(),
        })
    }

    fn launch(&self, bytes: usize, blocks: u32) -> Result<(), DeviceError> {
        let launch = Launch {
            grid: [blocks, 1, 1],
            arguments: vec![
                Argument::Buffer(self.buffer.clone(), 0),
                Argument::Buffer(self.sums.clone(), 0),
                Argument::U32((bytes / 16) as u32),
                Argument::U32(blocks),
            ],
            dependent: false,
        };
        self.device.launch(&self.kernel, &launch)
    }

    /// Enqueues a read of the whole buffer: whatever the caches held is gone afterwards.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read(&self) -> Result<(), DeviceError> {
        self.launch(self.buffer.bytes, self.blocks)
    }

    /// Whether the last read met every byte.
    fn check(&self) -> Result<(), DeviceError> {
        let mut sums = vec![0u32; self.sums.bytes / 4];
        self.device
            .download(&self.sums, 0, bytemuck::cast_slice_mut(&mut sums))?;
        let sum = sums.into_iter().fold(0u32, u32::wrapping_add);
        let words = (self.buffer.bytes / 4) as u32;
        let wanted = words.wrapping_mul(u32::from_ne_bytes([BYTE; 4]));
        if sum == wanted {
            return Ok(());
        }
        let bytes = self.buffer.bytes;
        Err(DeviceError::Fault(format!(
            "a read of {bytes} equal bytes adds up to {sum:#x}, not {wanted:#x}: the device did not read what was written"
        )))
    }

    /// Bytes a second of some samples of `reads` reads each, when clocks have had the time to rise.
    fn rates(&self, samples: usize, reads: u32) -> Result<Vec<f64>, DeviceError> {
        let begin = Instant::now();
        self.read()?;
        self.check()?;
        while begin.elapsed() < RISE {
            self.read()?;
            self.device.synchronize()?;
        }
        (0..samples)
            .map(|_| {
                let start = self.device.mark()?;
                (0..reads).try_for_each(|_| self.read())?;
                let end = self.device.mark()?;
                let time = self.device.elapsed(&start, &end)?.as_secs_f64() / f64::from(reads);
                Ok(self.buffer.bytes as f64 / time.max(1e-9))
            })
            .collect()
    }

    /// Seconds of a launch with one block and 16 bytes, in a graph of such.
    fn launch_seconds(&self, samples: usize) -> Result<f64, DeviceError> {
        self.device.begin_graph()?;
        let launched = (0..LAUNCHES).try_for_each(|_| self.launch(16, 1));
        // the recording has to end even where a launch was refused
        let graph = self.device.end_graph();
        launched?;
        let graph = graph?;
        self.device.replay(&graph)?;
        let mut times = Vec::with_capacity(samples);
        for _ in 0..samples {
            let start = self.device.mark()?;
            self.device.replay(&graph)?;
            let end = self.device.mark()?;
            times.push(self.device.elapsed(&start, &end)?.as_secs_f64() / f64::from(LAUNCHES));
        }
        Ok(Spread::of(&times).median_ts)
    }
}

/// Bytes of the buffer for a device.
fn buffer_bytes(device: &dyn Device) -> usize {
    let properties = device.properties();
    if properties.target.vendor == Vendor::Host {
        return HOST_BYTES;
    }
    // leaves room for the model on a small card; 0 is an unknown size
    let share = usize::try_from(properties.memory_bytes / 16).unwrap_or(GPU_BYTES);
    let share = if share == 0 { GPU_BYTES } else { share };
    (share & !15).clamp(HOST_BYTES, GPU_BYTES)
}

/// Measures the memory of a device.
///
/// # Errors
/// Those of the device; a sum that shows that it did not read what was written.
pub fn measure(device: &Arc<dyn Device>) -> Result<Roofline, PlanError> {
    let stream = Stream::new(device, buffer_bytes(device.as_ref()))?;
    // on a GPU the marks themselves take microseconds
    let reads = if device.properties().target.vendor == Vendor::Host {
        1
    } else {
        4
    };
    let rates = Spread::of(&stream.rates(7, reads)?);
    Ok(Roofline {
        buffer_bytes: stream.buffer.bytes as u64,
        bytes_per_second: rates.median_ts,
        spread_percent: rates.spread_percent,
        launch_us: stream.launch_seconds(5)? * 1e6,
    })
}

#[cfg(test)]
mod tests {
    use tilekiln_runtime::host::HostDevice;

    use super::*;

    #[test]
    fn every_byte_is_read() {
        let device: Arc<dyn Device> = Arc::new(HostDevice::new());
        for bytes in [16, 16 * 1001, 1 << 20] {
            let stream = Stream::new(&device, bytes).expect("it is loaded");
            assert!(stream.rates(1, 2).expect("it runs")[0] > 0.0);
        }
        let stream = Stream::new(&device, 4096).expect("it is loaded");
        device.upload(&stream.buffer, 4000, &[BYTE ^ 1]).expect("in range");
        let error = stream.rates(1, 2).expect_err("one byte differs").to_string();
        assert!(error.contains("4096 equal bytes"), "{error}");
        assert!(stream.launch_seconds(1).expect("it runs") > 0.0);
    }
}
