//! Q4_0: 32 values in 18 bytes, `d: f16, qs: u8[16]`; low nibbles are values 0 to 15, high nibbles 16 to 31,
//! y = d·(q - 8). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants, load_word};
use super::packed::format::{PackedFormat, Tile, Worth, plane_words, upper_nibbles, worth_of_halves};
use super::packed::layout::Sections;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q4_0;

impl Named for Q4_0 {
    const NAME: &'static str = "q4_0";
}

impl BlockCodec for Q4_0 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 18;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q4_0 {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(block).to::<f32>();
        let words = Registers::<u32>::undefined(8);
        for word in unrolled(0..4) {
            let nibbles = load_word(weights, block + 2 + word * 4);
            words[word] = minus_8(nibbles & 0x0f0f_0f0f);
            words[word + 4] = minus_8(nibbles >> 4 & 0x0f0f_0f0f);
        }
        Quants {
            words,
            scales: vec![d],
            minimum: None,
        }
    }
}

/// q - 8 of four nibbles: flip the sign bit, then repeat it upwards
#[device_fn]
fn minus_8(nibbles: Val<u32>) -> Val<u32> {
    let flipped = nibbles ^ 0x0808_0808;
    flipped | (flipped & 0x0808_0808) * 0x1e
}

impl PackedFormat for Q4_0 {
    const PACKED_NAME: &'static str = "packed_q4_0";
    const SECTIONS: Sections = Sections {
        planes: &[4],
        scales: &[16],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(0, 2)];
    type Operand = i8;
    const MULTIPLES: [f32; 2] = [16.0, 16.0];
    const SCALES: usize = 1;
    const HAS_MINIMA: bool = false;

    fn codes(block: &[u8], codes: &mut [u8]) {
        let (low, high) = codes.split_at_mut(16);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            // 8 less, in four bits of two's complement
            (*low, *high) = (byte & 15 ^ 8, byte >> 4 ^ 8);
        }
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(tile + Self::SECTIONS.scale(0) + row * 16 + sub_block * 2);
        let words = plane_words(weights, tile, row, sub_block, 4);
        for word in unrolled(0..8) {
            words[word] = words[word] << (4 - sub_block % 2 * 4) & 0xf0f0_f0f0u32;
        }
        Quants {
            words,
            scales: vec![d.to::<f32>() * (1.0 / 16.0)],
            minimum: None,
        }
    }

    #[tile_fn]
    fn worth(tile: &Tile, row: Val<u32>) -> Worth {
        worth_of_halves(tile, row * 16 + Self::SECTIONS.scale(0), 16.0)
    }

    fn operand(planes: &[Val<u32>], field: usize) -> Val<u32> {
        upper_nibbles(planes[0], field)
    }
}
