//! One row of activations times a quantised matrix: the product of every decode step.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, WeightCodec};
use super::{q4_k::Q4K, q6_k::Q6K, q8_0::Q8_0};
use crate::registry::prelude::*;

/// One warp per output row: y\[row\] = sum over k of w\[row, k\] * x\[k\], with x as int8 per 32 values.
#[kernel(threads = warps * 32)]
pub fn row_product<Weight: WeightCodec>(
    #[shape(rows, row_bytes)] w: In<u8>,
    #[shape(cols)] x: In<u32>,
    #[shape(groups)] x_scale: In<f32>,
    #[shape(rows)] y: Out<f32>,
    rows: u32,
    cols: u32,
    #[comptime] warps: usize,
) {
    let row = block_index() * warps + warp_index();
    if row < rows {
        let groups_per_block = Weight::BLOCK_VALUES / 32;
        let first_block = row * (cols / Weight::BLOCK_VALUES);
        let mut sum = f32(0.0);
        for group in lane_strided(cols / 32) {
            let activations = Activations::load(x, x_scale, group);
            let block = (first_block + group / groups_per_block) * Weight::BLOCK_BYTES;
            sum += Weight::dot(w, block, group % groups_per_block, &activations);
        }
        let total = warp_sum(sum);
        if lane_index() == 0 {
            y[row] = total;
        }
    }
}

/// Registration of [`row_product`] with every weight codec.
pub const ENTRY: Entry = Entry {
    name: "row_product",
    parameters: &[
        choice("weight", "q4_k", "weight format: q4_k, q6_k, q8_0"),
        choice("warps", "4", "rows per block"),
    ],
    build: |settings| {
        let warps = settings.number("warps")?;
        Ok(match settings.text("weight")? {
            "q4_k" => row_product::<Q4K>(warps),
            "q6_k" => row_product::<Q6K>(warps),
            "q8_0" => row_product::<Q8_0>(warps),
            other => return Err(settings.unsupported("weight", other, &["q4_k", "q6_k", "q8_0"])),
        })
    },
    example: |settings, random| {
        let (block_values, block_bytes) = match settings.text("weight")? {
            "q4_k" => (Q4K::BLOCK_VALUES, Q4K::BLOCK_BYTES),
            "q6_k" => (Q6K::BLOCK_VALUES, Q6K::BLOCK_BYTES),
            _ => (Q8_0::BLOCK_VALUES, Q8_0::BLOCK_BYTES),
        };
        let warps = settings.number("warps")?;
        let (rows, cols) = (random.size(1, 19), block_values * random.size(1, 5));
        Ok(Example {
            grid: [rows.div_ceil(warps) as u32, 1, 1],
            arguments: vec![
                random.bytes(rows * cols / block_values * block_bytes),
                random.bytes(cols),
                random.floats("f32", cols / 32),
                Argument::output(rows * 4),
                Argument::U32(rows as u32),
                Argument::U32(cols as u32),
            ],
        })
    },
};
