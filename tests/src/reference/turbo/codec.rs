//! Encoding and decoding of groups and rows.

use half::f16;

use super::codebook::{Codec, GROUP};
use super::rotation::{self, Direction};

/// What happens to a scale that f16 cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRange {
    /// As the implementation the goldens come from: a scale above 65504 becomes +∞, and a norm of NaN is stored.
    Unclamped,
    /// A scale above 65504 becomes 65504. A group whose norm is not finite (a NaN or infinite input, or squares that
    /// overflow f32) is stored as zeros: one damaged position must not make NaN of everything that attends to it.
    Clamped,
}

/// A stored group, and what it was stored from.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedGroup {
    /// The block.
    pub bytes: Vec<u8>,
    /// Normalised, rotated coordinates: what the thresholds were compared with.
    pub unit_rotated: [f32; GROUP],
}

/// Norms up to this are zero.
const SMALLEST_NORM: f32 = 1e-10;

impl Codec {
    /// Encodes one group. All arithmetic in f32, sequential, unfused:
    ///
    /// 1. n = √(Σ x²); u = x · (1/n), or x · 0 when n ≤ 1e-10;
    /// 2. u is rotated forward;
    /// 3. index = number of thresholds t for which not u < t (a value on a threshold belongs above it; NaN gets the
    ///    top index);
    /// 4. m = √(Σ codeword²); scale = n / m, stored as f16: the decoded group has the norm of the original.
    pub fn encode_group(&self, values: &[f32; GROUP], range: ScaleRange) -> EncodedGroup {
        let mut norm = values.iter().fold(0.0_f32, |sum, value| sum + value * value).sqrt();
        let inverse = if norm > SMALLEST_NORM { 1.0 / norm } else { 0.0 };
        let mut unit_rotated = values.map(|value| value * inverse);
        if range == ScaleRange::Clamped && !norm.is_finite() {
            norm = 0.0;
            unit_rotated.fill(0.0);
        }
        rotation::rotate(&mut unit_rotated, Direction::Forward);

        let (thresholds, codewords) = (self.thresholds(), self.codewords());
        let index_of = |value: f32| thresholds.iter().filter(|&&threshold| above(value, threshold)).count();
        let indices: Vec<usize> = unit_rotated.iter().map(|&value| index_of(value)).collect();
        let codeword_norm = indices
            .iter()
            .fold(0.0_f32, |sum, &index| sum + codewords[index] * codewords[index])
            .sqrt();
        let scale = if codeword_norm > SMALLEST_NORM {
            norm / codeword_norm
        } else {
            norm
        };

        let mut bytes = vec![0; self.block_bytes];
        bytes[..2].copy_from_slice(&range.store(scale).to_le_bytes());
        for (element, &index) in indices.iter().enumerate() {
            self.store_index(&mut bytes, element, index);
        }
        EncodedGroup { bytes, unit_rotated }
    }

    /// Encodes a row, padded with zeros to whole groups.
    pub fn encode_groups(&self, row: &[f32], range: ScaleRange) -> Vec<EncodedGroup> {
        row.chunks(GROUP)
            .map(|values| {
                let mut group = [0.0; GROUP];
                group[..values.len()].copy_from_slice(values);
                self.encode_group(&group, range)
            })
            .collect()
    }

    /// Bytes of [`Codec::encode_groups`].
    pub fn encode_row(&self, row: &[f32], range: ScaleRange) -> Vec<u8> {
        self.encode_groups(row, range)
            .into_iter()
            .flat_map(|group| group.bytes)
            .collect()
    }

    /// Decodes blocks to f32, one rounding a value; the result is in the rotated domain.
    ///
    /// # Panics
    /// When `blocks` is not whole blocks.
    pub fn decode_row(&self, blocks: &[u8]) -> Vec<f32> {
        self.decode_with(blocks, |codeword, scale| codeword * scale)
    }

