//! Softmax attention over cached keys and values.

use super::Sum;

/// Heads, sizes and score rules of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads. Query head h reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a query and of a key.
    pub key_dim: usize,
    /// Elements of a value and of an output.
    pub value_dim: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Cap c: a scaled score s becomes `c * tanh(s / c)`, before masking.
    pub softcap: Option<f64>,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Every key.
    None,
    /// Keys at absolute positions up to the query's, and, within a window, fewer than `window` before it.
    Causal {
        /// Position of each query.
        queries: &'a [u32],
        /// Position of each key.
        keys: &'a [u32],
        /// Keys visible, the query's own position included.
        window: Option<u32>,
    },
    /// Numbers added to the scores, `[queries, keys]`; −∞ hides a key.
    Additive(&'a [f32]),
}

impl Mask<'_> {
    /// What is added to the score of a key; `None` when it is hidden.
    pub fn added(&self, query: usize, key: usize, keys: usize) -> Option<f64> {
        match *self {
            Self::None => Some(0.0),
            Self::Causal { queries, keys, window } => {
                let distance = queries[query].checked_sub(keys[key])?;
                window.is_none_or(|window| distance < window).then_some(0.0)
            }
            Self::Additive(mask) => {
                let added = f64::from(mask[query * keys + key]);
                (added > f64::NEG_INFINITY).then_some(added)
            }
        }
    }
}

/// Softmax statistics of one query and head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreStatistics {
    /// Visible keys.
    pub visible: usize,
    /// Largest score; −∞ when no key is visible.
    pub maximum: f64,
    /// Σ exp(score − maximum): at least 1 when a key is visible.
    pub denominator: f64,
    /// Largest scaled Σ|q||k| of any visible key.
    pub magnitude: f64,
    /// Largest scaled √Σ(q·k)² of any visible key.
    pub root_energy: f64,
    /// Largest scaled Σ|k| of any visible key.
    pub key_magnitude: f64,
}

/// One element of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighted {
    /// Σ p·v.
    pub value: f64,
    /// Σ p·|v|.
    pub magnitude: f64,
    /// Σ p·|v − value|: how much the output moves when the weights do.
    pub deviation: f64,
    /// Σ (p·v)².
    pub energy: f64,
    /// Σ (p·(v − value))².
    pub deviation_energy: f64,
    /// Σ |v| over the visible keys.
    pub total: f64,
}

/// Result of [`attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `[queries, heads, value_dim]`.
    pub out: Vec<Weighted>,
    /// `[queries, heads]`.
    pub scores: Vec<ScoreStatistics>,
}

impl Attention {
    /// `[queries, heads, value_dim]`.
    pub fn values(&self) -> Vec<f64> {
        self.out.iter().map(|element| element.value).collect()
    }
}

/// Attention of `queries` `[queries, heads, key_dim]` over `keys` `[keys, kv_heads, key_dim]` and `values`
/// `[keys, kv_heads, value_dim]`, which may come out of any codec. A query that sees no key gets zeros.
///
/// # Panics
/// When the lengths do not fit the shape.
pub fn attention(shape: AttentionShape, queries: &[f64], keys: &[f64], values: &[f64], mask: Mask<'_>) -> Attention {
    let AttentionShape {
        heads,
        kv_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{heads} query heads over {kv_heads} key heads"
    );
    let (key_row, value_row) = (kv_heads * key_dim, kv_heads * value_dim);
    assert!(
        queries.len().is_multiple_of(heads * key_dim),
        "queries are not whole rows of {heads} heads of {key_dim}"
    );
    assert!(
        keys.len().is_multiple_of(key_row),
        "keys are not whole rows of {kv_heads} heads of {key_dim}"
    );
    let key_count = keys.len() / key_row;
    assert_eq!(
        values.len(),
        key_count * value_row,
        "a value for each of {key_count} keys"
    );

    let mut result = Attention {
        out: Vec::new(),
        scores: Vec::new(),
    };
    for (index, q) in queries.chunks_exact(key_dim).enumerate() {
        let (query, head) = (index / heads, index % heads);
        let kv_head = head / (heads / kv_heads);
        let mut statistics = ScoreStatistics {
            visible: 0,
            maximum: f64::NEG_INFINITY,
            denominator: 0.0,
            magnitude: 0.0,
            root_energy: 0.0,
            key_magnitude: 0.0,
        };
        let mut visible: Vec<(usize, f64)> = Vec::new();
        for key in 0..key_count {
            let Some(added) = mask.added(query, key, key_count) else {
                continue;
            };
            let k = &keys[key * key_row + kv_head * key_dim..][..key_dim];
            let dot: Sum = q.iter().zip(k).map(|(q, k)| q * k).collect();
            let scaled = dot.value * shape.scale;
            let score = shape.softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh()) + added;
            statistics.maximum = statistics.maximum.max(score);
            statistics.magnitude = statistics.magnitude.max(dot.magnitude * shape.scale.abs());
            statistics.root_energy = statistics.root_energy.max(dot.energy.sqrt() * shape.scale.abs());
            let key_magnitude = k.iter().map(|k| k.abs()).sum::<f64>() * shape.scale.abs();
            statistics.key_magnitude = statistics.key_magnitude.max(key_magnitude);
            visible.push((key, score));
        }
        for (_, weight) in &mut visible {
            *weight = (*weight - statistics.maximum).exp();
            statistics.denominator += *weight;
        }
        statistics.visible = visible.len();
        let value_of = |key: usize, element: usize| values[key * value_row + kv_head * value_dim + element];
        for element in 0..value_dim {
            result
                .out
                .push(weighted(&visible, statistics.denominator, |key| value_of(key, element)));
        }
        result.scores.push(statistics);
    }
    result
}

