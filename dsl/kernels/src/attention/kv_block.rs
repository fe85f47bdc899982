//! Caches of blocks of 32 values with an f16 scale: q8_0 and q4_0, rounded as in GGUF.
//!
//! q8_0 keeps its bytes in order. In q4_0 eight values share a word: value 2i is its nibble i, value 2i + 1 the nibble
//! 16 bits higher, so that a mask leaves two values to a word.

use tilekiln_dsl::prelude::*;

use super::codec::{BLOCK, KvCodec, KvStore, Loaded, Scales, StorePage, UnitShape};
use super::kv_float::finite;
use super::pages::UNIT;

/// 8-bit values.
#[derive(Clone, Copy, Debug)]
pub struct KvQ8;
/// 4-bit values.
#[derive(Clone, Copy, Debug)]
pub struct KvQ4;

impl Named for KvQ8 {
    const NAME: &'static str = "q8_0";
}
impl Named for KvQ4 {
    const NAME: &'static str = "q4_0";
}

/// Largest magnitude that is stored: its scale still fits f16.
const LARGEST_Q8: f32 = 65504.0 * 127.0;
const LARGEST_Q4: f32 = 65504.0 * 8.0;

/// Stores the block's scale, once.
#[tile_fn]
fn store_scale(page: &StorePage, dim: Val<u32>, scale: Val<f32>) {
    if dim % BLOCK == 0 {
        let cache = page.cache;
        let inside = dim % page.shape.places.dims;
        let byte = page.shape.block_scale_of(page.unit(dim), page.position % UNIT, inside);
        cache.store_as::<f16>(byte, scale.to::<f16>());
    }
}

impl KvStore for KvQ8 {
    // the least that a unit has of a position
    const GROUP: usize = 64;
    const ROTATED: bool = false;
    const BITS: &'static [usize] = &[8];
    const SCALES: Scales = Scales::Block;

    #[tile_fn]
    fn store(page: &StorePage, value: Val<f32>, dim: Val<u32>, _terms: Shared<f32>, _codes: Shared<u8>, stored: usize) {
        let cache = page.cache;
        let number = finite(value, LARGEST_Q8);
        let scale = warp_max(number.abs()) / 127.0;
        let inverse = select(scale == 0.0, f32(0.0), 1.0 / scale);
        /// halves are rounded away from 0
        let scaled = number.mul_unfused(inverse);
        let magnitude = scaled.abs().add_unfused(0.5).to::<u32>();
        let q = min(magnitude, 127).bitcast::<i32>();
        if dim < stored {
            cache.store_as::<u8>(
                page.piece(0, dim, 1, 1),
                select(scaled < 0.0, -q, q).bitcast::<u32>() & 255,
            );
            store_scale(page, dim, scale);
        }
    }

    #[tile_fn]
    fn four(shape: &UnitShape, cache: In<u8>, unit: Val<u64>, position: Val<u32>, dim: Val<u32>) -> [Val<f32>; 4] {
        let scale = cache
            .load_as::<f16>(shape.block_scale_of(unit, position, dim))
            .to::<f32>();
        let quants = cache.load_as::<u32>(shape.piece(0, unit, position, dim, 4, 4));
        [24, 16, 8, 0]
            .map(|up: u32| (quants << up).bitcast::<i32>() >> 24)
            .map(|q| q.to::<f32>() * scale)
    }
}

impl KvCodec for KvQ8 {
    type Element = f16;
    const TERMS: usize = 1;

    #[tile_fn]
    fn octet(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4] {
        let (first, _) = shape.run_start(0, run);
        let scale = loaded.scale_of_run(shape, run, octet);
        let words = [0, 1].map(|word: usize| loaded.word(octet * 2 + (first + word)) ^ 0x8080_8080u32);
        [(0, LOW_PAIR), (0, HIGH_PAIR), (1, LOW_PAIR), (1, HIGH_PAIR)]
            .map(|(word, pick): (usize, u32)| bytes_times(words[word], u32(pick), scale))
    }

    #[tile_fn]
    fn quad_of_pair(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4] {
        let (a, _) = shape.run_start(0, 2 * pair);
        let (b, _) = shape.run_start(0, 2 * pair + 1);
        let scales = loaded.scales_of_pair(pair);
        let (first, second) = (
            loaded.word(quad + a) ^ 0x8080_8080u32,
            loaded.word(quad + b) ^ 0x8080_8080u32,
        );
        /// both positions' bytes of the same value next to each other
        let mixed = [0x5140u32, 0x7362].map(|pick: u32| byte_permute(first, second, pick));
        [(0, LOW_PAIR), (0, HIGH_PAIR), (1, LOW_PAIR), (1, HIGH_PAIR)]
            .map(|(word, pick): (usize, u32)| bytes_times(mixed[word], u32(pick), scales))
    }
}

/// Selectors of two bytes, each with 0x64 above it.
const LOW_PAIR: u32 = 0x4140;
const HIGH_PAIR: u32 = 0x4342;

