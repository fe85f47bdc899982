//! Writes launches: the pieces that layers of the target and of the assistant have in common.

mod attention;

pub use attention::{Attention, Method, Phase, Run, Sharing, Steps};

use super::choice::ChunkBests;
use super::config::{Layer, Shape};
use super::target::Precision;
use super::weights::{LayerWeights, Weight};
use crate::kv::CacheTypes;
use crate::plan::{BufferId, BufferTable, Cost, Count, KernelSpec, Operand, Plan, Unit};

/// Threads of the blocks that work on one row.
const THREADS: u32 = 256;
/// Warps of a block of a matrix product: output values per block.
const WARPS: u32 = 4;
/// Threads of a block of `quantise_rows`; each takes four values.
const QUANTISE_THREADS: u32 = 256;
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

/// Scratch buffers of a step.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The residual stream.
    pub residual: BufferId,
    /// A normalised copy of it.
    pub normed: BufferId,
    /// Queries, rotated in place.
    pub query: BufferId,
    /// Key projection.
    pub key: BufferId,
    /// Value projection.
    pub value: BufferId,
    /// What attention gives, all heads.
    pub attended: BufferId,
    /// What a branch of a layer adds to the residual stream.
    pub branch: BufferId,
    /// Gate projection.
    pub gate: BufferId,
    /// Up projection.
    pub up: BufferId,
    /// Gated activations.
    pub gated: BufferId,
    /// int8 activations, four to a word.
    pub quants: BufferId,
    /// Their scales, one per 32.
    pub scales: BufferId,
}

