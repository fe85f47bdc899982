//! Q4_K: 256 values in 144 bytes, `d, dmin: f16, scales: u8[12], qs: u8[128]`; 8 groups of 32 with a 6-bit scale and
//! minimum each, y = d·scale·q - dmin·minimum. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants};
use super::packed::format::{PackedFormat, Tile, Worth, byte_of, part_of, plane_words};
use super::packed::layout::Sections;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q4K;

impl Named for Q4K {
    const NAME: &'static str = "q4_k";
}

/// 6-bit scale of a group of 32 (`which` = 0), or its minimum (`which` = 4)
#[device_fn]
fn six_bits(weights: In<u8>, scales: Val<u32>, group: Val<u32>, which: Val<u32>) -> Val<u32> {
    if group < 4 {
        return weights[scales + group + which] & 63;
    }
    /// groups 4 to 7: four bits of their own, two borrowed from groups 0 to 3
    let low = weights[scales + group + 4] >> which & 15;
    let high = weights[scales + group - 4 + which] >> 6;
    low | high << 4
}

/// d·scale and dmin·minimum of a group: what Q4_K and Q5_K blocks start with.
#[tile_fn]
pub fn scale_and_minimum(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> (Val<f32>, Val<f32>) {
    let d = weights.load_as::<f16>(block).to::<f32>();
    let dmin = weights.load_as::<f16>(block + 2).to::<f32>();
    let scale = d * six_bits(weights, block + 4, group, u32(0)).to::<f32>();
    let minimum = dmin * six_bits(weights, block + 4, group, u32(4)).to::<f32>();
    (scale, minimum)
}

impl BlockCodec for Q4K {
    const BLOCK_VALUES: usize = 256;
    const BLOCK_BYTES: usize = 144;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q4K {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Quants {
        let (scale, minimum) = scale_and_minimum(weights, block, group);
        /// two groups share 32 bytes: the even one has the low nibbles
        let quants = block + 16 + group / 2 * 32;
        let shift = group % 2 * 4;
        let words = Registers::<u32>::undefined(8);
        for part in unrolled(0..2) {
            let four = weights.load_as::<Pack<u32, 4>>(quants + part * 16);
            for word in 0..4 {
                words[part * 4 + word] = four.component(word) >> shift & 0x0f0f_0f0f;
            }
        }
        Quants {
            words,
            scales: vec![scale],
            minimum: Some(minimum),
        }
    }
}

/// What Q4_K and Q5_K rows are worth: d, dmin and 12 bytes of 6-bit scales and minima stand at `offset`, four of a kind to
/// a word; groups 4 to 7 have borrowed two bits from groups 0 to 3.
#[tile_fn]
pub fn worth_of_six_bits(tile: &Tile, offset: Val<u32>, #[comptime] multiples: [f32; 2]) -> Worth {
    let four = tile.load::<Pack<u32, 4>>(offset);
    let steps = four.component(0).bitcast::<Pack<f16, 2>>();
    let d = steps.component(0).to::<f32>();
    let d_minimum = steps.component(1).to::<f32>();
    let (first, second, third) = (four.component(1), four.component(2), four.component(3));
    let low = first & 0x3f3f_3f3f;
    let high = (third & 0x0f0f_0f0f) | (first >> 2 & 0x3030_3030);
    let low_minima = second & 0x3f3f_3f3f;
    let high_minima = (third >> 4 & 0x0f0f_0f0f) | (second >> 2 & 0x3030_3030);
    let even = part_of(d, multiples[0]);
    let odd = part_of(d, multiples[1]);
    let mut worth = Worth {
        scales: Vec::new(),
        minima: Vec::new(),
        minimum_step: Some(d_minimum),
    };
    for (scales, minima) in [(low, low_minima), (high, high_minima)] {
        for index in 0..4 {
            let step = if index % 2 == 0 { even } else { odd };
            worth.scales.push(step * byte_of(scales, index));
            worth.minima.push(byte_of(minima, index));
        }
    }
    worth
}

impl PackedFormat for Q4K {
    const PACKED_NAME: &'static str = "packed_q4_k";
    const SECTIONS: Sections = Sections {
        planes: &[4],
        scales: &[16],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(0, 16)];
    type Operand = u8;
    // high nibbles stay where they are
    const MULTIPLES: [f32; 2] = [1.0, 16.0];
    const SCALES: usize = 1;
    const HAS_MINIMA: bool = true;

    fn codes(block: &[u8], codes: &mut [u8]) {
        for (codes, bytes) in codes.chunks_exact_mut(64).zip(block[16..].chunks_exact(32)) {
            for (index, byte) in bytes.iter().enumerate() {
                (codes[index], codes[index + 32]) = (byte & 15, byte >> 4);
            }
        }
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let scales = tile + Self::SECTIONS.scale(0) + row * 16;
        let (scale, minimum) = scale_and_minimum(weights, scales, sub_block);
        let words = plane_words(weights, tile, row, sub_block, 4);
        for word in unrolled(0..8) {
            words[word] = words[word] >> (sub_block % 2 * 4) & 0x0f0f_0f0f;
        }
        Quants {
            words,
            scales: vec![scale],
            minimum: Some(minimum),
        }
    }

    #[tile_fn]
    fn worth(tile: &Tile, row: Val<u32>) -> Worth {
        worth_of_six_bits(tile, row * 16 + Self::SECTIONS.scale(0), Self::MULTIPLES)
    }

    #[tile_fn]
    fn operand(planes: &[Val<u32>], field: usize) -> Val<u32> {
        planes[0] & if field % 2 == 0 { 0x0f0f_0f0fu32 } else { 0xf0f0_f0f0 }
    }
}
