//! Products of quantised weights and activations.

use super::activations::{ACTIVATION_BLOCK, Activations};
use super::decode::BlockFormat;
use crate::reference::Sum;

/// One row of quantised weights times unquantised activations.
///
/// # Panics
/// When the lengths differ.
pub fn row_product(format: BlockFormat, weights: &[u8], activations: &[f32]) -> Sum {
    let terms = format.decode_terms(weights);
    assert_eq!(terms.len(), activations.len(), "weights and activations of a row");
    terms
        .iter()
        .zip(activations)
        .map(|(term, &x)| term.weight() * f64::from(x))
        .collect()
}

/// One row of quantised weights times int8 activations.
///
/// The terms of the sum are what a kernel adds in floating point: for each run of 32 weights (16 in Q6_K) the scaled
/// integer sum, and, in formats with minima, minus the scaled minimum times the block's sum of quants.
///
/// # Panics
/// When the lengths differ.
pub fn row_product_int8(format: BlockFormat, weights: &[u8], activations: &Activations) -> Sum {
    let terms = format.decode_terms(weights);
    assert_eq!(
        terms.len(),
        activations.quants.len(),
        "weights and activations of a row"
    );
    let mut sum = Sum::default();
    for (index, run) in terms.chunks_exact(format.sub_block()).enumerate() {
        let first = index * format.sub_block();
        let scale = f64::from(activations.scales[first / ACTIVATION_BLOCK]);
        let quants = || activations.quants[first..].iter().map(|&quant| f64::from(quant));
        sum.add(
            scale
                * run
                    .iter()
                    .zip(quants())
                    .map(|(term, quant)| term.scaled * quant)
                    .sum::<f64>(),
        );
        let offset = run[0].offset;
        if offset != 0.0 {
            sum.add(-scale * offset * quants().take(run.len()).sum::<f64>());
        }
    }
    sum
}

/// Every row of a `[rows, cols]` weight matrix times int8 activations: `[rows]`.
///
/// # Panics
/// When the lengths do not fit.
pub fn matrix_product(format: BlockFormat, weights: &[u8], activations: &Activations) -> Vec<Sum> {
    let row_bytes = format.row_bytes(activations.quants.len());
    assert!(
        weights.len().is_multiple_of(row_bytes),
        "weights are not whole rows of {row_bytes} bytes"
    );
    weights
        .chunks_exact(row_bytes)
        .map(|row| row_product_int8(format, row, activations))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::tolerance;

    #[test]
    fn both_products_agree_with_a_plain_dot_product() {
        let mut random = Random::new("row products");
        for format in BlockFormat::ALL {
            let cols = 3 * 256;
            let weights = random.blocks(format, cols / format.elements());
            let x = random.activations(cols);
            let quantised = Activations::quantise(&x);
            let decoded = format.decode(&weights);

            let exact: f64 = decoded.iter().zip(&x).map(|(w, &x)| w * f64::from(x)).sum();
            let product = row_product(format, &weights, &x);
            assert!((product.value - exact).abs() <= 1e-12 * product.magnitude, "{format}");

            let int8: f64 = decoded.iter().zip(quantised.dequantise()).map(|(w, x)| w * x).sum();
            let product = row_product_int8(format, &weights, &quantised);
            assert!((product.value - int8).abs() <= 1e-12 * product.magnitude, "{format}");
            assert!(product.magnitude >= product.value.abs(), "{format}");

            let bound = tolerance::int8_activations(&decoded, &quantised.scales);
            assert!(
                (int8 - exact).abs() <= bound,
                "{format}: {} over {bound}",
                (int8 - exact).abs()
            );
        }
    }

    /// The integer route a kernel takes, spelled out once for Q4_K.
    #[test]
    fn q4_k_equals_the_integer_route() {
        let mut random = Random::new("q4_k integer route");
        let weights = random.blocks(BlockFormat::Q4_K, 5);
        let x = Activations::quantise(&random.activations(5 * 256));
        let mut expected = 0.0;
        for (b, block) in weights.chunks_exact(144).enumerate() {
            let f16_at = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
            for j in 0..8 {
                let s = &block[4..16];
                let (scale, minimum) = match j {
                    0..4 => (s[j] & 63, s[j + 4] & 63),
                    _ => (
                        (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4),
                        (s[j + 4] >> 4) | ((s[j] >> 6) << 4),
                    ),
                };
                let dot: i32 = (0..32)
                    .map(|l| {
                        let byte = block[16 + j / 2 * 32 + l];
                        let quant = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
                        i32::from(quant) * i32::from(x.quants[b * 256 + j * 32 + l])
                    })
                    .sum();
                let (scale, minimum) = (i32::from(scale) * dot, i32::from(minimum) * x.sums[b * 8 + j]);
                expected +=
                    f64::from(x.scales[b * 8 + j]) * (f16_at(0) * f64::from(scale) - f16_at(2) * f64::from(minimum));
            }
        }
        let product = row_product_int8(BlockFormat::Q4_K, &weights, &x);
        assert!((product.value - expected).abs() <= 1e-12 * product.magnitude);
    }
}
