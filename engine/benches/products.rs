//! Products with packed weights on a GPU: the stages of one E4B step in Q4_K_M, and a step of 42 layers as one graph.
//!
//! Each stage is timed in a graph of dependent launches, with so many copies of its weights that no launch finds them in
//! the L2 cache. Beside each figure stands that of throw-away prototypes on one H100, where there is one. A step has the
//! products and what prepares rows for them, no attention.
//!
//! `cargo bench -p tilekiln --bench products`, or the binary alone on another machine. Arguments: part of a stage's name
//! (`down`, `step`), and `--sweep` to try other divisions and grids than the usual ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use tilekiln_dsl::prelude::*;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{groups_down, tiles_across};
use tilekiln_kernels::matmul::weights::WEIGHTS;
use tilekiln_kernels::registry::{Settings, find};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::{Argument, Buffer, Device, Graph, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;

/// Rows that share one read of the weights.
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Replays per figure: their median is shown.
const SAMPLES: usize = 7;
/// Bytes of weights that a graph goes through before it comes back to the first ones.
const ROTATION: usize = 400 << 20;

const HIDDEN: usize = 2560;
const FFN: usize = 10_240;
const HEADS: usize = 2048;
const QKV: usize = 3072;
const PLE: usize = 256;
const LAYERS: usize = 42;
const VOCABULARY: usize = 262_144;

/// 16 bytes a lane, each block every `grid`-th piece: as fast as memory can be read.
#[kernel(threads = 256)]
fn read_all(x: In<u32>, y: Out<u32>, pieces: u32) {
    let mut seen = u32(0);
    for piece in stepped(block_index() * 256 + thread_index(), pieces, grid_size() * 256) {
        let four = x.load_as::<Pack<u32, 4>>(piece.to::<u64>() * 4);
        seen = seen ^ (four.component(0) ^ four.component(1) ^ four.component(2) ^ four.component(3));
    }
    if seen == 0x1234_5678 {
        y[0] = seen;
    }
}

/// What a launch computes.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `packed_product`
    Product,
    /// `packed_gated`: half of the rows are gates.
    Gated,
    /// `packed_gate`
    Gate,
    /// `packed_pair`: that many rows more, in Q6_K.
    Pair { more: usize },
    /// `packed_halves`
    Halves,
}

/// How a product is divided.
#[derive(Clone, Copy)]
struct Division {
    warps: usize,
    slots: usize,
    /// Blocks beside each other, asked of the compiler where there is one column tile.
    beside: usize,
    grid: usize,
}

/// A product of the model.
#[derive(Clone, Copy)]
struct Stage {
    name: &'static str,
    kind: Kind,
    weight: &'static str,
    rows: usize,
    cols: usize,
    division: Division,
    /// µs of the prototypes for 1, 2, 4 and 8 rows.
    prototype: [f64; 4],
}

const fn division(warps: usize, slots: usize, beside: usize, grid: usize) -> Division {
    Division {
        warps,
        slots,
        beside,
        grid,
    }
}

