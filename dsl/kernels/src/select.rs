//! Choosing tokens: the largest value of a row, the k largest, and what the choice is worth.

use tilekiln_dsl::prelude::*;

use crate::block::{Found, block_best, block_sum};
use crate::registry::prelude::*;

/// What an index holds when nothing was found (a row of NaN).
pub const NOTHING: u32 = u32::MAX;
/// log2(e), because exponentials are taken to base 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// One block per row: the position of the largest value, the first one on ties. NaN is never chosen.
#[kernel(threads = threads)]
pub fn argmax(#[shape(rows, cols)] x: In<f32>, #[shape(rows)] index: Out<u32>, cols: u32, #[comptime] threads: usize) {
    let row = block_index();
    let values = Shared::<f32>::new(threads / 32);
    let indices = Shared::<u32>::new(threads / 32);
    let mut best_value = f32(f32::NEG_INFINITY);
    let mut best_index = u32(NOTHING);
    let mut best = Found {
        value: best_value,
        index: best_index,
    };
    for col in strided(cols, threads) {
        let value = x[(row, col)];
        best.improve(&Found { value, index: col });
    }
    block_best(&mut best, values, indices, threads);
    if thread_index() == 0 {
        index[row] = best.index;
    }
}

/// One block per row: the k largest values, largest first, the first one on ties.
///
/// k rounds of argmax, each among what comes after the previous find. Rows with fewer than k numbers are filled up
/// with minus infinity and the index 0xffffffff.
#[kernel(threads = threads)]
pub fn top_k(
    #[shape(rows, cols)] x: In<f32>,
    #[shape(rows, k)] values: Out<f32>,
    #[shape(rows, k)] indices: Out<u32>,
    cols: u32,
    #[comptime] k: usize,
    #[comptime] threads: usize,
) {
    let row = block_index();
    let warp_values = Shared::<f32>::new(threads / 32);
    let warp_indices = Shared::<u32>::new(threads / 32);
    let mut last_value = f32(f32::INFINITY);
    let mut last_index = u32(0);
    let mut is_first = u32(1);
    for round in device_range(0, k) {
        let mut best_value = f32(f32::NEG_INFINITY);
        let mut best_index = u32(NOTHING);
        let mut best = Found {
            value: best_value,
            index: best_index,
        };
        for col in strided(cols, threads) {
            let value = x[(row, col)];
            /// only what is behind the previous find
            if is_first == 1 || value < last_value || (value == last_value && col > last_index) {
                best.improve(&Found { value, index: col });
            }
        }
        block_best(&mut best, warp_values, warp_indices, threads);
        if thread_index() == 0 {
            values[(row, round)] = best.value;
            indices[(row, round)] = best.index;
        }
        last_value = best.value;
        last_index = best.index;
        is_first = u32(0);
        /// the next round reuses the warps' entries
        barrier();
    }
}

/// One thread per row: out\[r\] = ids\[r, index\[r\]\]. An index past the row, such as [`NOTHING`], gives 0xffffffff.
#[kernel(threads = threads)]
pub fn take(
    #[shape(rows, cols)] ids: In<u32>,
    #[shape(rows)] index: In<u32>,
    #[shape(rows)] out: Out<u32>,
    rows: u32,
    cols: u32,
    #[comptime] threads: usize,
) {
    let row = block_index() * threads + thread_index();
    if row < rows {
        let col = index[row];
        let mut id = u32(NOTHING);
        if col < cols {
            id = ids[(row, col)];
        }
        out[row] = id;
    }
}

/// One block per row: the softmax probability of scores\[index\]. An index past the row, such as [`NOTHING`], gives 0.
///
/// Batch invariance: a row's sum is added by its own block, in an order that depends on `cols` only.
#[kernel(threads = threads)]
pub fn confidence(
    #[shape(rows, cols)] scores: In<f32>,
    #[shape(rows)] index: In<u32>,
    #[shape(rows)] probability: Out<f32>,
    cols: u32,
    #[comptime] threads: usize,
) {
    let row = block_index();
    let chosen = index[row];
    let reference = scores[(row, min(chosen, cols - 1))];
    let mut sum = f32(0.0);
    for col in strided(cols, threads) {
        sum += ((scores[(row, col)] - reference) * LOG2_E).exp2();
    }
    let total = block_sum(sum, threads);
    if thread_index() == 0 {
        probability[row] = select(chosen < cols, 1.0 / total, 0.0);
    }
}

/// Registration of [`argmax`].
pub const ARGMAX: Entry = Entry {
    name: "argmax",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(argmax(settings.number("threads")?)),
    example: |_, random| {
        let (rows, cols) = (random.size(1, 5), random.size(1, 900));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                Argument::output(rows * 4),
                Argument::U32(cols as u32),
            ],
        })
    },
};

/// Registration of [`top_k`].
pub const TOP_K: Entry = Entry {
    name: "top_k",
    parameters: &[
        choice("k", "32", "how many"),
        choice("threads", "256", "threads per block, a multiple of 32"),
    ],
    build: |settings| Ok(top_k(settings.number("k")?, settings.number("threads")?)),
    example: |settings, random| {
        let k = settings.number("k")?;
        let (rows, cols) = (random.size(1, 4), random.size(k, 900));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                Argument::output(rows * k * 4),
                Argument::output(rows * k * 4),
                Argument::U32(cols as u32),
            ],
        })
    },
};

/// Registration of [`take`].
pub const TAKE: Entry = Entry {
    name: "take",
    parameters: &[choice("threads", "32", "threads per block, a multiple of 32")],
    build: |settings| Ok(take(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?.max(1);
        let (rows, cols) = (random.size(1, 70), random.size(1, 40));
        Ok(Example {
            grid: [rows.div_ceil(threads) as u32, 1, 1],
            arguments: vec![
                random.below(rows * cols, 262_144),
                random.below(rows, cols as u32),
                Argument::output(rows * 4),
                Argument::U32(rows as u32),
                Argument::U32(cols as u32),
            ],
        })
    },
};

/// Registration of [`confidence`].
pub const CONFIDENCE: Entry = Entry {
    name: "confidence",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(confidence(settings.number("threads")?)),
    example: |_, random| {
        let (rows, cols) = (random.size(1, 5), random.size(1, 900));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                random.below(rows, cols as u32),
                Argument::output(rows * 4),
                Argument::U32(cols as u32),
            ],
        })
    },
};
