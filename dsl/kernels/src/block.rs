//! Reductions over a whole block.

use tilekiln_dsl::prelude::*;

/// sum over the block; every thread returns the total
#[device_fn]
pub fn block_sum(value: Val<f32>, #[comptime] threads: usize) -> Val<f32> {
    let partial = Shared::<f32>::new(threads / 32);
    let of_warp = warp_sum(value);
    if lane_index() == 0 {
        partial[warp_index()] = of_warp;
    }
    barrier();
    let mut total = f32(0.0);
    for warp in device_range(0, threads / 32) {
        total += partial[warp];
    }
    total
}

/// a number and where it was found; the better of two is the larger, then the earlier one
#[derive(Clone, Copy)]
pub struct Found {
    /// The number.
    pub value: Val<f32>,
    /// Its position.
    pub index: Val<u32>,
}

impl Found {
    /// Whether `other` is better: larger, or as large and earlier. NaN is never better.
    #[tile_fn]
    pub fn is_beaten_by(&self, other: &Found) -> Val<bool> {
        other.value > self.value || (other.value == self.value && other.index < self.index)
    }

    /// Takes over `other` where it is better.
    #[tile_fn]
    pub fn improve(&mut self, other: &Found) {
        if self.is_beaten_by(other) {
            self.value = other.value;
            self.index = other.index;
        }
    }
}

/// The best find of the block, on every thread. `values` and `indices` hold one entry per warp.
#[tile_fn]
pub fn block_best(mine: &mut Found, values: Shared<f32>, indices: Shared<u32>, #[comptime] threads: usize) {
    /// best of the warp: compare with lanes 16, 8, 4, 2 and 1 away
    for distance in [16, 8, 4, 2, 1] {
        let value = shuffle_xor(mine.value, distance);
        let index = shuffle_xor(mine.index, distance);
        mine.improve(&Found { value, index });
    }
    /// best of the block
    if lane_index() == 0 {
        values[warp_index()] = mine.value;
        indices[warp_index()] = mine.index;
    }
    barrier();
    for warp in device_range(0, threads / 32) {
        let value = values[warp];
        let index = indices[warp];
        mine.improve(&Found { value, index });
    }
}
