//! Random numbers that are the same on every machine and in every release.

use crate::gguf::TensorType;
use half::{bf16, f16};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Stream `index` of those named `stream`, of a seed.
    pub(super) fn new(seed: u64, stream: &str, index: usize) -> Self {
        let mut random = Self(seed);
        for word in stream.bytes().map(u64::from).chain([index as u64]) {
            random.0 = random.next() ^ word;
        }
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform, never 0: in (0, 1].
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box-Muller).
    pub(super) fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }

    /// Fills blocks of `kind` with weights of the given standard deviation: uniform quants under constant scales in
    /// block types, normal values otherwise.
    pub(super) fn blocks(&mut self, kind: TensorType, deviation: f32, bytes: &mut [u8]) {
        // standard deviation of uniform integers from -n/2 to n/2-1
        let uniform = |count: f32| (count * count / 12.0).sqrt();
        let half = |value: f32| f16::from_f32(value).to_le_bytes();
        let size = kind.block_bytes().unwrap_or(1);
        if kind.block_values() > Some(1) {
            self.fill(bytes);
        }
        for block in bytes.chunks_exact_mut(size) {
            match kind {
                TensorType::Q4_K | TensorType::Q5_K => {
                    // scale and minimum 40 in all eight sub-blocks: d * 40 * (q - 7.5), or 15.5 for five bits
                    let count = if kind == TensorType::Q4_K { 16.0 } else { 32.0 };
                    let step = f16::from_f32(deviation / (40.0 * uniform(count)));
                    block[..2].copy_from_slice(&step.to_le_bytes());
                    block[2..4].copy_from_slice(&half(step.to_f32() * (count - 1.0) / 2.0));
                    block[4..12].fill(0b10_101000);
                    block[12..16].fill(0x88);
                }
                TensorType::Q6_K => {
                    block[192..208].fill(32);
                    block[208..].copy_from_slice(&half(deviation / (32.0 * uniform(64.0))));
                }
                TensorType::Q8_0 => block[..2].copy_from_slice(&half(deviation / uniform(256.0))),
                TensorType::Q5_0 => block[..2].copy_from_slice(&half(deviation / uniform(32.0))),
                TensorType::Q4_0 => block[..2].copy_from_slice(&half(deviation / uniform(16.0))),
                TensorType::F16 => block.copy_from_slice(&half(self.normal() * deviation)),
                TensorType::BF16 => block.copy_from_slice(&bf16::from_f32(self.normal() * deviation).to_le_bytes()),
                TensorType::F32 => block.copy_from_slice(&(self.normal() * deviation).to_le_bytes()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::decode;

    #[test]
    fn random_blocks_have_the_deviation_that_was_asked_for() {
        for kind in TensorType::known().filter(|kind| kind.codec().is_some()) {
            let mut bytes = vec![0; kind.bytes(256 * 200).unwrap()];
            Random::new(1, "test", 0).blocks(kind, 0.02, &mut bytes);
            let mut values = Vec::new();
            decode(kind, &bytes, &mut values).unwrap();
            let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            assert!((deviation / 0.02 - 1.0).abs() < 0.02, "{kind}: {deviation}");
        }
    }

    #[test]
    fn streams_differ_and_stay() {
        let first = |seed, stream, index| Random::new(seed, stream, index).next();
        assert_eq!(first(4, "a", 0), first(4, "a", 0));
        let others = [first(5, "a", 0), first(4, "b", 0), first(4, "a", 1)];
        assert!(!others.contains(&first(4, "a", 0)));
    }
}
