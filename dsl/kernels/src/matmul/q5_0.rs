//! Q5_0: 32 values in 22 bytes, `d: f16, qh: u32, qs: u8[16]`; low nibbles are values 0 to 15, high nibbles 16 to 31,
//! bit i of `qh` is the fifth bit of value i, y = d·(q - 16). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants, load_word};
use super::packed::format::{PackedFormat, Tile, Worth, five_bits, plane_words, worth_of_halves};
use super::packed::layout::Sections;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q5_0;

impl Named for Q5_0 {
    const NAME: &'static str = "q5_0";
}

impl BlockCodec for Q5_0 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 22;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q5_0 {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(block).to::<f32>();
        let fifth = load_word(weights, block + 2);
        let words = Registers::<u32>::undefined(8);
        for word in unrolled(0..4) {
            let nibbles = load_word(weights, block + 6 + word * 4);
            words[word] = minus_16(nibbles & 0x0f0f_0f0f, fifth >> (word * 4));
            words[word + 4] = minus_16(nibbles >> 4 & 0x0f0f_0f0f, fifth >> (word * 4 + 16));
        }
        Quants {
            words,
            scales: vec![d],
            minimum: None,
        }
    }
}

/// q - 16 of four nibbles and their fifth bits: a fifth bit that is missing means 16 less
#[device_fn]
fn minus_16(nibbles: Val<u32>, fifth: Val<u32>) -> Val<u32> {
    /// bit i to the lowest bit of byte i
    let missing = ((fifth & 15) * 0x0020_4081 & 0x0101_0101) ^ 0x0101_0101;
    nibbles | missing * 0xf0
}

impl PackedFormat for Q5_0 {
    const PACKED_NAME: &'static str = "packed_q5_0";
    const SECTIONS: Sections = Sections {
        planes: &[4, 1],
        scales: &[16],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(0, 2)];
    type Operand = i8;
    const MULTIPLES: [f32; 2] = [8.0, 8.0];
    const SCALES: usize = 1;
    const HAS_MINIMA: bool = false;

    fn codes(block: &[u8], codes: &mut [u8]) {
        let (highest, quants) = block[2..].split_at(4);
        let eights = codes.chunks_exact_mut(8).zip(highest);
        for (index, (codes, highest)) in eights.enumerate() {
            for (bit, (code, byte)) in codes.iter_mut().zip(&quants[index % 2 * 8..]).enumerate() {
                // 16 less, in five bits of two's complement
                *code = (byte >> (index / 2 * 4) & 15 | (highest >> bit & 1) << 4) ^ 16;
            }
        }
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(tile + Self::SECTIONS.scale(0) + row * 16 + sub_block * 2);
        let words = plane_words(weights, tile, row, sub_block, 4);
        let lowest = plane_words(weights, tile + Self::SECTIONS.plane(1), row, sub_block, 1);
        for word in unrolled(0..8) {
            let high = words[word] << (4 - sub_block % 2 * 4) & 0xf0f0_f0f0u32;
            let low = lowest[word] >> sub_block & 0x0101_0101;
            words[word] = high | low << 3;
        }
        Quants {
            words,
            scales: vec![d.to::<f32>() * (1.0 / 8.0)],
            minimum: None,
        }
    }

    #[tile_fn]
    fn worth(tile: &Tile, row: Val<u32>) -> Worth {
        worth_of_halves(tile, row * 16 + Self::SECTIONS.scale(0), 8.0)
    }

    fn operand(planes: &[Val<u32>], field: usize) -> Val<u32> {
        five_bits(planes, field)
    }
}
