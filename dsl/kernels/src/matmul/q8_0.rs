//! Q8_0: 32 values in 34 bytes, `d: f16, q: i8[32]`, y = d·q. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Activations, WeightCodec, load_word};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q8_0;

impl Named for Q8_0 {
    const NAME: &'static str = "q8_0";
}

impl WeightCodec for Q8_0 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 34;

    #[tile_fn]
    fn dot(weights: In<u8>, block: Val<u32>, _group: Val<u32>, x: &Activations) -> Val<f32> {
        let d = weights.load_as::<f16>(block).to::<f32>();
        let mut products = i32(0);
        for word in unrolled(0..8) {
            let quants = load_word(weights, block + 2 + word * 4);
            products = dot4(quants, x.words[word], products);
        }
        d * x.scale * products.to::<f32>()
    }
}