    /// Decodes blocks to f64, exactly; the result is in the rotated domain.
    ///
    /// # Panics
    /// When `blocks` is not whole blocks.
    pub fn decode_row_f64(&self, blocks: &[u8]) -> Vec<f64> {
        self.decode_with(blocks, |codeword, scale| f64::from(codeword) * f64::from(scale))
    }

    fn decode_with<T>(&self, blocks: &[u8], value: impl Fn(f32, f32) -> T) -> Vec<T> {
        assert!(
            blocks.len().is_multiple_of(self.block_bytes),
            "{} bytes are not whole {} blocks of {}",
            blocks.len(),
            self.name,
            self.block_bytes
        );
        let codewords = self.codewords();
        let mut values = Vec::with_capacity(blocks.len() / self.block_bytes * GROUP);
        for block in blocks.chunks_exact(self.block_bytes) {
            let scale = block_scale(block).to_f32();
            values.extend((0..GROUP).map(|element| value(codewords[self.load_index(block, element)], scale)));
        }
        values
    }

    /// Index of one element of a block.
    pub fn load_index(&self, block: &[u8], element: usize) -> usize {
        let bits = self.packed_bits();
        let per_byte = 8 / bits;
        let low = block[self.indices_at + element / per_byte] >> (element % per_byte * bits) & ((1 << bits) - 1);
        let high = self
            .high_bits_at
            .map_or(0, |at| block[at + element / 8] >> (element % 8) & 1);
        usize::from(low | high << 2)
    }

    fn store_index(&self, block: &mut [u8], element: usize, index: usize) {
        let bits = self.packed_bits();
        let per_byte = 8 / bits;
        let low = (index & ((1 << bits) - 1)) as u8;
        block[self.indices_at + element / per_byte] |= low << (element % per_byte * bits);
        if let Some(at) = self.high_bits_at {
            block[at + element / 8] |= ((index >> 2) as u8) << (element % 8);
        }
    }

    /// Bits of an index that are stored together.
    fn packed_bits(&self) -> usize {
        if self.high_bits_at.is_some() {
            2
        } else {
            self.bits as usize
        }
    }
}

/// Not `value < threshold`, which is not the same as `value >= threshold`: a NaN is above every threshold.
fn above(value: f32, threshold: f32) -> bool {
    value.is_nan() || value >= threshold
}

/// Scale of a block.
pub(super) fn block_scale(block: &[u8]) -> f16 {
    f16::from_le_bytes([block[0], block[1]])
}

