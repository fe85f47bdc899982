//! Where exactly top-k and top-p end.

use tilekiln_dsl::prelude::*;

use super::candidates::PLAN;
use super::mass::{LOG2_E, LOWEST_KEY, MOST_TOKENS, key_logit, mass, part_of};
use super::settings::{Chooser, KEEP_ALL};
use super::share::best_logit;
use super::sort::{first_below, padded, sort_descending};
use super::wide::{block_sum_wide, warp_sum_wide};
use crate::registry::prelude::*;

/// Keys that are sorted at once.
pub const SORTED: usize = 2048;
/// Parts into which a range of keys is split while more candidates are in it.
const PARTS: usize = 16;

/// The candidates of a row.
#[derive(Clone, Copy)]
struct List {
    keys: In<u32>,
    first: Val<u32>,
    count: Val<u32>,
}

/// What a key counts: one token, or its mass.
#[derive(Clone, Copy)]
struct Measure {
    by_mass: Val<bool>,
    best: Val<f32>,
}

impl Measure {
    #[tile_fn]
    fn mass(&self, key: Val<u32>) -> Val<u64> {
        mass(key_logit(key), self.best, f32(LOG2_E))
    }

    #[tile_fn]
    fn of(&self, key: Val<u32>) -> Val<u64> {
        select(self.by_mass, self.mass(key), 1u64)
    }
}

/// The keys among which the cut is: `low` to `high`, `inside` candidates; those above measure `above` together.
#[derive(Clone, Copy)]
struct Range {
    low: Val<u32>,
    high: Val<u32>,
    inside: Val<u32>,
    above: Val<u64>,
}

/// Memory of the block.
#[derive(Clone, Copy)]
struct Memory {
    /// Each thread's sums over each part of a range.
    counts: Shared<u32>,
    measures: Shared<u64>,
    /// The sums of all threads.
    part_counts: Shared<u32>,
    part_measures: Shared<u64>,
    /// One entry per warp.
    warps: Shared<u64>,
    sorted: Shared<u32>,
    found: Shared<u32>,
}

impl Memory {
    #[tile_fn]
    fn of_block(#[comptime] threads: usize) -> Self {
        let counts = Shared::<u32>::new(PARTS * threads);
        let measures = Shared::<u64>::new(PARTS * threads);
        let part_counts = Shared::<u32>::new(PARTS);
        let part_measures = Shared::<u64>::new(PARTS);
        let warps = Shared::<u64>::new(threads / 32);
        let sorted = Shared::<u32>::new(SORTED);
        let found = Shared::<u32>::new(1);
        Self {
            counts,
            measures,
            part_counts,
            part_measures,
            warps,
            sorted,
            found,
        }
    }
}

/// Narrows a range to the one of its parts in which `wanted` is reached.
#[tile_fn]
fn narrow(
    range: &mut Range,
    list: List,
    measure: Measure,
    wanted: Val<u64>,
    memory: Memory,
    #[comptime] threads: usize,
) {
    for part in unrolled(0..PARTS) {
        memory.counts[part * threads + thread_index()] = 0u32;
        memory.measures[part * threads + thread_index()] = 0u64;
    }
    let width = (range.high - range.low) / PARTS + 1;
    for i in strided(list.count, threads) {
        let key = list.keys[list.first + i];
        if key >= range.low && key <= range.high {
            let at = (range.high - key) / width * threads + thread_index();
            memory.counts[at] = memory.counts[at] + 1;
            memory.measures[at] = memory.measures[at] + measure.of(key);
        }
    }
    barrier();
    for part in stepped(warp_index(), PARTS, threads / 32) {
        let mut count = u32(0);
        let mut sum = u64(0);
        for warp in unrolled(0..threads / 32) {
            let at = part * threads + warp * 32 + lane_index();
            count += memory.counts[at];
            sum += memory.measures[at];
        }
        let (all, whole) = (warp_sum(count), warp_sum_wide(sum));
        if lane_index() == 0 {
            memory.part_counts[part] = all;
            memory.part_measures[part] = whole;
        }
    }
    barrier();
    let mut part = u32(0);
    while part < PARTS - 1 && range.above + memory.part_measures[part] < wanted {
        range.above = range.above + memory.part_measures[part];
        part += 1;
    }
    range.inside = memory.part_counts[part];
    range.high = range.high - part * width;
    range.low = select(range.high - range.low < width, range.low, range.high - (width - 1));
}

/// Sorts the candidates of a range, at most [`SORTED`], into shared memory.
#[tile_fn]
fn sort_range(range: Range, list: List, memory: Memory, #[comptime] threads: usize) {
    let mut mine = u32(0);
    for i in strided(list.count, threads) {
        let key = list.keys[list.first + i];
        mine += (key >= range.low && key <= range.high).to_u32();
    }
    let sum = block_sum_wide(mine.to::<u64>(), memory.warps, threads);
    let mut at = sum.before.to::<u32>();
    for i in strided(list.count, threads) {
        let key = list.keys[list.first + i];
        if key >= range.low && key <= range.high {
            memory.sorted[at] = key;
            at += 1;
        }
    }
    let size = padded(range.inside);
    for place in stepped(range.inside + thread_index(), size, threads) {
        memory.sorted[place] = 0u32;
    }
    sort_descending(memory.sorted, size, threads);
}

/// A key, and how many of the tokens that have it are kept.
#[derive(Clone, Copy)]
struct Cut {
    key: Val<u32>,
    ties: Val<u32>,
}

