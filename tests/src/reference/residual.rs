//! Ends of branches: what a layer adds onto the residual stream, and the two parts of a per-layer embedding.

use super::norm::rms_norm;

/// `(x + rms_norm(branch) * w) * scale` over rows of `cols`, and for each element the size of the normalised branch.
pub fn residual_norm(x: &[f64], branch: &[f64], w: &[f64], eps: f64, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let added = rms_norm(branch, w.len(), Some(w), eps);
    let out = x.iter().zip(&added).map(|(x, added)| (x + added) * scale).collect();
    (out, added.into_iter().map(f64::abs).collect())
}

/// `(rms_norm(context * scale) * w + token) / sqrt(2)` over rows of `w.len()`, and for each element the size of the
/// normalised context.
pub fn ple_combine(context: &[f64], token: &[f64], w: &[f64], scale: f64, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let scaled: Vec<f64> = context.iter().map(|value| value * scale).collect();
    let parts = rms_norm(&scaled, w.len(), Some(w), eps);
    let out = parts
        .iter()
        .zip(token)
        .map(|(part, token)| (part + token) / 2.0_f64.sqrt())
        .collect();
    (out, parts.into_iter().map(f64::abs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_worked_by_hand() {
        // mean square of (3, 4) is 12.5; with eps 3.5 the divisor is 4
        let (out, sizes) = residual_norm(&[1.0, 2.0], &[3.0, 4.0], &[2.0, -1.0], 3.5, 2.0);
        assert_eq!((out, sizes), (vec![5.0, 2.0], vec![1.5, 1.0]));
        let (out, sizes) = ple_combine(&[1.5, 2.0], &[0.5, 3.0], &[2.0, -1.0], 2.0, 3.5);
        assert_eq!(sizes, [1.5, 1.0]);
        assert!((out[0] - 2.0_f64.sqrt()).abs() < 1e-15 && (out[1] - 2.0_f64.sqrt()).abs() < 1e-15);
    }
}
