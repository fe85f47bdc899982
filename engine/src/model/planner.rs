//! Writes launches: the pieces that layers of the target and of the assistant have in common.
//!
//! [`products`] multiplies, [`rows`] says what happens to rows between products, [`attention`] is attention, and
//! [`layers`] puts layers together of these. [`choose`] has what comes behind an output head. [`division`] says how
//! products are divided on a chip.

mod attention;
mod choose;
mod division;
mod layers;
mod products;
mod rows;
mod scratch;
mod tuning;
#[cfg(test)]
mod waiting;

use super::config::{Layer, Shape};
use super::target::Precision;
use super::weights::Weight;
use crate::kv::CacheTypes;
use crate::plan::{BufferId, BufferTable, Cost, Count, KernelSpec, Operand, Plan};

pub use attention::{Attention, Method, Phase, Run, Sharing, Steps};
pub use division::{Chip, Division, RowTiles, Work, column_tiles, evenly};
pub use layers::LayerContext;
pub use rows::{Forms, Next, Norm, Rows};
pub use scratch::{Prepared, Scratch, Widths};
pub use tuning::{Tuned, TunedTile, Tuning, Unfit};

/// Threads of the blocks that work on one row.
const THREADS: u32 = 256;
/// Bytes of an activation, and of an element of a norm.
const FLOAT: usize = 4;
/// Operations of tanh and what belongs to it, by count of the instructions.
const TANH: usize = 20;

/// Input buffers that describe the rows of a step.
#[derive(Clone, Copy, Debug)]
pub struct RowInputs {
    /// Token ids.
    pub tokens: BufferId,
    /// Which sequence a row belongs to.
    pub slots: BufferId,
    /// Position of the row in its sequence.
    pub positions: BufferId,
    /// How many keys of the sequence are valid for the row.
    pub visible: BufferId,
}

impl RowInputs {
    /// Adds them to a table.
    pub fn add(table: &mut BufferTable, prefix: &str) -> Self {
        let mut input = |name: &str| table.input(&format!("{prefix}.{name}"));
        Self {
            tokens: input("tokens"),
            slots: input("slots"),
            positions: input("positions"),
            visible: input("visible"),
        }
    }
}

/// Keys and values that a layer reads, and writes if it owns them.
#[derive(Clone, Copy, Debug)]
pub struct CacheBuffers {
    /// Keys, normed and rotated.
    pub keys: BufferId,
    /// Values, normed.
    pub values: BufferId,
    /// Pages of each slot.
    pub table: BufferId,
    /// Pages per slot.
    pub slot_pages: u32,
    /// Formats of both.
    pub types: CacheTypes,
}

/// Where the projections of a layer's attention are: values of row t begin at `t * stride` of an operand.
#[derive(Clone, Copy, Debug)]
struct Projected {
    query: Operand,
    key: Operand,
    value: Operand,
    query_stride: usize,
    key_stride: usize,
}

/// Kernels that wait themselves for what the launch in front of them writes. Before that they read constants of the
/// model and what the host has written before the step, nothing else.
///
/// Each of them waits in every one of its launches: the launch behind it takes that for granted of all before it.
const WAITING: &[&str] = &[
    "embed",
    "ple_combine",
    "copy_rows",
    "scatter_rows",
    "softcap",
    "chunk_best",
    "best_token",
    "packed_product",
    "packed_pair",
    "packed_gated",
    "packed_gate",
    "packed_halves",
    "prepare_rows",
    "prepare_norm",
    "prepare_residual",
    "prepare_residual_norm",
    "split_rows",
    "prepare_queries",
    "prepare_attention",
    "cache_write",
    "flash_prefill",
    "flash_decode",
    "flash_combine",
    "flash_combine_int8",
];

/// Adds a launch to a plan: one that may start before the launch in front of it has ended, if its kernel waits itself.
pub(super) fn push_stage(
    plan: &mut Plan,
    label: &str,
    kernel: KernelSpec,
    grid: [Count; 3],
    operands: Vec<Operand>,
    cost: Cost,
) {
    let dependent = WAITING.contains(&kernel.name);
    plan.push(label, kernel, grid, operands, cost);
    if let Some(stage) = plan.stages.last_mut() {
        stage.dependent = dependent;
    }
}

