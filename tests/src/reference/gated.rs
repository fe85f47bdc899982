//! Pointwise functions: GELU in its tanh approximation, and the soft cap.

/// What is inside of the tanh of [`gelu`].
pub fn gelu_inner(u: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u.powi(3))
}

/// GELU: `u / 2 * (1 + tanh(sqrt(2 / pi) * (u + 0.044715 u³)))`.
pub fn gelu(u: f64) -> f64 {
    0.5 * u * (1.0 + gelu_inner(u).tanh())
}

/// `cap * tanh(x / cap)`.
pub fn softcap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of PyTorch's `gelu(approximate="tanh")` in f64.
    #[test]
    fn gelu_has_its_known_values() {
        for (u, expected) in [(0.0, 0.0), (1.0, 0.841_191_990_608), (-1.0, -0.158_808_009_392)] {
            assert!((gelu(u) - expected).abs() < 1e-11, "{u}: {}", gelu(u));
        }
        assert_eq!(gelu(50.0), 50.0);
        assert_eq!(gelu(-50.0), 0.0);
    }

    #[test]
    fn the_cap_is_never_exceeded_and_small_values_pass() {
        assert!((softcap(1e-4, 30.0) - 1e-4).abs() < 1e-14);
        assert_eq!(softcap(1e6, 30.0), 30.0);
        assert!((softcap(30.0, 30.0) - 30.0 * 1.0_f64.tanh()).abs() < 1e-15);
    }
}
