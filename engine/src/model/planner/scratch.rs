//! Memory for what is between the launches of a step.

use tilekiln_kernels::matmul::packed::halves::split_tile_bytes;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{SUB_BLOCKS, TILE_COLS, tiles_across};

use super::division::MOST_PARTS;
use crate::model::Precision;
use crate::model::config::{Layer, Shape};
use crate::plan::{BufferId, BufferKind, BufferTable};

/// Rows of int8 as products with packed weights take them.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    /// int8, four to a word, in the order of matrix instructions.
    pub words: BufferId,
    /// What one is worth, for each 32.
    pub scales: BufferId,
    /// Their sums, for each 32.
    pub sums: BufferId,
}

/// How wide rows get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// The widest row that is multiplied as int8; 0 where none is.
    pub int8: usize,
    /// The widest row that is multiplied as sums of 16-bit floats.
    pub halves: usize,
}

impl Widths {
    /// For layers of that shape and rows of `other` values beside them.
    pub fn of(shape: &Shape, other: usize, precision: Precision, halves: usize) -> Self {
        let of_layer = |layer: &Layer| layer.ffn.max(shape.heads * layer.head_dim);
        let widest = shape.layers.iter().map(of_layer).max().unwrap_or(0);
        Self {
            int8: match precision {
                Precision::Exact => 0,
                Precision::Fast => widest.max(shape.hidden).max(other),
            },
            halves,
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
    /// Queries; keys and values beside them in each row, where one launch gives all.
    pub query: BufferId,
    /// Key projection.
    pub key: BufferId,
    /// Value projection.
    pub value: BufferId,
    /// What attention gives, all heads.
    pub attended: BufferId,
    /// What a branch of a layer adds to the residual stream, in parts.
    pub branch: BufferId,
    /// Gate projection.
    pub gate: BufferId,
    /// Up projection.
    pub up: BufferId,
    /// Gated activations.
    pub gated: BufferId,
    /// Rows as int8.
    pub prepared: Prepared,
    /// Gated activations as int8: a launch makes them from other rows of int8.
    pub gated_prepared: Prepared,
    /// Rows as sums of 16-bit floats.
    pub split_words: BufferId,
    /// Powers of two of their 32 values each.
    pub split_scales: BufferId,
    /// Rows for which the int8 and the sums have memory.
    pub stride: usize,
}

impl Scratch {
    /// Scratch memory for layers of that shape.
    pub fn add(table: &mut BufferTable, prefix: &str, shape: &Shape, widths: Widths) -> Self {
        let widest = |width: &dyn Fn(&Layer) -> usize| shape.layers.iter().map(width).max().unwrap_or(1);
        let query = widest(&|layer| shape.heads * layer.head_dim);
        let key = widest(&|layer| layer.head_dim * layer.kv_heads);
        let joined = widest(&|layer| (shape.heads + 2 * layer.kv_heads) * layer.head_dim);
        let ffn = widest(&|layer| layer.ffn);
        let mut scratch = |name: &str, values: usize| table.scratch(&format!("{prefix}.{name}"), values);
        let residual = scratch("residual", shape.hidden);
        let normed = scratch("normed", shape.hidden);
        let [query, attended] = [("query", joined), ("attended", query)].map(|(name, width)| scratch(name, width));
        let [key, value] = ["key", "value"].map(|name| scratch(name, key));
        let branch = scratch("branch", MOST_PARTS * shape.hidden);
        let [gate, up, gated] = ["gate", "up", "gated"].map(|name| scratch(name, ffn));
        let stride = token_stride(table.max_rows);
        let mut tiles = |name: &str, cols: usize, bytes: usize| {
            let name = format!("{prefix}.{name}");
            table.add(&name, BufferKind::Scratch, tiles_across(cols) * stride * bytes)
        };
        let mut prepared = |name: &str| Prepared {
            words: tiles(name, widths.int8, TILE_COLS),
            scales: tiles(&format!("{name}.scales"), widths.int8, SUB_BLOCKS * 4),
            sums: tiles(&format!("{name}.sums"), widths.int8, SUB_BLOCKS * 8),
        };
        let [prepared, gated_prepared] = ["prepared", "gated_prepared"].map(&mut prepared);
        Self {
            residual,
            normed,
            query,
            key,
            value,
            attended,
            branch,
            gate,
            up,
            gated,
            prepared,
            gated_prepared,
            split_words: tiles(
                "split",
                widths.halves,
                split_tile_bytes("f16").max(split_tile_bytes("bf16")),
            ),
            split_scales: tiles("split.scales", widths.halves, SUB_BLOCKS * 4),
            stride,
        }
    }
}
