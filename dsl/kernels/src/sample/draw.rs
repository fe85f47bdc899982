//! The draw: what is left weighs so much in each chunk, and one number picks a token.

use tilekiln_dsl::prelude::*;

use super::NOTHING_LEFT;
use super::best::best_of_chunks;
use super::mass::{LOWEST_KEY, fraction_of, key_logit, mass, order_key};
use super::settings::Chooser;
use super::share::{CHUNK, Share, Split, THREADS, VECTOR, best_logit, load_row};
use super::wide::{block_sum_wide, warp_sum_wide};
use crate::registry::prelude::*;

/// What is kept of a row.
#[derive(Clone, Copy)]
struct Kept {
    best: Val<f32>,
    scale: Val<f32>,
    min_p: Val<f32>,
    /// Tokens with a larger key are kept, and so many that have this one.
    key: Val<u32>,
    ties: Val<u32>,
}

impl Kept {
    /// By a row's settings and its cut, if it has one.
    #[tile_fn]
    fn of(chooser: Chooser, cuts: In<u32>, row: Val<u32>, best: Val<f32>) -> Self {
        let mut cut_key = u32(LOWEST_KEY);
        let mut cut_ties = u32(0);
        if chooser.cuts() {
            cut_key = cuts[row * 2];
            cut_ties = cuts[row * 2 + 1];
        }
        let scale = chooser.scale();
        let min_p = chooser.min_p();
        Self {
            best,
            scale,
            min_p,
            key: cut_key,
            ties: cut_ties,
        }
    }

    /// The mass of a token whose key is above that of the cut; 0 for others.
    #[tile_fn]
    fn mass_above(&self, logit: Val<f32>) -> Val<u64> {
        let kept = order_key(logit) > self.key;
        select(kept, probable_mass(logit, self.best, self.scale, self.min_p), 0u64)
    }

    /// Whether a token has the key of the cut.
    #[tile_fn]
    fn is_tie(&self, logit: Val<f32>) -> Val<bool> {
        (order_key(logit) == self.key) & is_probable(logit, self.best, self.min_p)
    }
}

/// whether min-p keeps a logit
#[device_fn]
fn is_probable(logit: Val<f32>, best: Val<f32>, min_p: Val<f32>) -> Val<bool> {
    (logit == best) | (logit.sub_unfused(best) >= min_p)
}

/// the mass of a logit, 0 where min-p does not keep it
#[device_fn]
fn probable_mass(logit: Val<f32>, best: Val<f32>, scale: Val<f32>, min_p: Val<f32>) -> Val<u64> {
    select(is_probable(logit, best, min_p), mass(logit, best, scale), 0u64)
}

/// One block per chunk (x) and row (y): the mass, at the row's temperature, of the tokens whose key is above that of the
/// cut, and how many tokens have the key of the cut. Rows for which nothing is drawn are left out.
#[kernel(threads = split.threads)]
pub fn chunk_mass(
    #[shape(rows, cols)] logits: In<f32>,
    #[shape(rows)] choosers: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(rows, chunks)] best_keys: In<u32>,
    #[shape(rows, 2)] cuts: In<u32>,
    #[shape(rows, chunks)] masses: Out<u64>,
    #[shape(rows, chunks)] ties: Out<u32>,
    cols: u32,
    #[comptime] split: Split,
) {
    let share = Share::of_block(cols, split);
    let row = share.row();
    let chooser = Chooser::of(choosers, settings, row);
    if !chooser.draws() {
        return;
    }
    let values = share.load(logits);
    let kept = Kept::of(chooser, cuts, row, best_logit(best_keys, row, grid_size()));
    let mut mass = u64(0);
    let mut equal = u32(0);
    for item in share.items() {
        mass += kept.mass_above(values[item]);
        equal += kept.is_tie(values[item]).to_u32();
    }
    let warp_masses = Shared::<u64>::new(split.threads / 32);
    let warp_ties = Shared::<u32>::new(split.threads / 32);
    let (of_warp, ties_of_warp) = (warp_sum_wide(mass), warp_sum(equal));
    if lane_index() == 0 {
        warp_masses[warp_index()] = of_warp;
        warp_ties[warp_index()] = ties_of_warp;
    }
    barrier();
    if thread_index() == 0 {
        let at = row * grid_size() + block_index();
        let mut all = u64(0);
        let mut all_ties = u32(0);
        for warp in device_range(0, split.threads / 32) {
            all += warp_masses[warp];
            all_ties += warp_ties[warp];
        }
        masses[at] = all;
        ties[at] = all_ties;
    }
}

