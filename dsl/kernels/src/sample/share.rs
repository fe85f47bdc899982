//! Which logits a thread looks at: rows are split into chunks, one block each.

use tilekiln_dsl::prelude::*;

use super::mass::key_logit;
use crate::packed::load_vector;
use crate::registry::prelude::*;

/// How rows are split.
#[derive(Clone, Copy, Debug, Comptime)]
pub struct Split {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Tokens that a thread loads at once: 4 where the vocabulary is a multiple of it, else 1.
    pub vector: usize,
    /// Threads of a block.
    pub threads: usize,
}

impl Split {
    /// From settings.
    ///
    /// # Errors
    /// Sizes that do not go into each other.
    pub fn of(settings: &Settings) -> Result<Self, SettingError> {
        let [chunk, vector, threads] = ["chunk", "vector", "threads"].map(|key| settings.number(key));
        let split = Self {
            chunk: chunk?,
            vector: vector?,
            threads: threads?,
        };
        settings.require("vector", [1, 4].contains(&split.vector), "1 or 4")?;
        let fits = (32..=1024).contains(&split.threads) && split.threads.is_multiple_of(32);
        settings.require("threads", fits, "a multiple of 32 up to 1024")?;
        let per_round = split.threads * split.vector;
        let fits = split.chunk.is_multiple_of(per_round) && (1..=MOST_ITEMS).contains(&split.items());
        settings.require("chunk", fits, "1 to 64 tokens for each thread, a multiple of `vector`")?;
        Ok(split)
    }

    /// Tokens of a thread.
    pub fn items(&self) -> usize {
        self.chunk / self.threads
    }

    /// Chunks of a row.
    pub fn chunks(&self, cols: usize) -> usize {
        cols.div_ceil(self.chunk)
    }
}

/// Tokens of a thread at most.
pub const MOST_ITEMS: usize = 64;

/// Tokens of a chunk.
pub const CHUNK: Parameter = choice("chunk", "4096", "tokens of a chunk: 1 to 64 for each thread");
/// Tokens per load.
pub const VECTOR: Parameter = choice(
    "vector",
    "4",
    "tokens per load: 4, or 1 where the vocabulary is no multiple of 4",
);
/// Threads of a block.
pub const THREADS: Parameter = choice("threads", "128", "threads per block, a multiple of 32");

/// The tokens of a chunk that one thread looks at.
#[derive(Clone, Copy)]
pub struct Share {
    split: Split,
    row: Val<u32>,
    cols: Val<u32>,
    /// The first token of the chunk.
    first: Val<u32>,
}

impl Share {
    /// This thread's part of chunk `block_index()` of row `block_index_y()`.
    #[tile_fn]
    pub fn of_block(cols: Val<u32>, #[comptime] split: Split) -> Self {
        let row = block_index_y();
        let first = block_index() * split.chunk;
        Self {
            split,
            row,
            cols,
            first,
        }
    }

    /// The row.
    pub fn row(&self) -> Val<u32> {
        self.row
    }

    /// Items: the tokens of a thread. Registers hold them, so these loops are unrolled.
    #[track_caller]
    pub fn items(&self) -> impl Iterator<Item = Val<u32>> {
        unrolled(0..self.split.items())
    }

    /// The token of an item.
    #[tile_fn]
    pub fn token(&self, item: Val<u32>) -> Val<u32> {
        let round = item / self.split.vector;
        self.first + (round * self.split.threads + thread_index()) * self.split.vector + item % self.split.vector
    }

    /// The logits of all items, loaded before the first of them is looked at. Past the end of the row NaN, which is
    /// never chosen.
    #[tile_fn]
    pub fn load(&self, logits: In<f32>) -> Registers<f32> {
        let items = Registers::<f32>::undefined(self.split.items());
        for round in unrolled(0..self.split.items() / self.split.vector) {
            let token = self.first + (round * self.split.threads + thread_index()) * self.split.vector;
            let values = load_row(logits, self.row, self.cols, token, self.split.vector);
            for i in 0..self.split.vector {
                items[round * self.split.vector + i] = values[i];
            }
        }
        items
    }
}

/// Some logits of a row from a token on. Past the end of the row NaN, which is never chosen.
#[tile_fn]
pub fn load_row(
    logits: In<f32>,
    row: Val<u32>,
    cols: Val<u32>,
    token: Val<u32>,
    #[comptime] vector: usize,
) -> Vec<Val<f32>> {
    let values = load_vector(logits, row * cols + min(token, cols - vector), vector);
    let exists = token < cols;
    (0..vector).map(|i| select(exists, values[i], f32::NAN)).collect()
}

/// The key of a row's best logit, from those of its chunks.
#[tile_fn]
pub fn best_key(keys: In<u32>, row: Val<u32>, chunks: Val<u32>) -> Val<u32> {
    let mut best = u32(0);
    for chunk in lane_strided(chunks) {
        best = max(best, keys[row * chunks + chunk]);
    }
    assume_uniform(warp_max(best))
}

/// A row's best logit.
#[tile_fn]
pub fn best_logit(keys: In<u32>, row: Val<u32>, chunks: Val<u32>) -> Val<f32> {
    key_logit(best_key(keys, row, chunks))
}

/// Whether a logit is one that can be chosen: a number above minus infinity.
#[tile_fn]
pub fn is_eligible(logit: Val<f32>) -> Val<bool> {
    logit > f32::NEG_INFINITY
}
