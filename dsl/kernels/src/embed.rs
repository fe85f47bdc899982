//! Rows of an embedding table in any weight format.

use tilekiln_dsl::prelude::*;

use crate::matmul::codec::WeightCodec;
use crate::matmul::weights::{self, WEIGHT};
use crate::registry::prelude::*;

/// Blocks: x over tokens, y over parts of a row: out\[token, ..cols\] = table\[id - first_row\] * scale, rows of `out` being `stride` values apart.
///
/// The table holds rows `first_row..first_row + row_count` of a larger one. Tokens of other rows are left alone, so that a
/// table in several buffers takes one launch for each.
#[kernel(threads = threads)]
pub fn embed<Weight: WeightCodec>(
    #[shape(row_count, row_bytes)] table: In<u8>,
    #[shape(tokens)] ids: In<u32>,
    #[shape(tokens, stride)] out: Out<f32>,
    cols: u32,
    stride: u32,
    first_row: u32,
    row_count: u32,
    scale: f32,
    #[comptime] threads: usize,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let token = block_index();
    let id = ids[token];
    if id >= first_row && id - first_row < row_count {
        let first_group = block_index_y() * threads + thread_index();
        for group in stepped(first_group, cols / 32, grid_size_y() * threads) {
            let values = Weight::decode(table, id - first_row, cols, group);
            let first = token * stride + group * 32;
            for i in unrolled(0..32) {
                out[first + i] = values[i] * scale;
            }
        }
    }
}

/// Registration of [`embed`] with every weight format.
pub const ENTRY: Entry = Entry {
    name: "embed",
    parameters: &[
        WEIGHT,
        choice(
            "threads",
            "32",
            "threads per block, a multiple of 32; each takes 32 values at a time",
        ),
    ],
    build: |settings| Ok((weights::named(settings)?.embed)(settings.number("threads")?)),
    example: |settings, random| {
        let weight = weights::named(settings)?;
        let (tokens, rows) = (random.size(1, 6), random.size(1, 20));
        let cols = weight.block_values * random.size(1, 4);
        let stride = cols + random.size(0, 9);
        Ok(Example {
            grid: [tokens as u32, random.size(1, 3) as u32, 1],
            arguments: vec![
                weight.sample(random, rows, cols),
                random.below(tokens, rows as u32),
                Argument::output(tokens * stride * 4),
                Argument::U32(cols as u32),
                Argument::U32(stride as u32),
                Argument::U32(0),
                Argument::U32(rows as u32),
                Argument::F32(1.5),
            ],
        })
    },
};
