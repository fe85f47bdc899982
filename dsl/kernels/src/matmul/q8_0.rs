//! Q8_0: 32 values in 34 bytes, `d: f16, q: i8[32]`, y = d·q. Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{Int8Dot, Quants, BlockCodec, load_word};

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
