//! The formats: codebooks, and which of the first implementations' habits they keep.

use tilekiln_dsl::prelude::*;

/// A codebook with its thresholds.
///
/// Codebooks are symmetric. Only the positive halves are written down; index 0 is the most negative codeword, and a
/// coordinate on a threshold belongs to the upper one.
pub trait TurboFormat: Named + 'static {
    /// Bits of an index: 2, 3 or 4.
    const BITS: usize;
    /// The positive codewords, smallest first.
    const CODEWORDS: &'static [f32];
    /// The positive thresholds between them.
    const THRESHOLDS: &'static [f32];
    /// Keeps what the first implementation stores where a group is not finite or its scale does not fit f16, byte by
    /// byte. Otherwise scales are clamped to the largest f16, and a group that is not finite is stored as zeros.
    const AS_FIRST: bool = false;

    /// Bytes of a group in the interchange format.
    fn block_bytes() -> usize {
        match Self::BITS {
            // two bytes are reserved there
            4 => 68,
            bits => 2 + super::GROUP * bits / 8,
        }
    }
}

macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident, $name:literal, $bits:literal, $codewords:expr, $thresholds:expr, $as_first:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $format;
        impl Named for $format {
            const NAME: &'static str = $name;
        }
        impl TurboFormat for $format {
            const BITS: usize = $bits;
            const CODEWORDS: &'static [f32] = &$codewords;
            const THRESHOLDS: &'static [f32] = &$thresholds;
            const AS_FIRST: bool = $as_first;
        }
    )*};
}

const CODEWORDS_2: [f32; 2] = [0.039994, 0.133462];
const THRESHOLDS_2: [f32; 1] = [0.086728];
const CODEWORDS_3: [f32; 4] = [0.021460, 0.065717, 0.117832, 0.190685];
const THRESHOLDS_3: [f32; 3] = [0.043589, 0.091775, 0.154259];
const CODEWORDS_4: [f32; 8] = [
    0.011304, 0.034157, 0.057781, 0.082839, 0.110300, 0.141817, 0.180847, 0.237673,
];
const THRESHOLDS_4: [f32; 7] = [0.022731, 0.045969, 0.070310, 0.096570, 0.126059, 0.161332, 0.209260];
const CODEWORDS_4_FIRST: [f32; 8] = [
    0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926,
];
const THRESHOLDS_4_FIRST: [f32; 7] = [0.013963, 0.028293, 0.043430, 0.060009, 0.079142, 0.103361, 0.145560];

formats! {
    /// 2.125 bits a value.
    Turbo2, "turbo2", 2, CODEWORDS_2, THRESHOLDS_2, false;
    /// 3.125 bits a value.
    Turbo3, "turbo3", 3, CODEWORDS_3, THRESHOLDS_3, false;
    /// 4.25 bits a value in the interchange format, 4.125 in the cache. The codebook is the best one for coordinates of
    /// unit vectors in 128 dimensions.
    Turbo4, "turbo4", 4, CODEWORDS_4, THRESHOLDS_4, false;
    /// turbo4 with the codebook of its first implementation, which is about 0.65 times too narrow: twice the error. For
    /// caches that have to be those of that implementation.
    Turbo4First, "turbo4_first", 4, CODEWORDS_4_FIRST, THRESHOLDS_4_FIRST, false;
    /// turbo2 as the first implementation stores it, infinities included.
    Turbo2AsFirst, "turbo2_as_first", 2, CODEWORDS_2, THRESHOLDS_2, true;
    /// turbo3 as the first implementation stores it, infinities included.
    Turbo3AsFirst, "turbo3_as_first", 3, CODEWORDS_3, THRESHOLDS_3, true;
    /// turbo4 as the first implementation stores it, infinities included.
    Turbo4AsFirst, "turbo4_as_first", 4, CODEWORDS_4_FIRST, THRESHOLDS_4_FIRST, true;
}

/// the codeword with this index
#[device_fn]
pub fn codeword<Format: TurboFormat>(index: Val<u32>) -> Val<f32> {
    let half = Format::CODEWORDS.len();
    let is_negative = index < half;
    let rank = select(is_negative, (half - 1) - index, index - half);
    let mut magnitude = f32(Format::CODEWORDS[0]);
    for i in 1..half {
        magnitude = select(rank == i, f32(Format::CODEWORDS[i]), magnitude);
    }
    select(is_negative, -magnitude, magnitude)
}

/// index of the codeword next to a rotated coordinate; NaN gets the last one
#[device_fn]
pub fn nearest<Format: TurboFormat>(value: Val<f32>) -> Val<u32> {
    let mut index = u32(0);
    for i in 0..Format::THRESHOLDS.len() {
        index += (!(value < -Format::THRESHOLDS[Format::THRESHOLDS.len() - 1 - i])).to_u32();
    }
    index += (!(value < 0.0)).to_u32();
    for i in 0..Format::THRESHOLDS.len() {
        index += (!(value < Format::THRESHOLDS[i])).to_u32();
    }
    index
}

/// The codewords as f16 in two tables of bytes, low ones first: entry `index` of `(low, high)`, eight entries each.
/// turbo4 has the negative ones only, smallest magnitude first.
pub fn half_tables<Format: TurboFormat>() -> [[u32; 2]; 2] {
    let half = Format::CODEWORDS.len();
    let words: Vec<u16> = match Format::BITS {
        4 => Format::CODEWORDS
            .iter()
            .map(|value| f16::from_f32(-*value).to_bits())
            .collect(),
        _ => (0..2 * half)
            .map(|index| {
                let value = if index < half {
                    -Format::CODEWORDS[half - 1 - index]
                } else {
                    Format::CODEWORDS[index - half]
                };
                f16::from_f32(value).to_bits()
            })
            .collect(),
    };
    let table = |shift: u32| {
        let mut bytes = [0u8; 8];
        for (byte, word) in bytes.iter_mut().zip(&words) {
            *byte = (word >> shift) as u8;
        }
        let (low, high) = bytes.split_at(4);
        [low, high].map(|four| u32::from_le_bytes(four.try_into().unwrap_or_default()))
    };
    [table(0), table(8)]
}
