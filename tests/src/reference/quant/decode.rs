//! Byte layouts of weight blocks.

use std::fmt;

use half::f16;

/// A weight format: blocks of a fixed number of elements and bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
pub enum BlockFormat {
    Q4_0,
    Q5_0,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// One weight before its two parts are combined: `weight = scaled - offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// Scale times quant.
    pub scaled: f64,
    /// Scaled minimum; zero in the formats that have none.
    pub offset: f64,
}

impl Term {
    /// The weight.
    pub fn weight(self) -> f64 {
        self.scaled - self.offset
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Q4_0, Self::Q5_0, Self::Q8_0, Self::Q4_K, Self::Q5_K, Self::Q6_K];

    /// Name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q5_0 => "Q5_0",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Elements of a block.
    pub const fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q5_0 => 22,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// The f16 scales of a block: byte offset, and the largest integer the scale is multiplied with.
    pub const fn scale_fields(self) -> &'static [(usize, f64)] {
        match self {
            Self::Q4_0 => &[(0, 8.0)],
            Self::Q5_0 => &[(0, 16.0)],
            Self::Q8_0 => &[(0, 128.0)],
            Self::Q4_K => &[(0, 63.0 * 15.0), (2, 63.0)],
            Self::Q5_K => &[(0, 63.0 * 31.0), (2, 63.0)],
            Self::Q6_K => &[(208, 128.0 * 32.0)],
        }
    }

    /// Elements that share one integer scale: the shortest run a kernel must scale by itself.
    pub const fn sub_block(self) -> usize {
        match self {
            Self::Q6_K => 16,
            _ => 32,
        }
    }

    /// Bytes of a row of `elements`.
    ///
    /// # Panics
    /// When a row is not a whole number of blocks.
    pub fn row_bytes(self, elements: usize) -> usize {
        assert!(
            elements.is_multiple_of(self.elements()),
            "a row of {elements} is not a whole number of {self} blocks of {}",
            self.elements()
        );
        elements / self.elements() * self.bytes()
    }

    /// Weights of whole blocks. Exact, except that the subtraction of a minimum may round in f64.
    ///
    /// # Panics
    /// When `blocks` is not a whole number of blocks.
    pub fn decode(self, blocks: &[u8]) -> Vec<f64> {
        self.decode_terms(blocks).into_iter().map(Term::weight).collect()
    }

    /// Weights of whole blocks, in two exact parts.
    ///
    /// # Panics
    /// When `blocks` is not a whole number of blocks.
    pub fn decode_terms(self, blocks: &[u8]) -> Vec<Term> {
        assert!(
            blocks.len().is_multiple_of(self.bytes()),
            "{} bytes are not a whole number of {self} blocks of {}",
            blocks.len(),
            self.bytes()
        );
        let mut terms = Vec::with_capacity(blocks.len() / self.bytes() * self.elements());
        for block in blocks.chunks_exact(self.bytes()) {
            terms.extend((0..self.elements()).map(|element| self.term(block, element)));
        }
        terms
    }

    fn term(self, block: &[u8], element: usize) -> Term {
        match self {
            Self::Q8_0 => scaled(f16_at(block, 0) * f64::from(block[2 + element] as i8)),
            Self::Q4_0 => scaled(f16_at(block, 0) * (f64::from(half_split_nibble(&block[2..18], element)) - 8.0)),
            Self::Q5_0 => {
                let high_bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                let quant = u32::from(half_split_nibble(&block[6..22], element)) | (high_bits >> element & 1) << 4;
                scaled(f16_at(block, 0) * (f64::from(quant) - 16.0))
            }
            Self::Q4_K => {
                let quant = paired_nibble(&block[16..144], element);
                with_minimum(block, element, f64::from(quant))
            }
            Self::Q5_K => {
                let high = block[16 + element % 32] >> (element / 32) & 1;
                let quant = paired_nibble(&block[48..176], element) | high << 4;
                with_minimum(block, element, f64::from(quant))
            }
            Self::Q6_K => q6_k_term(block, element),
        }
    }
}

