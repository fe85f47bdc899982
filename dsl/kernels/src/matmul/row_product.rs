//! Rows of int8 activations times a quantised matrix: the product of every decode step.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, Int8Dot, locate};
use super::weights::{self, WEIGHT};
use crate::registry::prelude::*;

/// One warp per output row and `tile` tokens: y\[token, row\] = sum over k of w\[row, k\] * x\[token, k\], with x as int8
/// per 32 values.
///
/// Blocks: x over `warps` rows each, y over `tile` tokens each. A group of weights is unpacked once for all tokens of the
/// tile. Batch invariance: each lane adds every 32nd group in order, then the lanes are added, with every rounding
/// written out. A token's results are the same bits whatever its tile or the other tokens are.
#[kernel(threads = warps * 32)]
pub fn row_product<Weight: Int8Dot>(
    #[shape(rows, row_bytes)] w: In<u8>,
    #[shape(tokens, words)] x: In<u32>,
    #[shape(tokens, groups)] x_scale: In<f32>,
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
        let groups = cols / 32;
        let sums = Registers::<f32>::filled(tile, 0.0);
        for group in lane_strided(groups) {
            let (block, group_of_block) = locate::<Weight>(row, cols, group);
            let quants = Weight::unpack(w, block, group_of_block);
            for token in unrolled(0..tile) {
                /// past the last token its row again, which nobody stores
                let source = min(first_token + token, tokens - 1);
                let activations = Activations::load(x, x_scale, source * groups + group);
                sums[token] = fma(quants.dot(&activations), activations.scale, sums[token]);
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

/// Registration of [`row_product`] with every weight format that can be multiplied with int8.
pub const ENTRY: Entry = Entry {
    name: "row_product",
    parameters: &[WEIGHT, weights::WARPS, weights::TILE],
    build: |settings| {
        let warps = weights::warps(settings)?;
        let tile = weights::tile(settings)?;
        Ok((weights::with_int8_dot(settings)?)(warps, tile))
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
                random.bytes(tokens * cols),
                random.floats("f32", tokens * cols / 32),
                Argument::output(tokens * rows * 4),
                Argument::U32(rows as u32),
                Argument::U32(cols as u32),
                Argument::U32(tokens as u32),
            ],
        })
    },
};
