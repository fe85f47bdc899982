//! Decode attention on the first CUDA device: time of one layer's attention (split and combine) over depth, cache
//! formats and query tokens, beside what its bytes alone would take. `cargo bench -p tilekiln-tests --bench attention`;
//! without a device it says so and ends. The shape is that of a full layer of E4B: head dim 512, 2 KV heads, 8 query
//! heads. Caches are rotated so that they do not stay in the cache of the chip.

use std::sync::Arc;

use tilekiln_kernels::attention::flash::FlashShape;
use tilekiln_kernels::attention::formats;
use tilekiln_kernels::attention::pages::PAGE;
use tilekiln_kernels::attention::partition::{self, NO_WINDOW};
use tilekiln_kernels::registry::{Settings, find};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::{Argument, Buffer, Device, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;

const HEAD_DIM: usize = 512;
const KV_HEADS: usize = 2;
const GQA: usize = 4;
const HEADS: usize = KV_HEADS * GQA;
/// Bytes of caches that are gone through before one is used again: more than the L2 cache holds.
const ROTATION: usize = 200 << 20;
const SAMPLES: usize = 9;
const WARPS: usize = 16;

fn words(device: &dyn Device, values: &[u32]) -> Result<Argument, DeviceError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffer = device.allocate(bytes.len())?;
    device.upload(&buffer, 0, &bytes)?;
    Ok(Argument::Buffer(buffer, 0))
}

/// Finite random halves, which are random quants as well.
fn random(device: &dyn Device, bytes: usize, seed: &mut u64) -> Result<Buffer, DeviceError> {
    let buffer = device.allocate(bytes)?;
    let piece: Vec<u8> = (0..(1 << 20).min(bytes) / 2)
        .flat_map(|_| {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // below 2 as f16, and not tiny
            ((*seed >> 40) as u16 & 0x87ff | 0x3000).to_le_bytes()
        })
        .collect();
    for start in (0..bytes).step_by(piece.len()) {
        let len = piece.len().min(bytes - start);
        device.upload(&buffer, start, &piece[..len])?;
    }
    Ok(buffer)
}

