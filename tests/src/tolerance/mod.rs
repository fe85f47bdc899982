//! How far a result may be from its f64 reference. Every tolerance of the project is derived here, from the types that
//! round and from how many roundings a value passes through; none is chosen until a test passes.
//!
//! # Notation
//! A rounding to nearest in a format with unit roundoff u multiplies by (1 + δ), |δ| ≤ u. A product of n such factors
//! differs from 1 by at most γₙ = n·u / (1 − n·u) ([`gamma`]; Higham, *Accuracy and Stability of Numerical Algorithms*,
//! lemma 3.1). So a sum in which every term passes through at most n roundings is off by at most γₙ·Σ|terms|,
//! **whatever the order of summation**: "additions" below is the longest chain of additions any term passes through.
//! [`chain`] gives it for the usual split over lanes.
//!
//! # Worst case or statistics
//! Bounds on accumulations are worst-case: chains are short on GPUs, and truncating matrix units make errors one-sided,
//! which forbids statistics. Only the rounding of *inputs* to a narrower type (queries or cached values to f16) is
//! treated statistically ([`input_rounding`]): those errors are independent of each other, zero on average, and the
//! worst case is so far from what occurs that it would hide real defects.

pub mod cache;
mod comparison;

pub use comparison::{Comparison, Element, Mismatch, assert_equal, poisoned};

use crate::reference::attention::{ScoreStatistics, Weighted};

/// Unit roundoff of f32, round to nearest.
pub const UNIT_F32: f64 = 1.0 / (1_u64 << 24) as f64;
/// Unit roundoff of f16.
pub const UNIT_F16: f64 = 1.0 / 2048.0;
/// Unit roundoff of bf16.
pub const UNIT_BF16: f64 = 1.0 / 256.0;
/// Largest relative error of an addition that truncates to f32, as the accumulators of matrix units do.
pub const UNIT_TRUNCATED_F32: f64 = 2.0 * UNIT_F32;
/// Half the spacing of f16 subnormals: the largest error of rounding any small value to f16.
pub const SUBNORMAL_F16: f64 = 1.0 / (1_u64 << 25) as f64;

/// Standard deviations allowed to a sum of independent roundings. By Hoeffding's inequality one such sum exceeds
/// λ·u·√Σa² with probability at most 2·exp(−λ²/2), 4.6e-11 for λ = 7: a billion comparisons fail by chance once in
/// twenty runs.
pub const DEVIATIONS: f64 = 7.0;

/// γₙ: relative error of n consecutive roundings with unit roundoff `unit`; infinite when n·u reaches 1.
pub fn gamma(roundings: usize, unit: f64) -> f64 {
    let total = roundings as f64 * unit;
    if total < 1.0 {
        total / (1.0 - total)
    } else {
        f64::INFINITY
    }
}

/// Additions on the longest chain when `lanes` add up `terms` between them, each lane its share in order, and then the
/// lanes' sums as a tree: ⌈terms / lanes⌉ + ⌈log₂ lanes⌉.
pub fn chain(terms: usize, lanes: usize) -> usize {
    terms.div_ceil(lanes) + lanes.next_power_of_two().trailing_zeros() as usize
}

/// Dot product of f32 in f32: a rounding for the product, one for each addition of the chain (a fused multiply-add
/// spares one). `magnitude` is Σ|a||b|.
pub fn dot_f32(additions: usize, magnitude: f64) -> f64 {
    gamma(additions + 1, UNIT_F32) * magnitude
}

/// Dot product of f16 with f32 accumulation, by matrix units or in f32. `magnitude` is Σ|a||b|.
///
/// Products of two 11-bit significands are exact in f32. A matrix unit aligns the 16 products of a step and the
/// accumulator to the largest of them and truncates each of the 17 there, then truncates their sum: 18 errors a step,
/// each at most 2^-23 of the largest partial magnitude. Units that add fewer terms at once, or that keep guard bits, and
/// plain f32 additions, are better.
pub fn dot_f16_inputs(terms: usize, magnitude: f64) -> f64 {
    gamma(matrix_roundings(terms), UNIT_TRUNCATED_F32) * magnitude
}

fn matrix_roundings(terms: usize) -> usize {
    18 * terms.div_ceil(16)
}

