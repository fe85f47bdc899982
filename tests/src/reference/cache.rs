//! What a cache of keys or values gives back of a head that was stored in it.

use half::{bf16, f16};

use super::quant::{BlockFormat, encode};
use super::turbo::rotation::{Direction, rotate_f64};
use super::turbo::{Codec, GROUP, ScaleRange, TURBO2, TURBO3, TURBO4, TURBO4_COMPAT};

/// Values that share a scale in q8_0 and q4_0.
pub const BLOCK: usize = 32;

/// A format of caches.
#[derive(Clone, Copy, Debug)]
pub enum CacheFormat {
    /// As they are.
    F32,
    /// Rounded.
    F16,
    /// Rounded.
    Bf16,
    /// Blocks of 32 with an f16 scale, d = max|x| / 127.
    Q8,
    /// Blocks of 32 with an f16 scale, d = −(the value of the largest magnitude) / 8.
    Q4,
    /// Rotated, snapped to a codebook; scales are clamped.
    Turbo(&'static Codec),
}

/// The nearest f16.
pub fn nearest_f16(value: f64) -> f64 {
    f16::from_f32(to_odd(value)).to_f64()
}

/// The nearest bf16.
pub fn nearest_bf16(value: f64) -> f64 {
    bf16::from_f32(to_odd(value)).to_f64()
}

/// The f32 next to a number on the side of zero, with its last bit set if it is another number: rounded to half of its bits,
/// it is what the number is. (`from_f64` of both types looks at 20 bits behind the point only, and takes what lies a little
/// above the middle between two for the middle.)
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if !near.is_finite() || f64::from(near) == value {
        return near;
    }
    let is_above = f64::from(near.abs()) > value.abs();
    f32::from_bits((near.to_bits() - u32::from(is_above)) | 1)
}

impl CacheFormat {
    /// The format of a name of the kernels' settings.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "f32" => Self::F32,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "q8_0" => Self::Q8,
            "q4_0" => Self::Q4,
            "turbo2" => Self::Turbo(&TURBO2),
            "turbo3" => Self::Turbo(&TURBO3),
            "turbo4" => Self::Turbo(&TURBO4),
            "turbo4_first" => Self::Turbo(&TURBO4_COMPAT),
            _ => return None,
        })
    }

    /// The head as it is read back, in the domain it came in.
    pub fn read_back(self, head: &[f64]) -> Vec<f64> {
        let narrow: Vec<f32> = head.iter().map(|&value| value as f32).collect();
        match self {
            Self::F32 => head.to_vec(),
            Self::F16 => head.iter().map(|&value| nearest_f16(value)).collect(),
            Self::Bf16 => head.iter().map(|&value| nearest_bf16(value)).collect(),
            Self::Q8 => BlockFormat::Q8_0.decode(&encode(BlockFormat::Q8_0, &narrow)),
            Self::Q4 => narrow.chunks(BLOCK).flat_map(q4_block).collect(),
            Self::Turbo(codec) => {
                let rotated = codec.decode_row_f64(&codec.encode_row(&narrow, ScaleRange::Clamped));
                let mut back = rotate_f64(&rotated, Direction::Inverse);
                back.truncate(head.len());
                back
            }
        }
    }
}

/// The value of the largest magnitude, the first of several.
pub fn extreme(block: &[f32]) -> f32 {
    block.iter().fold(
        0.0,
        |found: f32, &value| if value.abs() > found.abs() { value } else { found },
    )
}

/// q4_0 as GGUF files have it: the extreme value gets −8, quants are rounded half up from −8 on and end at 7.
fn q4_block(block: &[f32]) -> Vec<f64> {
    let step = extreme(block) / -8.0;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let quant = |value: f32| f64::from((value * inverse + 8.5).floor().min(15.0)) - 8.0;
    let stored = f16::from_f32(step).to_f64();
    block.iter().map(|&value| quant(value) * stored).collect()
}

/// Normalised, rotated coordinates of each group of a head, the groups' sizes, and which codeword each coordinate got.
pub struct Snapped {
    /// Coordinates of unit vectors.
    pub coordinates: Vec<f64>,
    /// Decoded values in the rotated domain.
    pub decoded: Vec<f64>,
    /// |group| of each group.
    pub norms: Vec<f64>,
}

/// A head on its way into a turbo cache.
pub fn snapped(codec: &Codec, head: &[f64]) -> Snapped {
    let narrow: Vec<f32> = head.iter().map(|&value| value as f32).collect();
    let groups = codec.encode_groups(&narrow, ScaleRange::Clamped);
    let norm = |group: &[f64]| group.iter().map(|value| value * value).sum::<f64>().sqrt();
    Snapped {
        coordinates: groups
            .iter()
            .flat_map(|group| group.unit_rotated.map(f64::from))
            .collect(),
        decoded: groups
            .iter()
            .flat_map(|group| codec.decode_row_f64(&group.bytes))
            .collect(),
        norms: head.chunks(GROUP).map(norm).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_block_of_q4_0_worked_by_hand() {
        let mut block = [0.0_f32; BLOCK];
        (block[0], block[1], block[2], block[3]) = (-4.0, 4.0, 1.2, -0.2);
        // the step is 0.5: quants -8, 8 cut to 7, 2 (2.4), 0 (-0.4)
        assert_eq!(q4_block(&block)[..4], [-4.0, 3.5, 1.0, 0.0]);
        assert_eq!(q4_block(&[0.0; BLOCK]), [0.0; BLOCK]);
    }

    /// Each format loses about what its bits say.
    #[test]
    fn errors_have_the_sizes_of_their_formats() {
        let head = Random::new("cache formats").normals(512, 1.0);
        let head: Vec<f64> = head.into_iter().map(f64::from).collect();
        let table = [
            ("f32", 0.0, 0.0),
            ("f16", 1e-4, 3e-4),
            ("bf16", 1e-3, 2.5e-3),
            ("q8_0", 3e-3, 8e-3),
            ("q4_0", 0.05, 0.12),
            ("turbo4", 0.08, 0.11),
            ("turbo4_first", 0.1, 0.16),
            ("turbo3", 0.16, 0.21),
            ("turbo2", 0.3, 0.38),
        ];
        for (name, least, most) in table {
            let back = CacheFormat::named(name).expect("a format").read_back(&head);
            let error: f64 = head.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum();
            let relative = (error / head.iter().map(|value| value * value).sum::<f64>()).sqrt();
            assert!((least..=most).contains(&relative), "{name}: {relative}");
        }
        assert!(CacheFormat::named("q5_0").is_none());
    }
}

#[cfg(test)]
mod rounding {
    use super::*;

    #[test]
    fn numbers_a_little_off_the_middle_are_not_the_middle() {
        let middle = 1.0 + 2.0_f64.powi(-8);
        for (value, want) in [
            (middle, 1.0),
            (middle * (1.0 + 1e-12), 1.0078125),
            (middle * (1.0 - 1e-12), 1.0),
            (-middle * (1.0 + 1e-9), -1.0078125),
            (0.0, 0.0),
        ] {
            assert_eq!(nearest_bf16(value), want, "{value:e}");
        }
        let middle = 1.0 + 2.0_f64.powi(-11);
        assert_eq!(nearest_f16(middle), 1.0);
        assert_eq!(nearest_f16(middle * (1.0 + 1e-12)), 1.0 + 2.0_f64.powi(-10));
        assert_eq!(nearest_f16(1e9), f64::INFINITY);
    }
}
