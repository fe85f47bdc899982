//! The tokens among which top-k and top-p end.
//!
//! A histogram tells in which bin the k-th best token is, and in which one top-p can end. What lies in better bins is
//! kept, what lies in worse ones is not; only the tokens of these bins have to be looked at one by one.

use tilekiln_dsl::prelude::*;

use super::histogram::{BINS, bin_of};
use super::mass::{order_key, part_of};
use super::settings::{Chooser, KEEP_ALL};
use super::share::{CHUNK, Share, Split, THREADS, VECTOR, best_logit, is_eligible};
use super::wide::{block_sum_wide, of_lane, warp_sum_through};
use crate::registry::prelude::*;

/// Words of a row's plan.
pub const PLAN: usize = 4;

/// The histogram of a row. Lane b of each warp holds bin b.
#[derive(Clone, Copy)]
struct Histogram {
    count: Val<u32>,
    mass: Val<u64>,
    /// Tokens in the chunks in front of this block's.
    count_before: Val<u32>,
}

/// Adds the histograms of a row's chunks. Each warp takes some, then every warp adds them up. One barrier.
#[tile_fn]
fn histogram_of_row(
    counts: In<u32>,
    masses: In<u64>,
    row: Val<u32>,
    chunks: Val<u32>,
    #[comptime] warps: usize,
) -> Histogram {
    let mut count = u32(0);
    let mut mass = u64(0);
    let mut count_before = u32(0);
    for chunk in stepped(warp_index(), chunks, warps) {
        let at = (row * chunks + chunk) * BINS + lane_index();
        let of_chunk = counts[at];
        count += of_chunk;
        count_before += select(chunk < block_index(), of_chunk, 0u32);
        mass += masses[at];
    }
    let warp_counts = Shared::<u32>::new(warps * BINS);
    let warp_before = Shared::<u32>::new(warps * BINS);
    let warp_masses = Shared::<u64>::new(warps * BINS);
    let own = warp_index() * BINS + lane_index();
    warp_counts[own] = count;
    warp_before[own] = count_before;
    warp_masses[own] = mass;
    barrier();
    count = u32(0);
    mass = u64(0);
    count_before = u32(0);
    for warp in device_range(0, warps) {
        let at = warp * BINS + lane_index();
        count += warp_counts[at];
        count_before += warp_before[at];
        mass += warp_masses[at];
    }
    Histogram {
        count,
        mass,
        count_before,
    }
}

/// Which bins have candidates, and what is known of the rest.
#[derive(Clone, Copy)]
struct Range {
    first: Val<u32>,
    last: Val<u32>,
    candidates: Val<u32>,
    rank: Val<u32>,
    mass_above: Val<u64>,
    total: Val<u64>,
    /// Candidates in the chunks in front of this block's.
    candidates_before: Val<u32>,
}

impl Range {
    /// Whether a logit is a candidate's.
    #[tile_fn]
    fn has(&self, logit: Val<f32>, best: Val<f32>) -> Val<bool> {
        let bin = bin_of(logit, best);
        is_eligible(logit) & (bin >= self.first) & (bin <= self.last)
    }
}

/// The first bin of which a condition holds, the last of all where it holds of none.
#[tile_fn]
fn first_bin(holds: Val<bool>) -> Val<u32> {
    warp_min(select(holds, lane_index(), BINS as u32 - 1))
}

/// Finds the bins in which top-k ends and in which top-p may end.
#[tile_fn]
fn range_of(histogram: Histogram, chooser: Chooser) -> Range {
    let top_k = chooser.top_k();
    let top_p = chooser.top_p();
    let count_through = warp_sum_through(histogram.count.to::<u64>()).to::<u32>();
    let mass_through = warp_sum_through(histogram.mass);
    let total = of_lane(mass_through, u32(31));
    let all = shuffle(count_through, 31);
    let is_limited = (top_k != 0) & (top_k < all);
    let end_of_k = first_bin(count_through >= top_k);
    /// top-k keeps at least what is in better bins than its last one; what top-p needs of that is a lower bound
    let before_end = of_lane(mass_through - histogram.mass, end_of_k);
    let least = part_of(top_p, select(is_limited, before_end, total));
    let end_of_p = first_bin(mass_through >= max(least, 1u64));
    let first = assume_uniform(select(top_p == KEEP_ALL, end_of_k, end_of_p));
    let last = assume_uniform(select(is_limited, end_of_k, end_of_p));
    let is_cut = is_limited || top_p != KEEP_ALL;
    let inside = is_cut && lane_index() >= first && lane_index() <= last;
    let count_above = shuffle(count_through - histogram.count, first);
    let mass_above = of_lane(mass_through - histogram.mass, first);
    let candidates = assume_uniform(warp_sum(select(inside, histogram.count, 0u32)));
    let candidates_before = warp_sum(select(inside, histogram.count_before, 0u32));
    let rank = select(is_limited, top_k - count_above, 0u32);
    Range {
        first,
        last,
        candidates,
        rank,
        mass_above,
        total,
        candidates_before,
    }
}

/// One block per chunk (x) and row (y): lists the keys of the chunk's tokens among which top-k and top-p end.
///
/// The chunks' lists lie one behind the other, in no order that matters. The block of the first chunk writes the row's
/// plan: how many candidates there are; which of them is the last one of top-k, counted from 1, or 0 where top-k keeps
/// all; the mass of the tokens in better bins; the mass of all tokens. Rows from which nothing is cut are left out.
#[kernel(threads = split.threads)]
pub fn chunk_candidates(
    #[shape(rows, cols)] logits: In<f32>,
    #[shape(rows)] choosers: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(rows, chunks)] best_keys: In<u32>,
    #[shape(rows, chunks, BINS)] counts: In<u32>,
    #[shape(rows, chunks, BINS)] masses: In<u64>,
    #[shape(rows, cols)] candidates: Out<u32>,
    #[shape(rows, PLAN)] plans: Out<u64>,
    cols: u32,
    #[comptime] split: Split,
) {
    let share = Share::of_block(cols, split);
    let row = share.row();
    let chooser = Chooser::of(choosers, settings, row);
    if !chooser.cuts() {
        return;
    }
    let values = share.load(logits);
    let best = best_logit(best_keys, row, grid_size());
    let histogram = histogram_of_row(counts, masses, row, grid_size(), split.threads / 32);
    let range = range_of(histogram, chooser);
    if block_index() == 0 && thread_index() == 0 {
        plans[(row, 0)] = range.candidates.to::<u64>();
        plans[(row, 1)] = range.rank.to::<u64>();
        plans[(row, 2)] = range.mass_above;
        plans[(row, 3)] = range.total;
    }
    if range.candidates == 0 {
        return;
    }
    let mut mine = u32(0);
    for item in share.items() {
        mine += range.has(values[item], best).to_u32();
    }
    let warps = Shared::<u64>::new(split.threads / 32);
    let sum = block_sum_wide(mine.to::<u64>(), warps, split.threads);
    let mut at = row * cols + range.candidates_before + sum.before.to::<u32>();
    for item in share.items() {
        if range.has(values[item], best) {
            candidates[at] = order_key(values[item]);
            at += 1;
        }
    }
}

/// Registration of [`chunk_candidates`].
pub const ENTRY: Entry = Entry {
    name: "chunk_candidates",
    parameters: &[CHUNK, VECTOR, THREADS],
    build: |settings| Ok(chunk_candidates(Split::of(settings)?)),
    example: |settings, random| super::example::candidates(settings, random),
};
