//! Q5_K: 256 values in 176 bytes, `d, dmin: f16, scales: u8[12], qh: u8[32], qs: u8[128]`; Q4_K with a fifth bit: bit j
//! of `qh[l]` belongs to value l of group j. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec};
use super::q4_k::scale_and_minimum;

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
