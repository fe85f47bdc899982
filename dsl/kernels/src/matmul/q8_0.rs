//! Q8_0: 32 values in 34 bytes, `d: f16, q: i8[32]`, y = d·q. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants, load_word};
use super::packed::format::{PackedFormat, Tile, Worth, plane_words, worth_of_halves};
use super::packed::layout::Sections;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q8_0;

impl Named for Q8_0 {
    const NAME: &'static str = "q8_0";
}

impl BlockCodec for Q8_0 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 34;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q8_0 {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(block).to::<f32>();
        let words = Registers::<u32>::undefined(8);
        for word in unrolled(0..8) {
            words[word] = load_word(weights, block + 2 + word * 4);
        }
        Quants {
            words,
            scales: vec![d],
            minimum: None,
        }
    }
}

impl PackedFormat for Q8_0 {
    const PACKED_NAME: &'static str = "packed_q8_0";
    const SECTIONS: Sections = Sections {
        planes: &[8],
        scales: &[16],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(0, 2)];
    type Operand = i8;
    const MULTIPLES: [f32; 2] = [1.0, 1.0];
    const SCALES: usize = 1;
    const HAS_MINIMA: bool = false;

    fn codes(block: &[u8], codes: &mut [u8]) {
        codes.copy_from_slice(&block[2..]);
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let d = weights.load_as::<f16>(tile + Self::SECTIONS.scale(0) + row * 16 + sub_block * 2);
        Quants {
            words: plane_words(weights, tile, row, sub_block, 8),
            scales: vec![d.to::<f32>()],
            minimum: None,
        }
    }

    #[tile_fn]
    fn worth(tile: &Tile, row: Val<u32>) -> Worth {
        worth_of_halves(tile, row * 16 + Self::SECTIONS.scale(0), 1.0)
    }

    fn operand(planes: &[Val<u32>], _field: usize) -> Val<u32> {
        planes[0]
    }
}
