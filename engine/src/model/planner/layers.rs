//! The parts of a layer.

use super::products::Factor;
use super::rows::{Forms, Next, Norm, Rows};
use super::{CacheBuffers, FLOAT, Planner, Projected, THREADS};
use crate::model::config::Layer;
use crate::model::weights::{GateUp, LayerWeights, Projections, Takes, Weight};
use crate::plan::{BufferId, Cost, Count, Operand};

/// What a layer works on beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerContext {
    /// Keys and values that it reads, and writes if it owns them.
    pub cache: CacheBuffers,
    /// Its number, and the per-layer embeddings of all layers, where the model has them.
    pub embeddings: Option<(usize, BufferId)>,
}

impl Planner<'_> {
    /// The norm in front of a layer.
    pub fn norm_before<'l>(&self, weights: &LayerWeights, label: &'l str) -> Norm<'l> {
        Norm {
            label,
            w: weights.attn_norm,
            to: self.scratch.normed,
            forms: Forms::of(weights.projections.matrices()),
        }
    }

    /// One layer: attention, the feed-forward network, and the branch of the per-layer embeddings. `x` are rows as
    /// [`Self::norm_before`] gives them. Returns what `next` asks for; the residual stream is complete in the launch
    /// called `.out`. Formula: Gemma 4, step 3.
    pub fn layer(
        &mut self,
        layer: &Layer,
        weights: &LayerWeights,
        context: LayerContext,
        x: Rows,
        next: Next<'_>,
    ) -> Rows {
        let label = |name: &str| format!("{}.{name}", weights.name);
        self.attention(layer, weights, context.cache, x);
        let ffn_norm = label("ffn_norm");
        let norm = Norm {
            label: &ffn_norm,
            w: weights.ffn_norm,
            to: self.scratch.normed,
            forms: Forms::of(weights.gate_up.matrices()),
        };
        let post_attention = weights.post_attention_norm;
        let x = self.end_branch(&label("post_attention_norm"), post_attention, 1.0, 1, Next::Norm(norm));
        let (Some(ple), Some((index, embeddings))) = (&weights.ple, context.embeddings) else {
            let parts = self.feed_forward(layer, weights, x, next);
            return self.end_branch(&label("out"), weights.post_ffw_norm, weights.scale, parts, next);
        };
        let residual = Next::Residual(Forms::of([&ple.gate]));
        let parts = self.feed_forward(layer, weights, x, residual);
        let x = self.end_branch(&label("post_ffw_norm"), weights.post_ffw_norm, 1.0, parts, residual);
        let width = ple.gate.rows;
        let factor = Factor {
            buffer: embeddings,
            stride: width * self.shape.layers.len(),
            offset: width * index,
        };
        self.inject(&weights.name, [&ple.gate, &ple.project], factor, x);
        self.end_branch(&label("out"), ple.post_norm, weights.scale, 1, next)
    }

    /// Attention of one layer: projections, per-head norms, rotation, cache, attention, output projection. Formula:
    /// Gemma 4, steps 3b to 3e.
    fn attention(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, x: Rows) {
        let scratch = *self.scratch;
        let query_width = self.shape.heads * layer.head_dim;
        let key_width = layer.kv_heads * layer.head_dim;
        let projected = match &weights.projections {
            Projections::Separate { query, key, value } => {
                let mut products = vec![("attn_q", query, scratch.query)];
                products.extend(key.as_ref().map(|key| ("attn_k", key, scratch.key)));
                products.extend(value.as_ref().map(|value| ("attn_v", value, scratch.value)));
                self.products(&weights.name, x, &products);
                // a layer without a value projection normalises the raw key projection instead
                let value = if value.is_some() { scratch.value } else { scratch.key };
                Projected {
                    query: Operand::Buffer(scratch.query),
                    key: Operand::Buffer(scratch.key),
                    value: Operand::Buffer(value),
                    query_stride: query_width,
                    key_stride: key_width,
                }
            }
            Projections::Joined { matrices, places } => {
                let label = format!("{}.attn_qkv", weights.name);
                let all: Vec<&Weight> = matrices.iter().collect();
                self.packed_product(&label, &all, scratch.prepared, scratch.query);
                let stride = matrices.iter().map(|weight| weight.rows).sum();
                let [query, key, value] = places.map(|place| Operand::Slice(scratch.query, place * FLOAT));
                Projected {
                    query,
                    key,
                    value,
                    query_stride: stride,
                    key_stride: stride,
                }
            }
        };
        let attended = self.attend_layer(layer, weights, cache, projected);
        let output = [("attn_output", &weights.output, scratch.branch)];
        self.products(&weights.name, attended, &output);
    }

    /// The dense feed-forward network of one layer; `next` comes behind it. Returns in how many parts its results are.
    /// Formula: Gemma 4, step 3g.
    fn feed_forward(&mut self, layer: &Layer, weights: &LayerWeights, x: Rows, next: Next<'_>) -> usize {
        let scratch = *self.scratch;
        let name = &weights.name;
        match &weights.gate_up {
            GateUp::InTurns(both) => {
                self.packed_gated(&format!("{name}.ffn_gate_up"), both);
                let label = format!("{name}.ffn_down");
                if self.adds_parts(next) {
                    self.packed_product_in_parts(&label, &weights.down, scratch.gated_prepared, scratch.branch)
                } else {
                    self.packed_product(&label, &[&weights.down], scratch.gated_prepared, scratch.branch);
                    1
                }
            }
            GateUp::Separate { gate, up } => {
                let both = [("ffn_gate", gate, scratch.gate), ("ffn_up", up, scratch.up)];
                self.products(name, x, &both);
                let up = Factor {
                    buffer: scratch.up,
                    stride: layer.ffn,
                    offset: 0,
                };
                let buffers = [scratch.gate, scratch.gated];
                self.gated(&format!("{name}.ffn_gated"), buffers, up, layer.ffn);
                let down = [("ffn_down", &weights.down, scratch.branch)];
                self.products(name, Rows::floats(scratch.gated), &down);
                1
            }
        }
    }

    /// The per-layer embedding's branch. Formula: Gemma 4, step 3h.
    fn inject(&mut self, name: &str, [gate, project]: [&Weight; 2], embedding: Factor, x: Rows) {
        let scratch = *self.scratch;
        if [gate, project].iter().all(|weight| weight.takes() == Takes::Int8) {
            self.packed_gate(&format!("{name}.inp_gate"), gate, embedding);
            let label = format!("{name}.proj");
            self.packed_product(&label, &[project], scratch.gated_prepared, scratch.branch);
            return;
        }
        self.products(name, x, &[("inp_gate", gate, scratch.gate)]);
        let buffers = [scratch.gate, scratch.gated];
        self.gated(&format!("{name}.inp_gated"), buffers, embedding, gate.rows);
        let project = [("proj", project, scratch.branch)];
        self.products(name, Rows::floats(scratch.gated), &project);
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
}
