//! Weights that are floats: f32, f16 and bf16, taken 32 at a time.

use tilekiln_dsl::prelude::*;

use super::codec::BlockCodec;
use crate::packed::Packed;

impl BlockCodec for f32 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 128;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Registers<f32> {
        let values = Registers::<f32>::undefined(32);
        for part in unrolled(0..8) {
            let four = weights.load_as::<Pack<f32, 4>>(block + part * 16);
            for i in 0..4 {
                values[part * 4 + i] = four.component(i);
            }
        }
        values
    }
}

impl BlockCodec for f16 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 64;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Registers<f32> {
        decode_halves::<f16>(weights, block)
    }
}

impl BlockCodec for bf16 {
    const BLOCK_VALUES: usize = 32;
    const BLOCK_BYTES: usize = 64;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, _group: Val<u32>) -> Registers<f32> {
        decode_halves::<bf16>(weights, block)
    }
}

/// 32 values of two bytes each, from byte `block` on.
#[tile_fn]
fn decode_halves<Element: Packed>(weights: In<u8>, block: Val<u32>) -> Registers<f32> {
    let values = Registers::<f32>::undefined(32);
    for part in unrolled(0..4) {
        let four = weights.load_as::<Pack<u32, 4>>(block + part * 16);
        for word in 0..4 {
            let pair = Element::unpack(four.component(word));
            values[part * 8 + 2 * word] = pair[0];
            values[part * 8 + 2 * word + 1] = pair[1];
        }
    }
    values
}
