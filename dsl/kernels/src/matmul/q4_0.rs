//! Q4_0: 32 values in 18 bytes, `d: f16, qs: u8[16]`; low nibbles are values 0 to 15, high nibbles 16 to 31,
//! y = d·(q - 8). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, WeightCodec, load_word};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q4_0;

impl Named for Q4_0 {
    const NAME: &'static str = "q4_0";
}

impl WeightCodec for Q4_0 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 18;

    #[tile_fn]
    fn dot(weights: In<u8>, block: Val<u32>, _group: Val<u32>, x: &Activations) -> Val<f32> {
        let d = weights.load_as::<f16>(block).to::<f32>();
        let mut products = i32(0);
        let mut x_sum = i32(0);
        for word in unrolled(0..4) {
            let quants = load_word(weights, block + 2 + word * 4);
            let low = x.words[word];
            let high = x.words[word + 4];
            products = dot4(quants & 0x0f0f_0f0f, low, products);
            products = dot4(quants >> 4 & 0x0f0f_0f0f, high, products);
            x_sum = dot4(u32(0x0101_0101), low, x_sum);
            x_sum = dot4(u32(0x0101_0101), high, x_sum);
        }
        d * x.scale * (products - x_sum * 8).to::<f32>()
    }
}
