//! Kernels of the library on the first CUDA device: time per launch, achieved rate, and that rate against a plain copy
//! of the same run. `cargo bench -p tilekiln --bench kernels`; without a device it says so and ends.

use std::sync::Arc;

use tilekiln_kernels::registry::{Settings, find};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::{Argument, Device, Launch};
use tilekiln_runtime::error::DeviceError;

/// Launches per sample; samples per figure.
const LAUNCHES: u32 = 50;
const SAMPLES: usize = 7;

struct Bench {
    kernel: &'static str,
    settings: &'static [&'static str],
    shape: String,
    grid: [u32; 3],
    /// Sizes of the buffers in bytes.
    buffers: Vec<usize>,
    scalars: Vec<Argument>,
    /// Bytes the launch has to move at least.
    bytes: usize,
    /// Floating-point operations, where they are the limit.
    operations: f64,
}

fn u32s(values: &[u32]) -> Vec<Argument> {
    values.iter().map(|value| Argument::U32(*value)).collect()
}

fn benches() -> Vec<Bench> {
    let (rows, cols) = (8192usize, 8192usize);
    let mut norm = u32s(&[cols as u32]);
    norm.push(Argument::F32(1e-6));
    let mut copy = u32s(&[cols as u32]);
    copy.push(Argument::F32(1.0));
    let (out, depth) = (262_144usize, 2560usize);
    let product = |weight: &'static [&'static str], bytes: usize| Bench {
        kernel: "row_product",
        settings: weight,
        shape: format!("{out} x {depth}"),
        grid: [out as u32 / 4, 1, 1],
        buffers: vec![bytes, depth, depth / 8, out * 4],
        scalars: u32s(&[out as u32, depth as u32, 1]),
        bytes,
        operations: 0.0,
    };
    let n = 4096usize;
    vec![
        Bench {
            kernel: "gather",
            settings: &["element=f32"],
            shape: format!("{rows} rows of {cols} (the copy)"),
            grid: [rows as u32, 1, 1],
            buffers: vec![rows * cols * 4, rows * 4, rows * cols * 4],
            scalars: copy,
            bytes: 2 * rows * cols * 4,
            operations: 0.0,
        },
        Bench {
            kernel: "rms_norm",
            settings: &["element=f16"],
            shape: format!("{rows} rows of {cols}"),
            grid: [rows as u32, 1, 1],
            buffers: vec![rows * cols * 2, cols * 4, rows * cols * 2],
            scalars: norm,
            bytes: 2 * rows * cols * 2,
            operations: 0.0,
        },
        product(&["weight=q4_k"], out * depth / 256 * 144),
        product(&["weight=q6_k"], out * depth / 256 * 210),
        product(&["weight=q8_0"], out * depth / 32 * 34),
        Bench {
            kernel: "matmul",
            settings: &["element=f16", "stages=3"],
            shape: format!("{n} x {n} x {n}"),
            grid: [n as u32 / 64, n as u32 / 64, 1],
            buffers: vec![n * n * 2, n * n * 2, n * n * 4],
            scalars: u32s(&[n as u32, n as u32, n as u32]),
            bytes: n * n * 8,
            operations: 2.0 * (n as f64).powi(3),
        },
    ]
}

/// Random bytes that are small numbers in every format: no NaN, no infinity, nothing that slows a chip down.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..bytes)
        .map(|index| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let byte = (state >> 56) as u8;
            // the upper byte of a half or a float keeps its exponent low
            if index % 2 == 1 { byte & 0xb7 } else { byte }
        })
        .collect()
}

fn measure(device: &CudaDevice, bench: &Bench) -> Result<[f64; 3], DeviceError> {
    let fail = |reason: String| DeviceError::BadLaunch {
        kernel: bench.kernel.to_string(),
        reason,
    };
    let entry = find(bench.kernel).ok_or_else(|| fail("no such kernel".to_string()))?;
    let settings = Settings::parse(entry, bench.settings.iter().copied()).map_err(|e| fail(e.to_string()))?;
    let def = (entry.build)(&settings).map_err(|e| fail(e.to_string()))?;
    let kernel = def
        .record(&device.properties().target)
        .map_err(|e| fail(e.to_string()))?;
    let loaded = device.load(vec![Arc::new(kernel)])?.remove(0);
    let mut arguments = Vec::new();
    for (index, bytes) in bench.buffers.iter().enumerate() {
        let buffer = device.allocate(*bytes)?;
        // row numbers of the gather: each row once
        let data = match (bench.kernel, index) {
            ("gather", 1) => (0..*bytes as u32 / 4).flat_map(u32::to_le_bytes).collect(),
            _ => noise(*bytes),
        };
        device.upload(&buffer, 0, &data)?;
        arguments.push(Argument::Buffer(buffer, 0));
    }
    arguments.extend(bench.scalars.iter().cloned());
    let launch = Launch {
        grid: bench.grid,
        arguments,
        dependent: false,
    };
    let mut samples = Vec::new();
    for sample in 0..=SAMPLES {
        let start = device.mark()?;
        for _ in 0..LAUNCHES {
            device.launch(&loaded, &launch)?;
        }
        let end = device.mark()?;
        let time = device.elapsed(&start, &end)?.as_secs_f64() / f64::from(LAUNCHES);
        // the first round warms up
        if sample > 0 {
            samples.push(time);
        }
    }
    samples.sort_by(f64::total_cmp);
    Ok([samples[SAMPLES / 2], samples[0], samples[SAMPLES - 1]])
}

fn main() {
    let device = match CudaDevice::open(0) {
        Ok(device) => device,
        Err(error) => {
            println!("no figures: {error}");
            return;
        }
    };
    println!(
        "{}: medians of {SAMPLES} samples of {LAUNCHES} launches (fastest to slowest)\n",
        device.properties().name
    );
    println!("| kernel | shape | µs | TB/s | of the copy | TFLOP/s |");
    println!("|---|---|---:|---:|---:|---:|");
    let mut copy = None;
    for bench in benches() {
        match measure(&device, &bench) {
            Err(error) => println!(
                "| {} {} | {} | {error} | | | |",
                bench.kernel,
                bench.settings.join(" "),
                bench.shape
            ),
            Ok([median, fastest, slowest]) => {
                let rate = bench.bytes as f64 / median / 1e12;
                let copy = *copy.get_or_insert(rate);
                let flops = match bench.operations {
                    0.0 => "-".to_string(),
                    operations => format!("{:.0}", operations / median / 1e12),
                };
                println!(
                    "| {} {} | {} | {:.1} ({:.1} to {:.1}) | {rate:.2} | {:.0} % | {flops} |",
                    bench.kernel,
                    bench.settings.join(" "),
                    bench.shape,
                    median * 1e6,
                    fastest * 1e6,
                    slowest * 1e6,
                    100.0 * rate / copy
                );
            }
        }
    }
}
