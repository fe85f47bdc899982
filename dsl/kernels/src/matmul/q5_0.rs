//! Q5_0: 32 values in 22 bytes, `d: f16, qh: u32, qs: u8[16]`; low nibbles are values 0 to 15, high nibbles 16 to 31,
//! bit i of `qh` is the fifth bit of value i, y = d·(q - 16). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec, load_word};

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