/// How much of something comes before, and what is left to find.
#[derive(Clone, Copy)]
struct Aim {
    /// The mass behind which the token lies, counted from here.
    target: Val<u64>,
    /// Tokens with the key of the cut in front.
    ties_before: Val<u32>,
}

/// How many of some tokens with the key of the cut are kept where so many come before.
#[tile_fn]
fn kept_ties(ties: Val<u32>, kept: Kept, before: Val<u32>) -> Val<u32> {
    min(ties, kept.ties - min(kept.ties, before))
}

/// Memory of the block.
#[derive(Clone, Copy)]
struct Memory {
    warps: Shared<u64>,
    chunk: Shared<u32>,
    ties: Shared<u32>,
    target: Shared<u64>,
}

/// Finds the chunk in which the token lies. Each thread takes a run of chunks.
#[tile_fn]
fn aim_at_chunk(
    masses: In<u64>,
    ties: In<u32>,
    row: Val<u32>,
    chunks: Val<u32>,
    number: Val<u64>,
    kept: Kept,
    tie_mass: Val<u64>,
    memory: Memory,
    #[comptime] threads: usize,
) -> Aim {
    let each = (chunks + (threads - 1)) / threads;
    let begin = row * chunks + min(thread_index() * each, chunks);
    let end = row * chunks + min((thread_index() + 1) * each, chunks);
    let mut equal = u64(0);
    for chunk in stepped(begin, end, 1u32) {
        equal += ties[chunk].to::<u64>();
    }
    let first_ties = block_sum_wide(equal, memory.warps, threads).before.to::<u32>();
    let mut ties_before = first_ties;
    let mut mine = u64(0);
    for chunk in stepped(begin, end, 1u32) {
        mine += masses[chunk] + kept_ties(ties[chunk], kept, ties_before).to::<u64>() * tie_mass;
        ties_before += ties[chunk];
    }
    let sum = block_sum_wide(mine, memory.warps, threads);
    let target = fraction_of(number, sum.total);
    let mut reached = sum.before;
    ties_before = first_ties;
    if reached <= target && target < reached + mine {
        for chunk in stepped(begin, end, 1u32) {
            let of_chunk = masses[chunk] + kept_ties(ties[chunk], kept, ties_before).to::<u64>() * tie_mass;
            if reached <= target && target < reached + of_chunk {
                memory.chunk[0] = chunk - row * chunks;
                memory.ties[0] = ties_before;
                memory.target[0] = target - reached;
            }
            reached += of_chunk;
            ties_before += ties[chunk];
        }
    }
    barrier();
    let target_inside = memory.target[0];
    let ties_in_front = memory.ties[0];
    Aim {
        target: target_inside,
        ties_before: ties_in_front,
    }
}

