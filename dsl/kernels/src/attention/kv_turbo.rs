//! The turbo caches, in the rotated domain: queries come rotated, outputs are rotated back.
//!
//! Indices lie so that masks leave selectors of a byte permutation over the codebook, a nibble for each value. In keys,
//! two low bits of sixteen values share a word: nibble i holds value i, two bits higher value i + 8; high bits of 32 values
//! likewise, one bit of each octet a nibble. In values, which are taken position by position, the same holds for pieces of
//! 16 bits: two low bits of two quads, high bits of four quads; the bytes of two positions lie in turn. Where a lane has
//! eight values of a position, their high bits are a byte in order. Nibbles of turbo4, in order, are magnitudes in three bits; the fourth bits are signs, of which
//! those of a piece's first half lie in the nibbles 1, 3, …, those of the other half in the nibbles 0, 2, …: so a mask
//! brings four to the highest bits of four bytes.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, KvStore, Loaded, Scales, StorePage, UnitShape};
use super::pages::{Side, UNIT};
use crate::turbo::GROUP;
use crate::turbo::format::{Turbo2, Turbo3, Turbo4, Turbo4First, TurboFormat, codeword, half_tables};
use crate::turbo::snap::snap_for_cache;

macro_rules! turbo {
    ($($format:ty;)*) => {$(
        impl KvStore for $format {
            // a shorter head is padded before it is rotated
            const GROUP: usize = GROUP;
            const ROTATED: bool = true;
            const BITS: &'static [usize] = planes(<$format as TurboFormat>::BITS);
            const SCALES: Scales = Scales::Position;
            const IN_PAIRS: bool = true;

            #[tile_fn]
            fn store(
                page: &StorePage,
                value: Val<f32>,
                dim: Val<u32>,
                terms: Shared<f32>,
                codes: Shared<u8>,
                stored: usize,
            ) {
                store::<$format>(page, value, dim, terms, codes, stored);
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
            fn tables() -> [Val<u32>; 2] {
                let [low, high] = half_tables::<$format>();
                [in_register(low[0]), in_register(high[0])]
            }

            #[tile_fn]
            fn octet(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4] {
                octet_of::<$format>(shape, loaded, run, octet)
            }

            #[tile_fn]
            fn quad_of_pair(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4] {
                quad_of_pair::<$format>(shape, loaded, pair, quad)
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

/// How the bits of a plane lie.
#[derive(Clone, Copy)]
struct Piece {
    /// Bits of a value.
    bits: usize,
    /// Values of a piece that is stored and read whole.
    len: usize,
    /// Values of a piece that have nibbles of their own, side by side.
    nibbles: usize,
}

impl Piece {
    /// The pieces of plane `plane` of a unit.
    fn of<Format: TurboFormat>(shape: &UnitShape, plane: usize) -> Self {
        let bits = planes(Format::BITS)[plane];
        let run_len = shape.places.run_len();
        let (len, nibbles) = match (bits, shape.places.side) {
            (bits, Side::Key) => (32 / bits, 8),
            (4, Side::Value) => (4, 4),
            (1, Side::Value) if run_len == 8 => (8, 8),
            (bits, Side::Value) => (16 / bits, 4),
        };
        Self { bits, len, nibbles }
    }

    fn bytes(self) -> usize {
        self.len * self.bits / 8
    }

    /// The bits of value `value` of a piece.
    #[tile_fn]
    fn code(self, piece: Val<u32>, value: Val<u32>) -> Val<u32> {
        if self.bits == 4 {
            let half = self.len / 2;
            let sign = piece >> (value % half * 8 + 7 - value / half * 4) & 1;
            index_of_signed(piece >> (value * 4) & 7 | sign << 3)
        } else {
            piece >> self.bit(value) & ((1 << self.bits) - 1)
        }
    }

    /// The bit at which value `value` of a piece of 1 or 2 bits a value starts.
    #[tile_fn]
    fn bit(self, value: Val<u32>) -> Val<u32> {
        match (self.bits, self.len) {
            (1, 8) => value,
            (2, _) => value % self.nibbles * 4 + value / self.nibbles * 2,
            // so that a shift of at most two brings them to the third bit of a nibble
            _ => value % self.nibbles * 4 + (value / self.nibbles + 2) % 4,
        }
    }

    /// The value of a piece that has a bit at `place`, and which of its bits that is.
    #[tile_fn]
    fn value_of(self, place: Val<u32>) -> (Val<u32>, Val<u32>) {
        match (self.bits, self.len) {
            (4, _) => {
                let (nibble, half) = (place / 4, self.len / 2);
                let of_sign = nibble / 2 + (nibble + 1) % 2 * half;
                (select(place % 4 == 3, of_sign, nibble), place % 4)
            }
            (1, 8) => (place, u32(0)),
            (2, _) => (place / 4 + place % 4 / 2 * self.nibbles, place % 2),
            _ => (place / 4 + (place + 2) % 4 * self.nibbles, u32(0)),
        }
    }
}

#[tile_fn]
fn store<Format: TurboFormat>(
    page: &StorePage,
    value: Val<f32>,
    dim: Val<u32>,
    terms: Shared<f32>,
    codes: Shared<u8>,
    stored: usize,
) {
    let cache = page.cache;
    let snapped = snap_for_cache::<Format>(value, dim, terms, codes, stored);
    if dim % GROUP == 0 {
        let unit = page.unit(dim);
        cache.store_as::<f16>(
            page.shape.scale_of(unit, page.position % UNIT),
            snapped.scale.to::<f16>(),
        );
    }
    for plane in 0..page.shape.planes.len() {
        let piece = Piece::of::<Format>(&page.shape, plane);
        let piece_bits = piece.bits * piece.len;
        /// each lane votes for one bit of the warp's pieces
        let place = lane_index() % piece_bits;
        let (value, bit) = piece.value_of(place);
        for word in 0..piece.bits {
            let number = lane_index() / piece_bits;
            let first = dim / 32 * 32 + word * (32 / piece.bits) + number * piece.len;
            let mut code = codes[first + value].to::<u32>();
            if Format::BITS == 4 {
                code = index_of_signed(code);
            }
            let bits = ballot(code >> (bit + 2 * plane) & 1 == 1);
            if place == 0 {
                let start = page.piece(plane, first, piece.len, piece.bytes());
                let bits = bits >> (number * piece_bits);
                if page.shape.planes[plane].in_pairs {
                    for byte in 0..piece.bytes() {
                        cache.store_as::<u8>(start + 2 * byte, bits >> (8 * byte));
                    }
                } else {
                    cache.store_as::<u32>(start, bits);
                }
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
    let scale = cache.load_as::<f16>(shape.scale_of(unit, position)).to::<f32>();
    let words = (0..shape.planes.len())
        .map(|plane: usize| {
            let piece = Piece::of::<Format>(shape, plane);
            let start = shape.piece(plane, unit, position, dim, piece.len, piece.bytes());
            let is_single = piece.bytes() == 1;
            match shape.planes[plane].in_pairs {
                true if is_single => cache.load_as::<u8>(start),
                true => cache.load_as::<u8>(start) | cache.load_as::<u8>(start + 2) << 8,
                false => cache.load_as::<u32>(start),
            }
        })
        .collect::<Vec<Val<u32>>>();
    [0, 1, 2, 3].map(|i: u32| {
        let mut index = u32(0);
        for plane in 0..shape.planes.len() {
            let piece = Piece::of::<Format>(shape, plane);
            index |= piece.code(words[plane], (dim + i) % piece.len) << (2 * plane);
        }
        codeword::<Format>(index) * scale
    })
}

/// The bits of one octet (or of one quad of two positions), each as the third bit of its nibble.
#[tile_fn]
fn third_bits(word: Val<u32>, place: Val<u32>) -> Val<u32> {
    /// bit 2 of each nibble for place 0, bit 3 for 1, bit 0 for 2, bit 1 for 3
    (word >> (place & 1) << (place / 2 * 2))
        & 0x4444_4444
}

/// Eight values of a key.
#[tile_fn]
fn octet_of<Format: TurboFormat>(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4] {
    let (first, _) = shape.run_start(0, run);
    if Format::BITS == 4 {
        let nibbles = loaded.word(octet + first);
        return look_up::<Format>(loaded, nibbles & 0x7777_7777, Some(nibbles), &IN_ORDER);
    }
    let mut selector = loaded.word(octet / 2 + first) >> (octet % 2 * 2) & 0x3333_3333;
    if Format::BITS == 3 {
        let (first, _) = shape.run_start(1, run);
        selector |= third_bits(loaded.word(octet / 4 + first), octet % 4);
    }
    look_up::<Format>(loaded, selector, None, &IN_ORDER)
}

/// Four values of two positions.
///
/// Nibbles of selectors alternate by two: values 0 and 1 of the first position, of the second, then values 2 and 3. So the
/// bytes that a permutation looks up are those of two pairs, and another one puts a pair together.
#[tile_fn]
fn quad_of_pair<Format: TurboFormat>(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4] {
    let (first, _) = shape.run_start(0, 2 * pair);
    if Format::BITS == 4 {
        let nibbles = loaded.word(quad + first);
        /// in the order of the bytes looked up: both of one position, then of the other
        let signs = by_bytes(nibbles);
        return look_up::<Format>(loaded, nibbles & 0x7777_7777, Some(signs), &OF_POSITIONS);
    }
    let mut selector = loaded.word(quad / 2 + first) >> (quad % 2 * 2) & 0x3333_3333;
    if Format::BITS == 3 {
        let (first, bit) = shape.run_start(1, 2 * pair);
        if shape.places.run_len() == 8 {
            let bytes = loaded.word(first) >> bit;
            selector |= by_bytes(spread_bits(bytes >> (quad % 2 * 4)) | spread_bits(bytes >> (quad % 2 * 4 + 8)) << 16);
        } else {
            selector |= third_bits(loaded.word(first), quad % 4);
        }
    }
    look_up::<Format>(loaded, selector, None, &OF_POSITIONS)
}

/// Selectors that put four numbers together from their low and their high bytes, two to a word: in order, and of two
/// positions with two numbers each, of which a word gets one of both.
const IN_ORDER: [u32; 2] = [0x5140, 0x7362];
const OF_POSITIONS: [u32; 2] = [0x6240, 0x7351];

/// The codewords (as f16) that eight nibbles select, two to a word. Low and high bytes are looked up by themselves.
/// `signs` are those of the first four (see [`signed_bytes`]), and four bits lower those of the others.
#[tile_fn]
fn look_up<Format: TurboFormat>(
    loaded: Loaded,
    selector: Val<u32>,
    signs: Option<Val<u32>>,
    pairing: &[u32; 2],
) -> [Val<u32>; 4] {
    let [low_table, high_table] = loaded.tables;
    let upper_signs = signs.map(|signs: Val<u32>| signs << 4);
    let halves = [(selector, signs), (selector >> 16, upper_signs)].map(|half: (Val<u32>, Option<Val<u32>>)| {
        let (selector, signs) = half;
        let low = low_bytes::<Format>(low_table, selector);
        let high = match signs {
            Some(signs) => signed_bytes::<Format>(high_table, selector, signs),
            None => high_bytes::<Format>(high_table, selector),
        };
        [byte_permute(low, high, pairing[0]), byte_permute(low, high, pairing[1])]
    });
    [halves[0][0], halves[0][1], halves[1][0], halves[1][1]]
}

/// The bytes of two halves in turn, or the halves of bytes in turn.
#[tile_fn]
fn by_bytes(halves: Val<u32>) -> Val<u32> {
    byte_permute(halves, 0u32, 0x3120u32)
}

/// low bytes of the codewords (as f16) that four nibbles select; `low` is the lower half of their table
#[device_fn]
fn low_bytes<Format: TurboFormat>(low: Val<u32>, selector: Val<u32>) -> Val<u32> {
    byte_permute(low, half_tables::<Format>()[0][1], selector)
}

/// high bytes of the codewords (as f16) that four nibbles select; `high` is the lower half of their table
#[device_fn]
fn high_bytes<Format: TurboFormat>(high: Val<u32>, selector: Val<u32>) -> Val<u32> {
    byte_permute(high, half_tables::<Format>()[1][1], selector)
}

/// high bytes of the negative codewords whose magnitudes four nibbles select, positive where a byte of `signs` has its
/// highest bit
#[device_fn]
fn signed_bytes<Format: TurboFormat>(high: Val<u32>, selector: Val<u32>, signs: Val<u32>) -> Val<u32> {
    byte_permute(high, half_tables::<Format>()[1][1], selector) ^ (signs & 0x8080_8080u32)
}

/// sign (1: positive) and rank of the magnitude of an index of turbo4, or the index of these
#[device_fn]
fn index_of_signed(code: Val<u32>) -> Val<u32> {
    select(code < 8, code ^ 7, code)
}

/// four bits in order, each to the third bit of a nibble
#[device_fn]
fn spread_bits(bits: Val<u32>) -> Val<u32> {
    (bits & 1) << 2 | (bits & 2) << 5 | (bits & 4) << 8 | (bits & 8) << 11
}
