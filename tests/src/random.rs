//! Random inputs: reproducible, of uneven scale, of shapes that are multiples of nothing.
//!
//! Every test draws from a stream of its own, named by the test, so that adding a draw to one test does not change the
//! inputs of another. All streams follow from one seed: `TILEKILN_SEED`, else [`DEFAULT_SEED`]. Failure messages of
//! [`crate::tolerance`] show it.

use std::ops::RangeInclusive;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::reference::quant::BlockFormat;

/// Name of the environment variable that replaces [`DEFAULT_SEED`].
pub const SEED_VARIABLE: &str = "TILEKILN_SEED";

/// Seed of every stream unless the environment says otherwise.
pub const DEFAULT_SEED: u64 = 20_260_801;

/// The seed of this run.
///
/// # Panics
/// When `TILEKILN_SEED` is set to something other than a decimal u64: silently testing another seed than the one that
/// was asked for would hide a failure.
pub fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{SEED_VARIABLE} must be a decimal number, not {text:?}")),
        Err(_) => DEFAULT_SEED,
    }
}

/// One stream of random inputs.
pub struct Random {
    generator: StdRng,
}

impl Random {
    /// The stream `name` of this run's [`seed`].
    pub fn new(name: &str) -> Self {
        Self::with_seed(seed(), name)
    }

    /// The stream `name` of a given seed.
    pub fn with_seed(seed: u64, name: &str) -> Self {
        // FNV-1a: std's hasher is not stable between releases.
        let mixed = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self {
            generator: StdRng::seed_from_u64(mixed),
        }
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        self.generator.random()
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Integer in an inclusive range.
    pub fn integer(&mut self, range: RangeInclusive<i64>) -> i64 {
        self.generator.random_range(range)
    }

    /// Size in an inclusive range that shares no factor with 2, 3, 5 or 7, so that it is a multiple of no tile.
    ///
    /// # Panics
    /// When the range holds no such size.
    pub fn odd_size(&mut self, range: RangeInclusive<usize>) -> usize {
        let candidates: Vec<usize> = range
            .clone()
            .filter(|size| [2, 3, 5, 7].iter().all(|&factor| !size.is_multiple_of(factor)))
            .collect();
        assert!(
            !candidates.is_empty(),
            "no size in {range:?} is free of the factors 2, 3, 5 and 7"
        );
        candidates[self.generator.random_range(0..candidates.len())]
    }

    /// `len` indices below `bound`, repetitions allowed.
    pub fn indices(&mut self, len: usize, bound: usize) -> Vec<u32> {
        (0..len).map(|_| self.generator.random_range(0..bound) as u32).collect()
    }

    /// `len` uniform bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.generator.random()).collect()
    }

    /// `len` uniform i8.
    pub fn i8s(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.generator.random()).collect()
    }

    /// Normal values times `scale`.
    pub fn normals(&mut self, len: usize, scale: f64) -> Vec<f32> {
        (0..len).map(|_| (self.normal() * scale) as f32).collect()
    }

    /// Normal values times `scale`, rounded to f16.
    pub fn normals_f16(&mut self, len: usize, scale: f64) -> Vec<f16> {
        (0..len).map(|_| f16::from_f64(self.normal() * scale)).collect()
    }

    /// Normal values times `scale`, rounded to bf16.
    pub fn normals_bf16(&mut self, len: usize, scale: f64) -> Vec<bf16> {
        (0..len).map(|_| bf16::from_f64(self.normal() * scale)).collect()
    }

    /// Activations as a transformer has them: normal values whose scale changes by run (a factor 2^-3 to 2^3 for every
    /// stretch of 1 to 97 values), and about one in 200 values thirty times as large.
    pub fn activations(&mut self, len: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(len);
        while values.len() < len {
            let scale = (self.uniform() * 6.0 - 3.0).exp2();
            let stretch = self.generator.random_range(1..=97).min(len - values.len());
            for _ in 0..stretch {
                let outlier = if self.uniform() < 0.005 { 30.0 } else { 1.0 };
                values.push((self.normal() * scale * outlier) as f32);
            }
        }
        values
    }

    /// [`Random::activations`] rounded to f16.
    pub fn activations_f16(&mut self, len: usize) -> Vec<f16> {
        self.activations(len).into_iter().map(f16::from_f32).collect()
    }

    /// `count` valid weight blocks of random bytes: every quant and sub-scale pattern may occur, the f16 scales are
    /// such that weights are about 2^-8 to 1. One scale in 32 is negative, one in 64 zero, one in 64 subnormal: all of
    /// them are legal in files.
    pub fn blocks(&mut self, format: BlockFormat, count: usize) -> Vec<u8> {
        let mut bytes = self.bytes(count * format.bytes());
        for block in bytes.chunks_exact_mut(format.bytes()) {
            for &(offset, largest_multiple) in format.scale_fields() {
                let scale = self.block_scale(largest_multiple);
                block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }

    fn block_scale(&mut self, largest_multiple: f64) -> f16 {
        match self.generator.random_range(0..64) {
            0 => f16::ZERO,
            1 => f16::from_bits(self.generator.random_range(1..0x400)),
            kind => {
                let largest = (self.uniform() * 8.0 - 8.0).exp2();
                let sign = if kind < 4 { -1.0 } else { 1.0 };
                f16::from_f64(sign * largest / largest_multiple)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_distinct() {
        let draw = |seed, name| Random::with_seed(seed, name).normals(16, 1.0);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }

    #[test]
    fn normals_have_unit_variance() {
        let values = Random::with_seed(7, "variance").normals(20_000, 1.0);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.04, "{variance}");
    }

    #[test]
    fn sizes_are_multiples_of_nothing() {
        let mut random = Random::new("sizes");
        for _ in 0..100 {
            let size = random.odd_size(11..=500);
            assert!(
                [2, 3, 5, 7].iter().all(|&factor| !size.is_multiple_of(factor)),
                "{size}"
            );
        }
    }

    #[test]
    fn blocks_decode_to_finite_weights_of_sane_size() {
        let mut random = Random::new("blocks");
        for format in BlockFormat::ALL {
            let weights = format.decode(&random.blocks(format, 100));
            assert_eq!(weights.len(), 100 * format.elements());
            let largest = weights.iter().fold(0.0, |a: f64, w| a.max(w.abs()));
            assert!(largest > 0.01 && largest < 4.0, "{format}: {largest}");
        }
    }
}