impl ScaleRange {
    fn store(self, scale: f32) -> f16 {
        match self {
            Self::Unclamped => f16::from_f32(scale),
            Self::Clamped => f16::from_f32(scale.min(f16::MAX.to_f32())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TURBO2, TURBO3, TURBO4, TURBO4_COMPAT};
    use super::*;
    use crate::golden::Golden;
    use crate::random::Random;
    use crate::requirement::require;
    use crate::tolerance;

    const ALL: [&Codec; 4] = [&TURBO2, &TURBO3, &TURBO4_COMPAT, &TURBO4];

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn golden_bytes_and_decoded_bits_are_met_exactly() {
        let open = |name: &str| Golden::open(&format!("golden/turboquant/{name}.safetensors"));
        let Some(unit_rotated) = require("shared", open("unit_rotated")) else {
            return;
        };
        for (file, codec) in [("turbo2", &TURBO2), ("turbo3", &TURBO3), ("turbo4", &TURBO4_COMPAT)] {
            let golden = open(file).unwrap();
            for dim in [64, 128, 256, 512] {
                let input = golden.f32(&format!("d{dim}.input")).unwrap();
                let bytes = golden.bytes(&format!("d{dim}.bytes")).unwrap();
                let decoded = golden.f32(&format!("d{dim}.dequant")).unwrap();
                let rotated = unit_rotated.f32(&format!("d{dim}.unit_rotated")).unwrap();
                assert_eq!(input.rows().len(), 30);
                for (row, input) in input.rows().enumerate() {
                    let at = format!("{file}, d{dim}, row {row}");
                    let groups = codec.encode_groups(input, ScaleRange::Unclamped);
                    let coordinates: Vec<f32> = groups.iter().flat_map(|group| group.unit_rotated).collect();
                    assert_eq!(bits(&coordinates), bits(rotated.rows().nth(row).unwrap()), "{at}");
                    let got: Vec<u8> = groups.into_iter().flat_map(|group| group.bytes).collect();
                    assert_eq!(got, bytes.rows().nth(row).unwrap(), "{at}");
                    assert_eq!(
                        bits(&codec.decode_row(&got)),
                        bits(decoded.rows().nth(row).unwrap()),
                        "{at}"
                    );
                }
            }
        }
    }

    /// Bounds are the published distortions of each format on Gaussian data.
    #[test]
    fn distortion_is_the_published_one_and_the_norm_is_kept() {
        let table = [
            (&TURBO2, 0.1189),
            (&TURBO3, 0.0339),
            (&TURBO4_COMPAT, 0.0182),
            (&TURBO4, 0.0092),
        ];
        let mut random = Random::new("turbo distortion");
        for (codec, published) in table {
            let (mut distortion, count) = (0.0, 800);
            for _ in 0..count {
                let values = random.normals(GROUP, 3.0);
                let decoded = codec.decode_row_f64(&codec.encode_row(&values, ScaleRange::Clamped));
                let back = rotation::rotate_f64(&decoded, Direction::Inverse);
                let energy: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
                let decoded_energy: f64 = back.iter().map(|v| v * v).sum();
                assert!(
                    (decoded_energy / energy - 1.0).abs() < 2.1 * tolerance::UNIT_F16,
                    "{}",
                    codec.name
                );
                let error: f64 = values.iter().zip(&back).map(|(&v, b)| (f64::from(v) - b).powi(2)).sum();
                distortion += error / energy / f64::from(count);
            }
            assert!(
                (distortion / published - 1.0).abs() < 0.06,
                "{}: {distortion}",
                codec.name
            );
        }
    }

    #[test]
    fn indices_are_packed_and_unpacked_alike() {
        let mut random = Random::new("turbo indices");
        for codec in ALL {
            let indices: Vec<usize> = (0..GROUP)
                .map(|_| random.integer(0..=(1 << codec.bits) - 1) as usize)
                .collect();
            let mut block = vec![0; codec.block_bytes];
            for (element, &index) in indices.iter().enumerate() {
                codec.store_index(&mut block, element, index);
            }
            let loaded: Vec<usize> = (0..GROUP).map(|element| codec.load_index(&block, element)).collect();
            assert_eq!(loaded, indices, "{}", codec.name);
        }
    }

    #[test]
    fn edges_of_the_scale() {
        for codec in ALL {
            let zero = codec.encode_row(&[0.0; GROUP], ScaleRange::Clamped);
            assert_eq!(codec.load_index(&zero, 5), 1 << (codec.bits - 1), "{}", codec.name);
            assert!(codec.decode_row(&zero).iter().all(|&value| value == 0.0));

            let huge = [1e5; GROUP];
            let clamped = codec.encode_row(&huge, ScaleRange::Clamped);
            assert_eq!(block_scale(&clamped), f16::MAX, "{}", codec.name);
            assert_eq!(
                block_scale(&codec.encode_row(&huge, ScaleRange::Unclamped)),
                f16::INFINITY
            );

            for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                let mut values = [1.0; GROUP];
                values[77] = damage;
                let decoded = codec.decode_row(&codec.encode_row(&values, ScaleRange::Clamped));
                assert!(decoded.iter().all(|value| *value == 0.0), "{}: {damage}", codec.name);
                let first = codec.decode_row(&codec.encode_row(&values, ScaleRange::Unclamped));
                assert!(first.iter().all(|value| !value.is_finite()), "{}: {damage}", codec.name);
            }
        }
    }

    #[test]
    fn a_value_on_a_threshold_belongs_above_it() {
        assert!(above(-0.0, 0.0) && above(0.043589, 0.043589) && above(f32::NAN, 0.2) && !above(-1e-9, 0.0));
    }
}
