//! How many tokens lie how far below the best, and what they weigh.

use tilekiln_dsl::prelude::*;

use super::mass::{LOG2_E, MASS_BITS, mass};
use super::settings::Chooser;
use super::share::{CHUNK, MOST_ITEMS, Share, Split, THREADS, VECTOR, best_logit, is_eligible};
use super::wide::warp_sum_wide;
use crate::registry::prelude::*;

/// Bins of a histogram: one for each lane of a warp.
pub const BINS: usize = 32;
/// A thread's entry holds the mass of its tokens below this bit and their number from it on.
const COUNT_BIT: u32 = MASS_BITS + MOST_ITEMS.ilog2() + 1;

/// which bin a logit is in: half a nat wide up to 8 nats below the best, then 1 nat up to 16, then 2; the last has the rest
#[device_fn]
pub fn bin_of(logit: Val<f32>, best: Val<f32>) -> Val<u32> {
    let nats = select(logit == best, 0.0, best - logit);
    let is_far = nats >= 8.0;
    let is_farthest = nats >= 16.0;
    let scaled = select(is_farthest, nats * 0.5, select(is_far, nats, nats * 2.0));
    /// whole before it is added to: a sum of floats may round up to the next bin
    let first = select(is_farthest, 16u32, select::<u32>(is_far, 8, 0));
    min(scaled.to::<u32>(), BINS as u32 / 2 - 1) + first
}

/// What [`bin_of`] gives, on the CPU.
pub fn bin_of_logit(logit: f32, best: f32) -> u32 {
    let nats = if logit == best { 0.0 } else { best - logit };
    let (scaled, first) = match nats {
        _ if nats >= 16.0 => (nats * 0.5, 16),
        _ if nats >= 8.0 => (nats, 8),
        _ => (nats * 2.0, 0),
    };
    (scaled as u32).min(BINS as u32 / 2 - 1) + first
}

/// One block per chunk (x) and row (y): number and mass (at temperature 1) of the chunk's tokens in each bin.
///
/// Rows from which nothing is cut are left out.
#[kernel(threads = split.threads)]
pub fn chunk_histogram(
    #[shape(rows, cols)] logits: In<f32>,
    #[shape(rows)] choosers: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(rows, chunks)] best_keys: In<u32>,
    #[shape(rows, chunks, BINS)] counts: Out<u32>,
    #[shape(rows, chunks, BINS)] masses: Out<u64>,
    cols: u32,
    #[comptime] split: Split,
) {
    let share = Share::of_block(cols, split);
    if !Chooser::of(choosers, settings, share.row()).cuts() {
        return;
    }
    let values = share.load(logits);
    let best = best_logit(best_keys, share.row(), grid_size());
    /// each thread counts for itself
    let entries = Shared::<u64>::new(BINS * split.threads);
    for bin in unrolled_by(8, 0..BINS) {
        entries[bin * split.threads + thread_index()] = 0u64;
    }
    for item in share.items() {
        if is_eligible(values[item]) {
            let at = bin_of(values[item], best) * split.threads + thread_index();
            let one = mass(values[item], best, f32(LOG2_E)) | 1u64 << COUNT_BIT;
            entries[at] = entries[at] + one;
        }
    }
    barrier();
    for bin in stepped(warp_index(), BINS, split.threads / 32) {
        let mut count = u32(0);
        let mut weight = u64(0);
        for warp in unrolled(0..split.threads / 32) {
            let entry = entries[bin * split.threads + warp * 32 + lane_index()];
            count += (entry >> COUNT_BIT).to::<u32>();
            weight += entry & ((1u64 << COUNT_BIT) - 1);
        }
        let (all, whole) = (warp_sum(count), warp_sum_wide(weight));
        if lane_index() == 0 {
            let at = (share.row() * grid_size() + block_index()) * BINS + bin;
            counts[at] = all;
            masses[at] = whole;
        }
    }
}

/// Registration of [`chunk_histogram`].
pub const ENTRY: Entry = Entry {
    name: "chunk_histogram",
    parameters: &[CHUNK, VECTOR, THREADS],
    build: |settings| Ok(chunk_histogram(Split::of(settings)?)),
    example: |settings, random| super::example::histogram(settings, random),
};
