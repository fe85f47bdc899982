//! Q6_K: 256 values in 210 bytes, `ql: u8[128], qh: u8[64], scales: i8[16], d: f16`; one scale per 16 values,
//! y = d·scale·(q - 32). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, WeightCodec, load_word};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q6K;

impl Named for Q6K {
    const NAME: &'static str = "q6_k";
}

impl WeightCodec for Q6K {
    const BLOCK_VALUES: usize = 256;
    const BLOCK_BYTES: usize = 210;

    #[tile_fn]
    fn dot(weights: In<u8>, block: Val<u32>, group: Val<u32>, x: &Activations) -> Val<f32> {
        /// four groups make a half of 128 values; they share its 64 low and 32 high bytes
        let half = group / 4;
        let part = group % 4;
        let low_bytes = block + half * 64 + part % 2 * 32;
        let low_shift = part / 2 * 4;
        let high_bytes = block + 128 + half * 32;
        let high_shift = part * 2;
        let mut total = i32(0);
        for sixteen in unrolled(0..2) {
            let mut products = i32(0);
            let mut x_sum = i32(0);
            for quarter in unrolled(0..4) {
                let word = sixteen * 4 + quarter;
                let low = load_word(weights, low_bytes + word * 4) >> low_shift & 0x0f0f_0f0f;
                let high = load_word(weights, high_bytes + word * 4) >> high_shift & 0x0303_0303;
                let activations = x.words[word];
                products = dot4(low | high << 4, activations, products);
                x_sum = dot4(u32(0x0101_0101), activations, x_sum);
            }
            let scale = weights.load_as::<i8>(block + 192 + group * 2 + sixteen);
            total += scale * (products - x_sum * 32);
        }
        let d = weights.load_as::<f16>(block + 208).to::<f32>();
        d * x.scale * total.to::<f32>()
    }
}
