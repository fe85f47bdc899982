//! Cached keys and values, and queries.
//!
//! A kernel knows what it stores only within some bound. Formats that choose among few values turn that into two kinds of
//! differences: a scale that becomes the neighbouring f16, and a choice that falls the other way where the value lies
//! beside a border between two. Only there the bound is as large as a step of the format; everywhere else a wrong choice
//! is far outside of it.

use super::{UNIT_BF16, UNIT_F32, rotation, stored_f16};
use crate::reference::cache::{BLOCK, CacheFormat, extreme, nearest_bf16, nearest_f16, snapped};
use crate::reference::turbo::compare::THRESHOLD_MARGIN;
use crate::reference::turbo::{Codec, GROUP};

/// Bounds on a head read back from a cache, which was known within `bounds` when it was stored; the reference is
/// [`CacheFormat::read_back`].
pub fn read_back(format: CacheFormat, head: &[f64], bounds: &[f64]) -> Vec<f64> {
    // rounding is monotonic: what is stored lies between what the ends of the interval become
    let each = |stored: fn(f64) -> f64| {
        let ends =
            |(&x, &bound): (&f64, &f64)| [stored(x - bound), stored(x + bound)].map(|end| (end - stored(x)).abs());
        head.iter()
            .zip(bounds)
            .map(|pair| ends(pair).into_iter().fold(0.0, f64::max))
            .collect()
    };
    let blocks = |of_block: fn(&[f64], &[f64]) -> Vec<f64>| {
        let blocks = head.chunks(BLOCK).zip(bounds.chunks(BLOCK));
        blocks.flat_map(|(x, bounds)| of_block(x, bounds)).collect()
    };
    match format {
        CacheFormat::F32 => bounds.to_vec(),
        CacheFormat::F16 => each(nearest_f16),
        CacheFormat::Bf16 => each(nearest_bf16),
        CacheFormat::Q8 => blocks(q8_block),
        CacheFormat::Q4 => blocks(q4_block),
        CacheFormat::Turbo(codec) => turbo(codec, head, bounds),
    }
}

/// How far the stored f16 of a scale may be from that of `scale`, which is known within the factor 1 ± `relative`.
fn scale_distance(scale: f64, relative: f64) -> f64 {
    let at = |factor: f64| nearest_f16(scale * factor);
    (at(1.0 + relative) - at(1.0 - relative)).abs()
}

/// q8_0: the quotient value / scale passes through four roundings (the 127th, its reciprocal, the product, the half that
/// is added); where it is that near to a half, its quant may be the neighbour.
fn q8_block(block: &[f64], bounds: &[f64]) -> Vec<f64> {
    let (largest, relative) = largest_of(block, bounds);
    let step = largest / 127.0;
    let distance = scale_distance(step, relative);
    let bound = |(&value, &bound): (&f64, &f64)| {
        let quotient = value / step;
        let known_within = bound / step + quotient.abs() * (relative + 4.0 * UNIT_F32);
        let from_half = (quotient.abs().fract() - 0.5).abs();
        let choice = if from_half <= known_within { step } else { 0.0 };
        // the quant times the scale rounds once
        (choice + (quotient.abs() + 0.5) * distance) * 1.001 + UNIT_F32 * value.abs()
    };
    match step > 0.0 {
        true => block.iter().zip(bounds).map(bound).collect(),
        false => bounds.to_vec(),
    }
}

/// q4_0: as [`q8_block`], with a step that has the sign of the extreme value. Where another value of the other sign is as
/// large within the bounds, the whole block may be stored the other way round.
fn q4_block(block: &[f64], bounds: &[f64]) -> Vec<f64> {
    let (largest, relative) = largest_of(block, bounds);
    let narrow: Vec<f32> = block.iter().map(|&value| value as f32).collect();
    let first = f64::from(extreme(&narrow));
    let step = largest / 8.0;
    if step == 0.0 {
        return bounds.to_vec();
    }
    let rival = |value: &f64| value.signum() != first.signum() && value.abs() >= largest * (1.0 - relative);
    if block.iter().any(rival) {
        return vec![2.0 * step; block.len()];
    }
    let distance = scale_distance(step, relative);
    let bound = |(&value, &bound): (&f64, &f64)| {
        let quotient = value / step;
        let known_within = bound / step + (quotient.abs() + 8.5) * (relative + 4.0 * UNIT_F32);
        let from_half = (quotient.abs().fract() - 0.5).abs();
        let choice = if from_half <= known_within { step } else { 0.0 };
        (choice + (quotient.abs() + 0.5) * distance) * 1.001 + UNIT_F32 * value.abs()
    };
    block.iter().zip(bounds).map(bound).collect()
}