fn scaled(scaled: f64) -> Term {
    Term { scaled, offset: 0.0 }
}

fn f16_at(block: &[u8], offset: usize) -> f64 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f64()
}

/// Q4_0 and Q5_0: low nibbles are the first 16 elements, high nibbles the last 16.
fn half_split_nibble(quants: &[u8], element: usize) -> u8 {
    let byte = quants[element % 16];
    if element < 16 { byte & 15 } else { byte >> 4 }
}

/// Q4_K and Q5_K: 32 bytes hold 64 elements, the low nibbles first.
fn paired_nibble(quants: &[u8], element: usize) -> u8 {
    let byte = quants[element / 64 * 32 + element % 32];
    if element % 64 < 32 { byte & 15 } else { byte >> 4 }
}

/// Q4_K and Q5_K: `d * scale * quant - dmin * minimum`.
fn with_minimum(block: &[u8], element: usize, quant: f64) -> Term {
    let (scale, minimum) = scale_and_minimum(&block[4..16], element / 32);
    Term {
        scaled: f16_at(block, 0) * f64::from(scale) * quant,
        offset: f16_at(block, 2) * f64::from(minimum),
    }
}

/// The 6-bit scale and minimum of sub-block `index`. Four of each are whole in their bytes; the top two bits of those
/// bytes complete the other four.
fn scale_and_minimum(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let scale = packed[index + 4] & 15 | packed[index - 4] >> 6 << 4;
        let minimum = packed[index + 4] >> 4 | packed[index] >> 6 << 4;
        (scale, minimum)
    }
}

