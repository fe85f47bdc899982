//! Sums of 64-bit numbers over a warp and a block. Lanes exchange 32 bits at a time.

use tilekiln_dsl::prelude::*;

#[tile_fn]
fn joined(low: Val<u32>, high: Val<u32>) -> Val<u64> {
    low.to::<u64>() | high.to::<u64>() << 32
}

/// sum over the warp, on every lane
#[device_fn]
pub fn warp_sum_wide(value: Val<u64>) -> Val<u64> {
    let mut sum = value;
    for distance in [16, 8, 4, 2, 1] {
        let low = shuffle_xor(sum.to::<u32>(), distance);
        let high = shuffle_xor((sum >> 32).to::<u32>(), distance);
        sum += joined(low, high);
    }
    sum
}

/// sum over the lanes up to this one
#[device_fn]
pub fn warp_sum_through(value: Val<u64>) -> Val<u64> {
    let mut sum = value;
    for distance in [1, 2, 4, 8, 16] {
        let low = shuffle_up(sum.to::<u32>(), distance);
        let high = shuffle_up((sum >> 32).to::<u32>(), distance);
        sum += select(lane_index() >= distance, joined(low, high), 0u64);
    }
    sum
}

/// the value of a lane, which is the same for all lanes
#[device_fn]
pub fn of_lane(value: Val<u64>, lane: Val<u32>) -> Val<u64> {
    let low = shuffle(value.to::<u32>(), lane);
    let high = shuffle((value >> 32).to::<u32>(), lane);
    joined(low, high)
}

/// What the threads of a block have together.
#[derive(Clone, Copy)]
pub struct BlockSum {
    /// Sum over the threads in front of this one.
    pub before: Val<u64>,
    /// Sum over all threads.
    pub total: Val<u64>,
}

/// Sums over the threads of a block. `warps` holds one entry per warp and may be used again afterwards. Two barriers.
#[tile_fn]
pub fn block_sum_wide(value: Val<u64>, warps: Shared<u64>, #[comptime] threads: usize) -> BlockSum {
    let through = warp_sum_through(value);
    if lane_index() == 31 {
        warps[warp_index()] = through;
    }
    barrier();
    let mut before = through - value;
    let mut total = u64(0);
    for warp in device_range(0, threads / 32) {
        let of_warp = warps[warp];
        before += select(warp < warp_index(), of_warp, 0u64);
        total += of_warp;
    }
    barrier();
    BlockSum { before, total }
}
