//! Judging bytes that another implementation encoded from the same values.
//!
//! A kernel that sums squares in another order gets a norm, and so coordinates, a few units in the last place away. Two
//! differences follow, and no others: the f16 scale may be a neighbour, and an index may be one off where the coordinate
//! lies on a threshold. Everything that decodes must decode to exactly what its own bytes say.

use half::f16;

use super::codebook::{Codec, GROUP};
use super::codec::{EncodedGroup, block_scale};

/// How close to a threshold a coordinate must be to excuse an index that is one off. Coordinates are at most 1, and pass
/// through a norm, a reciprocal, a product, seven butterflies and a factor, each within 2^-24 of the coordinates' scale.
pub const THRESHOLD_MARGIN: f32 = 2e-6;

/// What differs between encoded groups and their reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Groups compared.
    pub groups: usize,
    /// Groups whose bytes are not equal.
    pub differing: usize,
    /// Largest distance of scales, in steps between neighbouring f16 values.
    pub scale_steps: u32,
    /// Indices that are one off beside a threshold.
    pub excused: usize,
    /// What nothing excuses, described; empty when the encoding is acceptable.
    pub faults: Vec<String>,
}

/// Compares encoded blocks with the reference's groups.
pub fn compare(codec: &Codec, got: &[u8], want: &[EncodedGroup]) -> Difference {
    let mut difference = Difference {
        groups: want.len(),
        ..Difference::default()
    };
    if got.len() != want.len() * codec.block_bytes {
        difference.faults.push(format!(
            "{} bytes instead of {} {} blocks of {}",
            got.len(),
            want.len(),
            codec.name,
            codec.block_bytes
        ));
        return difference;
    }
    for (number, (got, want)) in got.chunks_exact(codec.block_bytes).zip(want).enumerate() {
        if got != want.bytes {
            difference.differing += 1;
            compare_group(codec, number, got, want, &mut difference);
        }
    }
    difference
}

fn compare_group(codec: &Codec, number: usize, got: &[u8], want: &EncodedGroup, difference: &mut Difference) {
    let (got_scale, want_scale) = (block_scale(got), block_scale(&want.bytes));
    let steps = scale_steps(got_scale, want_scale);
    difference.scale_steps = difference.scale_steps.max(steps);
    if steps > 1 {
        difference
            .faults
            .push(format!("group {number}: scale {got_scale}, not {want_scale}"));
    }
    if got[2..codec.indices_at] != want.bytes[2..codec.indices_at] {
        difference
            .faults
            .push(format!("group {number}: reserved bytes are not zero"));
    }
    let thresholds = codec.thresholds();
    for element in 0..GROUP {
        let (got, want_index) = (codec.load_index(got, element), codec.load_index(&want.bytes, element));
        let coordinate = want.unit_rotated[element];
        let beside =
            got.abs_diff(want_index) == 1 && (coordinate - thresholds[got.min(want_index)]).abs() <= THRESHOLD_MARGIN;
        if beside {
            difference.excused += 1;
        } else if got != want_index {
            difference.faults.push(format!(
                "group {number}, element {element}: index {got}, not {want_index} ({coordinate})"
            ));
        }
    }
}

/// Steps between two f16 values; NaN equals NaN and is far from everything else.
fn scale_steps(a: f16, b: f16) -> u32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u32::MAX };
    }
    let ordered = |value: f16| {
        let magnitude = i32::from(value.to_bits() & 0x7fff);
        if value.is_sign_negative() {
            -magnitude
        } else {
            magnitude
        }
    };
    ordered(a).abs_diff(ordered(b))
}

#[cfg(test)]
mod tests {
    use super::super::{ScaleRange, TURBO3, TURBO4};
    use super::*;
    use crate::random::Random;

    #[test]
    fn only_rounding_is_excused() {
        let values = Random::new("turbo compare").normals(3 * GROUP, 1.0);
        let groups = TURBO3.encode_groups(&values, ScaleRange::Clamped);
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.bytes.clone()).collect();
        assert_eq!(
            compare(&TURBO3, &bytes, &groups),
            Difference {
                groups: 3,
                ..Difference::default()
            }
        );

        let moved = |steps: u16| {
            let scale = u16::from_le_bytes([bytes[50], bytes[51]]) + steps;
            let mut moved = bytes.clone();
            moved[50..52].copy_from_slice(&scale.to_le_bytes());
            compare(&TURBO3, &moved, &groups)
        };
        let neighbour = moved(1);
        assert_eq!((neighbour.scale_steps, neighbour.differing), (1, 1));
        assert!(neighbour.faults.is_empty());
        assert_eq!(moved(2).faults.len(), 1);

        let mut flipped = bytes.clone();
        flipped[34] ^= 1; // a high bit: four codewords away
        assert_eq!(compare(&TURBO3, &flipped, &groups).faults.len(), 1);

        assert_eq!(compare(&TURBO3, &bytes[..149], &groups).faults.len(), 1);
    }

    #[test]
    fn an_index_beside_its_threshold_is_excused() {
        let values = Random::new("turbo compare").normals(GROUP, 1.0);
        let mut groups = TURBO4.encode_groups(&values, ScaleRange::Clamped);
        let mut bytes = groups[0].bytes.clone();
        let index = TURBO4.load_index(&bytes, 0);
        let other = if index == 0 { 1 } else { index - 1 };
        bytes[4] = bytes[4] & 0xf0 | other as u8;
        assert_eq!(compare(&TURBO4, &bytes, &groups).faults.len(), 1);
        groups[0].unit_rotated[0] = TURBO4.thresholds()[index.min(other)] + 1e-6;
        let difference = compare(&TURBO4, &bytes, &groups);
        assert_eq!((difference.excused, difference.faults.len()), (1, 0));
    }
}
