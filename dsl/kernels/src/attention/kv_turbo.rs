//! The turbo caches, in the rotated domain: queries come rotated, outputs are rotated back.
//!
//! Indices lie so that four of them make a selector of a byte permutation over the codebook. Two low bits of eight
//! values share 16 bits: nibble i holds value i, two bits higher value i + 4. High bits of sixteen values share 16 bits
//! likewise, one bit of each quad a nibble; where a lane has eight values of a position, their high bits are a byte in
//! order. Indices of turbo4 are nibbles in order.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, KvStore, Loaded, Scales, StorePage, UnitShape};
use super::pages::UNIT;
use crate::turbo::GROUP;
use crate::turbo::format::{Turbo2, Turbo3, Turbo4, Turbo4First, TurboFormat, codeword, half_tables};
use crate::turbo::snap::snap;

macro_rules! turbo {
    ($($format:ty;)*) => {$(
        impl KvStore for $format {
            // a shorter head is padded before it is rotated
            const GROUP: usize = GROUP;
            const ROTATED: bool = true;
            const BITS: &'static [usize] = planes(<$format as TurboFormat>::BITS);
            const SCALES: Scales = Scales::Position;

            #[tile_fn]
            fn store(
                page: &StorePage,
                value: Val<f32>,
                dim: Val<u32>,
                terms: Shared<f32>,
                codes: Shared<u8>,
                _stored: usize,
            ) {
                store::<$format>(page, value, dim, terms, codes);
            }

            #[tile_fn]
            fn four(
                shape: &UnitShape,
                cache: In<u8>,
                unit: Val<u64>,
                position: Val<u32>,
                dim: Val<u32>,
            ) -> [Val<f32>; 4] {
                four::<$format>(shape, cache, unit, position, dim)
            }
        }

        impl KvCodec for $format {
            type Element = f16;
            const TERMS: usize = 1;

            #[tile_fn]
            fn quad(shape: &UnitShape, loaded: Loaded, run: usize, quad: Val<u32>) -> [Val<u32>; 2] {
                quad_of::<$format>(shape, loaded, run, quad)
            }
        }
    )*};
}
turbo! {
    Turbo2;
    Turbo3;
    Turbo4;
    Turbo4First;
}

/// Bits of a value in each plane.
const fn planes(bits: usize) -> &'static [usize] {
    match bits {
        2 => &[2],
        3 => &[2, 1],
        _ => &[4],
    }
}

/// Places of a piece's values among its bits: `low` for two bits a value, else one.
#[tile_fn]
fn bit_of(value: Val<u32>, bits: usize, run_len: usize) -> Val<u32> {
    match (bits, run_len) {
        (2, _) => value % 4 * 4 + value / 4 * 2,
        (1, 8) => value,
        (1, _) => value % 4 * 4 + value / 4,
        _ => value * 4,
    }
}

/// Values of a piece of bits that is stored and read whole.
fn piece_len(bits: usize, run_len: usize) -> usize {
    match bits {
        2 => 8,
        1 => run_len.min(16),
        _ => 4,
    }
}

#[tile_fn]
fn store<Format: TurboFormat>(
    page: &StorePage,
    value: Val<f32>,
    dim: Val<u32>,
    terms: Shared<f32>,
    codes: Shared<u8>,
) {
    let cache = page.cache;
    let snapped = snap::<Format>(value, dim, terms);
    codes[dim] = snapped.index;
    barrier();
    if dim % GROUP == 0 {
        let unit = page.unit(dim);
        cache.store_as::<f16>(page.shape.scale_of(unit, page.position % UNIT), snapped.scale.to::<f16>());
    }
    let run_len = page.shape.places.run_len();
    for plane in 0..page.shape.planes.len() {
        let bits = planes(Format::BITS)[plane];
        let len = piece_len(bits, run_len);
        if dim % len == 0 {
            let mut piece = u32(0);
            for i in unrolled(0..len) {
                let code = codes[dim + i] >> (2 * plane) & ((1 << bits) - 1);
                piece |= code << bit_of(i, bits, run_len);
            }
            if len * bits == 8 {
                cache.store_as::<u8>(page.piece(plane, dim, len, 1), piece);
            } else {
                cache.store_as::<u16>(page.piece(plane, dim, len, 2), piece);
            }
        }
    }
    /// the next values to be stored share the memory
    barrier();
}