fn q6_k_term(block: &[u8], element: usize) -> Term {
    let (half, inside) = (element / 128, element % 128);
    let (quarter, lane) = (inside / 32, inside % 32);
    let low_byte = block[64 * half + lane + 32 * (quarter % 2)];
    let low = if quarter < 2 { low_byte & 15 } else { low_byte >> 4 };
    let high = block[128 + 32 * half + lane] >> (2 * quarter) & 3;
    let scale = block[192 + 8 * half + inside / 16] as i8;
    let quant = f64::from(low | high << 4) - 32.0;
    scaled(f16_at(block, 208) * f64::from(scale) * quant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_scale(mut block: Vec<u8>, offset: usize, scale: f32) -> Vec<u8> {
        block[offset..offset + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        block
    }

    #[test]
    fn q8_0_is_signed() {
        let mut block = with_scale(vec![0; 34], 0, 0.5);
        block[2] = 0x80;
        block[33] = 127;
        let weights = BlockFormat::Q8_0.decode(&block);
        assert_eq!((weights[0], weights[1], weights[31]), (-64.0, 0.0, 63.5));
    }

    #[test]
    fn q4_0_and_q5_0_split_nibbles_by_half() {
        let mut block = with_scale(vec![0x88; 18], 0, 2.0);
        block[2 + 3] = 0xf1;
        let weights = BlockFormat::Q4_0.decode(&block);
        assert_eq!((weights[3], weights[19], weights[4]), (-14.0, 14.0, 0.0));

        let mut block = with_scale(vec![0; 22], 0, 1.0);
        block[2..6].copy_from_slice(&(1_u32 << 3 | 1 << 31).to_le_bytes());
        block[6 + 3] = 0x05;
        block[6 + 15] = 0xf0;
        let weights = BlockFormat::Q5_0.decode(&block);
        assert_eq!((weights[3], weights[31], weights[19]), (5.0, 15.0, -16.0));
    }

    /// One-hot sub-blocks: each packed scale reaches exactly the 32 elements it belongs to.
    #[test]
    fn k_quant_scales_reach_their_sub_blocks() {
        for target in 0..8 {
            let mut block = with_scale(with_scale(vec![0; 144], 0, 1.0), 2, 0.5);
            block[16..].fill(0x11);
            // scale 53 = 0b11_0101, minimum 42 = 0b10_1010
            if target < 4 {
                block[4 + target] = 53;
                block[4 + target + 4] = 42;
            } else {
                block[4 + target + 4] = (53 & 15) | (42 & 15) << 4;
                block[4 + target - 4] = 53 >> 4 << 6;
                block[4 + target] = 42 >> 4 << 6;
            }
            for (element, term) in BlockFormat::Q4_K.decode_terms(&block).into_iter().enumerate() {
                let expected = if element / 32 == target {
                    (53.0, 21.0)
                } else {
                    (0.0, 0.0)
                };
                assert_eq!(
                    (term.scaled, term.offset),
                    expected,
                    "sub-block {target}, element {element}"
                );
            }
        }
    }

    #[test]
    fn q5_k_adds_its_fifth_bit() {
        let mut block = with_scale(vec![0; 176], 0, 1.0);
        block[4] = 1; // scale of sub-block 0
        block[4 + 8] = 1; // scale of sub-block 4
        block[16 + 7] = 1 | 1 << 4;
        block[48 + 7] = 0x03;
        let weights = BlockFormat::Q5_K.decode(&block);
        assert_eq!((weights[7], weights[32 * 4 + 7], weights[8]), (19.0, 16.0, 0.0));
    }

    /// Every element in turn is given a quant of its own, written by the layout read the other way round.
    #[test]
    fn q6_k_places_every_element() {
        for element in 0..256 {
            let (half, inside) = (element / 128, element % 128);
            let quant = 1 + (element * 7 % 63) as u8;
            let mut block = with_scale(vec![0; 210], 208, 1.0);
            block[192 + element / 16] = 0xfe; // -2
            let ql = 64 * half + [0, 32, 0, 32][inside / 32] + inside % 32;
            block[ql] = if inside < 64 { quant & 15 } else { (quant & 15) << 4 };
            block[128 + 32 * half + inside % 32] = quant >> 4 << [0, 2, 4, 6][inside / 32];
            let weights = BlockFormat::Q6_K.decode(&block);
            assert_eq!(weights[element], -2.0 * (f64::from(quant) - 32.0), "element {element}");
        }
    }

    /// Figures of the reference Python package of the file format (gguf, its numpy dequantisation) for the same bytes.
    #[test]
    fn decoded_blocks_are_those_of_another_implementation() {
        let table = [
            (BlockFormat::Q4_0, -1.328125, 0.163330078125),
            (BlockFormat::Q5_0, -7.71875, 0.733642578125),
            (BlockFormat::Q8_0, 34.921875, 42.415771484375),
            (BlockFormat::Q4_K, 106063.390625, 3905.906494140625),
            (BlockFormat::Q5_K, 230234.25, 17047.058349609375),
            (BlockFormat::Q6_K, -91520.359375, 137299.84741210938),
        ];
        for (format, expected_moment, expected_energy) in table {
            let mut state = 1_u32;
            let mut next_byte = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let mut block: Vec<u8> = (0..format.bytes()).map(|_| next_byte()).collect();
            for &(offset, _) in format.scale_fields() {
                block[offset..offset + 2].copy_from_slice(&f16::from_f32(0.015625).to_le_bytes());
            }
            let weights = format.decode(&block);
            let moment: f64 = weights.iter().zip(1..).map(|(w, place)| w * f64::from(place)).sum();
            let energy: f64 = weights.iter().map(|w| w * w).sum();
            assert_eq!((moment, energy), (expected_moment, expected_energy), "{format}");
        }
    }

    #[test]
    #[should_panic(expected = "not a whole number of Q4_K blocks of 144")]
    fn cut_blocks_are_refused() {
        BlockFormat::Q4_K.decode(&[0; 150]);
    }
}
