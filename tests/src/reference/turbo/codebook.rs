//! Codebooks and block layouts, as data.

/// Values in a group, and in a block: the two are the same in all three formats.
pub const GROUP: usize = 128;

/// One of the formats: a codebook and where its indices are stored.
#[derive(Debug, PartialEq)]
pub struct Codec {
    /// Name on the command line.
    pub name: &'static str,
    /// Bits of an index.
    pub bits: u32,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Byte offset of the indices: of all their bits (turbo2, turbo4), or of their low two (turbo3).
    pub indices_at: usize,
    /// Byte offset of the third bits (turbo3).
    pub high_bits_at: Option<usize>,
    /// Codewords of the upper half, ascending; the lower half mirrors them.
    pub positive_codewords: &'static [f32],
    /// Thresholds above zero, ascending; zero is one too, and the rest mirror these.
    pub positive_thresholds: &'static [f32],
}

impl Codec {
    /// Codewords in ascending order: `2^bits`.
    pub fn codewords(&self) -> Vec<f32> {
        let lower = self.positive_codewords.iter().rev().map(|word| -word);
        lower.chain(self.positive_codewords.iter().copied()).collect()
    }

    /// Thresholds in ascending order: `2^bits - 1`.
    pub fn thresholds(&self) -> Vec<f32> {
        let lower = self.positive_thresholds.iter().rev().map(|threshold| -threshold);
        lower
            .chain([0.0])
            .chain(self.positive_thresholds.iter().copied())
            .collect()
    }

    /// Bytes of a row of `elements`, padded with zeros to whole groups.
    pub fn row_bytes(&self, elements: usize) -> usize {
        elements.div_ceil(GROUP) * self.block_bytes
    }
}

/// 2 bits: scale @0, indices @2.
pub const TURBO2: Codec = Codec {
    name: "turbo2",
    bits: 2,
    block_bytes: 34,
    indices_at: 2,
    high_bits_at: None,
    positive_codewords: &[0.039994, 0.133462],
    positive_thresholds: &[0.086728],
};

/// 3 bits: scale @0, low two bits @2 packed as in turbo2, third bits @34.
pub const TURBO3: Codec = Codec {
    name: "turbo3",
    bits: 3,
    block_bytes: 50,
    indices_at: 2,
    high_bits_at: Some(34),
    positive_codewords: &[0.021460, 0.065717, 0.117832, 0.190685],
    positive_thresholds: &[0.043589, 0.091775, 0.154259],
};

/// 4 bits with the codebook that other implementations wrote, which is too narrow: for their files only.
pub const TURBO4_COMPAT: Codec = Codec {
    name: "turbo4-compat",
    bits: 4,
    block_bytes: 68,
    indices_at: 4,
    high_bits_at: None,
    positive_codewords: &[
        0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926,
    ],
    positive_thresholds: &[0.013963, 0.028293, 0.043430, 0.060009, 0.079142, 0.103361, 0.145560],
};

/// 4 bits: scale @0, two reserved zero bytes, indices @4. The codebook is the least-squares one for coordinates of unit
/// vectors in 128 dimensions, whose density is proportional to (1 − x²)^62.5.
pub const TURBO4: Codec = Codec {
    name: "turbo4",
    positive_codewords: &[
        0.011304, 0.034157, 0.057781, 0.082839, 0.110300, 0.141817, 0.180847, 0.237673,
    ],
    positive_thresholds: &[0.022731, 0.045969, 0.070310, 0.096570, 0.126059, 0.161332, 0.209260],
    ..TURBO4_COMPAT
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_sizes_their_bits_say_and_ascend() {
        for codec in [TURBO2, TURBO3, TURBO4, TURBO4_COMPAT] {
            let (codewords, thresholds) = (codec.codewords(), codec.thresholds());
            assert_eq!(codewords.len(), 1 << codec.bits, "{}", codec.name);
            assert_eq!(thresholds.len(), codewords.len() - 1, "{}", codec.name);
            for (index, &threshold) in thresholds.iter().enumerate() {
                let (below, above) = (codewords[index], codewords[index + 1]);
                assert!(below < threshold && threshold < above, "{}: {index}", codec.name);
                // a nearest-neighbour rule has its thresholds halfway; the tables are rounded to six decimals
                assert!(
                    (threshold - (below + above) / 2.0).abs() < 1.5e-6,
                    "{}: {index}",
                    codec.name
                );
            }
        }
    }

    /// The centroid condition, solved numerically: each codeword of [`TURBO4`] is the mean of its cell.
    #[test]
    fn turbo4_codewords_are_the_means_of_their_cells() {
        let density = |x: f64| (1.0 - x * x).powf(62.5);
        let mut edges = vec![0.0];
        edges.extend(TURBO4.positive_thresholds.iter().map(|&t| f64::from(t)));
        edges.push(1.0);
        for (cell, &codeword) in edges.windows(2).zip(TURBO4.positive_codewords) {
            let (mut mass, mut moment) = (0.0, 0.0);
            let steps = 20_000;
            for step in 0..steps {
                let x = cell[0] + (cell[1] - cell[0]) * (f64::from(step) + 0.5) / f64::from(steps);
                mass += density(x);
                moment += x * density(x);
            }
            assert!(
                (moment / mass - f64::from(codeword)).abs() < 2e-6,
                "{codeword}: {}",
                moment / mass
            );
        }
    }
}