/// two bytes, from which 128 is taken, times their scales
#[device_fn]
fn bytes_times(bytes: Val<u32>, pick: Val<u32>, scales: Val<Pack<f16, 2>>) -> Val<u32> {
    /// below the exponent of 1024 a byte makes the f16 number 1024 + byte
    let raised = byte_permute(bytes, 0x64u32, pick).bitcast::<Pack<f16, 2>>();
    ((raised - pair(1152.0)) * scales).bitcast::<u32>()
}

impl KvStore for KvQ4 {
    // in shorter units a lane of some targets has less than the eight values of a word
    const GROUP: usize = 128;
    const ROTATED: bool = false;
    const BITS: &'static [usize] = &[4];
    const SCALES: Scales = Scales::Block;

    #[tile_fn]
    fn store(page: &StorePage, value: Val<f32>, dim: Val<u32>, _terms: Shared<f32>, codes: Shared<u8>, stored: usize) {
        let cache = page.cache;
        let number = finite(value, LARGEST_Q4);
        /// the value of the largest magnitude gets -8; of two as large the first one
        let largest = warp_max(number.abs());
        let has_it = ballot(number.abs() == largest);
        let extreme = shuffle(number, lowest_bit(has_it));
        let scale = extreme / -8.0;
        let inverse = select(scale == 0.0, f32(0.0), 1.0 / scale);
        let q = number.mul_unfused(inverse).add_unfused(8.5).to::<u32>();
        codes[dim] = min(q, 15);
        warp_barrier();
        if dim < stored && dim % 8 == 0 {
            let mut word = u32(0);
            for i in unrolled(0..8) {
                word |= codes[dim + i] << (i / 2 * 4 + i % 2 * 16);
            }
            cache.store_as::<u32>(page.piece(0, dim, 8, 4), word);
        }
        if dim < stored {
            store_scale(page, dim, scale);
        }
        /// the next values to be stored share the memory
        warp_barrier();
    }

    #[tile_fn]
    fn four(shape: &UnitShape, cache: In<u8>, unit: Val<u64>, position: Val<u32>, dim: Val<u32>) -> [Val<f32>; 4] {
        let scale = cache
            .load_as::<f16>(shape.block_scale_of(unit, position, dim))
            .to::<f32>();
        let word = cache.load_as::<u32>(shape.piece(0, unit, position, dim, 8, 4)) >> (dim / 4 % 2 * 8);
        [0, 16, 4, 20].map(|shift: u32| ((word >> shift & 15).to::<f32>() - 8.0) * scale)
    }
}

impl KvCodec for KvQ4 {
    type Element = f16;
    const TERMS: usize = 1;

    #[tile_fn]
    fn octet(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4] {
        let (first, _) = shape.run_start(0, run);
        let scale = loaded.scale_of_run(shape, run, octet);
        let word = loaded.word(octet + first);
        [0, 4, 8, 12].map(|shift: u32| nibbles_times(word >> shift, scale))
    }

    #[tile_fn]
    fn quad_of_pair(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4] {
        let (a, _) = shape.run_start(0, 2 * pair);
        let (b, _) = shape.run_start(0, 2 * pair + 1);
        let scales = loaded.scales_of_pair(pair);
        let words = [a, b].map(|first: usize| loaded.word(quad / 2 + first) >> (quad % 2 * 8));
        /// even values of both positions in one word, odd ones in another
        let mixed = [0x5410u32, 0x7632].map(|pick: u32| byte_permute(words[0], words[1], pick));
        [(0, 0), (1, 0), (0, 4), (1, 4)].map(|(word, shift): (usize, u32)| nibbles_times(mixed[word] >> shift, scales))
    }
}

/// the lowest nibbles of both halves of a word, from which 8 is taken, times their scales
#[device_fn]
fn nibbles_times(nibbles: Val<u32>, scales: Val<Pack<f16, 2>>) -> Val<u32> {
    /// below the exponent of 1024 a nibble makes the f16 number 1024 + nibble
    let raised = ((nibbles & 0x000f_000f) | 0x6400_6400).bitcast::<Pack<f16, 2>>();
    ((raised - pair(1032.0)) * scales).bitcast::<u32>()
}

/// The number twice.
fn pair(number: f32) -> Val<Pack<f16, 2>> {
    let half = u32::from(f16::from_f32(number).to_bits());
    u32(half | half << 16).bitcast::<Pack<f16, 2>>()
}

/// index of the lowest bit that is set; 32 where none is
#[device_fn]
fn lowest_bit(bits: Val<u32>) -> Val<u32> {
    /// the bits below the lowest one, counted by halves
    let mut below = (bits & (0 - bits)) - 1;
    below = below - (below >> 1 & 0x5555_5555);
    below = (below & 0x3333_3333) + (below >> 2 & 0x3333_3333);
    below = (below + (below >> 4)) & 0x0f0f_0f0f;
    below * 0x0101_0101 >> 24
}