/// Collects the launches of a plan.
pub struct Planner<'a> {
    plan: Plan,
    shape: &'a Shape,
    scratch: &'a Scratch,
    inputs: &'a RowInputs,
    precision: Precision,
    attention: &'a Attention,
    sharing: Sharing,
    chip: Chip<'a>,
    /// Rows that share one read of a weight matrix.
    tile: u32,
}

impl<'a> Planner<'a> {
    /// A planner for layers of that shape.
    pub fn new(
        title: impl Into<String>,
        shape: &'a Shape,
        scratch: &'a Scratch,
        inputs: &'a RowInputs,
        precision: Precision,
        (attention, sharing): (&'a Attention, Sharing),
        (chip, tile): (Chip<'a>, u32),
    ) -> Self {
        Self {
            plan: Plan::new(title),
            shape,
            scratch,
            inputs,
            precision,
            attention,
            sharing,
            chip,
            tile,
        }
    }

    /// The plan.
    pub fn finish(self) -> Plan {
        self.plan
    }

    fn push(
        &mut self,
        label: &str,
        kernel: &'static str,
        settings: &[String],
        grid: [Count; 2],
        operands: Vec<Operand>,
        cost: Cost,
    ) {
        let [x, y] = grid;
        self.push_grid(label, kernel, settings, [x, y, Count::Fixed(1)], operands, cost);
    }

    fn push_grid(
        &mut self,
        label: &str,
        kernel: &'static str,
        settings: &[String],
        grid: [Count; 3],
        operands: Vec<Operand>,
        cost: Cost,
    ) {
        push_stage(
            &mut self.plan,
            label,
            KernelSpec::new(kernel, settings),
            grid,
            operands,
            cost,
        );
    }

    /// Rows of an embedding table, scaled; row t goes to `out[t * stride ..]`.
    pub fn embed(&mut self, label: &str, table: &Weight, ids: BufferId, out: BufferId, stride: usize, scale: f32) {
        for part in &table.parts {
            let operands = vec![
                Operand::Buffer(part.buffer),
                Operand::Buffer(ids),
                Operand::Buffer(out),
                Operand::Number(table.cols as u32),
                Operand::Number(stride as u32),
                Operand::Number(part.first_row as u32),
                Operand::Number(part.rows as u32),
                Operand::Real(scale),
            ];
            let settings = [format!("weight={}", table.format())];
            // a row's token is in one of the parts, in each with the probability of its size
            let cost = Cost {
                lookup_bytes: part.bytes / table.rows.max(1),
                operations: table.cols * part.rows / table.rows.max(1),
                ..Cost::activations(FLOAT * table.cols * part.rows / table.rows.max(1))
            };
            // 32 threads a block, 32 values a thread
            let blocks = (table.cols as u32).div_ceil(32 * 32);
            let grid = [Count::ROWS, Count::Fixed(blocks)];
            self.push(label, "embed", &settings, grid, operands, cost);
        }
    }

    /// Row t goes to row `indices[t]` of a matrix.
    pub fn scatter_rows(&mut self, label: &str, [source, indices, out]: [BufferId; 3], cols: usize) {
        let mut operands = [source, indices, out].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(cols as u32));
        let cost = Cost::activations(2 * FLOAT * cols);
        self.push(
            label,
            "scatter_rows",
            &[],
            [Count::ROWS, Count::Fixed(1)],
            operands,
            cost,
        );
    }

    /// Copies rows `indices[t]` of a matrix to `out[t * stride + offset ..]`.
    pub fn copy_rows(
        &mut self,
        label: &str,
        source: BufferId,
        indices: BufferId,
        out: BufferId,
        [cols, stride, offset]: [usize; 3],
    ) {
        let mut operands = [source, indices, out].map(Operand::Buffer).to_vec();
        operands.extend([cols, stride, offset].map(|size| Operand::Number(size as u32)));
        let cost = Cost::activations(2 * FLOAT * cols);
        self.push(label, "copy_rows", &[], [Count::ROWS, Count::Fixed(1)], operands, cost);
    }
}

/// Bytes of a layer's norm of heads and of its rotation frequencies.
fn norm_rope_bytes(layer: &Layer) -> usize {
    FLOAT * (layer.head_dim + layer.head_dim / 2)
}