/// Error of a dot product whose factors were first rounded to a type of unit roundoff `unit`: Σ a·b·δ with independent
/// δ of zero mean, |δ| ≤ u. `root_energy` is √Σ(a·b)². When both factors were rounded, call with the sum of the units.
pub fn input_rounding(root_energy: f64, unit: f64) -> f64 {
    DEVIATIONS * unit * root_energy
}

/// A result within `bound` of `value`, stored as f16: one more rounding, of a value as large as |value| + bound.
pub fn stored_f16(value: f64, bound: f64) -> f64 {
    bound + (value.abs() + bound) * UNIT_F16 + SUBNORMAL_F16
}

/// A result within `bound` of `value`, stored as bf16.
pub fn stored_bf16(value: f64, bound: f64) -> f64 {
    bound + (value.abs() + bound) * UNIT_BF16
}

/// One f32 multiplication of exact factors: decoded weights and cache values, scaled embeddings.
pub fn product_f32(value: f64) -> f64 {
    UNIT_F32 * value.abs()
}

/// A weight decoded in f32, whose subtraction of a minimum rounds it once, times an f32; `value` is the exact product.
pub fn decoded_product(value: f64) -> f64 {
    gamma(2, UNIT_F32) * value.abs()
}

/// Dot product of decoded weights with f32 activations, fused, by a warp whose lanes take every 32nd group of 32 terms:
/// the weight rounds once, the chain is what a lane adds and five steps of a tree. `magnitude` is Σ|a||b|.
pub fn decoded_dot(terms: usize, magnitude: f64) -> f64 {
    dot_f32(terms.div_ceil(32 * 32) * 32 + 5, magnitude)
}

/// RMS norm in f32 of one element whose exact value is `element`; `additions` is the chain of the sum of squares.
///
/// The terms of that sum are positive: it is off by γ of (additions + 1 for the square) relative, the mean and eps add
/// two roundings; the root halves all of it. A reciprocal square root within 2 ulp (4u) follows, and two products.
pub fn rms_norm(additions: usize, element: f64) -> f64 {
    (gamma(additions + 3, UNIT_F32) / 2.0 + gamma(6, UNIT_F32)) * 1.001 * element.abs()
}

/// A residual element plus a normalised one, times a scale: the norm's error and the sum's rounding are scaled, the product
/// rounds. `normalised` is the size of the exact normalised element.
pub fn residual_norm(additions: usize, x: f64, normalised: f64, scale: f64) -> f64 {
    let sizes = x.abs() + normalised;
    scale.abs() * (rms_norm(additions, normalised) * (1.0 + UNIT_F32) + gamma(2, UNIT_F32) * sizes)
}

/// A normalised context plus a token's part, times a rounded constant `scale`. The context was multiplied before, which
/// adds two roundings to the squares and one to the element; the sum rounds, the constant and the product with it do.
pub fn ple_combine(additions: usize, normalised: f64, token: f64, scale: f64) -> f64 {
    let norm = rms_norm(additions + 2, normalised) + 2.0 * UNIT_F32 * normalised;
    scale * (norm + gamma(3, UNIT_F32) * (normalised + token.abs()))
}

/// A head's element after norm and rotation by an f32 angle; `magnitude` is |a| + |b| of the normalised pair. The mean is a
/// product with a rounded reciprocal: one rounding more than in [`rms_norm`]. Sine and cosine are within 2 ulp (4u),
/// products and their sum add 2u.
pub fn head_norm_rope(additions: usize, magnitude: f64) -> f64 {
    rms_norm(additions + 1, magnitude) + gamma(6, UNIT_F32) * 1.001 * magnitude
}

/// tanh in f32 of an argument with a relative error of n roundings: the argument moves the result by its error times the
/// slope 1 - tanh², the function is within 4 ulp (8u).
fn tanh(roundings: usize, argument: f64) -> f64 {
    let value = argument.tanh();
    let slope = 1.0 / argument.cosh().powi(2);
    1.001 * (gamma(roundings, UNIT_F32) * argument.abs() * slope + 8.0 * UNIT_F32 * value.abs())
}

/// GELU (tanh approximation) of `u` times `b`. The tanh's argument is a sum of two terms of one sign with at most six
/// roundings each (two constants, three products, a sum, a product with one of the constants); 1 + tanh rounds, and so do
/// the products with u and b.
pub fn gated(u: f64, inner: f64, b: f64) -> f64 {
    let one_plus = 1.0 + inner.tanh();
    let factor = tanh(7, inner) + 2.0 * UNIT_F32 * one_plus;
    (0.5 * u * b).abs() * (factor * 1.001 + gamma(2, UNIT_F32) * one_plus)
}