/// Finds the place in the sorted keys at which `wanted` is reached.
#[tile_fn]
fn place_in_sorted(
    cut: &mut Cut,
    range: Range,
    measure: Measure,
    wanted: Val<u64>,
    memory: Memory,
    #[comptime] threads: usize,
) {
    let each = (range.inside + (threads - 1)) / threads;
    let begin = thread_index() * each;
    let end = min(begin + each, range.inside);
    let mut mine = u64(0);
    for place in stepped(begin, end, 1u32) {
        mine += measure.of(memory.sorted[place]);
    }
    let sum = block_sum_wide(mine, memory.warps, threads);
    let mut reached = range.above + sum.before;
    if reached < wanted && reached + mine >= wanted {
        let mut place = begin;
        reached += measure.of(memory.sorted[place]);
        while reached < wanted {
            place += 1;
            reached += measure.of(memory.sorted[place]);
        }
        memory.found[0] = place;
    }
    barrier();
    let place = memory.found[0];
    cut.key = memory.sorted[place];
    cut.ties = place + 1 - first_below(memory.sorted, cut.key + 1, place + 1);
}

/// The mass of the candidates that a cut keeps.
#[tile_fn]
fn mass_kept(cut: Cut, list: List, measure: Measure, memory: Memory, #[comptime] threads: usize) -> Val<u64> {
    let mut mine = u64(0);
    for i in strided(list.count, threads) {
        let key = list.keys[list.first + i];
        mine += select(key > cut.key, measure.mass(key), 0u64);
    }
    let sum = block_sum_wide(mine, memory.warps, threads);
    sum.total + cut.ties.to::<u64>() * measure.mass(cut.key)
}

/// One block per row: the cut of top-k, then of top-p among what top-k keeps.
///
/// cuts\[row\] has a key and how many of the tokens with that key are kept; all with a larger key are. The candidates
/// are sorted. Where there are more than fit shared memory, the range of keys that has the cut is narrowed first. Rows
/// from which nothing is cut are left out.
#[kernel(threads = threads)]
pub fn sampling_cut(
    #[shape(rows)] choosers: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(rows, chunks)] best_keys: In<u32>,
    #[shape(rows, PLAN)] plans: In<u64>,
    #[shape(rows, cols)] candidates: In<u32>,
    #[shape(rows, 2)] cuts: Out<u32>,
    cols: u32,
    chunks: u32,
    #[comptime] threads: usize,
) {
    let row = block_index();
    let chooser = Chooser::of(choosers, settings, row);
    if !chooser.cuts() {
        return;
    }
    let best = best_logit(best_keys, row, chunks);
    let count = plans[(row, 0)].to::<u32>();
    let rank = plans[(row, 1)];
    let mass_above = plans[(row, 2)];
    let mut kept_mass = plans[(row, 3)];
    let first = row * cols;
    let list = List {
        keys: candidates,
        first,
        count,
    };
    let memory = Memory::of_block(threads);
    let mut cut_key = u32(LOWEST_KEY);
    let mut cut_ties = u32(0);
    let mut cut = Cut {
        key: cut_key,
        ties: cut_ties,
    };
    for turn in device_range(0, 2) {
        /// top-k counts tokens, top-p their mass
        let by_mass = turn == 1;
        let measure = Measure { by_mass, best };
        let top_p = chooser.top_p();
        let share = max(part_of(top_p, kept_mass), 1u64) - mass_above;
        let wanted = select(by_mass, select(top_p == KEEP_ALL, 0u64, share), rank);
        if (wanted > 0) & (list.count > 0) {
            search(&mut cut, list, measure, wanted, memory, threads);
            if !by_mass {
                kept_mass = mass_above + mass_kept(cut, list, measure, memory, threads);
            }
        }
    }
    if thread_index() == 0 {
        cuts[(row, 0)] = cut.key;
        cuts[(row, 1)] = cut.ties;
    }
}

/// Finds the cut at which `wanted` is reached.
#[tile_fn]
fn search(cut: &mut Cut, list: List, measure: Measure, wanted: Val<u64>, memory: Memory, #[comptime] threads: usize) {
    let mut low = u32(0);
    let mut high = u32(u32::MAX);
    let mut inside = list.count;
    let mut above = u64(0);
    let mut range = Range {
        low,
        high,
        inside,
        above,
    };
    while range.inside > SORTED && range.low < range.high {
        narrow(&mut range, list, measure, wanted, memory, threads);
    }
    if range.inside > SORTED {
        /// more tokens have the same key than can be sorted: so many that one fewer does not reach what is wanted
        let each = measure.of(range.low);
        let mut fewer = u32(0);
        for bit in (0..MOST_TOKENS.ilog2()).rev() {
            let more = fewer + (1u32 << bit);
            fewer = select(range.above + more.to::<u64>() * each < wanted, more, fewer);
        }
        cut.key = range.low;
        cut.ties = fewer + 1;
    } else {
        sort_range(range, list, memory, threads);
        place_in_sorted(cut, range, measure, wanted, memory, threads);
    }
}

/// Registration of [`sampling_cut`].
pub const ENTRY: Entry = Entry {
    name: "sampling_cut",
    parameters: &[choice("threads", "128", "threads per block, a multiple of 32")],
    build: |settings| Ok(sampling_cut(settings.number("threads")?)),
    example: |_, random| Ok(super::example::cut(random)),
};