/// The largest magnitude of a block, and how well it is known, its division included.
fn largest_of(block: &[f64], bounds: &[f64]) -> (f64, f64) {
    let largest = block.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let bound = bounds.iter().fold(0.0_f64, |largest, &bound| largest.max(bound));
    (largest, bound / largest.max(f64::MIN_POSITIVE) + 2.0 * UNIT_F32)
}

/// Turbo formats, read back in the domain the head came in.
///
/// A coordinate of the unit vector is known within [`THRESHOLD_MARGIN`] (what the format's own arithmetic does) and what
/// the head's bounds add up to in a rotation, Σ bounds / (√128 · norm). Where a threshold is that near, the other
/// codeword may be stored: every value of the head moves by the step between both times scale / √128, and the scale, which
/// keeps the length, by the step's part of that length. Scales are f16 and may be neighbours, 2^-10 at most. Reading
/// rotates back in f32.
fn turbo(codec: &'static Codec, head: &[f64], bounds: &[f64]) -> Vec<f64> {
    let of_head = snapped(codec, head);
    let back = CacheFormat::Turbo(codec).read_back(head);
    let (thresholds, codewords) = (codec.thresholds(), codec.codewords());
    let root = (GROUP as f64).sqrt();
    let mut out = Vec::with_capacity(head.len());
    for (group, norm) in of_head.norms.iter().enumerate() {
        let range = group * GROUP..((group + 1) * GROUP).min(head.len());
        let decoded = &of_head.decoded[group * GROUP..][..GROUP];
        let length = decoded.iter().map(|value| value * value).sum::<f64>().sqrt();
        let magnitude: f64 = decoded.iter().map(|value| value.abs()).sum();
        let margin = f64::from(THRESHOLD_MARGIN)
            + bounds[range.clone()].iter().sum::<f64>() / (root * norm.max(f64::MIN_POSITIVE));
        // moves of the rotated vector, and how much longer it gets, relative to its length
        let (mut moved, mut longer) = (0.0, 0.0);
        for (coordinate, value) in of_head.coordinates[group * GROUP..][..GROUP].iter().zip(decoded) {
            for (number, &threshold) in thresholds.iter().enumerate() {
                if (coordinate - f64::from(threshold)).abs() <= margin {
                    let gap = f64::from(codewords[number + 1] - codewords[number]);
                    // decoded vectors of unit vectors have length 1
                    moved += gap * length * 1.1;
                    longer += (value.abs() / length.max(f64::MIN_POSITIVE) + gap) * gap * 1.1;
                }
            }
        }
        for index in range {
            let of_scale = back[index].abs() * (2.0 * super::UNIT_F16 + longer);
            out.push((of_scale + moved / root) * 1.001 + rotation(magnitude) + UNIT_F32 * back[index].abs());
        }
    }
    out
}

/// A prepared query of f16: known within `bound`, times log₂e, which is rounded as the product is, then rounded to f16.
pub fn query_f16(bound: f64, value: f64) -> f64 {
    stored_f16(value, bound + 2.0 * UNIT_F32 * value.abs())
}

/// A prepared query of two bf16 terms: the second one takes up what the first leaves, but for its own rounding.
pub fn query_bf16(bound: f64, value: f64) -> f64 {
    bound + 2.0 * UNIT_F32 * value.abs() + (value.abs() + bound) * UNIT_BF16 * UNIT_BF16 * 1.01
}

/// Values after a rotation in f32, each known within its own of `bounds` before it.
pub fn rotated(head: &[f64], bounds: &[f64]) -> Vec<f64> {
    let groups = head.chunks(GROUP).zip(bounds.chunks(GROUP));
    groups
        .flat_map(|(values, bounds)| {
            let magnitude: f64 = values.iter().map(|value| value.abs()).sum();
            let before: f64 = bounds.iter().sum();
            vec![rotation(magnitude + before) + before / (GROUP as f64).sqrt(); GROUP]
        })
        .collect()
}