const NONE: [f64; 4] = [0.0; 4];
const GATE_UP: Stage = Stage {
    name: "gate+up",
    kind: Kind::Gated,
    weight: "q4_k",
    rows: 2 * FFN,
    cols: HIDDEN,
    division: division(10, 2, 2, 107),
    prototype: [10.2, 11.6, 12.9, 14.7],
};
const DOWN: Stage = Stage {
    name: "down",
    kind: Kind::Product,
    weight: "q4_k",
    rows: HIDDEN,
    cols: FFN,
    division: division(10, 2, 2, 80),
    prototype: [6.2, 7.2, 9.5, 10.1],
};
const DOWN_Q6: Stage = Stage {
    name: "down q6_k",
    weight: "q6_k",
    prototype: [8.2, 9.4, 12.2, 17.7],
    ..DOWN
};
const QKV_STAGE: Stage = Stage {
    name: "qkv",
    rows: QKV,
    cols: HIDDEN,
    division: division(10, 1, 2, 96),
    prototype: [3.1, 3.5, 4.1, 4.7],
    ..DOWN
};
const QKV_PAIR: Stage = Stage {
    name: "qkv, v q6_k",
    kind: Kind::Pair { more: 512 },
    rows: QKV - 512,
    prototype: NONE,
    ..QKV_STAGE
};
const OUT: Stage = Stage {
    name: "out",
    rows: HIDDEN,
    cols: HEADS,
    division: division(8, 1, 2, 80),
    prototype: [2.7, 3.0, 3.6, 5.2],
    ..DOWN
};
const PLE_GATE: Stage = Stage {
    name: "ple gate",
    kind: Kind::Gate,
    rows: PLE,
    cols: HIDDEN,
    division: division(10, 1, 2, 8),
    prototype: NONE,
    ..DOWN
};
const PLE_OUT: Stage = Stage {
    name: "ple out",
    rows: HIDDEN,
    cols: PLE,
    division: division(1, 1, 1, 80),
    prototype: NONE,
    ..DOWN
};
const HEAD: Stage = Stage {
    name: "head",
    weight: "q6_k",
    rows: VOCABULARY,
    cols: HIDDEN,
    division: division(10, 2, 2, 132),
    prototype: [185.0, 187.0, 193.0, 209.0],
    ..DOWN
};
const PLE_MODEL: Stage = Stage {
    name: "ple model f16",
    kind: Kind::Halves,
    weight: "f16",
    rows: PLE * LAYERS,
    cols: HIDDEN,
    division: division(10, 1, 1, 112),
    prototype: NONE,
};
const STAGES: [Stage; 10] = [
    GATE_UP, DOWN, DOWN_Q6, QKV_STAGE, QKV_PAIR, OUT, PLE_GATE, PLE_OUT, HEAD, PLE_MODEL,
];

impl Stage {
    fn kernel(&self) -> &'static str {
        match self.kind {
            Kind::Product => "packed_product",
            Kind::Gated => "packed_gated",
            Kind::Gate => "packed_gate",
            Kind::Pair { .. } => "packed_pair",
            Kind::Halves => "packed_halves",
        }
    }

    fn settings(&self, rows: usize) -> String {
        let columns = match self.kind {
            Kind::Halves => column_tiles(rows),
            _ if rows == 1 => 0,
            _ => column_tiles(rows),
        };
        let element = match self.kind {
            Kind::Halves => "half",
            Kind::Pair { .. } => "first",
            _ => "weight",
        };
        let Division {
            warps, slots, beside, ..
        } = self.division;
        let blocks = if columns < 2 { beside } else { 1 };
        format!(
            "{element}={},warps={warps},slots={slots},columns={columns},blocks={blocks}",
            self.weight
        )
    }

    /// Bytes of each of its packed matrices.
    fn matrices(&self) -> Vec<usize> {
        let mut all = vec![packed_bytes(self.weight, self.rows, self.cols)];
        if let Kind::Pair { more } = self.kind {
            all.push(packed_bytes("q6_k", more, self.cols));
        }
        all
    }

    fn bytes(&self) -> usize {
        self.matrices().iter().sum()
    }

    /// The divisions to try: the usual one first.
    fn divisions(&self, sweep: bool) -> Vec<Division> {
        let mut all = vec![self.division];
        if !sweep {
            return all;
        }
        let groups = groups_down(self.rows) / if self.kind == Kind::Gated { 2 } else { 1 };
        let mut grids: Vec<usize> = [self.division.grid, 96, 107, 120, 128, 132, 160]
            .into_iter()
            .filter(|grid| *grid <= groups)
            .collect();
        grids.dedup();
        let warps: &[usize] = match tiles_across(self.cols) {
            1 => &[1],
            8 => &[8, 4],
            _ => &[10, 8, 5],
        };
        for &warps in warps {
            for slots in 1..=4 {
                for beside in [1, 2] {
                    for &grid in &grids {
                        all.push(division(warps, slots, beside, grid));
                    }
                }
            }
        }
        all
    }
}

/// Column tiles for that many rows.
fn column_tiles(rows: usize) -> usize {
    rows.div_ceil(8).next_power_of_two()
}

fn packed_bytes(weight: &str, rows: usize, cols: usize) -> usize {
    let found = WEIGHTS.iter().find(|known| known.name == weight);
    found
        .and_then(|known| known.packing.as_ref())
        .map_or(0, |packing| (packing.bytes)(rows, cols))
}

/// Random bytes that are small numbers in every format: no NaN, no infinity.
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

/// The device, its kernels, and noise to fill buffers with.
struct Bench {
    device: CudaDevice,
    kernels: BTreeMap<String, Loaded>,
    noise: Vec<u8>,
    /// Bytes per second of a plain read.
    read: f64,
}

