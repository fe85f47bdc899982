//! Q6_K: 256 values in 210 bytes, `ql: u8[128], qh: u8[64], scales: i8[16], d: f16`; one scale per 16 values,
//! y = d·scale·(q - 32). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec, load_word};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q6K;

impl Named for Q6K {
    const NAME: &'static str = "q6_k";
}

impl BlockCodec for Q6K {
    const BLOCK_VALUES: usize = 256;
    const BLOCK_BYTES: usize = 210;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q6K {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Quants {
        /// four groups make a half of 128 values; they share its 64 low and 32 high bytes
        let half = group / 4;
        let part = group % 4;
        let low_bytes = block + half * 64 + part % 2 * 32;
        let low_shift = part / 2 * 4;
        let high_bytes = block + 128 + half * 32;
        let high_shift = part * 2;
        let words = Registers::<u32>::undefined(8);
        for word in unrolled(0..8) {
            let low = load_word(weights, low_bytes + word * 4) >> low_shift & 0x0f0f_0f0f;
            let high = load_word(weights, high_bytes + word * 4) >> high_shift & 0x0303_0303;
            words[word] = minus_32(low | high << 4);
        }
        let d = weights.load_as::<f16>(block + 208).to::<f32>();
        let first_scale = d * weights.load_as::<i8>(block + 192 + group * 2).to::<f32>();
        let second_scale = d * weights.load_as::<i8>(block + 193 + group * 2).to::<f32>();
        Quants {
            words,
            scales: vec![first_scale, second_scale],
            minimum: None,
        }
    }
}

/// q - 32 of four 6-bit numbers: flip the sign bit, then repeat it upwards
#[device_fn]
fn minus_32(numbers: Val<u32>) -> Val<u32> {
    let flipped = numbers ^ 0x2020_2020;
    flipped | (flipped & 0x2020_2020) * 6
}
