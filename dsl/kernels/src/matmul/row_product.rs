//! One row of activations times a quantised matrix: the product of every decode step.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, WeightCodec};
use crate::registry::prelude::*;

/// One warp per output row: y\[row\] = sum over k of w\[row, k\] * x\[k\], with x as int8 per 32 values.
#[kernel(threads = warps * 32)]
pub fn row_product<Weight: WeightCodec>(
    #[shape(rows, row_bytes)] w: In<u8>,
    #[shape(words)] x: In<u32>,
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
        for chunk in lane_strided(cols / 32) {
            let activations = Activations::load(x, x_scale, chunk);
            let block = (first_block + chunk / groups_per_block) * Weight::BLOCK_BYTES;
            sum += Weight::dot(w, block, chunk % groups_per_block, &activations);
        }
        let total = warp_sum(sum);
        if lane_index() == 0 {
            y[row] = total;
        }
    }
}

/// A weight codec and the kernel it makes.
struct Codec {
    name: &'static str,
    block_values: usize,
    block_bytes: usize,
    kernel: fn(usize) -> KernelDef,
}

impl Codec {
    const fn of<Weight: WeightCodec>() -> Self {
        Self {
            name: Weight::NAME,
            block_values: Weight::BLOCK_VALUES,
            block_bytes: Weight::BLOCK_BYTES,
            kernel: row_product::<Weight>,
        }
    }

    fn named(settings: &Settings) -> Result<&'static Self, SettingError> {
        let name = settings.text("weight")?;
        CODECS.iter().find(|codec| codec.name == name).ok_or_else(|| {
            let names: Vec<_> = CODECS.iter().map(|codec| codec.name).collect();
            settings.unsupported("weight", name, &names)
        })
    }
}

/// Every weight codec: a new one is a line here.
const CODECS: &[Codec] = &[
    Codec::of::<super::q4_0::Q4_0>(),
    Codec::of::<super::q4_k::Q4K>(),
    Codec::of::<super::q6_k::Q6K>(),
    Codec::of::<super::q8_0::Q8_0>(),
];

/// Registration of [`row_product`] with every weight codec.
pub const ENTRY: Entry = Entry {
    name: "row_product",
    parameters: &[
        choice("weight", "q4_k", "weight format, as GGUF calls it"),
        choice("warps", "4", "rows per block"),
    ],
    build: |settings| {
        let warps = settings.number("warps")?;
        settings.require("warps", (1..=32).contains(&warps), "1 to 32")?;
        Ok((Codec::named(settings)?.kernel)(warps))
    },
    example: |settings, random| {
        let Codec {
            block_values,
            block_bytes,
            ..
        } = *Codec::named(settings)?;
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