/// cap·tanh(x / cap): the quotient rounds, the tanh is as in [`gated`], the product rounds.
pub fn softcap(x: f64, cap: f64) -> f64 {
    let quotient = x / cap;
    cap.abs() * (tanh(1, quotient) * 1.001 + UNIT_F32 * quotient.tanh().abs())
}

/// 1 / Σ exp(s − r) in f32: the difference, the constant log₂e and the product with it round the exponent by 3u of its
/// size, exp2 is within 2 ulp (4u), the sum of positive terms passes through `additions`, the quotient rounds.
/// `mean_distance` is Σ|s − r|·exp(s − r) / Σ exp(s − r).
pub fn confidence(additions: usize, probability: f64, mean_distance: f64) -> f64 {
    let relative = gamma(3, UNIT_F32) * mean_distance + gamma(additions + 5, UNIT_F32);
    1.001 * relative * probability
}

/// RoPE in f32 of one element: `magnitude` is |a| + |b| of its pair, `angle` the exact angle in radians.
///
/// A frequency evaluated as exp2(−t·log₂θ) has an exponent of up to log₂θ with three roundings, hence a relative error
/// of 3u·ln θ, and 4u of the exponential (2 ulp); a power function within 8 ulp is covered as well. Division by the
/// divisor and multiplication by the position add 2u. An angle error of ε moves the result by at most ε·(|a| + |b|).
/// Sine and cosine are within 2 ulp (4u of at most 1), products and their sum add 2u.
pub fn rope(theta: f64, angle: f64, magnitude: f64) -> f64 {
    let frequency = 3.0 * theta.ln().abs() + 16.0 + 2.0;
    (gamma(frequency.ceil() as usize, UNIT_F32) * angle.abs() + gamma(6, UNIT_F32)) * magnitude
}

/// RoPE in f32 with frequencies from a table: the table's entry was rounded once, its product with the position once more;
/// sine, cosine and the sum as in [`rope`].
pub fn rope_from_table(angle: f64, magnitude: f64) -> f64 {
    (gamma(2, UNIT_F32) * angle.abs() + gamma(6, UNIT_F32)) * magnitude
}

/// The rotation of turbo formats in f32: seven butterflies and one factor, which itself is rounded, hence nine roundings
/// of terms whose sizes add up to Σ|x|/√128. `group_magnitude` is Σ|x| over the group of 128.
pub fn rotation(group_magnitude: f64) -> f64 {
    gamma(9, UNIT_F32) * group_magnitude / 128_f64.sqrt()
}

/// Distance of a value from its int8 activation of scale d: half a step from rounding; d, the steps for 1 and those for the
/// value, at most 127, were rounded to f32 before.
pub fn int8_rounding(scale: f32) -> f64 {
    f64::from(scale) * (0.5 + 3.0 * 128.0 * UNIT_F32)
}

/// Distance of scale times int8, rounded to f32, from a `value` that was known within `bound` when it became int8.
pub fn int8_of(bound: f64, scale: f32, value: f64) -> f64 {
    bound + int8_rounding(scale) + UNIT_F32 * (value.abs() + bound + int8_rounding(scale))
}

/// An int8 scale, a 127th of the largest of values that are known within `bound`: the quotient rounds.
pub fn int8_scale(bound: f64, largest: f64) -> f64 {
    (bound + UNIT_F32 * (largest + bound)) / 127.0
}

/// How far a row product with int8 activations is from the one with the original activations, at most: each weight times
/// its activation's [`int8_rounding`]. `scales` has one entry for every 32 weights.
pub fn int8_activations(weights: &[f64], scales: &[f32]) -> f64 {
    weights
        .chunks(32)
        .zip(scales)
        .map(|(block, &scale)| int8_rounding(scale) * block.iter().map(|w| w.abs()).sum::<f64>())
        .sum()
}

