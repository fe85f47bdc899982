//! From values to codewords: what both the cache and the interchange format store.

use tilekiln_dsl::prelude::*;

use super::GROUP;
use super::format::{TurboFormat, codeword, nearest};
use super::rotation::{SIGNS_1, SIGNS_2, ordered_sum, rotate};

/// The norm of a group that is stored as zeros, at most.
const SHORTEST: f32 = 1e-10;
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

impl Snapped {
    /// With the scale as it is stored.
    fn new<Format: TurboFormat>(index: Val<u32>, scale: Val<f32>) -> Self {
        let scale = if Format::AS_FIRST { scale } else { min(scale, LARGEST) };
        Self { index, scale }
    }
}

/// Normalises, rotates and snaps groups of 128 values, one value a thread. All threads of the block take part; `terms`
/// holds one value a thread.
#[tile_fn]
pub fn snap<Format: TurboFormat>(value: Val<f32>, thread: Val<u32>, terms: Shared<f32>) -> Snapped {
    terms[thread] = value.mul_unfused(value);
    barrier();
    let norm = ordered_sum(terms, thread).sqrt();
    barrier();
    let unit = value.mul_unfused(inverse_of(norm));
    let unit = if_finite::<Format>(norm, unit);
    let index = nearest::<Format>(rotate(unit, thread, terms, SIGNS_1, SIGNS_2));
    barrier();
    let snapped = codeword::<Format>(index);
    terms[thread] = snapped.mul_unfused(snapped);
    barrier();
    let length = ordered_sum(terms, thread).sqrt();
    barrier();
    let norm = if_finite::<Format>(norm, norm);
    let scale = select(length > SHORTEST, norm / length, norm);
    Snapped::new::<Format>(index, scale)
}

/// The same for a cache, whose bytes nobody compares: rotates before it normalises, which is one vector up to rounding, and
/// adds in the order that takes least time, the same on every device. A scale may differ by its last bit from that of
/// [`snap`], and a value beside a threshold may have the codeword on its other side.
///
/// `codes` gets every thread's index; a barrier has passed when this returns.
#[tile_fn]
pub fn snap_for_cache<Format: TurboFormat>(
    value: Val<f32>,
    thread: Val<u32>,
    exchange: Shared<f32>,
    codes: Shared<u8>,
    #[comptime] threads: usize,
) -> Snapped {
    let squares = Shared::<f32>::new(threads / 32);
    let of_warp = warp_sum(value.mul_unfused(value));
    if lane_index() == 0 {
        squares[warp_index()] = of_warp;
    }
    /// its barrier is the one between the sums of warps and of groups
    let rotated = rotate(value, thread, exchange, SIGNS_1, SIGNS_2);
    let total = group_total(squares, thread);
    let inverse = select(total > SHORTEST * SHORTEST, total.rsqrt(), f32(0.0));
    let coordinate = rotated.mul_unfused(inverse);
    let index = nearest::<Format>(if_finite::<Format>(total, coordinate));
    codes[thread] = index;
    let snapped = codeword::<Format>(index);
    let lengths = Shared::<f32>::new(threads / 32);
    let of_warp = warp_sum(snapped.mul_unfused(snapped));
    if lane_index() == 0 {
        lengths[warp_index()] = of_warp;
    }
    barrier();
    /// no codeword is zero
    let scale = if_finite::<Format>(total, total.sqrt()) * group_total(lengths, thread).rsqrt();
    Snapped::new::<Format>(index, scale)
}

/// The sum over this thread's group of what its four warps have.
#[tile_fn]
fn group_total(of_warps: Shared<f32>, thread: Val<u32>) -> Val<f32> {
    let four = of_warps.load_as::<Pack<f32, 4>>(thread / GROUP * (GROUP / 32));
    four.component(0) + four.component(1) + (four.component(2) + four.component(3))
}

/// One over a norm: nothing where it is too short.
#[tile_fn]
fn inverse_of(norm: Val<f32>) -> Val<f32> {
    select(norm > SHORTEST, 1.0 / norm, f32(0.0))
}

/// The value, or zero in a group whose norm (or its square) is not finite: what reads it must not become NaN.
#[tile_fn]
fn if_finite<Format: TurboFormat>(norm: Val<f32>, value: Val<f32>) -> Val<f32> {
    if Format::AS_FIRST {
        value
    } else {
        select(norm < f32::INFINITY, value, f32(0.0))
    }
}