impl Bench {
    fn open() -> Result<Self, DeviceError> {
        let mut bench = Self {
            device: CudaDevice::open(0)?,
            kernels: BTreeMap::new(),
            noise: noise(64 << 20),
            read: 0.0,
        };
        bench.read = bench.streaming_read()?;
        Ok(bench)
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let buffer = self.device.allocate(bytes)?;
        for first in (0..bytes).step_by(self.noise.len()) {
            let some = self.noise.len().min(bytes - first);
            self.device.upload(&buffer, first, &self.noise[..some])?;
        }
        Ok(buffer)
    }

    /// Compiles kernels that are not there yet, all at once.
    fn load(&mut self, wanted: &[(&'static str, String)]) -> Result<(), DeviceError> {
        let mut names = Vec::new();
        let mut recorded = Vec::new();
        for (kernel, settings) in wanted {
            let name = format!("{kernel} {settings}");
            if self.kernels.contains_key(&name) || names.contains(&name) {
                continue;
            }
            let fail = |reason: String| DeviceError::BadLaunch {
                kernel: name.clone(),
                reason,
            };
            let entry = find(kernel).ok_or_else(|| fail("no such kernel".to_owned()))?;
            let parsed = Settings::parse(entry, settings.split(',').filter(|pair| !pair.is_empty()));
            let def = parsed
                .and_then(|settings| (entry.build)(&settings))
                .map_err(|e| fail(e.to_string()))?;
            // a division that does not fit into shared memory is left out
            if let Ok(kernel) = def.record(&self.device.properties().target) {
                recorded.push(Arc::new(kernel));
                names.push(name);
            }
        }
        let loaded = self.device.load(recorded)?;
        self.kernels.extend(names.into_iter().zip(loaded));
        Ok(())
    }

    fn kernel(&self, kernel: &str, settings: &str) -> Option<&Loaded> {
        self.kernels.get(&format!("{kernel} {settings}"))
    }

    fn record(&self, launches: &[(&Loaded, Launch)]) -> Result<Graph, DeviceError> {
        self.device.begin_graph()?;
        let launched = launches
            .iter()
            .try_for_each(|(kernel, launch)| self.device.launch(kernel, launch));
        let graph = self.device.end_graph();
        launched?;
        graph
    }

    /// Median seconds of a replay.
    fn time(&self, graph: &Graph) -> Result<f64, DeviceError> {
        let mut samples = Vec::new();
        for sample in 0..=SAMPLES {
            let start = self.device.mark()?;
            self.device.replay(graph)?;
            let end = self.device.mark()?;
            let time = self.device.elapsed(&start, &end)?.as_secs_f64();
            // the first one warms up
            if sample > 0 {
                samples.push(time);
            }
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
    }

    fn streaming_read(&self) -> Result<f64, DeviceError> {
        let bytes = 2usize << 30;
        let (x, y) = (self.device.allocate(bytes)?, self.device.allocate(16)?);
        self.device.fill(&x, 1)?;
        let kernel = read_all()
            .record(&self.device.properties().target)
            .map_err(|error| DeviceError::BadLaunch {
                kernel: "read_all".to_owned(),
                reason: error.to_string(),
            })?;
        let loaded = self.device.load(vec![Arc::new(kernel)])?.remove(0);
        let launch = Launch {
            grid: [self.device.properties().units as u32 * 8, 1, 1],
            arguments: vec![
                Argument::Buffer(x, 0),
                Argument::Buffer(y, 0),
                Argument::U32((bytes / 16) as u32),
            ],
            dependent: false,
        };
        let launches: Vec<_> = (0..4).map(|_| (&loaded, launch.clone())).collect();
        let time = self.time(&self.record(&launches)?)? / 4.0;
        Ok(bytes as f64 / time)
    }
}

fn at(buffer: &Buffer) -> Argument {
    Argument::Buffer(buffer.clone(), 0)
}

fn numbers(values: &[usize]) -> impl Iterator<Item = Argument> {
    values.iter().map(|value| Argument::U32(*value as u32))
}

/// int8 rows for a product, or its results as such.
struct Prepared {
    words: Buffer,
    scales: Buffer,
    sums: Buffer,
}

impl Prepared {
    fn new(bench: &Bench, cols: usize, rows: usize) -> Result<Self, DeviceError> {
        let groups = tiles_across(cols) * token_stride(rows);
        Ok(Self {
            // room for three terms of halves as well
            words: bench.buffer(groups * 256 * 6)?,
            scales: bench.buffer(groups * 32)?,
            sums: bench.buffer(groups * 64)?,
        })
    }

    fn arguments(&self) -> [Argument; 3] {
        [at(&self.words), at(&self.scales), at(&self.sums)]
    }
}

/// The launch of a stage with its weights at those buffers.
fn launch(stage: &Stage, rows: usize, weights: &[Buffer], x: &Prepared, y: &Buffer, results: &Prepared) -> Launch {
    let tiles = tiles_across(stage.cols);
    let stride = token_stride(rows);
    let mut arguments: Vec<Argument> = weights.iter().map(at).collect();
    match stage.kind {
        Kind::Product | Kind::Pair { .. } => {
            arguments.extend(x.arguments());
            arguments.push(at(y));
            arguments.extend(numbers(&[stage.rows]));
            if let Kind::Pair { more } = stage.kind {
                arguments.extend(numbers(&[more]));
            }
            arguments.extend(numbers(&[tiles, rows, stride]));
        }
        Kind::Gated => {
            arguments.extend(x.arguments());
            arguments.extend(results.arguments());
            arguments.extend(numbers(&[stage.rows / 64, tiles, rows, stride]));
        }
        Kind::Gate => {
            arguments.extend(x.arguments());
            arguments.push(at(y));
            arguments.extend(results.arguments());
            arguments.extend(numbers(&[stage.rows / 32, tiles, rows, stride, stage.rows, 0]));
        }
        Kind::Halves => {
            arguments.extend([at(&x.words), at(&x.scales), at(y)]);
            arguments.extend(numbers(&[stage.rows, tiles, rows, stride]));
        }
    }
    Launch {
        grid: [stage.division.grid as u32, 1, 1],
        arguments,
        dependent: true,
    }
}

/// Seconds of a stage with each of its divisions, the fastest first.
fn time_stage(bench: &mut Bench, stage: &Stage, rows: usize, sweep: bool) -> Result<Vec<(f64, Stage)>, DeviceError> {
    let variants: Vec<Stage> = stage
        .divisions(sweep)
        .into_iter()
        .map(|division| Stage { division, ..*stage })
        .collect();
    let wanted: Vec<_> = variants
        .iter()
        .map(|stage| (stage.kernel(), stage.settings(rows)))
        .collect();
    bench.load(&wanted)?;
    let copies = ROTATION.div_ceil(stage.bytes()).clamp(2, 60);
    let matrices = (0..copies).map(|_| stage.matrices().into_iter().map(|bytes| bench.buffer(bytes)).collect());
    let weights: Vec<Vec<Buffer>> = matrices.collect::<Result<_, _>>()?;
    let x = Prepared::new(bench, stage.cols, rows)?;
    let results = Prepared::new(bench, stage.rows, rows)?;
    let y = bench.buffer(rows * (stage.rows + 512) * 4)?;
    let mut times = Vec::new();
    for variant in variants {
        let Some(kernel) = bench.kernel(variant.kernel(), &variant.settings(rows)) else {
            continue;
        };
        let launches: Vec<_> = (0..copies.max(24))
            .map(|index| {
                (
                    kernel,
                    launch(&variant, rows, &weights[index % copies], &x, &y, &results),
                )
            })
            .collect();
        let graph = bench.record(&launches)?;
        times.push((bench.time(&graph)? / launches.len() as f64, variant));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(times)
}

fn print_stage(bench: &Bench, rows: usize, seconds: f64, stage: &Stage) {
    let rate = stage.bytes() as f64 / seconds;
    let index = ROWS.iter().position(|known| *known == rows).unwrap_or(ROWS.len());
    let prototype = match stage.prototype.get(index) {
        Some(time) if *time > 0.0 => format!("{time:.1}"),
        _ => "-".to_owned(),
    };
    let Division {
        warps,
        slots,
        grid,
        beside,
    } = stage.division;
    println!(
        "| {} | {rows} | {warps} warps, {slots} slots, {beside} beside, {grid} blocks | {:.2} | {:.0} | {:.0} % | {prototype} |",
        stage.name,
        seconds * 1e6,
        rate / 1e9,
        100.0 * rate / bench.read
    );
}

/// Buffers of a step.
struct StepBuffers {
    residual: Buffer,
    branch: Buffer,
    qkv: Buffer,
    norm: Buffer,
    ple: Buffer,
    hidden: Prepared,
    heads: Prepared,
    ffn: Prepared,
    embedding: Prepared,
    logits: Buffer,
}

/// The launch that prepares rows: settings for that many columns, and its arguments.
fn prepare(kernel: &'static str, cols: usize) -> (&'static str, String) {
    let threads = (cols / 4).clamp(32, 640);
    (
        kernel,
        format!("threads={threads},chunks={}", (cols / 4).div_ceil(threads)),
    )
}

/// All launches of a step of 42 layers, with or without the head.
fn step<'a>(
    bench: &'a Bench,
    rows: usize,
    layers: &[Vec<Vec<Buffer>>],
    head: Option<&Vec<Buffer>>,
    buffers: &StepBuffers,
    dependent: bool,
) -> Result<Vec<(&'a Loaded, Launch)>, DeviceError> {
    let mut launches = Vec::new();
    let stride = token_stride(rows);
    let mut push = |(kernel, settings): (&'static str, String), launch: Launch| {
        let loaded = bench.kernel(kernel, &settings).ok_or_else(|| DeviceError::BadLaunch {
            kernel: format!("{kernel} {settings}"),
            reason: "not loaded".to_owned(),
        })?;
        launches.push((loaded, Launch { dependent, ..launch }));
        Ok::<(), DeviceError>(())
    };
    let of_rows = |arguments: Vec<Argument>| Launch {
        grid: [rows as u32, 1, 1],
        arguments,
        dependent,
    };
    let product = |stage: &Stage| (stage.kernel(), stage.settings(rows));
    let b = buffers;
    let next_norm = |scale: f32| {
        let mut arguments = vec![at(&b.residual), at(&b.branch), at(&b.norm), at(&b.norm), at(&b.branch)];
        arguments.extend(b.hidden.arguments());
        arguments.extend(numbers(&[HIDDEN, stride]));
        arguments.extend([1e-6, scale].map(Argument::F32));
        of_rows(arguments)
    };
    for (index, layer) in layers.iter().enumerate() {
        let stages = layer_stages(index);
        push(prepare("prepare_residual_norm", HIDDEN), next_norm(0.9))?;
        push(
            product(&stages[0]),
            launch(&stages[0], rows, &layer[0], &b.hidden, &b.qkv, &b.hidden),
        )?;
        // attention would stand here: its result is as long as the queries
        let mut arguments = vec![at(&b.qkv)];
        arguments.extend(b.heads.arguments());
        arguments.extend(numbers(&[HEADS, stride]));
        push(prepare("prepare_rows", HEADS), of_rows(arguments))?;
        push(
            product(&stages[1]),
            launch(&stages[1], rows, &layer[1], &b.heads, &b.branch, &b.hidden),
        )?;
        push(prepare("prepare_residual_norm", HIDDEN), next_norm(1.0))?;
        push(
            product(&stages[2]),
            launch(&stages[2], rows, &layer[2], &b.hidden, &b.branch, &b.ffn),
        )?;
        push(
            product(&stages[3]),
            launch(&stages[3], rows, &layer[3], &b.ffn, &b.branch, &b.hidden),
        )?;
        let mut arguments = vec![at(&b.residual), at(&b.branch), at(&b.norm)];
        arguments.extend(b.hidden.arguments());
        arguments.extend(numbers(&[HIDDEN, stride]));
        arguments.extend([1e-6, 1.0].map(Argument::F32));
        push(prepare("prepare_residual", HIDDEN), of_rows(arguments))?;
        push(
            product(&stages[4]),
            launch(&stages[4], rows, &layer[4], &b.hidden, &b.ple, &b.embedding),
        )?;
        push(
            product(&stages[5]),
            launch(&stages[5], rows, &layer[5], &b.embedding, &b.branch, &b.hidden),
        )?;
    }
    if let Some(weights) = head {
        push(prepare("prepare_residual_norm", HIDDEN), next_norm(1.0))?;
        push(
            product(&HEAD),
            launch(&HEAD, rows, weights, &b.hidden, &b.logits, &b.hidden),
        )?;
    }
    Ok(launches)
}

/// The products of a layer, in order; half of the files' `down` matrices are in Q6_K.
fn layer_stages(layer: usize) -> [Stage; 6] {
    let down = if layer.is_multiple_of(2) { DOWN } else { DOWN_Q6 };
    [QKV_STAGE, OUT, GATE_UP, down, PLE_GATE, PLE_OUT]
}

fn time_steps(bench: &mut Bench) -> Result<(), DeviceError> {
    let mut layers = Vec::new();
    for layer in 0..LAYERS {
        let weights =
            layer_stages(layer).map(|stage| stage.matrices().into_iter().map(|bytes| bench.buffer(bytes)).collect());
        layers.push(weights.into_iter().collect::<Result<Vec<Vec<Buffer>>, _>>()?);
    }
    let head: Vec<Buffer> = HEAD
        .matrices()
        .into_iter()
        .map(|bytes| bench.buffer(bytes))
        .collect::<Result<_, _>>()?;
    let of_layers: usize = (0..LAYERS).flat_map(layer_stages).map(|stage| stage.bytes()).sum();
    println!("\n| step of {LAYERS} layers | rows | µs | µs with head | TB/s with head | plain graph, µs | launches |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for rows in [1, 4, 16] {
        let most = 64.max(rows);
        let buffers = StepBuffers {
            residual: bench.buffer(most * HIDDEN * 4)?,
            branch: bench.buffer(most * HIDDEN * 4)?,
            qkv: bench.buffer(most * QKV * 4)?,
            norm: bench.buffer(HIDDEN * 4)?,
            ple: bench.buffer(most * PLE * 4)?,
            hidden: Prepared::new(bench, HIDDEN, most)?,
            heads: Prepared::new(bench, HEADS, most)?,
            ffn: Prepared::new(bench, FFN, most)?,
            embedding: Prepared::new(bench, PLE, most)?,
            logits: bench.buffer(rows * VOCABULARY * 4)?,
        };
        let mut wanted: Vec<_> = (0..2)
            .flat_map(layer_stages)
            .chain([HEAD])
            .map(|stage| (stage.kernel(), stage.settings(rows)))
            .collect();
        wanted.extend(
            [
                ("prepare_residual_norm", HIDDEN),
                ("prepare_rows", HEADS),
                ("prepare_residual", HIDDEN),
            ]
            .map(|(kernel, cols)| prepare(kernel, cols)),
        );
        bench.load(&wanted)?;
        let time = |head: Option<&Vec<Buffer>>, dependent: bool| {
            let launches = step(bench, rows, &layers, head, &buffers, dependent)?;
            Ok::<_, DeviceError>((bench.time(&bench.record(&launches)?)?, launches.len()))
        };
        let (body, launches) = time(None, true)?;
        let (whole, _) = time(Some(&head), true)?;
        let (plain, _) = time(None, false)?;
        println!(
            "| qkv, out, gate+up, down, ple gate, ple out | {rows} | {:.0} | {:.0} | {:.2} | {:.0} | {launches} |",
            body * 1e6,
            whole * 1e6,
            (of_layers + HEAD.bytes()) as f64 / whole / 1e12,
            plain * 1e6,
        );
    }
    Ok(())
}

fn run(arguments: &[String]) -> Result<(), DeviceError> {
    let sweep = arguments.iter().any(|argument| argument == "--sweep");
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter.as_str()));
    let mut bench = Bench::open()?;
    println!(
        "{}: medians of {SAMPLES} graphs of dependent launches; a plain read of 2 GiB: {:.2} TB/s\n",
        bench.device.properties().name,
        bench.read / 1e12
    );
    println!("| stage | rows | division | µs | GB/s | of the read | prototype µs |");
    println!("|---|---:|---|---:|---:|---:|---:|");
    for stage in STAGES.iter().filter(|stage| is_wanted(stage.name)) {
        for rows in ROWS {
            let times = time_stage(&mut bench, stage, rows, sweep)?;
            for (seconds, variant) in times.iter().take(if sweep { 4 } else { 1 }) {
                print_stage(&bench, rows, *seconds, variant);
            }
        }
    }
    if is_wanted("step") {
        time_steps(&mut bench)?;
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let Err(error) = run(&arguments) {
        println!("no figures: {error}");
        std::process::exit(1);
    }
}
