//! Dense matrix products.

use super::Sum;

/// Sizes of C `[m, n]`, summed over k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
}

/// C = A·Bᵀ with A `[m, k]` and B `[n, k]`: both operands in rows of k, as weights and activations are.
///
/// # Panics
/// When the lengths do not fit the shape.
pub fn matmul_transposed<T: Copy + Into<f64>>(a: &[T], b: &[T], shape: MatmulShape) -> Vec<Sum> {
    product(a, b, shape, |inner, col| col * shape.k + inner)
}

/// C = A·B with A `[m, k]` and B `[k, n]`.
///
/// # Panics
/// When the lengths do not fit the shape.
pub fn matmul<T: Copy + Into<f64>>(a: &[T], b: &[T], shape: MatmulShape) -> Vec<Sum> {
    product(a, b, shape, |inner, col| inner * shape.n + col)
}

fn product<T: Copy + Into<f64>>(
    a: &[T],
    b: &[T],
    shape: MatmulShape,
    b_index: impl Fn(usize, usize) -> usize,
) -> Vec<Sum> {
    let MatmulShape { m, n, k } = shape;
    assert_eq!((a.len(), b.len()), (m * k, n * k), "operands of {shape:?}");
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for col in 0..n {
            out.push(
                (0..k)
                    .map(|inner| a[row * k + inner].into() * b[b_index(inner, col)].into())
                    .collect(),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::values;
    use half::f16;

    #[test]
    fn a_product_worked_by_hand() {
        let shape = MatmulShape { m: 2, n: 2, k: 3 };
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0_f32];
        let b = [1.0, 0.0, -1.0, 2.0, 1.0, 0.5];
        assert_eq!(values(&matmul_transposed(&a, &b, shape)), [-2.0, 5.5, -2.0, 16.0]);
        let c = matmul(&a, &b, shape);
        assert_eq!(values(&c), [2.0, 5.5, 5.0, 13.0]);
        // first column of B: 1, -1, 1
        assert_eq!((c[0].magnitude, c[0].energy), (6.0, 14.0));
    }

    #[test]
    fn both_layouts_agree() {
        let mut random = Random::new("matmul layouts");
        let shape = MatmulShape { m: 13, n: 11, k: 29 };
        let (a, b) = (random.activations_f16(13 * 29), random.activations_f16(11 * 29));
        let turned: Vec<f16> = (0..29 * 11).map(|i| b[i % 11 * 29 + i / 11]).collect();
        assert_eq!(matmul_transposed(&a, &b, shape), matmul(&a, &turned, shape));
    }
}
