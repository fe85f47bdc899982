//! Float elements read a word of 32 bits at a time.

use tilekiln_dsl::prelude::*;

/// An element type of which whole words can be taken apart.
pub trait Packed: Float {
    /// The values of a word, first one in the low bits.
    fn unpack(word: Val<u32>) -> Vec<Val<f32>>;
}

impl Packed for f32 {
    #[tile_fn]
    fn unpack(word: Val<u32>) -> Vec<Val<f32>> {
        vec![word.bitcast::<f32>()]
    }
}

impl Packed for f16 {
    #[tile_fn]
    fn unpack(word: Val<u32>) -> Vec<Val<f32>> {
        let pair = word.bitcast::<Pack<f16, 2>>();
        vec![pair.component(0).to::<f32>(), pair.component(1).to::<f32>()]
    }
}

impl Packed for bf16 {
    #[tile_fn]
    fn unpack(word: Val<u32>) -> Vec<Val<f32>> {
        vec![(word << 16).bitcast::<f32>(), (word & 0xffff_0000u32).bitcast::<f32>()]
    }
}

/// How many values the lanes of a warp load at once where each holds `per_lane` of them: up to 16 bytes' worth.
pub fn vector_length<Element: Packed>(per_lane: usize) -> usize {
    let most: usize = 16 / Element::SCALAR.bytes();
    (1..=most)
        .rev()
        .find(|n| n.is_power_of_two() && per_lane.is_multiple_of(*n))
        .unwrap_or(1)
}

/// `count` values from element `index` on, a multiple of `count`; `count` as [`vector_length`] gives it.
#[tile_fn]
pub fn load_vector<Element: Packed>(memory: In<Element>, index: Val<u32>, #[comptime] count: usize) -> Vec<Val<f32>> {
    match count * Element::SCALAR.bytes() {
        16 => {
            let words = memory.load_as::<Pack<u32, 4>>(index);
            (0..4).flat_map(|word| Element::unpack(words.component(word))).collect()
        }
        8 => {
            let words = memory.load_as::<Pack<u32, 2>>(index);
            (0..2).flat_map(|word| Element::unpack(words.component(word))).collect()
        }
        4 => {
            let word = memory.load_as::<u32>(index);
            Element::unpack(word)
        }
        _ => {
            let value = memory[index].to::<f32>();
            vec![value]
        }
    }
}
