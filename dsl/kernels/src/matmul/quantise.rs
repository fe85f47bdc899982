//! Activations to int8, 32 values at a time: the partner of every weight format in [`row_product`](super::row_product).

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// Four values of a group of 32 that eight neighbouring lanes hold, as int8, and the group's scale. All lanes of the warp
/// take part.
#[tile_fn]
pub fn quantise_four(values: &[Val<f32>]) -> (Val<u32>, Val<f32>) {
    /// magnitudes compare as integers do, and NaN is above everything
    let mut highest_bits = u32(0);
    for i in 0..4 {
        highest_bits = max(highest_bits, values[i].bitcast::<u32>() & 0x7fff_ffff);
    }
    let highest = group_max(highest_bits, 8).bitcast::<f32>();
    let scale = highest / 127.0;
    let steps = 127.0 / highest;
    let mut word = u32(0);
    for i in 0..4 {
        /// NaN becomes 0; a subnormal highest value may give more than 127
        let quotient = values[i].mul_unfused(steps).round().to::<i32>();
        let q = select(scale == 0.0, 0, min(max(quotient, -127), 127));
        word |= (q.bitcast::<u32>() & 255) << (8 * i);
    }
    (word, scale)
}

/// Groups of 32 values to int8 and a scale: d = max|x| / 127, q = x * (127 / max|x|) rounded to nearest, ties to even.
///
/// Blocks: x over `threads` words each; a thread makes a word of four values, eight threads a group. Where d is 0, q is 0.
/// A group with a NaN or an infinity gets the scale NaN or infinity, and q = 0 for those and whatever they dwarf: what is
/// multiplied with the group is not finite either. Batch invariance: a group depends on nothing else.
#[kernel(threads = threads)]
pub fn quantise_rows(
    #[shape(groups, 32)] x: In<f32>,
    #[shape(groups, 8)] words: Out<u32>,
    #[shape(groups)] scales: Out<f32>,
    groups: u32,
    #[comptime] threads: usize,
) {
    let index = block_index() * threads + thread_index();
    /// past the end the last word again: all lanes take part in the exchange
    let source = min(index, groups * 8 - 1);
    let four = x.load_as::<Pack<f32, 4>>(source * 4);
    let values = (0..4).map(|i| four.component(i)).collect::<Vec<Val<f32>>>();
    let (word, scale) = quantise_four(&values);
    if index < groups * 8 {
        words[index] = word;
        if index % 8 == 0 {
            scales[index / 8] = scale;
        }
    }
}

/// Registration of [`quantise_rows`].
pub const ENTRY: Entry = Entry {
    name: "quantise_rows",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(quantise_rows(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?.max(1);
        let groups = random.size(1, 150);
        Ok(Example {
            grid: [(groups * 8).div_ceil(threads) as u32, 1, 1],
            arguments: vec![
                random.floats("f32", groups * 32),
                Argument::output(groups * 32),
                Argument::output(groups * 4),
                Argument::U32(groups as u32),
            ],
        })
    },
};