impl Scratch {
    /// Scratch memory for layers of that shape; `widest` is the longest row that is ever multiplied.
    pub fn add(table: &mut BufferTable, prefix: &str, shape: &Shape, widest: usize) -> Self {
        let query = shape.heads * shape.layers.iter().map(|layer| layer.head_dim).max().unwrap_or(1);
        let key = |layer: &Layer| layer.head_dim * layer.kv_heads;
        let key = shape.layers.iter().map(key).max().unwrap_or(1);
        let ffn = shape.layers.iter().map(|layer| layer.ffn).max().unwrap_or(1);
        let mut scratch = |name: &str, values: usize| table.scratch(&format!("{prefix}.{name}"), values);
        Self {
            residual: scratch("residual", shape.hidden),
            normed: scratch("normed", shape.hidden),
            query: scratch("query", query),
            key: scratch("key", key),
            value: scratch("value", key),
            attended: scratch("attended", query),
            branch: scratch("branch", shape.hidden),
            gate: scratch("gate", ffn),
            up: scratch("up", ffn),
            gated: scratch("gated", ffn),
            quants: scratch("quants", widest.div_ceil(4)),
            scales: scratch("scales", widest.div_ceil(32)),
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
const WAITING: &[&str] = &[
    "prepare_queries",
    "cache_write",
    "flash_prefill",
    "flash_decode",
    "flash_combine",
];

/// Collects the launches of a plan.
pub struct Planner<'a> {
    plan: Plan,
    shape: &'a Shape,
    scratch: &'a Scratch,
    inputs: &'a RowInputs,
    precision: Precision,
    attention: &'a Attention,
    sharing: Sharing,
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
        tile: u32,
    ) -> Self {
        Self {
            plan: Plan::new(title),
            shape,
            scratch,
            inputs,
            precision,
            attention,
            sharing,
            tile,
        }
    }

    /// The plan.
    pub fn finish(self) -> Plan {
        self.plan
    }

    /// Names the stage added last.
    pub fn relabel(&mut self, label: impl Into<String>) {
        if let Some(stage) = self.plan.stages.last_mut() {
            stage.label = label.into();
        }
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
        let dependent = WAITING.contains(&kernel);
        let kernel = KernelSpec::new(kernel, settings);
        self.plan.push(label, kernel, grid, operands, cost);
        if let Some(stage) = self.plan.stages.last_mut() {
            stage.dependent = dependent;
        }
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
            let settings = [format!("weight={}", table.codec)];
            // a row's token is in one of the parts, in each with the probability of its size
            let cost = Cost {
                lookup_bytes: part.bytes / table.rows.max(1),
                operations: table.cols * part.rows / table.rows.max(1),
                ..Cost::activations(FLOAT * table.cols * part.rows / table.rows.max(1))
            };
            let grid = [Count::ROWS, Count::Fixed(1)];
            self.push(label, "embed", &settings, grid, operands, cost);
        }
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

    /// y = x / sqrt(mean(x²) + eps) · w
    pub fn norm(&mut self, label: &str, x: BufferId, w: BufferId, y: BufferId, cols: usize) {
        let operands = vec![
            Operand::Buffer(x),
            Operand::Buffer(w),
            Operand::Buffer(y),
            Operand::Number(cols as u32),
            Operand::Real(self.shape.epsilon),
        ];
        let settings = ["element=f32".to_owned(), format!("threads={THREADS}")];
        let cost = Cost {
            weight_bytes: FLOAT * cols,
            operations: 3 * cols,
            ..Cost::activations(2 * FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push(label, "rms_norm", &settings, grid, operands, cost);
    }

    /// x = (x + norm(branch; w)) · scale
    fn residual_norm(&mut self, label: &str, w: BufferId, scale: f32) {
        let Scratch { residual, branch, .. } = *self.scratch;
        let operands = vec![
            Operand::Buffer(residual),
            Operand::Buffer(branch),
            Operand::Buffer(w),
            Operand::Number(self.shape.hidden as u32),
            Operand::Real(self.shape.epsilon),
            Operand::Real(scale),
        ];
        let settings = [format!("threads={THREADS}")];
        let grid = [Count::ROWS, Count::Fixed(1)];
        let hidden = self.shape.hidden;
        let cost = Cost {
            weight_bytes: FLOAT * hidden,
            operations: 4 * hidden,
            ..Cost::activations(3 * FLOAT * hidden)
        };
        self.push(label, "residual_norm", &settings, grid, operands, cost);
    }

    fn uses_int8(&self, weight: &Weight) -> bool {
        self.precision == Precision::Fast && weight.is_quantised()
    }

    /// Products of the same activations with several matrices.
    pub fn products(&mut self, label: &str, x: BufferId, products: &[(&str, &Weight, BufferId)]) {
        let int8 = products.iter().find(|(_, weight, _)| self.uses_int8(weight));
        if let Some((_, weight, _)) = int8 {
            let groups = (weight.cols / 32) as u32;
            let operands = vec![
                Operand::Buffer(x),
                Operand::Buffer(self.scratch.quants),
                Operand::Buffer(self.scratch.scales),
                Operand::Count(Count::Rows { times: groups, per: 1 }),
            ];
            let blocks = Count::Rows {
                times: groups,
                per: QUANTISE_THREADS / 8,
            };
            let settings = [format!("threads={QUANTISE_THREADS}")];
            let name = format!("{label}.quantise");
            let cost = Cost {
                operations: 3 * weight.cols,
                ..Cost::activations(FLOAT * weight.cols + int8_bytes(weight.cols))
            };
            let grid = [blocks, Count::Fixed(1)];
            self.push(&name, "quantise_rows", &settings, grid, operands, cost);
        }
        for (name, weight, y) in products {
            self.product(&format!("{label}.{name}"), weight, x, *y);
        }
    }

    fn product(&mut self, label: &str, weight: &Weight, x: BufferId, y: BufferId) {
        let int8 = self.uses_int8(weight);
        for part in &weight.parts {
            let mut operands = vec![Operand::Buffer(part.buffer)];
            if int8 {
                operands.extend([self.scratch.quants, self.scratch.scales].map(Operand::Buffer));
            } else {
                operands.push(Operand::Buffer(x));
            }
            operands.extend([
                Operand::Buffer(y),
                Operand::Number(part.rows as u32),
                Operand::Number(weight.cols as u32),
                Operand::Count(Count::ROWS),
            ]);
            let settings = [
                format!("weight={}", weight.codec),
                format!("warps={WARPS}"),
                format!("tile={}", self.tile),
            ];
            let blocks = Count::Fixed((part.rows as u32).div_ceil(WARPS));
            let tiles = Count::Rows {
                times: 1,
                per: self.tile,
            };
            let kernel = if int8 { "row_product" } else { "linear" };
            let input = if int8 {
                int8_bytes(weight.cols)
            } else {
                FLOAT * weight.cols
            };
            let cost = Cost {
                weight_bytes: part.bytes,
                rows_per_read: self.tile as usize,
                operations: part.rows * weight.cols,
                unit: if int8 { Unit::Dot4 } else { Unit::Vector },
                ..Cost::activations(input + FLOAT * part.rows)
            };
            self.push(label, kernel, &settings, [blocks, tiles], operands, cost);
        }
    }

    /// Attention of one layer: norm, projections, per-head norms, rotation, cache, attention, output projection,
    /// residual. Formula: Gemma 4, steps 3a to 3f.
    pub fn attention(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers) {
        let scratch = *self.scratch;
        let label = |name: &str| format!("{}.{name}", weights.name);
        let hidden = self.shape.hidden;
        self.norm(
            &label("attn_norm"),
            scratch.residual,
            weights.attn_norm,
            scratch.normed,
            hidden,
        );
        let mut products = vec![("attn_q", &weights.query, scratch.query)];
        if let Some(own) = &weights.own {
            products.push(("attn_k", &own.key, scratch.key));
            products.extend(own.value.as_ref().map(|value| ("attn_v", value, scratch.value)));
        }
        self.products(&weights.name, scratch.normed, &products);
        let query_width = self.shape.heads * layer.head_dim;
        let key_width = layer.kv_heads * layer.head_dim;
        // a layer without a value projection normalises the raw key projection instead
        let has_values = weights.own.as_ref().is_some_and(|own| own.value.is_some());
        let value = if has_values { scratch.value } else { scratch.key };
        let projected = Projected {
            query: Operand::Buffer(scratch.query),
            key: Operand::Buffer(scratch.key),
            value: Operand::Buffer(value),
            query_stride: query_width,
            key_stride: key_width,
        };
        self.attend_layer(layer, weights, cache, projected);
        self.products(
            &weights.name,
            scratch.attended,
            &[("attn_output", &weights.output, scratch.branch)],
        );
        self.residual_norm(&label("post_attention_norm"), weights.post_attention_norm, 1.0);
    }

    /// out = gelu(a) · b, where row t of b begins at `t * stride + offset`.
    pub fn gated(&mut self, label: &str, a: BufferId, b: BufferId, out: BufferId, [cols, stride, offset]: [usize; 3]) {
        let mut operands = [a, b, out].map(Operand::Buffer).to_vec();
        operands.extend([cols, stride, offset].map(|size| Operand::Number(size as u32)));
        let settings = [format!("threads={THREADS}")];
        let blocks = Count::Fixed((cols as u32).div_ceil(THREADS));
        let cost = Cost {
            operations: TANH * cols,
            ..Cost::activations(3 * FLOAT * cols)
        };
        self.push(label, "gated", &settings, [blocks, Count::ROWS], operands, cost);
    }

    /// The dense feed-forward network of one layer and its residual, scaled. Formula: Gemma 4, step 3g.
    pub fn feed_forward(&mut self, layer: &Layer, weights: &LayerWeights, scale: f32) {
        let scratch = *self.scratch;
        let label = |name: &str| format!("{}.{name}", weights.name);
        let hidden = self.shape.hidden;
        self.norm(
            &label("ffn_norm"),
            scratch.residual,
            weights.ffn_norm,
            scratch.normed,
            hidden,
        );
        let up = [
            ("ffn_gate", &weights.gate, scratch.gate),
            ("ffn_up", &weights.up, scratch.up),
        ];
        self.products(&weights.name, scratch.normed, &up);
        let size = [layer.ffn, layer.ffn, 0];
        self.gated(&label("ffn_gated"), scratch.gate, scratch.up, scratch.gated, size);
        let down = [("ffn_down", &weights.down, scratch.branch)];
        self.products(&weights.name, scratch.gated, &down);
        self.residual_norm(&label("post_ffw_norm"), weights.post_ffw_norm, scale);
    }

    /// The per-layer embedding's branch of layer `index`, scaled. Formula: Gemma 4, step 3h.
    pub fn inject(&mut self, weights: &LayerWeights, index: usize, embeddings: BufferId, scale: f32) {
        let Some(ple) = &weights.ple else { return };
        let scratch = *self.scratch;
        let (width, layers) = (ple.gate.rows, self.shape.layers.len());
        let gate = [("inp_gate", &ple.gate, scratch.gate)];
        self.products(&weights.name, scratch.residual, &gate);
        let size = [width, width * layers, width * index];
        let label = format!("{}.inp_gated", weights.name);
        self.gated(&label, scratch.gate, embeddings, scratch.gated, size);
        let project = [("proj", &ple.project, scratch.branch)];
        self.products(&weights.name, scratch.gated, &project);
        self.residual_norm(&format!("{}.post_norm", weights.name), ple.post_norm, scale);
    }

    /// Per-layer embeddings of all layers from their two parts, in rows of `width`. Formula: Gemma 4, step 2c.
    pub fn combine_embeddings(&mut self, [context, token, w, out]: [BufferId; 4], width: usize) {
        let mut operands = [context, token, w, out].map(Operand::Buffer).to_vec();
        operands.extend([
            Operand::Number(width as u32),
            Operand::Real((1.0 / (self.shape.hidden as f64).sqrt()) as f32),
            Operand::Real(self.shape.epsilon),
        ]);
        let rows = Count::Rows {
            times: self.shape.layers.len() as u32,
            per: 1,
        };
        let settings = [format!("threads={THREADS}")];
        let values = width * self.shape.layers.len();
        let cost = Cost {
            weight_bytes: FLOAT * width,
            operations: 5 * values,
            ..Cost::activations(3 * FLOAT * values)
        };
        let grid = [rows, Count::Fixed(1)];
        self.push("ple", "ple_combine", &settings, grid, operands, cost);
    }

    /// x = cap · tanh(x / cap) over rows of `cols`.
    pub fn softcap(&mut self, x: BufferId, cols: usize, cap: f32) {
        let count = |per| Count::Rows {
            times: cols as u32,
            per,
        };
        let operands = vec![Operand::Buffer(x), Operand::Count(count(1)), Operand::Real(cap)];
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: TANH * cols,
            ..Cost::activations(2 * FLOAT * cols)
        };
        let grid = [count(THREADS), Count::Fixed(1)];
        self.push("softcap", "softcap", &settings, grid, operands, cost);
    }

    /// index\[t\] = position of the largest value of row t.
    pub fn argmax(&mut self, x: BufferId, index: BufferId, cols: usize) {
        let operands = vec![Operand::Buffer(x), Operand::Buffer(index), Operand::Number(cols as u32)];
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: cols,
            ..Cost::activations(FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("argmax", "argmax", &settings, grid, operands, cost);
    }

    /// index\[t\] = position of the largest value of row t, for long rows: many blocks look at each.
    pub fn best_token(&mut self, x: BufferId, bests: ChunkBests, index: BufferId, cols: usize) {
        bests.push(&mut self.plan, x, index, cols);
    }

    /// The `k` largest values of each row.
    pub fn top_k(&mut self, [x, values, indices]: [BufferId; 3], cols: usize, k: usize) {
        let mut operands = [x, values, indices].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(cols as u32));
        let settings = [format!("k={k}"), format!("threads={THREADS}")];
        let cost = Cost {
            operations: k * cols,
            ..Cost::activations(FLOAT * (cols + 2 * k))
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("top_centroids", "top_k", &settings, grid, operands, cost);
    }

    /// Scores of the tokens of chosen centroids: buffers are ordering, centroids, x, scores, ids.
    pub fn candidate_scores(&mut self, weight: &Weight, buffers: [BufferId; 5], k: usize, per: usize) {
        let [part] = weight.parts.as_slice() else { return };
        let mut operands = vec![Operand::Buffer(part.buffer)];
        operands.extend(buffers.map(Operand::Buffer));
        operands.extend([k, per, weight.cols].map(|size| Operand::Number(size as u32)));
        let settings = [format!("weight={}", weight.codec), format!("warps={WARPS}")];
        let blocks = Count::Fixed(((k * per) as u32).div_ceil(WARPS));
        let cost = Cost {
            // the rows of the candidates, and which tokens they are
            lookup_bytes: k * per * (part.bytes / weight.rows.max(1) + FLOAT),
            operations: k * per * weight.cols,
            ..Cost::activations(FLOAT * (weight.cols + 2 * k * per))
        };
        let name = "candidate_scores";
        self.push(name, name, &settings, [blocks, Count::ROWS], operands, cost);
    }

    /// out\[t\] = ids\[t, index\[t\]\].
    pub fn take(&mut self, ids: BufferId, index: BufferId, out: BufferId, cols: usize) {
        let mut operands = [ids, index, out].map(Operand::Buffer).to_vec();
        operands.extend([Operand::Count(Count::ROWS), Operand::Number(cols as u32)]);
        let settings = [format!("threads={THREADS}")];
        let blocks = Count::Rows { times: 1, per: THREADS };
        let cost = Cost::activations(3 * FLOAT);
        let grid = [blocks, Count::Fixed(1)];
        self.push("take", "take", &settings, grid, operands, cost);
    }

    /// Probability of the chosen score among all scores of a row.
    pub fn confidence(&mut self, scores: BufferId, index: BufferId, out: BufferId, cols: usize) {
        let mut operands = [scores, index, out].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(cols as u32));
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: 2 * cols,
            ..Cost::activations(FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("confidence", "confidence", &settings, grid, operands, cost);
    }
}

/// Bytes of that many int8 activations with their scales.
fn int8_bytes(cols: usize) -> usize {
    cols + FLOAT * (cols / 32)
}

/// Bytes of a layer's norm of heads and of its rotation frequencies.
fn norm_rope_bytes(layer: &Layer) -> usize {
    FLOAT * (layer.head_dim + layer.head_dim / 2)
}
