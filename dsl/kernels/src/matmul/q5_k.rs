//! Q5_K: 256 values in 176 bytes, `d, dmin: f16, scales: u8[12], qh: u8[32], qs: u8[128]`; Q4_K with a fifth bit: bit j
//! of `qh[l]` belongs to value l of group j. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants};
use super::packed::format::{PackedFormat, Tile, Worth, five_bits, plane_words};
use super::packed::layout::Sections;
use super::q4_k::{scale_and_minimum, worth_of_six_bits};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q5K;

impl Named for Q5K {
    const NAME: &'static str = "q5_k";
}

impl BlockCodec for Q5K {
    const BLOCK_VALUES: usize = 256;
    const BLOCK_BYTES: usize = 176;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q5K {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Quants {
        let (scale, minimum) = scale_and_minimum(weights, block, group);
        /// two groups share 32 bytes of nibbles, the even one has the low ones; all eight share the fifth bits
        let nibbles = block + 48 + group / 2 * 32;
        let shift = group % 2 * 4;
        let words = Registers::<u32>::undefined(8);
        for part in unrolled(0..2) {
            let four = weights.load_as::<Pack<u32, 4>>(nibbles + part * 16);
            let fifths = weights.load_as::<Pack<u32, 4>>(block + 16 + part * 16);
            for word in 0..4 {
                let low = four.component(word) >> shift & 0x0f0f_0f0f;
                let high = fifths.component(word) >> group & 0x0101_0101;
                words[part * 4 + word] = low | high << 4;
            }
        }
        Quants {
            words,
            scales: vec![scale],
            minimum: Some(minimum),
        }
    }
}

impl PackedFormat for Q5K {
    const PACKED_NAME: &'static str = "packed_q5_k";
    const SECTIONS: Sections = Sections {
        planes: &[4, 1],
        scales: &[16],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(0, 16)];
    type Operand = u8;
    const MULTIPLES: [f32; 2] = [8.0, 8.0];
    const SCALES: usize = 1;
    const HAS_MINIMA: bool = true;

    fn codes(block: &[u8], codes: &mut [u8]) {
        let high = &block[16..48];
        for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
            let low = &block[48 + group / 2 * 32..];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                *code = low >> (group % 2 * 4) & 15 | (high >> group & 1) << 4;
            }
        }
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let scales = tile + Self::SECTIONS.scale(0) + row * 16;
        let (scale, minimum) = scale_and_minimum(weights, scales, sub_block);
        let words = plane_words(weights, tile, row, sub_block, 4);
        let lowest = plane_words(weights, tile + Self::SECTIONS.plane(1), row, sub_block, 1);
        for word in unrolled(0..8) {
            let high = words[word] >> (sub_block % 2 * 4) & 0x0f0f_0f0f;
            words[word] = high << 1 | (lowest[word] >> sub_block & 0x0101_0101);
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
        five_bits(planes, field)
    }
}
