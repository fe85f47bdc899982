//! Q4_0: 32 values in 18 bytes, `d: f16, qs: u8[16]`; low nibbles are values 0 to 15, high nibbles 16 to 31,
//! y = d·(q - 8). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec, load_word};

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
