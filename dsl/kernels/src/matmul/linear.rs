//! Rows of f32 activations times a matrix of any weight format.

use tilekiln_dsl::prelude::*;

use super::codec::WeightCodec;
use super::weights::{self, WEIGHT};
use crate::registry::prelude::*;

/// Adds the product of 32 decoded weights with 32 activations, which start at element `from`, onto `sum`.
#[tile_fn]
pub fn add_products(sum: Val<f32>, values: Registers<f32>, x: In<f32>, from: Val<u32>) -> Val<f32> {
    let mut products = sum;
    for part in unrolled(0..8) {
        let four = x.load_as::<Pack<f32, 4>>(from + part * 4);
        for i in 0..4 {
            products = fma(values[part * 4 + i], four.component(i), products);
        }
    }
    products
}

/// One warp per output row and `tile` tokens: y\[token, row\] = sum over k of w\[row, k\] * x\[token, k\].
///
/// Blocks: x over `warps` rows each, y over `tile` tokens each. A group of weights is decoded once for all tokens of the
/// tile. Batch invariance: each lane adds every 32nd group in order, then the lanes are added, with every rounding
/// written out. A token's results are the same bits whatever its tile or the other tokens are.
#[kernel(threads = warps * 32)]
pub fn linear<Weight: WeightCodec>(
    #[shape(rows, row_bytes)] w: In<u8>,
    #[shape(tokens, cols)] x: In<f32>,
    #[shape(tokens, rows)] y: Out<f32>,
    rows: u32,
    cols: u32,
    tokens: u32,
    #[comptime] warps: usize,
    #[comptime] tile: usize,
) {
    let row = block_index() * warps + warp_index();
    let first_token = block_index_y() * tile;
    if row < rows {
        let sums = Registers::<f32>::filled(tile, 0.0);
        for group in lane_strided(cols / 32) {
            let values = Weight::decode(w, row, cols, group);
            for token in unrolled(0..tile) {
                /// past the last token its row again, which nobody stores
                let source = min(first_token + token, tokens - 1);
                sums[token] = add_products(sums[token], values, x, source * cols + group * 32);
            }
        }
        for token in unrolled(0..tile) {
            let total = warp_sum(sums[token]);
            if lane_index() == 0 && first_token + token < tokens {
                y[(first_token + token) * rows + row] = total;
            }
        }
    }
}

/// Registration of [`linear`] with every weight format.
pub const ENTRY: Entry = Entry {
    name: "linear",
    parameters: &[WEIGHT, weights::WARPS, weights::TILE],
    build: |settings| {
        let warps = weights::warps(settings)?;
        let tile = weights::tile(settings)?;
        Ok((weights::named(settings)?.linear)(warps, tile))
    },
    example: |settings, random| {
        let weight = weights::named(settings)?;
        let (warps, tile) = (weights::warps(settings)?, weights::tile(settings)?);
        let (rows, cols) = (random.size(1, 19), weight.block_values * random.size(1, 5));
        let tokens = random.size(1, 2 * tile + 1);
        Ok(Example {
            grid: [rows.div_ceil(warps) as u32, tokens.div_ceil(tile) as u32, 1],
            arguments: vec![
                weight.sample(random, rows, cols),
                random.floats("f32", tokens * cols),
                Argument::output(tokens * rows * 4),
                Argument::U32(rows as u32),
                Argument::U32(cols as u32),
                Argument::U32(tokens as u32),
            ],
        })
    },
};
