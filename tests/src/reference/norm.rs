//! Root-mean-square normalisation.

/// Rows of `cols`: `x / sqrt(mean(x²) + eps) * weight`. Without weights they are 1.
///
/// # Panics
/// When `x` is not whole rows, or `weight` does not have `cols` elements.
pub fn rms_norm(x: &[f64], cols: usize, weight: Option<&[f64]>, eps: f64) -> Vec<f64> {
    assert!(
        cols > 0 && x.len().is_multiple_of(cols),
        "{} values are not whole rows of {cols}",
        x.len()
    );
    assert!(
        weight.is_none_or(|weight| weight.len() == cols),
        "a weight for each of {cols} columns"
    );
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(cols) {
        let mean_square = row.iter().map(|value| value * value).sum::<f64>() / cols as f64;
        let inverse = 1.0 / (mean_square + eps).sqrt();
        out.extend(
            row.iter()
                .enumerate()
                .map(|(col, value)| value * inverse * weight.map_or(1.0, |w| w[col])),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::widen;

    #[test]
    fn a_row_worked_by_hand() {
        // mean square of (3, 4) is 12.5; with eps 3.5 the divisor is 4
        assert_eq!(rms_norm(&[3.0, 4.0], 2, Some(&[2.0, -1.0]), 3.5), [1.5, -1.0]);
        assert_eq!(rms_norm(&[0.0, 0.0], 2, None, 1e-6), [0.0, 0.0]);
    }

    #[test]
    fn rows_come_out_with_unit_mean_square_whatever_their_scale() {
        let x = widen(&Random::new("rms norm").normals(3 * 143, 1e3));
        for row in rms_norm(&x, 143, None, 1e-12).chunks_exact(143) {
            let mean_square = row.iter().map(|v| v * v).sum::<f64>() / 143.0;
            assert!((mean_square - 1.0).abs() < 1e-12);
        }
    }
}