/// Row product of quantised weights and int8 activations. `additions` is the chain over the runs that are summed in f32;
/// `magnitude` the sum of the runs' sizes, scaled parts and minima apart, as
/// [`crate::reference::quant::row_product_int8`] gives it.
///
/// Sums of integer products are exact. A run's sum is converted (1), times the integer scale (1), times the weight's f16
/// scale (1), times the activations' scale (1), minus its minimum, treated alike (1), added to the rest: additions + 5.
pub fn int8_dot(additions: usize, magnitude: f64) -> f64 {
    gamma(additions + 5, UNIT_F32) * magnitude
}

/// Row product of packed weights and int8 activations: as [`int8_dot`], with minima by matrix units, `minima` tiles of
/// them one after the other.
///
/// The minima of a tile are a product of 32 terms, exact ones (a minimum has 6 bits, an activation's sum comes in bf16):
/// two steps of a matrix unit, see [`dot_f16_inputs`]. A sum of activations was rounded before, its step with the sum after.
pub fn packed_dot(additions: usize, minima: usize, magnitude: f64) -> f64 {
    let of_minima = if minima == 0 {
        0.0
    } else {
        gamma(matrix_roundings(32), UNIT_TRUNCATED_F32) + gamma(minima + 1, UNIT_F32)
    };
    int8_dot(additions, magnitude) + of_minima * magnitude
}

/// Distance of a value from the sum of two f16 times a power of two: the first takes 11 bits, which leaves a 2048th, the
/// second 11 of the rest, or what f16's smallest step leaves. A value that vanishes beside `power` is off by as much.
pub fn two_halves(value: f64, power: f64) -> f64 {
    power * SUBNORMAL_F16 + value.abs() * (UNIT_F16 * UNIT_F16 + UNIT_F32)
}

/// Distance of a value from the sum of three bf16, which cut 24 bits into three times 8: only what bf16's smallest step
/// leaves, and the rounding of the sum to f32 by whoever looks at it.
pub fn three_brains(value: f64) -> f64 {
    UNIT_F32 * value.abs() + 2_f64.powi(-133)
}

/// Product of packed halves with activations split into terms: `matrix_terms` of them one after the other in a matrix unit
/// ([`dot_f16_inputs`]), then `additions` with a product. Terms of one value may have different signs: the sum of their
/// sizes is a thousandth larger at most.
pub fn packed_halves(matrix_terms: usize, additions: usize, magnitude: f64) -> f64 {
    let roundings = gamma(matrix_roundings(matrix_terms), UNIT_TRUNCATED_F32) + gamma(additions + 1, UNIT_F32);
    roundings * 1.001 * magnitude
}

/// What adds up products in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accumulation {
    /// Matrix units: see [`dot_f16_inputs`].
    MatrixUnits,
    /// Fused multiply-adds: of a score by the lanes of a warp, then as a tree over them; of values one key after the other.
    Fma {
        /// Lanes of a warp.
        lanes: usize,
    },
}

/// Which types an attention kernel rounds to, besides its f32 accumulators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionArithmetic {
    /// Elements of a query and key.
    pub key_dim: usize,
    /// What adds up scores and weighted values.
    pub accumulation: Accumulation,
    /// Steps of the online softmax: how often earlier sums may be rescaled.
    pub steps: usize,
    /// 16-bit terms that queries (and keys' products with them) and weights are split into: products for each.
    pub terms: [usize; 2],
    /// Unit roundoff the queries are rounded to before the scores; 0 when exact.
    pub query_unit: f64,
    /// How far each element of a query may be from the reference's; 0 when exact.
    pub query_error: f64,
    /// Unit roundoff decoded keys are rounded to; 0 when exact.
    pub key_unit: f64,
    /// Unit roundoff decoded values are rounded to; 0 when exact.
    pub value_unit: f64,
    /// Unit roundoff the weights exp(s − m) are rounded to before they multiply values; 0 for f32.
    pub weight_unit: f64,
}

