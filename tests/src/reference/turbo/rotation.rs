//! The rotation R = D(s2) · H/√n · D(s1), with H the Hadamard matrix in natural order and s1, s2 fixed signs.

use std::ops::{Add, Sub};

use super::GROUP;

/// First signs, bit `i % 8` of byte `i / 8`; a set bit is −1.
const SIGNS_1: [u8; 16] = [
    0x59, 0x03, 0x6a, 0xe4, 0x49, 0x59, 0xf8, 0x42, 0xbb, 0x3b, 0xc6, 0xa4, 0xa9, 0x50, 0xf2, 0x49,
];
/// Second signs, in the same form.
const SIGNS_2: [u8; 16] = [
    0x90, 0xee, 0xac, 0x16, 0xdc, 0x8f, 0x62, 0x3f, 0x7a, 0x35, 0xa5, 0xb7, 0x62, 0x65, 0xa5, 0xbe,
];

/// Which way to rotate. Cached keys and values, and queries, are rotated forward; attention outputs back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// R
    Forward,
    /// R⁻¹ = Rᵀ: the same steps with the two sign vectors exchanged.
    Inverse,
}

impl Direction {
    fn signs(self) -> (&'static [u8; 16], &'static [u8; 16]) {
        match self {
            Self::Forward => (&SIGNS_1, &SIGNS_2),
            Self::Inverse => (&SIGNS_2, &SIGNS_1),
        }
    }
}

fn sign(signs: &[u8; 16], index: usize) -> f32 {
    if signs[index / 8] >> (index % 8) & 1 == 1 {
        -1.0
    } else {
        1.0
    }
}

/// Rotates every group of 128 of a row in place: f32, in the order that gives the reference's bits.
///
/// # Panics
/// When the row is not whole groups.
pub fn rotate(row: &mut [f32], direction: Direction) {
    rotate_groups(row, GROUP, direction);
}

/// [`rotate`] with groups of 64 or 128. Groups of 64 use the first 64 signs and are never stored.
///
/// # Panics
/// When the group is neither, or the row is not whole groups.
pub fn rotate_groups(row: &mut [f32], group: usize, direction: Direction) {
    // 1/sqrt(128) and 1/sqrt(64) as the f32 nearest to them
    let factor = match group {
        64 => 0.125_f32,
        128 => f32::from_bits(0x3DB5_04F3),
        _ => panic!("rotation groups have 64 or 128 elements, not {group}"),
    };
    assert!(
        row.len().is_multiple_of(group),
        "a row of {} is not whole groups of {group}",
        row.len()
    );
    let (first, second) = direction.signs();
    for values in row.chunks_exact_mut(group) {
        for (index, value) in values.iter_mut().enumerate() {
            *value *= sign(first, index);
        }
        butterflies(values);
        for (index, value) in values.iter_mut().enumerate() {
            *value *= factor * sign(second, index);
        }
    }
}

/// The Hadamard transform of a power of two of values, unscaled.
fn butterflies<T: Copy + Add<Output = T> + Sub<Output = T>>(values: &mut [T]) {
    let mut distance = 1;
    while distance < values.len() {
        for span in values.chunks_exact_mut(2 * distance) {
            let (low, high) = span.split_at_mut(distance);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        distance *= 2;
    }
}

/// [`rotate_f64`] in place by butterflies, for much data.
///
/// # Panics
/// When the row is not whole groups.
pub fn rotate_fast(row: &mut [f64], direction: Direction) {
    assert!(
        row.len().is_multiple_of(GROUP),
        "a row of {} is not whole groups of {GROUP}",
        row.len()
    );
    let (first, second) = direction.signs();
    for values in row.chunks_exact_mut(GROUP) {
        for (index, value) in values.iter_mut().enumerate() {
            *value *= f64::from(sign(first, index));
        }
        butterflies(values);
        for (index, value) in values.iter_mut().enumerate() {
            *value *= f64::from(sign(second, index)) / (GROUP as f64).sqrt();
        }
    }
}

/// The rotation in f64 from its definition: every output a plain sum over the Hadamard matrix. Groups of 128.
///
/// # Panics
/// When the row is not whole groups.
pub fn rotate_f64(row: &[f64], direction: Direction) -> Vec<f64> {
    assert!(
        row.len().is_multiple_of(GROUP),
        "a row of {} is not whole groups of {GROUP}",
        row.len()
    );
    let (first, second) = direction.signs();
    let mut out = Vec::with_capacity(row.len());
    for group in row.chunks_exact(GROUP) {
        for i in 0..GROUP {
            let hadamard = |j: usize| {
                if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 }
            };
            let sum: f64 = (0..GROUP)
                .map(|j| hadamard(j) * f64::from(sign(first, j)) * group[j])
                .sum();
            out.push(f64::from(sign(second, i)) * sum / (GROUP as f64).sqrt());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;
    use crate::random::Random;
    use crate::reference::widen;
    use crate::requirement::require;

    #[test]
    fn signs_spell_the_published_vectors() {
        let spell = |signs| {
            (0..64)
                .map(|i| if sign(signs, i) > 0.0 { '+' } else { '-' })
                .collect::<String>()
        };
        assert_eq!(
            spell(&SIGNS_1),
            "-++--+-+--+++++++-+-+--+++-++----++-++-+-++--+-++++-----+-++++-+"
        );
        assert_eq!(
            spell(&SIGNS_2),
            "++++-++-+---+---++--+-+-+--+-+++++---+------+++-+-+++--+------++"
        );
    }

    #[test]
    fn f32_and_f64_agree_and_invert() {
        let values = Random::new("rotation").normals(384, 2.0);
        let mut rotated = values.clone();
        rotate(&mut rotated, Direction::Forward);
        let exact = rotate_f64(&widen(&values), Direction::Forward);
        for (got, want) in rotated.iter().zip(&exact) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
        }
        let back = rotate_f64(&exact, Direction::Inverse);
        for (got, want) in back.iter().zip(&values) {
            assert!((got - f64::from(*want)).abs() < 1e-12, "{got} {want}");
        }
    }

    #[test]
    fn rotation_keeps_inner_products() {
        let mut random = Random::new("rotation inner products");
        let (a, b) = (widen(&random.normals(128, 1.0)), widen(&random.normals(128, 1.0)));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let rotated = dot(&rotate_f64(&a, Direction::Forward), &rotate_f64(&b, Direction::Forward));
        assert!((rotated - dot(&a, &b)).abs() < 1e-12);
    }

    #[test]
    fn golden_rotations_are_met_bit_for_bit() {
        let Some(golden) = require("shared", Golden::open("golden/turboquant/rotation.safetensors")) else {
            return;
        };
        for (dim, group) in [(128, 128), (256, 128), (512, 128), (64, 64), (192, 64)] {
            let prefix = format!("d{dim}_g{group}");
            let input = golden.f32(&format!("{prefix}.input")).unwrap();
            for (name, direction) in [("forward", Direction::Forward), ("inverse", Direction::Inverse)] {
                let want = golden.f32(&format!("{prefix}.{name}")).unwrap();
                assert_eq!(input.rows().len(), 4);
                for (row, (input, want)) in input.rows().zip(want.rows()).enumerate() {
                    let mut got = input.to_vec();
                    rotate_groups(&mut got, group, direction);
                    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(want), "{prefix}.{name}, row {row}");
                }
            }
        }
    }
}
