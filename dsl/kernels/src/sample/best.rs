//! The best token of a row, in two steps: the first one is spread over many blocks.

use tilekiln_dsl::prelude::*;

use super::mass::{LOWEST_KEY, order_key};
use super::share::{CHUNK, Share, Split, THREADS, VECTOR};
use super::{NOT_A_NUMBER, NOTHING_LEFT};
use crate::registry::prelude::*;

/// A key and where it was found. Larger is better, then earlier.
#[derive(Clone, Copy)]
pub struct Found {
    /// See [`order_key`].
    pub key: Val<u32>,
    /// Where; [`NOT_A_NUMBER`] where the key is 0.
    pub token: Val<u32>,
}

impl Found {
    /// Takes over another where it is better.
    #[tile_fn]
    fn improve(&mut self, key: Val<u32>, token: Val<u32>) {
        let better = key > self.key || (key == self.key && token < self.token);
        self.key = select(better, key, self.key);
        self.token = select(better, token, self.token);
    }

    /// The best of the warp, on every lane.
    #[tile_fn]
    fn of_warp(&mut self) {
        let key = warp_max(self.key);
        self.token = warp_min(select(self.key == key, self.token, NOT_A_NUMBER));
        self.key = key;
    }

    /// The token, or a code where none can be chosen.
    #[tile_fn]
    pub fn choice(&self) -> Val<u32> {
        let code = select(self.key == 0, NOT_A_NUMBER, NOTHING_LEFT);
        select(self.key > LOWEST_KEY, self.token, code)
    }
}

/// One block per chunk (x) and row (y): the key of the chunk's largest logit and its token, the first one on ties.
///
/// Where no logit is a number, the key is 0 and the token 0xffffffff.
#[kernel(threads = split.threads)]
pub fn chunk_best(
    #[shape(rows, cols)] logits: In<f32>,
    #[shape(rows, chunks)] keys: Out<u32>,
    #[shape(rows, chunks)] tokens: Out<u32>,
    cols: u32,
    #[comptime] split: Split,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let share = Share::of_block(cols, split);
    let mut key = u32(0);
    let mut token = u32(NOT_A_NUMBER);
    let mut best = Found { key, token };
    let values = share.load(logits);
    for item in share.items() {
        let candidate = order_key(values[item]);
        /// tokens of a thread come in order: the first one stays on ties
        let better = candidate > best.key;
        best.key = select(better, candidate, best.key);
        best.token = select(better, share.token(item), best.token);
    }
    best.of_warp();
    let warp_keys = Shared::<u32>::new(split.threads / 32);
    let warp_tokens = Shared::<u32>::new(split.threads / 32);
    if lane_index() == 0 {
        warp_keys[warp_index()] = best.key;
        warp_tokens[warp_index()] = best.token;
    }
    barrier();
    if thread_index() == 0 {
        for warp in device_range(1, split.threads / 32) {
            best.improve(warp_keys[warp], warp_tokens[warp]);
        }
        let at = share.row() * grid_size() + block_index();
        keys[at] = best.key;
        tokens[at] = best.token;
    }
}

/// The best of a row from its chunks, on every lane.
#[tile_fn]
pub fn best_of_chunks(keys: In<u32>, tokens: In<u32>, row: Val<u32>, chunks: Val<u32>) -> Found {
    let mut key = u32(0);
    let mut token = u32(NOT_A_NUMBER);
    let mut best = Found { key, token };
    for chunk in lane_strided(chunks) {
        best.improve(keys[row * chunks + chunk], tokens[row * chunks + chunk]);
    }
    best.of_warp();
    best
}

/// One warp per row: the token of the largest logit from what [`chunk_best`] found, the first one on ties.
///
/// 0xffffffff where no logit is a number, 0xfffffffe where none is above minus infinity.
#[kernel(threads = 32)]
pub fn best_token(
    #[shape(rows, chunks)] keys: In<u32>,
    #[shape(rows, chunks)] tokens: In<u32>,
    #[shape(rows)] chosen: Out<u32>,
    chunks: u32,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let row = block_index();
    let choice = best_of_chunks(keys, tokens, row, chunks).choice();
    if lane_index() == 0 {
        chosen[row] = choice;
    }
}

/// Registration of [`chunk_best`].
pub const CHUNK_BEST: Entry = Entry {
    name: "chunk_best",
    parameters: &[CHUNK, VECTOR, THREADS],
    build: |settings| Ok(chunk_best(Split::of(settings)?)),
    example: |settings, random| {
        let split = Split::of(settings)?;
        let (rows, cols) = (random.size(1, 3), random.size(1, 900) * split.vector);
        let chunks = split.chunks(cols);
        Ok(Example {
            grid: [chunks as u32, rows as u32, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                Argument::output(rows * chunks * 4),
                Argument::output(rows * chunks * 4),
                Argument::U32(cols as u32),
            ],
        })
    },
};

/// Registration of [`best_token`].
pub const BEST_TOKEN: Entry = Entry {
    name: "best_token",
    parameters: &[],
    build: |_| Ok(best_token()),
    example: |_, random| {
        let (rows, chunks) = (random.size(1, 5), random.size(1, 70));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.below(rows * chunks, u32::MAX),
                random.below(rows * chunks, 262_144),
                Argument::output(rows * 4),
                Argument::U32(chunks as u32),
            ],
        })
    },
};
