//! Activations quantised to int8, 32 values to a scale.

/// Values that share one scale.
pub const ACTIVATION_BLOCK: usize = 32;

/// Quantised activations.
///
/// For each block of 32 consecutive f32 values x, all arithmetic in f32, round to nearest even:
///
/// 1. `d = max|x| / 127`, one division;
/// 2. `q = x * (127 / max|x|)`, a division and a product, rounded to the nearest integer, ties to even; `d == 0` gives
///    `q = 0`;
/// 3. `sum` = sum of the block's q, exact.
///
/// Where max|x| is so small that 127 divided by it is not finite, q is ±127 or 0. Inputs must be finite.
/// This is the engine's own format: unlike the formats of files, d stays f32 and ties go to even, as the conversion
/// instructions of GPUs do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    /// Quants, as many as values.
    pub quants: Vec<i8>,
    /// One scale a block.
    pub scales: Vec<f32>,
    /// One sum of quants a block.
    pub sums: Vec<i32>,
}

impl Activations {
    /// Quantises a row.
    ///
    /// # Panics
    /// When the length is not a multiple of 32, or a value is not finite.
    pub fn quantise(values: &[f32]) -> Self {
        assert!(
            values.len().is_multiple_of(ACTIVATION_BLOCK),
            "{} activations are not a whole number of blocks of {ACTIVATION_BLOCK}",
            values.len()
        );
        assert!(
            values.iter().all(|value| value.is_finite()),
            "activations must be finite"
        );
        let mut row = Self::default();
        for block in values.chunks_exact(ACTIVATION_BLOCK) {
            let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let (scale, steps) = (largest / 127.0, 127.0 / largest);
            let quantise = |value: &f32| match scale {
                0.0 => 0,
                _ => (value * steps).round_ties_even().clamp(-127.0, 127.0) as i8,
            };
            let quants: Vec<i8> = block.iter().map(quantise).collect();
            row.sums.push(quants.iter().map(|&quant| i32::from(quant)).sum());
            row.quants.extend(quants);
            row.scales.push(scale);
        }
        row
    }

    /// The values that the quants stand for, exact.
    pub fn dequantise(&self) -> Vec<f64> {
        let scale = |index: usize| f64::from(self.scales[index / ACTIVATION_BLOCK]);
        self.quants
            .iter()
            .enumerate()
            .map(|(index, &quant)| scale(index) * f64::from(quant))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::tolerance;

    #[test]
    fn ties_go_to_even_and_extremes_are_127() {
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -126.5]);
        let row = Activations::quantise(&values);
        assert_eq!(row.scales, [1.0]);
        assert_eq!(row.quants[..6], [127, 0, 2, 2, 0, -126]);
        assert_eq!(row.sums, [127 + 2 + 2 - 126]);
    }

    #[test]
    fn empty_and_vanishing_blocks_are_zero() {
        let mut values = vec![0.0; 64];
        values[40] = f32::from_bits(1); // max / 127 rounds to zero
        let row = Activations::quantise(&values);
        assert_eq!((row.scales, row.sums), (vec![0.0, 0.0], vec![0, 0]));
        assert!(row.quants.iter().all(|&quant| quant == 0));
    }

    #[test]
    fn round_trip_is_within_half_a_step() {
        let values = Random::new("activation round trip").activations(32 * 61);
        let row = Activations::quantise(&values);
        for (index, decoded) in row.dequantise().into_iter().enumerate() {
            let bound = tolerance::int8_rounding(row.scales[index / 32]);
            assert!((decoded - f64::from(values[index])).abs() <= bound, "value {index}");
        }
    }
}
