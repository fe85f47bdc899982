//! Caches of floats: values as they are. What is not a number is stored as 0, what is too large as the largest number.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, KvStore, Loaded, Scales, StorePage, UnitShape};
use crate::packed::Packed;

/// The value, or the nearest finite number of at most that magnitude; 0 for what is not a number.
#[tile_fn]
pub fn finite(value: Val<f32>, largest: f32) -> Val<f32> {
    /// NaN loses against any number
    select(value == value, min(max(value, -largest), largest), 0.0)
}

/// Four values next to each other.
#[tile_fn]
fn load_four<Element: Packed>(cache: In<u8>, start: Val<u64>) -> Vec<Val<f32>> {
    if Element::SCALAR.bytes() == 4 {
        let four = cache.load_as::<Pack<u32, 4>>(start);
        (0..4).flat_map(|word| Element::unpack(four.component(word))).collect()
    } else {
        let two = cache.load_as::<Pack<u32, 2>>(start);
        (0..2).flat_map(|word| Element::unpack(two.component(word))).collect()
    }
}

macro_rules! floats {
    ($($element:ty, $bits:literal, $largest:expr;)*) => {$(
        impl KvStore for $element {
            // the least that a unit has of a position
            const GROUP: usize = 64;
            const ROTATED: bool = false;
            const BITS: &'static [usize] = &[$bits];
            const SCALES: Scales = Scales::None;

            #[tile_fn]
            fn store(
                page: &StorePage,
                value: Val<f32>,
                dim: Val<u32>,
                _terms: Shared<f32>,
                _codes: Shared<u8>,
                stored: usize,
            ) {
                let cache = page.cache;
                if dim < stored {
                    cache.store_as::<$element>(page.piece(0, dim, 1, $bits / 8), finite(value, $largest).to());
                }
            }

            #[tile_fn]
            fn four(
                shape: &UnitShape,
                cache: In<u8>,
                unit: Val<u64>,
                position: Val<u32>,
                dim: Val<u32>,
            ) -> [Val<f32>; 4] {
                let start = shape.piece(0, unit, position, dim, 4, $bits / 2);
                let values = load_four::<$element>(cache, start);
                [values[0], values[1], values[2], values[3]]
            }
        }
    )*};
}
floats! {
    f16, 16, 65504.0;
    bf16, 16, 3.3895314e38;
    f32, 32, f32::MAX;
}

macro_rules! halves {
    ($($element:ty, $terms:literal;)*) => {$(
        impl KvCodec for $element {
            type Element = $element;
            const TERMS: usize = $terms;

            #[tile_fn]
            fn octet(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4] {
                let (first, _) = shape.run_start(0, run);
                [0, 1, 2, 3].map(|word: usize| loaded.word(octet * 4 + (first + word)))
            }

            #[tile_fn]
            fn quad_of_pair(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4] {
                let (a, _) = shape.run_start(0, 2 * pair);
                let (b, _) = shape.run_start(0, 2 * pair + 1);
                [0, 1, 2, 3].map(|dim: usize| {
                    let pick = if dim % 2 == 0 { 0x5410u32 } else { 0x7632 };
                    let word = quad * 2;
                    byte_permute(loaded.word(word + (a + dim / 2)), loaded.word(word + (b + dim / 2)), pick)
                })
            }
        }
    )*};
}
halves! {
    f16, 1;
    // eight bits are too few for queries and weights: two terms have sixteen
    bf16, 2;
}
