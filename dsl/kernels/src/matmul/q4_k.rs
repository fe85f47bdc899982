//! Q4_K: 256 values in 144 bytes, `d, dmin: f16, scales: u8[12], qs: u8[128]`; 8 groups of 32 with a 6-bit scale and
//! minimum each, y = d·scale·q - dmin·minimum. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec};

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
