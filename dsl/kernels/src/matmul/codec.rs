//! What a quantised weight format has to say to be multiplied.

use tilekiln_dsl::prelude::*;

/// 32 activations of one row: int8 values, four to a word, and what one of them is worth.
///
/// Format: d = max|x| / 127 over 32 values, q = round(x / d); see the GGUF notes on Q8_0 activations.
#[derive(Clone, Copy)]
pub struct Activations {
    /// Eight words of four int8 each.
    pub words: Registers<u32>,
    /// The scale d.
    pub scale: Val<f32>,
}

impl Activations {
    /// Group `group` (32 values) of a vector.
    #[tile_fn]
    pub fn load(values: In<u32>, scales: In<f32>, group: Val<u32>) -> Self {
        let words = Registers::<u32>::undefined(8);
        for part in unrolled(0..2) {
            let four = values.load_as::<Pack<u32, 4>>(group * 8 + part * 4);
            words[part * 4] = four.component(0);
            words[part * 4 + 1] = four.component(1);
            words[part * 4 + 2] = four.component(2);
            words[part * 4 + 3] = four.component(3);
        }
        let scale = scales[group];
        Self { words, scale }
    }
}

/// A block format of quantised weights.
///
/// Weights lie in memory as in a GGUF file: rows of whole blocks, [`BLOCK_BYTES`](Self::BLOCK_BYTES) per
/// [`BLOCK_VALUES`](Self::BLOCK_VALUES) values, no padding.
pub trait WeightCodec: Named + 'static {
    /// Values of a block, a multiple of 32.
    const BLOCK_VALUES: usize;
    /// Bytes of a block, even.
    const BLOCK_BYTES: usize;

    /// The product of 32 weights with 32 activations: group `group` of the block that starts at byte `block`.
    fn dot(weights: In<u8>, block: Val<u32>, group: Val<u32>, x: &Activations) -> Val<f32>;
}

/// Four bytes of an address that is only a multiple of two.
#[device_fn]
pub fn load_word(bytes: In<u8>, offset: Val<u32>) -> Val<u32> {
    bytes.load_as::<u16>(offset) | bytes.load_as::<u16>(offset + 2) << 16
}
