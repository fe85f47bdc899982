//! Choosing the largest values.
//!
//! One order decides: a larger value comes first; among equal values (−0 and +0 are equal) the lower index does; a NaN
//! comes after every number, −∞ included, and NaNs are equal among themselves. The order is total, so every non-empty
//! row has an answer.

use std::cmp::Ordering;

/// Index of the first value in that order; `None` for an empty row.
pub fn argmax(values: &[f32]) -> Option<usize> {
    (0..values.len()).min_by(|&a, &b| order(values, a, b))
}

/// The first `k` values in that order, with their indices; all of them when there are fewer.
pub fn top_k(values: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|&a, &b| order(values, a, b));
    indices
        .into_iter()
        .take(k)
        .map(|index| (index, values[index]))
        .collect()
}

/// Softmax probability of element `index`, and the weighted mean of the distances |value - values\[index\]| that its error
/// bound needs.
pub fn confidence(values: &[f64], index: usize) -> (f64, f64) {
    let distances = values.iter().map(|value| value - values[index]);
    let (sum, weighted) = distances.fold((0.0, 0.0), |(sum, weighted), distance| {
        (sum + distance.exp(), weighted + distance.exp() * distance.abs())
    });
    (1.0 / sum, weighted / sum)
}

fn order(values: &[f32], a: usize, b: usize) -> Ordering {
    let by_value = match (values[a].is_nan(), values[b].is_nan()) {
        (false, false) => values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal),
        (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
    };
    by_value.then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const NAN: f32 = f32::NAN;
    const LOW: f32 = f32::NEG_INFINITY;

    #[test]
    fn confidences_add_up_to_one() {
        let values = [0.5, -1.0, 2.0, 2.0];
        let total: f64 = (0..4).map(|index| confidence(&values, index).0).sum();
        assert!((total - 1.0).abs() < 1e-15);
        assert_eq!(confidence(&[7.0], 0), (1.0, 0.0));
    }

    #[test]
    fn ties_zeros_and_nan() {
        let table: [(&[f32], Option<usize>); 8] = [
            (&[], None),
            (&[1.0, 3.0, 3.0], Some(1)),
            (&[-0.0, 0.0], Some(0)),
            (&[0.0, -0.0], Some(0)),
            (&[NAN, -1.0, NAN], Some(1)),
            (&[NAN, LOW], Some(1)),
            (&[NAN, NAN], Some(0)),
            (&[LOW, f32::INFINITY, NAN], Some(1)),
        ];
        for (values, expected) in table {
            assert_eq!(argmax(values), expected, "{values:?}");
        }
    }

    #[test]
    fn top_k_is_sorted_and_starts_with_argmax() {
        assert_eq!(top_k(&[1.0, 2.0, 1.0, 2.0, 0.0], 3), [(1, 2.0), (3, 2.0), (0, 1.0)]);
        assert_eq!(top_k(&[1.0], 5), [(0, 1.0)]);
        let values = Random::new("top k").normals(997, 1.0);
        let top = top_k(&values, 41);
        assert_eq!(Some(top[0].0), argmax(&values));
        let last = top[40].1;
        assert!(top.windows(2).all(|pair| pair[0].1 > pair[1].1));
        assert_eq!(values.iter().filter(|&&value| value > last).count(), 40);
    }
}
