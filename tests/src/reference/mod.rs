//! What the proof kernels must compute, in f64 and with no thought of speed.
//!
//! Inputs that a kernel reads as f16, bf16, f32 or quantised blocks are converted to f64 exactly; what remains between a
//! kernel and its reference is the kernel's own rounding, which [`crate::tolerance`] bounds. Results that are sums come
//! with the magnitudes those bounds need ([`Sum`]).
//!
//! Shapes are written outermost first; matrices are row-major. The functions panic on lengths that do not fit together:
//! they are called by tests, and a wrong length is a wrong test.

pub mod attention;
pub mod cache;
pub mod gated;
pub mod gather;
pub mod matmul;
pub mod norm;
pub mod quant;
pub mod residual;
pub mod rope;
pub mod sample;
pub mod select;
pub mod stream;
pub mod turbo;

/// A sum and the sizes of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// The sum.
    pub value: f64,
    /// Sum of the terms' absolute values: what worst-case error bounds are proportional to.
    pub magnitude: f64,
    /// Sum of the terms' squares: what statistical error bounds follow from.
    pub energy: f64,
}

impl Sum {
    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.energy += term * term;
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(terms: I) -> Self {
        let mut sum = Self::default();
        terms.into_iter().for_each(|term| sum.add(term));
        sum
    }
}

/// `f64` copies of narrower values.
pub fn widen<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Values of sums.
pub fn values(sums: &[Sum]) -> Vec<f64> {
    sums.iter().map(|sum| sum.value).collect()
}