/// Finds the token in its chunk. Each thread takes a run of tokens; the one that has it stores it.
#[tile_fn]
fn draw_in_chunk(
    logits: In<f32>,
    chosen: Out<u32>,
    row: Val<u32>,
    cols: Val<u32>,
    aim: Aim,
    kept: Kept,
    tie_mass: Val<u64>,
    memory: Memory,
    #[comptime] split: Split,
) {
    let each = split.chunk / split.threads;
    let first = memory.chunk[0] * split.chunk + thread_index() * each;
    let values = Registers::<f32>::undefined(each);
    for part in unrolled(0..each / split.vector) {
        let loaded = load_row(logits, row, cols, first + part * split.vector, split.vector);
        for i in 0..split.vector {
            values[part * split.vector + i] = loaded[i];
        }
    }
    let weights = Registers::<u64>::undefined(each);
    let mut mine = u64(0);
    let mut equal = u32(0);
    for item in unrolled(0..each) {
        let weight = kept.mass_above(values[item]);
        weights[item] = weight;
        mine += weight;
        equal += kept.is_tie(values[item]).to_u32();
    }
    let before = block_sum_wide(equal.to::<u64>(), memory.warps, split.threads).before;
    let mut ties_before = aim.ties_before + before.to::<u32>();
    mine += kept_ties(equal, kept, ties_before).to::<u64>() * tie_mass;
    let mut reached = block_sum_wide(mine, memory.warps, split.threads).before;
    if reached <= aim.target && aim.target < reached + mine {
        for item in unrolled(0..each) {
            let is_tie = kept.is_tie(values[item]);
            let of_tie = select(is_tie && ties_before < kept.ties, tie_mass, 0u64);
            let weight = weights[item] + of_tie;
            ties_before += is_tie.to_u32();
            if reached <= aim.target && aim.target < reached + weight {
                chosen[row] = first + item;
            }
            reached += weight;
        }
    }
}

/// One block per row: the token that is chosen. In the order of tokens, the one in whose mass the row's number falls; the
/// largest logit where nothing is drawn.
///
/// 0xffffffff where no logit is a number, 0xfffffffe where none is above minus infinity. Row r of the output is row
/// outputs\[r\] of the step; its position says which number of its slot it draws with.
#[kernel(threads = split.threads)]
pub fn draw_token(
    #[shape(rows, cols)] logits: In<f32>,
    #[shape(rows)] choosers: In<u32>,
    #[shape(rows)] outputs: In<u32>,
    #[shape(step_rows)] positions: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(rows, chunks)] best_keys: In<u32>,
    #[shape(rows, chunks)] best_tokens: In<u32>,
    #[shape(rows, 2)] cuts: In<u32>,
    #[shape(rows, chunks)] masses: In<u64>,
    #[shape(rows, chunks)] ties: In<u32>,
    #[shape(rows)] chosen: Out<u32>,
    cols: u32,
    chunks: u32,
    #[comptime] split: Split,
) {
    let row = block_index();
    let chooser = Chooser::of(choosers, settings, row);
    let best = best_of_chunks(best_keys, best_tokens, row, chunks);
    let choice = best.choice();
    let is_drawn = chooser.draws() & (choice < NOTHING_LEFT);
    if !assume_uniform(is_drawn) {
        if thread_index() == 0 {
            chosen[row] = choice;
        }
        return;
    }
    let kept = Kept::of(chooser, cuts, row, key_logit(best.key));
    let tie_mass = mass(key_logit(kept.key), kept.best, kept.scale);
    let warp_sums = Shared::<u64>::new(split.threads / 32);
    let found_chunk = Shared::<u32>::new(1);
    let found_ties = Shared::<u32>::new(1);
    let found_target = Shared::<u64>::new(1);
    let memory = Memory {
        warps: warp_sums,
        chunk: found_chunk,
        ties: found_ties,
        target: found_target,
    };
    let number = chooser.number(positions[outputs[row]]);
    let threads = split.threads;
    let aim = aim_at_chunk(masses, ties, row, chunks, number, kept, tie_mass, memory, threads);
    draw_in_chunk(logits, chosen, row, cols, aim, kept, tie_mass, memory, split);
}

/// Registration of [`chunk_mass`].
pub const MASS: Entry = Entry {
    name: "chunk_mass",
    parameters: &[CHUNK, VECTOR, THREADS],
    build: |settings| Ok(chunk_mass(Split::of(settings)?)),
    example: |settings, random| super::example::mass(settings, random),
};

/// Registration of [`draw_token`].
pub const DRAW: Entry = Entry {
    name: "draw_token",
    parameters: &[
        CHUNK,
        VECTOR,
        choice("threads", "256", "threads per block, a multiple of 32"),
    ],
    build: |settings| {
        let split = Split::of(settings)?;
        settings.require(
            "chunk",
            split.chunk / split.threads <= 16,
            "16 tokens for each thread at most",
        )?;
        Ok(draw_token(split))
    },
    example: |settings, random| super::example::draw(settings, random),
};
