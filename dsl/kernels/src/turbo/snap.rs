//! From values to codewords: what both the cache and the interchange format store.

use tilekiln_dsl::prelude::*;

use super::format::{TurboFormat, codeword, nearest};
use super::rotation::{SIGNS_1, SIGNS_2, ordered_sum, rotate};

/// The largest finite f16.
const LARGEST: f32 = 65504.0;

/// One thread's value of a group, snapped.
#[derive(Clone, Copy)]
pub struct Snapped {
    /// Index of its codeword.
    pub index: Val<u32>,
    /// The group's scale, the same on all of its threads: |x| / |codeword vector|, so that the decoded vector has the
    /// length of the original.
    pub scale: Val<f32>,
}

/// Normalises, rotates and snaps groups of 128 values, one value a thread. All threads of the block take part; `terms`
/// holds one value a thread.
#[tile_fn]
pub fn snap<Format: TurboFormat>(value: Val<f32>, thread: Val<u32>, terms: Shared<f32>) -> Snapped {
    terms[thread] = value.mul_unfused(value);
    barrier();
    let mut norm = ordered_sum(terms, thread).sqrt();
    barrier();
    let mut unit = value.mul_unfused(select(norm > 1e-10, 1.0 / norm, f32(0.0)));
    if !Format::AS_FIRST {
        /// a group that is not finite is stored as zeros: what reads it must not become NaN
        let is_finite = norm < f32::INFINITY;
        norm = select(is_finite, norm, f32(0.0));
        unit = select(is_finite, unit, f32(0.0));
    }
    let index = nearest::<Format>(rotate(unit, thread, terms, SIGNS_1, SIGNS_2));
    let snapped = codeword::<Format>(index);
    terms[thread] = snapped.mul_unfused(snapped);
    barrier();
    let length = ordered_sum(terms, thread).sqrt();
    barrier();
    let mut scale = select(length > 1e-10, norm / length, norm);
    if !Format::AS_FIRST {
        scale = min(scale, LARGEST);
    }
    Snapped { index, scale }
}