fn weighted(visible: &[(usize, f64)], denominator: f64, value_of: impl Fn(usize) -> f64) -> Weighted {
    let mut out = Weighted::default();
    for &(key, weight) in visible {
        let (value, share) = (value_of(key), weight / denominator);
        out.value += share * value;
        out.magnitude += share * value.abs();
        out.energy += (share * value).powi(2);
        out.total += value.abs();
    }
    for &(key, weight) in visible {
        let distance = weight / denominator * (value_of(key) - out.value).abs();
        out.deviation += distance;
        out.deviation_energy += distance * distance;
    }
    out
}

/// [`attention`] of one query over keys and values of its head that are all visible, for much data: `keys` is
/// `[keys, query.len()]`, `values` `[keys, value_dim]`.
///
/// # Panics
/// When the lengths do not fit together.
pub fn attention_of_query(scale: f64, query: &[f64], keys: &[f64], values: &[f64]) -> (ScoreStatistics, Vec<Weighted>) {
    let count = keys.len() / query.len();
    assert!(
        count > 0 && keys.len() == count * query.len() && values.len().is_multiple_of(count),
        "{} values of keys and {} of values for a query of {}",
        keys.len(),
        values.len(),
        query.len()
    );
    let value_dim = values.len() / count;
    let mut statistics = ScoreStatistics {
        visible: count,
        maximum: f64::NEG_INFINITY,
        denominator: 0.0,
        magnitude: 0.0,
        root_energy: 0.0,
        key_magnitude: 0.0,
    };
    let mut weights = Vec::with_capacity(count);
    for key in keys.chunks_exact(query.len()) {
        let (mut dot, mut magnitude, mut energy, mut key_magnitude) = (0.0, 0.0, 0.0, 0.0);
        for (q, k) in query.iter().zip(key) {
            let product = q * k;
            dot += product;
            magnitude += product.abs();
            energy += product * product;
            key_magnitude += k.abs();
        }
        statistics.maximum = statistics.maximum.max(dot * scale);
        statistics.magnitude = statistics.magnitude.max(magnitude * scale.abs());
        statistics.root_energy = statistics.root_energy.max(f64::sqrt(energy) * scale.abs());
        statistics.key_magnitude = statistics.key_magnitude.max(key_magnitude * scale.abs());
        weights.push(dot * scale);
    }
    for weight in &mut weights {
        *weight = (*weight - statistics.maximum).exp();
        statistics.denominator += *weight;
    }
    let mut out = vec![Weighted::default(); value_dim];
    for (weight, values) in weights.iter().zip(values.chunks_exact(value_dim)) {
        let share = weight / statistics.denominator;
        for (out, value) in out.iter_mut().zip(values) {
            let part = share * value;
            out.value += part;
            out.magnitude += part.abs();
            out.energy += part * part;
            out.total += value.abs();
        }
    }
    for (weight, values) in weights.iter().zip(values.chunks_exact(value_dim)) {
        let share = weight / statistics.denominator;
        for (out, value) in out.iter_mut().zip(values) {
            let distance = share * (value - out.value).abs();
            out.deviation += distance;
            out.deviation_energy += distance * distance;
        }
    }
    (statistics, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::widen;

    const SHAPE: AttentionShape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        key_dim: 8,
        value_dim: 3,
        scale: 1.0,
        softcap: None,
    };

    fn inputs(queries: usize, keys: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut random = Random::new("attention");
        let mut draw = |len| widen(&random.normals(len, 1.0));
        (draw(queries * 4 * 8), draw(keys * 2 * 8), draw(keys * 2 * 3))
    }

    fn causal<'a>(queries: &'a [u32], keys: &'a [u32], window: Option<u32>) -> Mask<'a> {
        Mask::Causal { queries, keys, window }
    }

    #[test]
    fn one_key_returns_its_value_to_every_head_of_its_group() {
        let (q, k, v) = inputs(2, 1);
        let result = attention(SHAPE, &q, &k, &v, Mask::None);
        let expected: Vec<f64> = (0..2)
            .flat_map(|_| [&v[..3], &v[..3], &v[3..], &v[3..]].concat())
            .collect();
        assert_eq!(result.values(), expected);
        assert!(
            result
                .scores
                .iter()
                .all(|score| score.denominator == 1.0 && score.visible == 1)
        );
        assert!(result.out.iter().all(|element| element.deviation == 0.0));
    }

    #[test]
    fn equal_scores_average() {
        let (_, k, v) = inputs(1, 5);
        let result = attention(SHAPE, &[0.0; 32], &k, &v, Mask::None);
        for element in 0..3 {
            let mean = (0..5).map(|key| v[key * 6 + element]).sum::<f64>() / 5.0;
            assert!((result.out[element].value - mean).abs() < 1e-15);
        }
    }

    #[test]
    fn two_keys_give_a_logistic_weight() {
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            key_dim: 1,
            value_dim: 1,
            scale: 0.5,
            softcap: Some(2.0),
        };
        let out = attention(shape, &[3.0], &[1.0, 2.0], &[0.0, 1.0], Mask::None).values()[0];
        let cap = |score: f64| 2.0 * (score / 2.0).tanh();
        let expected = 1.0 / (1.0 + (cap(1.5) - cap(3.0)).exp());
        assert!((out - expected).abs() < 1e-15);
    }

    #[test]
    fn edges_of_the_window() {
        let keys = [3, 4, 5, 6, 7, 9];
        let table = [
            (6, None, 4),
            (6, Some(1), 1),
            (6, Some(3), 3),
            (6, Some(4), 4),
            (6, Some(100), 4),
            (8, Some(1), 0), // no key at 8
            (8, Some(2), 1),
            (2, None, 0),
            (9, Some(3), 2),
            (u32::MAX, None, 6),
        ];
        let (q, k, v) = inputs(1, 6);
        for (position, window, visible) in table {
            let result = attention(SHAPE, &q, &k, &v, causal(&[position], &keys, window));
            assert_eq!(
                result.scores[0].visible, visible,
                "query at {position}, window {window:?}"
            );
            if visible == 0 {
                assert!(result.values().iter().all(|&value| value == 0.0));
            }
        }
    }

    #[test]
    fn hidden_keys_do_not_matter_and_order_neither() {
        let (q, k, v) = inputs(1, 6);
        let all = attention(SHAPE, &q, &k, &v, causal(&[12], &[10, 11, 12, 13, 14, 15], None));
        let first = attention(SHAPE, &q, &k[..3 * 16], &v[..3 * 6], Mask::None);
        assert_eq!(all.values(), first.values());

        let order = [2, 0, 1];
        let pick = |rows: &[f64], width: usize| -> Vec<f64> {
            order
                .iter()
                .flat_map(|&row| rows[row * width..(row + 1) * width].to_vec())
                .collect()
        };
        let shuffled = attention(SHAPE, &q, &pick(&k, 16), &pick(&v, 6), Mask::None);
        for (a, b) in shuffled.values().iter().zip(first.values()) {
            assert!((a - b).abs() < 1e-14);
        }
    }

    #[test]
    fn one_query_at_a_time_is_the_same() {
        let mut random = Random::new("one query");
        let mut draw = |len| widen(&random.normals(len, 1.0));
        let (q, k, v) = (draw(8), draw(7 * 8), draw(7 * 3));
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            scale: 0.7,
            ..SHAPE
        };
        let whole = attention(shape, &q, &k, &v, Mask::None);
        let (scores, out) = attention_of_query(0.7, &q, &k, &v);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let of = |s: ScoreStatistics| [s.maximum, s.denominator, s.magnitude, s.root_energy, s.key_magnitude];
        of(scores)
            .into_iter()
            .zip(of(whole.scores[0]))
            .for_each(|(a, b)| close(a, b));
        for (a, b) in out.iter().zip(&whole.out) {
            let of = |w: &Weighted| [w.value, w.magnitude, w.deviation, w.energy, w.deviation_energy, w.total];
            of(a).into_iter().zip(of(b)).for_each(|(a, b)| close(a, b));
        }
    }

    #[test]
    fn an_additive_mask_hides_and_biases() {
        let (q, k, v) = inputs(1, 3);
        let hide = [0.0, f32::NEG_INFINITY, 0.0];
        let result = attention(SHAPE, &q, &k, &v, Mask::Additive(&hide));
        assert_eq!(result.scores[0].visible, 2);
        let shifted = attention(SHAPE, &q, &k, &v, Mask::Additive(&[1.5; 3])).values();
        for (a, b) in shifted.iter().zip(attention(SHAPE, &q, &k, &v, Mask::None).values()) {
            assert!((a - b).abs() < 1e-14);
        }
    }
}