/// Online-softmax attention, one output element.
///
/// *Scores.* A score is off by at most [`dot_f16_inputs`], or [`dot_f32`] with fused multiply-adds. Scaling, a soft cap
/// (slope at most 1) and the exponent (s − m)·log₂e add six roundings of numbers no larger than twice the scores' magnitude; the exponential adds 4u (2
/// ulp). Every step may rescale earlier weights by a computed exp(m − m'), with those errors again. A rounded query moves
/// a score by [`input_rounding`]; these are all systematic: they may move every key's score in the worst direction.
/// A query whose elements are known within an error moves a score by that times the largest Σ|k|. Rounded keys move
/// scores by as much as rounded queries, but each key's independently.
///
/// *Weights.* With weights w·e^ε, |ε| ≤ δ, the output moves by Σ p·(e^ε − 1)·(v − out) / Σ p·e^ε, because Σp(v − out) = 0.
/// To first order the numerator is at most (systematic ε)·Σp|v − out|, plus [`input_rounding`] over the keys; the rest of
/// the exponential is at most (e^δ − 1 − δ)·Σp|v − out|; the denominator is at least e^−δ.
///
/// *Sums.* The weighted sum and the denominator are accumulations over the visible keys with a product for every rescale;
/// a division follows. A span of keys may begin inside a matrix step, so that it reaches into one step more than it fills.
/// Values and weights rounded to narrower types are off by their units, at worst or independently of
/// each other; a weight too small for a normal f16 by half a subnormal step, relative to a denominator of at least 1.
///
/// Rounding queries dominates all else by far. Tests that draw queries which f16 holds exactly, and say
/// `query_unit: 0.0`, see much smaller defects.
pub fn softmax_weighted_sum(arithmetic: &AttentionArithmetic, scores: &ScoreStatistics, out: &Weighted) -> f64 {
    let exponent = 12.0 * UNIT_F32 * scores.magnitude;
    let score = match arithmetic.accumulation {
        Accumulation::MatrixUnits => dot_f16_inputs(arithmetic.key_dim * arithmetic.terms[0], scores.magnitude),
        Accumulation::Fma { lanes } => dot_f32(chain(arithmetic.key_dim, lanes), scores.magnitude),
    };
    let systematic = score
        + input_rounding(scores.root_energy, arithmetic.query_unit)
        + arithmetic.query_error * scores.key_magnitude
        + (1 + arithmetic.steps) as f64 * (exponent + 4.0 * UNIT_F32);
    let independent = input_rounding(scores.root_energy, arithmetic.key_unit);
    let delta = systematic + independent;
    let first_order = systematic * out.deviation + independent * out.deviation.min(out.deviation_energy.sqrt());
    let moved = delta.exp() * (first_order + (delta.exp_m1() - delta) * out.deviation);

    let sums = match arithmetic.accumulation {
        Accumulation::MatrixUnits => gamma(
            matrix_roundings((scores.visible + 15) * arithmetic.terms[1]) + arithmetic.steps + 2,
            UNIT_TRUNCATED_F32,
        ),
        Accumulation::Fma { .. } => gamma(scores.visible + arithmetic.steps + 2, UNIT_F32),
    };
    let sums = 2.0 * sums;
    let narrowed = |unit: f64, magnitude: f64, energy: f64| (unit * magnitude).min(input_rounding(energy.sqrt(), unit));
    let values = narrowed(arithmetic.value_unit, out.magnitude, out.energy);
    // the denominator may sum the weights before or after they were rounded
    let weights = narrowed(arithmetic.weight_unit, out.magnitude, out.energy).max(narrowed(
        arithmetic.weight_unit,
        out.deviation,
        out.deviation_energy,
    ));
    let vanishing = if arithmetic.weight_unit > UNIT_F32 && scores.denominator > 0.0 {
        SUBNORMAL_F16 * out.total / scores.denominator
    } else {
        0.0
    };
    moved + (2.0 * delta).exp() * (sums * out.magnitude + values + weights + vanishing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::attention::{AttentionShape, Mask, attention};
    use crate::reference::matmul::{MatmulShape, matmul_transposed};
    use crate::reference::norm::rms_norm as exact_rms_norm;
    use crate::reference::rope::Rope;
    use crate::reference::{turbo, widen};
    use half::f16;

    #[test]
    fn gamma_and_chain() {
        assert_eq!(gamma(0, UNIT_F32), 0.0);
        assert!((gamma(1000, UNIT_F32) / (1000.0 * UNIT_F32) - 1.0).abs() < 1e-4);
        assert_eq!(gamma(1 << 24, UNIT_F32), f64::INFINITY);
        for (terms, lanes, expected) in [(100, 1, 100), (100, 32, 9), (5000, 256, 28), (7, 8, 4)] {
            assert_eq!(chain(terms, lanes), expected, "{terms} over {lanes}");
        }
    }

    /// A plain f32 evaluation stays within the bounds, and within two orders of magnitude of them: they are neither
    /// wrong nor so loose that anything passes.
    #[test]
    fn f32_norm_is_within_its_bound_and_a_lost_element_is_not() {
        let cols = 2563;
        let lanes = 128;
        let mut x = Random::new("tolerance norm").normals(cols, 1.0);
        x[cols - 1] = 1.5;
        let want = exact_rms_norm(&widen(&x), cols, None, 1e-6);
        let bounds: Vec<f64> = want.iter().map(|&value| rms_norm(chain(cols, lanes), value)).collect();
        let evaluate = |used: usize| -> Vec<f32> {
            let mut partial: Vec<f32> = (0..lanes)
                .map(|lane| x[..used].iter().skip(lane).step_by(lanes).fold(0.0, |s, v| s + v * v))
                .collect();
            while partial.len() > 1 {
                let high = partial.split_off(partial.len() / 2);
                partial.iter_mut().zip(high).for_each(|(low, high)| *low += high);
            }
            let inverse = 1.0 / (partial[0] / cols as f32 + 1e-6).sqrt();
            x.iter().map(|value| value * inverse).collect()
        };
        let good = Comparison::new("norm", &evaluate(cols), &want, &bounds);
        good.assert();
        assert!(good.max_ratio > 0.01, "{good}");
        assert!(!Comparison::new("norm", &evaluate(cols - 1), &want, &bounds).passed());
    }

    #[test]
    fn f32_matmul_is_within_its_bound_and_a_lost_term_is_not() {
        let mut random = Random::new("tolerance matmul");
        let shape = MatmulShape { m: 5, n: 7, k: 1009 };
        let (a, b) = (random.normals_f16(5 * 1009, 1.0), random.normals_f16(7 * 1009, 1.0));
        let exact = matmul_transposed(&a, &b, shape);
        let want: Vec<f64> = exact.iter().map(|sum| sum.value).collect();
        let bounds: Vec<f64> = exact.iter().map(|sum| dot_f16_inputs(shape.k, sum.magnitude)).collect();
        let evaluate = |k: usize| -> Vec<f32> {
            let dot = |i: usize| {
                let (a, b) = (&a[i / 7 * 1009..][..k], &b[i % 7 * 1009..][..k]);
                a.iter()
                    .zip(b)
                    .fold(0.0_f32, |sum, (a, b)| sum + a.to_f32() * b.to_f32())
            };
            (0..35).map(dot).collect()
        };
        Comparison::new("matmul", &evaluate(1009), &want, &bounds).assert();
        assert!(!Comparison::new("matmul", &evaluate(1008), &want, &bounds).passed());

        let stored: Vec<f16> = evaluate(1009).into_iter().map(f16::from_f32).collect();
        let bounds: Vec<f64> = want
            .iter()
            .zip(&bounds)
            .map(|(&value, &bound)| stored_f16(value, bound))
            .collect();
        Comparison::new("matmul to f16", &stored, &want, &bounds).assert();
    }

    #[test]
    fn f32_rope_is_within_its_bound_and_a_wrong_position_is_not() {
        let spec = Rope {
            head_dim: 64,
            width: 64,
            theta: 1e6,
            divisors: None,
        };
        let x = Random::new("tolerance rope").normals(64 * 2, 1.0);
        let positions = [7, 100_003];
        let exact = widen(&x);
        let want = spec.apply(&exact, &positions);
        let magnitudes = spec.magnitudes(&exact);
        let bounds: Vec<f64> = spec
            .angles(x.len(), &positions)
            .into_iter()
            .zip(magnitudes)
            .map(|(angle, magnitude)| rope(spec.theta, angle, magnitude))
            .collect();
        let evaluate = |offset: u32| -> Vec<f32> {
            let mut out = x.clone();
            for (head, position) in out.chunks_exact_mut(64).zip(positions) {
                for pair in 0..32 {
                    let frequency = (-(pair as f32) / 32.0 * 1e6_f32.log2()).exp2();
                    let (sin, cos) = ((position + offset) as f32 * frequency).sin_cos();
                    let (a, b) = (head[pair], head[pair + 32]);
                    (head[pair], head[pair + 32]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
            out
        };
        Comparison::new("rope", &evaluate(0), &want, &bounds).assert();
        assert!(!Comparison::new("rope", &evaluate(1), &want, &bounds).passed());
    }

    #[test]
    fn f32_rotation_is_within_its_bound() {
        let x = Random::new("tolerance rotation").activations(3 * 128);
        let want = turbo::rotation::rotate_f64(&widen(&x), turbo::rotation::Direction::Forward);
        let magnitude = |group: &[f32]| group.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        let bounds: Vec<f64> = x
            .chunks(128)
            .flat_map(|group| vec![rotation(magnitude(group)); 128])
            .collect();
        let mut got = x.clone();
        turbo::rotation::rotate(&mut got, turbo::rotation::Direction::Forward);
        let comparison = Comparison::new("rotation", &got, &want, &bounds);
        comparison.assert();
        assert!(comparison.max_ratio > 0.02, "{comparison}");
    }

    const DIM: usize = 64;
    const KEYS: usize = 203;
    const STEP: usize = 16;

    /// An online softmax in steps of 16 keys, with queries and weights in f16, as a kernel does it.
    fn online_softmax(q: &[f32], k: &[f16], v: &[f16], skipped: Option<usize>) -> Vec<f32> {
        let q: Vec<f32> = q.iter().map(|&q| f16::from_f32(q).to_f32()).collect();
        let (mut maximum, mut denominator, mut sums) = (f32::NEG_INFINITY, 0.0_f32, vec![0.0_f32; DIM]);
        for first in (0..KEYS).step_by(STEP) {
            let range = first..(first + STEP).min(KEYS);
            let score = |key: usize| {
                let dot = q.iter().zip(&k[key * DIM..]).map(|(q, k)| q * k.to_f32()).sum();
                if skipped == Some(key) { f32::NEG_INFINITY } else { dot }
            };
            let scores: Vec<f32> = range.clone().map(score).collect();
            let next = scores.iter().fold(maximum, |a, &b| a.max(b));
            let rescale = (maximum - next).exp();
            maximum = next;
            denominator *= rescale;
            sums.iter_mut().for_each(|sum| *sum *= rescale);
            for (key, score) in range.zip(scores) {
                let weight = (score - maximum).exp();
                denominator += weight;
                let weight = f16::from_f32(weight).to_f32();
                sums.iter_mut()
                    .zip(&v[key * DIM..])
                    .for_each(|(sum, v)| *sum += weight * v.to_f32());
            }
        }
        sums.into_iter().map(|sum| sum / denominator).collect()
    }

    #[test]
    fn online_softmax_is_within_its_bound_and_a_lost_key_is_not() {
        let mut random = Random::new("tolerance attention");
        let f32_queries = random.normals(DIM, 1.0 / 8.0);
        let f16_queries: Vec<f32> = f32_queries.iter().map(|&q| f16::from_f32(q).to_f32()).collect();
        let (k, v) = (random.normals_f16(KEYS * DIM, 1.0), random.normals_f16(KEYS * DIM, 1.0));
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            key_dim: DIM,
            value_dim: DIM,
            scale: 1.0,
            softcap: None,
        };
        for (q, query_unit) in [(f32_queries, UNIT_F16), (f16_queries, 0.0)] {
            let exact = attention(shape, &widen(&q), &widen(&k), &widen(&v), Mask::None);
            let arithmetic = AttentionArithmetic {
                key_dim: DIM,
                accumulation: Accumulation::MatrixUnits,
                steps: KEYS.div_ceil(STEP),
                terms: [1, 1],
                query_unit,
                query_error: 0.0,
                key_unit: 0.0,
                value_unit: 0.0,
                weight_unit: UNIT_F16,
            };
            let bounds: Vec<f64> = exact
                .out
                .iter()
                .map(|out| softmax_weighted_sum(&arithmetic, &exact.scores[0], out))
                .collect();
            let compare = |skipped| {
                Comparison::new(
                    "attention",
                    &online_softmax(&q, &k, &v, skipped),
                    &exact.values(),
                    &bounds,
                )
            };
            let comparison = compare(None);
            comparison.assert();
            assert!(comparison.max_ratio > 0.005, "{comparison}");
            if query_unit == 0.0 {
                let found = (0..KEYS).filter(|&key| !compare(Some(key)).passed()).count();
                assert!(found * 10 >= KEYS * 8, "{found} of {KEYS} lost keys are found");
            }
        }
    }
}