fn load(device: &dyn Device, wanted: &[(&str, Vec<String>)]) -> Result<Vec<Loaded>, Box<dyn std::error::Error>> {
    let target = device.properties().target.clone();
    let mut kernels = Vec::new();
    for (name, settings) in wanted {
        let entry = find(name).ok_or("no such kernel")?;
        let settings =
            Settings::parse(entry, settings.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let kernel = (entry.build)(&settings).map_err(|error| error.to_string())?;
        kernels.push(Arc::new(kernel.record(&target)?));
    }
    Ok(device.load(kernels)?)
}

/// Median time of one layer's attention in microseconds.
fn time(
    device: &dyn Device,
    [split, combine]: [&Loaded; 2],
    keys: usize,
    rows: usize,
    shape: FlashShape,
    pair: [&formats::Format; 2],
    caches: [&Buffer; 2],
) -> Result<f64, DeviceError> {
    let pages = keys.div_ceil(PAGE);
    let bytes = pair.map(|format| pages * KV_HEADS * (format.page_bytes)(HEAD_DIM));
    let copies = caches[0].bytes / bytes[0];
    let copies = copies.min(caches[1].bytes / bytes[1]).max(1);
    let chunks = partition::chunks(keys, NO_WINDOW, rows);
    let columns = shape.columns(device.properties().target.fragments.columns());
    let sharers = match shape.goes_on() {
        true => partition::blocks_to_share(chunks, device.properties().units * split.kernel.blocks / KV_HEADS),
        false => chunks,
    };
    let stored = (pair[1].stored)(HEAD_DIM);
    let position: Vec<u32> = (keys - rows..keys).map(|position| position as u32).collect();
    let visible: Vec<u32> = position.iter().map(|position| position + 1).collect();
    let table: Vec<u32> = (0..pages as u32).collect();
    let [table, groups] = [words(device, &table)?, words(device, &[0, rows as u32, 0])?];
    let [positions, visible] = [words(device, &position)?, words(device, &visible)?];
    let mut seed = 5;
    let words = pair[0].fast.map_or(0, |fast| fast.query_words(HEAD_DIM));
    let q = Argument::Buffer(random(device, rows * HEADS * words * 4, &mut seed)?, 0);
    let partial = device.allocate(KV_HEADS * chunks * columns * stored * 4)?;
    let worth = device.allocate(KV_HEADS * chunks * columns * 8)?;
    let out = device.allocate(rows * HEADS * HEAD_DIM * 4)?;
    let buffer = |buffer: &Buffer| Argument::Buffer(buffer.clone(), 0);
    let scalars = |values: &[usize]| {
        values
            .iter()
            .map(|value| Argument::U32(*value as u32))
            .collect::<Vec<_>>()
    };
    let layers = copies.clamp(8, 48);
    let launches = |device: &dyn Device| -> Result<(), DeviceError> {
        for layer in 0..layers {
            let at = layer % copies;
            let mut arguments = vec![
                q.clone(),
                Argument::Buffer(caches[0].clone(), at * bytes[0]),
                Argument::Buffer(caches[1].clone(), at * bytes[1]),
                table.clone(),
                groups.clone(),
                positions.clone(),
                visible.clone(),
                buffer(&partial),
                buffer(&worth),
            ];
            arguments.extend(scalars(&[HEADS, GQA, pages, NO_WINDOW as usize, chunks]));
            let launch = Launch {
                grid: [KV_HEADS as u32, sharers as u32, 1],
                arguments,
                dependent: true,
            };
            device.launch(split, &launch)?;
            let mut arguments = vec![
                buffer(&partial),
                buffer(&worth),
                groups.clone(),
                positions.clone(),
                visible.clone(),
                buffer(&out),
            ];
            arguments.extend(scalars(&[
                HEADS,
                GQA,
                NO_WINDOW as usize,
                HEAD_DIM,
                stored,
                columns,
                chunks,
            ]));
            let launch = Launch {
                grid: [(rows * GQA * stored / 128) as u32, KV_HEADS as u32, 1],
                arguments,
                dependent: true,
            };
            device.launch(combine, &launch)?;
        }
        Ok(())
    };
    launches(device)?;
    device.begin_graph()?;
    let recorded = launches(device);
    let graph = device.end_graph()?;
    recorded?;
    device.replay(&graph)?;
    device.synchronize()?;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let start = device.mark()?;
        for _ in 0..3 {
            device.replay(&graph)?;
        }
        let end = device.mark()?;
        samples.push(device.elapsed(&start, &end)?.as_secs_f64() * 1e6 / f64::from(3 * layers as u32));
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[SAMPLES / 2])
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let device = match CudaDevice::open(0) {
        Ok(device) => device,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };
    let only: Option<String> = std::env::var("TILEKILN_BENCH_KV").ok();
    let depths: Vec<usize> = match std::env::var("TILEKILN_BENCH_KEYS") {
        Ok(keys) => keys.split(',').map(str::parse).collect::<Result<_, _>>()?,
        Err(_) => vec![1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10],
    };
    let device: &dyn Device = &device;
    println!("{}", device.properties().name);
    println!(
        "median of {SAMPLES}; time, rate of keys and values, time over that of the first f16 line with as many rows"
    );
    let mut seed = 3;
    let largest = (1 << 17) * KV_HEADS * HEAD_DIM * 2;
    let caches = [
        random(device, largest + ROTATION, &mut seed)?,
        random(device, largest + ROTATION, &mut seed)?,
    ];
    let formats: Vec<&formats::Format> = ["f16", "turbo2", "turbo3", "turbo4", "q8_0", "q4_0", "bf16"]
        .into_iter()
        .filter(|name| *name == "f16" || only.as_deref().is_none_or(|only| only.split(',').any(|it| it == *name)))
        .filter_map(formats::find)
        .collect();
    let mut reference = std::collections::HashMap::new();
    let shapes: &[(usize, [usize; 3])] = &[
        (1, [1, 1, 1]),
        (1, [1, 1, 2]),
        (1, [1, 1, 4]),
        (4, [2, 1, 1]),
        (4, [2, 1, 2]),
        (4, [1, 2, 2]),
    ];
    for format in formats {
        for &(rows, [tiles, teams, pages]) in shapes {
            let shape = FlashShape {
                head_dim: HEAD_DIM,
                tiles,
                teams,
                pages,
            };
            let settings = vec![
                format!("k={}", format.name),
                format!("v={}", format.name),
                format!("head_dim={HEAD_DIM}"),
                format!("tiles={tiles}"),
                format!("teams={teams}"),
                format!("pages={pages}"),
            ];
            let kernels = load(
                device,
                &[
                    ("flash_decode", settings),
                    (
                        "flash_combine",
                        vec![format!("warps={WARPS}"), format!("rotated={}", format.rotated)],
                    ),
                ],
            )?;
            print!(
                "{:>7} R={rows} {tiles}x{teams}x{pages} {:>3} registers {:>3} spilled |",
                format.name, kernels[0].resources.registers, kernels[0].resources.spills
            );
            for &keys in &depths {
                let loaded = [&kernels[0], &kernels[1]];
                let micros = time(
                    device,
                    loaded,
                    keys - 3,
                    rows,
                    shape,
                    [format, format],
                    [&caches[0], &caches[1]],
                )?;
                let bytes = 2 * keys.div_ceil(PAGE) * KV_HEADS * (format.page_bytes)(HEAD_DIM);
                let base = *reference.entry((rows, keys)).or_insert(micros);
                print!(
                    " {:>3}K {micros:6.1} us {:4.2} TB/s {:4.2}",
                    keys >> 10,
                    bytes as f64 / micros / 1e6,
                    micros / base
                );
            }
            println!();
        }
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