#[tile_fn]
fn four<Format: TurboFormat>(
    shape: &UnitShape,
    cache: In<u8>,
    unit: Val<u64>,
    position: Val<u32>,
    dim: Val<u32>,
) -> [Val<f32>; 4] {
    let run_len = shape.places.run_len();
    let scale = cache.load_as::<f16>(shape.scale_of(unit, position)).to::<f32>();
    let pieces = (0..shape.planes.len())
        .map(|plane: usize| {
            let bits = planes(Format::BITS)[plane];
            let len = piece_len(bits, run_len);
            let start = shape.piece(plane, unit, position, dim, len, len * bits / 8);
            if len * bits == 8 {
                cache.load_as::<u8>(start)
            } else {
                cache.load_as::<u16>(start)
            }
        })
        .collect::<Vec<Val<u32>>>();
    [0, 1, 2, 3].map(|i: u32| {
        let mut index = u32(0);
        for plane in 0..shape.planes.len() {
            let bits = planes(Format::BITS)[plane];
            let place = (dim + i) % piece_len(bits, run_len);
            let code = pieces[plane] >> bit_of(place, bits, run_len) & ((1 << bits) - 1);
            index |= code << (2 * plane);
        }
        codeword::<Format>(index) * scale
    })
}

/// The 16 bits of `words` that hold quad `quad` of a run whose bits start at bit 0 of word `first` (or, where a run is
/// shorter than a word, at bit `first_bit`), shifted down.
#[tile_fn]
fn bits_of_quad(
    words: Registers<u32>,
    first: usize,
    first_bit: usize,
    quads_per_word: usize,
    quad: Val<u32>,
    shift: Val<u32>,
) -> Val<u32> {
    words[quad / quads_per_word + first] >> (shift + first_bit)
}

/// The selector of a quad: each nibble an index below 8, with the codeword's sign for turbo4 in `signs`.
#[tile_fn]
fn quad_of<Format: TurboFormat>(shape: &UnitShape, loaded: Loaded, run: usize, quad: Val<u32>) -> [Val<u32>; 2] {
    let words = loaded.words;
    let run_len = shape.places.run_len();
    let (first, first_bit) = shape.run_start(0, run);
    if Format::BITS == 4 {
        let nibbles = bits_of_quad(words, first, first_bit, 2, quad, quad % 2 * 16);
        return signed_codewords::<Format>(nibbles);
    }
    let mut selector = bits_of_quad(words, first, first_bit, 4, quad, quad / 2 % 2 * 16 + quad % 2 * 2) & 0x3333;
    if Format::BITS == 3 {
        let (first, first_bit) = shape.run_start(1, run);
        if run_len == 8 {
            /// four bits in order, spread to the third bit of a nibble each
            let four = bits_of_quad(words, first, first_bit, 4, quad, quad % 2 * 4);
            selector |= (four & 1) << 2 | (four & 2) << 5 | (four & 4) << 8 | (four & 8) << 11;
        } else {
            let high = bits_of_quad(words, first, first_bit, 8, quad, quad / 4 % 2 * 16 + quad % 4);
            selector |= (high & 0x1111) << 2;
        }
    }
    codewords::<Format>(selector)
}

/// Four codewords as f16: their low and high bytes looked up and put together.
#[tile_fn]
fn codewords<Format: TurboFormat>(selector: Val<u32>) -> [Val<u32>; 2] {
    let [low, high] = half_tables::<Format>();
    let low_bytes = byte_permute(low[0], low[1], selector);
    let high_bytes = byte_permute(high[0], high[1], selector);
    [
        byte_permute(low_bytes, high_bytes, 0x5140u32),
        byte_permute(low_bytes, high_bytes, 0x7362u32),
    ]
}

/// As [`codewords`], of 4-bit indices: magnitudes are looked up, the highest bit of an index is its sign.
#[tile_fn]
fn signed_codewords<Format: TurboFormat>(nibbles: Val<u32>) -> [Val<u32>; 2] {
    let [low, high] = half_tables::<Format>();
    /// indices 0 to 7 are negative and count down
    let negative = !nibbles >> 3 & 0x1111;
    let selector = (nibbles ^ negative * 7) & 0x7777;
    let low_bytes = byte_permute(low[0], low[1], selector);
    let high_bytes = byte_permute(high[0], high[1], selector) | byte_permute(0x8000u32, 0u32, negative);
    [
        byte_permute(low_bytes, high_bytes, 0x5140u32),
        byte_permute(low_bytes, high_bytes, 0x7362u32),
    ]
}
