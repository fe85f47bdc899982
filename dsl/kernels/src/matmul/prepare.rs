//! What happens to rows between two products with packed weights: the end of a branch, a norm, and int8 in the order in
//! which matrix instructions take it. One launch for all of it, because each dependent launch costs a microsecond.

use tilekiln_dsl::memory::{GlobalMemory, Readable, Writable};
use tilekiln_dsl::prelude::*;

use super::packed::columns::store_sum;
use super::packed::layout::{Quads, SUB_BLOCKS, TILE_COLS, stored_word, tiles_across};
use super::packed::product::{parts, token_stride};
use super::quantise::quantise_four;
use crate::registry::prelude::*;

/// Rows of int8 activations for products with packed weights: what [`Columns`](super::packed::columns::Columns) reads.
#[derive(Clone, Copy)]
pub struct PreparedRows {
    /// [tiles, stride, 64], four int8 to a word, in the order of [`Quads::right`].
    pub words: Out<u32>,
    /// [tiles, stride, 8]: d = max|x| / 127 over 32 values.
    pub scales: Out<f32>,
    /// [tiles, stride, 4, 4]: d times the sum of the 32 int8, in three bf16 of which it is the sum.
    pub sums: Out<u16>,
    /// Rows for which there is memory.
    pub stride: Val<u32>,
}

impl PreparedRows {
    /// Stores values `4 * chunk..` of a row as int8; eight neighbouring lanes have the chunks of 32 values. All lanes of the
    /// warp take part; what lies past the last tile is not stored.
    #[tile_fn]
    pub fn store(&self, row: Val<u32>, chunk: Val<u32>, tiles: Val<u32>, values: &[Val<f32>]) {
        let (word, scale) = quantise_four(values);
        let ones = u32(0x0101_0101);
        let count = group_sum(dot4(ones, word, 0), 8);
        let tile_words = TILE_COLS / 4;
        if chunk < tiles * tile_words {
            let place = chunk / tile_words * self.stride + row;
            self.words[place * tile_words + stored_word(chunk % tile_words, Quads::here(1))] = word;
            if chunk % 8 == 0 {
                let sub_block = chunk % tile_words / 8;
                self.scales[place * SUB_BLOCKS + sub_block] = scale;
                store_sum(self.sums, place * SUB_BLOCKS * 4, sub_block, scale * count.to::<f32>());
            }
        }
    }
}

/// A row that a block holds in registers: each thread has `chunks` times four of its values.
#[derive(Clone)]
struct Row {
    values: Registers<f32>,
    chunks: usize,
    threads: usize,
}

impl Row {
    /// The number of this thread's chunk `index` in the row.
    #[tile_fn]
    fn chunk(&self, index: Val<u32>) -> Val<u32> {
        index * self.threads + thread_index()
    }

    /// Values `first..first + cols` of memory; zeros past the end.
    #[tile_fn]
    fn load<Access: Readable>(
        memory: GlobalMemory<f32, Access>,
        first: Val<u32>,
        cols: Val<u32>,
        chunks: usize,
        threads: usize,
    ) -> Self {
        let values = Registers::<f32>::undefined(chunks * 4);
        let row = Self {
            values,
            chunks,
            threads,
        };
        for index in unrolled(0..chunks) {
            let col = row.chunk(index) * 4;
            let four = memory.load_as::<Pack<f32, 4>>(first + min(col, cols - 4));
            for i in 0..4 {
                values[index * 4 + i] = select(col < cols, four.component(i), 0.0);
            }
        }
        row
    }

    /// Row `block_index()` of a branch that comes in `parts` parts, [parts, rows, cols]: their sum, in order.
    #[tile_fn]
    fn load_branch(branch: In<f32>, cols: Val<u32>, chunks: usize, threads: usize, parts: usize) -> Self {
        let row = Self::load(branch, block_index() * cols, cols, chunks, threads);
        if parts > 1 {
            let others = (1..parts)
                .map(|part: usize| {
                    let first = (grid_size() * part + block_index()) * cols;
                    Self::load(branch, first, cols, chunks, threads)
                })
                .collect::<Vec<Self>>();
            for value in unrolled(0..chunks * 4) {
                for part in 0..parts - 1 {
                    row.values[value] = row.values[value] + others[part].values[value];
                }
            }
        }
        row
    }

    /// 1 / sqrt(mean(x^2) + eps), on every thread; `share` is what one value adds to the mean. `partial` has an entry for
    /// each warp.
    #[tile_fn]
    fn norm(&self, share: Val<f32>, eps: Val<f32>, partial: Shared<f32>) -> Val<f32> {
        let mut sum = f32(0.0);
        for value in unrolled(0..self.chunks * 4) {
            sum = fma(self.values[value], self.values[value], sum);
        }
        let of_warp = warp_sum(sum);
        if lane_index() == 0 {
            partial[warp_index()] = of_warp;
        }
        barrier();
        let of_warps = (0..self.threads / 32)
            .map(|warp: usize| partial[warp])
            .collect::<Vec<Val<f32>>>();
        fma(pairwise_sum(of_warps), share, eps).rsqrt()
    }

    /// Stores the row as f32.
    #[tile_fn]
    fn store<Access: Writable>(&self, memory: GlobalMemory<f32, Access>, first: Val<u32>, cols: Val<u32>) {
        for index in unrolled(0..self.chunks) {
            let col = self.chunk(index) * 4;
            if col < cols {
                let four = Val::<Pack<f32, 4>>::pack([
                    self.values[index * 4],
                    self.values[index * 4 + 1],
                    self.values[index * 4 + 2],
                    self.values[index * 4 + 3],
                ]);
                memory.store_as::<Pack<f32, 4>>(first + col, four);
            }
        }
    }

    /// Stores the row as int8.
    #[tile_fn]
    fn prepare(&self, to: &PreparedRows, row: Val<u32>, tiles: Val<u32>) {
        for index in unrolled(0..self.chunks) {
            let values = [
                self.values[index * 4],
                self.values[index * 4 + 1],
                self.values[index * 4 + 2],
                self.values[index * 4 + 3],
            ];
            to.store(row, self.chunk(index), tiles, &values);
        }
    }

    /// Each value times the row's norm and its weight, each product rounded by itself.
    #[tile_fn]
    fn scale(&self, norm: Val<f32>, weights: &Row) {
        for value in unrolled(0..self.chunks * 4) {
            self.values[value] = self.values[value].mul_unfused(norm).mul_unfused(weights.values[value]);
        }
    }

    /// (self + branch * norm * weights) * scale: the end of a branch.
    #[tile_fn]
    fn add_branch(&self, branch: &Row, norm: Val<f32>, weights: &Row, scale: Val<f32>) {
        for value in unrolled(0..self.chunks * 4) {
            let normed = branch.values[value].mul_unfused(norm);
            self.values[value] = fma(normed, weights.values[value], self.values[value]).mul_unfused(scale);
        }
    }
}

/// Neighbours added, then neighbours of these, and so on: few additions wait for each other.
fn pairwise_sum(mut values: Vec<Val<f32>>) -> Val<f32> {
    while values.len() > 1 {
        values = values
            .chunks(2)
            .map(|pair| match pair {
                [a, b] => *a + *b,
                rest => rest[0],
            })
            .collect();
    }
    values[0]
}

/// One block per row: x as int8.
///
/// Batch invariance, here and in the kernels below: a row depends on nothing else, its sums on `threads` and `chunks`.
#[kernel(threads = threads)]
pub fn prepare_rows(
    #[shape(rows, cols)] x: In<f32>,
    #[shape(tiles, stride, 64)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    #[shape(tiles, stride, 4, 4, 2)] sums: Out<u16>,
    cols: u32,
    stride: u32,
    #[comptime] threads: usize,
    #[comptime] chunks: usize,
) {
    trigger_dependents();
    let row = block_index();
    let to = PreparedRows {
        words,
        scales,
        sums,
        stride,
    };
    let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
    wait_for_prerequisites();
    let values = Row::load(x, row * cols, cols, chunks, threads);
    values.prepare(&to, row, tiles);
}

/// One block per row: x / sqrt(mean(x^2) + eps) * w as int8.
#[kernel(threads = threads)]
pub fn prepare_norm(
    #[shape(rows, cols)] x: In<f32>,
    #[shape(cols)] w: In<f32>,
    #[shape(tiles, stride, 64)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    #[shape(tiles, stride, 4, 4, 2)] sums: Out<u16>,
    cols: u32,
    stride: u32,
    eps: f32,
    #[comptime] threads: usize,
    #[comptime] chunks: usize,
) {
    trigger_dependents();
    let row = block_index();
    let to = PreparedRows {
        words,
        scales,
        sums,
        stride,
    };
    let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
    let partial = Shared::<f32>::new(threads / 32);
    let weights = Row::load(w, u32(0), cols, chunks, threads);
    let share = 1.0 / cols.to::<f32>();
    wait_for_prerequisites();
    let values = Row::load(x, row * cols, cols, chunks, threads);
    values.scale(values.norm(share, eps, partial), &weights);
    values.prepare(&to, row, tiles);
}

/// One block per row: x = (x + norm(branch) * w) * scale, and that as int8. The branch is the sum of `parts` parts.
#[kernel(threads = threads)]
pub fn prepare_residual(
    #[shape(rows, cols)] x: InOut<f32>,
    #[shape(parts, rows, cols)] branch: In<f32>,
    #[shape(cols)] w: In<f32>,
    #[shape(tiles, stride, 64)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    #[shape(tiles, stride, 4, 4, 2)] sums: Out<u16>,
    cols: u32,
    stride: u32,
    eps: f32,
    scale: f32,
    #[comptime] threads: usize,
    #[comptime] chunks: usize,
    #[comptime] parts: usize,
) {
    trigger_dependents();
    let row = block_index();
    let to = PreparedRows {
        words,
        scales,
        sums,
        stride,
    };
    let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
    let partial = Shared::<f32>::new(threads / 32);
    let weights = Row::load(w, u32(0), cols, chunks, threads);
    let share = 1.0 / cols.to::<f32>();
    wait_for_prerequisites();
    let values = Row::load(x, row * cols, cols, chunks, threads);
    let added = Row::load_branch(branch, cols, chunks, threads, parts);
    values.add_branch(&added, added.norm(share, eps, partial), &weights, scale);
    values.store(x, row * cols, cols);
    values.prepare(&to, row, tiles);
}

/// One block per row: x = (x + norm(branch) * w) * scale, then norm(x) * next_w as int8 and, if `keep`, as f32. The branch is
/// the sum of `parts` parts.
#[kernel(threads = threads)]
pub fn prepare_residual_norm(
    #[shape(rows, cols)] x: InOut<f32>,
    #[shape(parts, rows, cols)] branch: In<f32>,
    #[shape(cols)] w: In<f32>,
    #[shape(cols)] next_w: In<f32>,
    #[shape(rows, cols)] normed: Out<f32>,
    #[shape(tiles, stride, 64)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    #[shape(tiles, stride, 4, 4, 2)] sums: Out<u16>,
    cols: u32,
    stride: u32,
    eps: f32,
    scale: f32,
    #[comptime] threads: usize,
    #[comptime] chunks: usize,
    #[comptime] keep: bool,
    #[comptime] parts: usize,
) {
    trigger_dependents();
    let row = block_index();
    let to = PreparedRows {
        words,
        scales,
        sums,
        stride,
    };
    let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
    let branch_sums = Shared::<f32>::new(threads / 32);
    let row_sums = Shared::<f32>::new(threads / 32);
    let weights = Row::load(w, u32(0), cols, chunks, threads);
    let next_weights = Row::load(next_w, u32(0), cols, chunks, threads);
    let share = 1.0 / cols.to::<f32>();
    wait_for_prerequisites();
    let values = Row::load(x, row * cols, cols, chunks, threads);
    let added = Row::load_branch(branch, cols, chunks, threads, parts);
    values.add_branch(&added, added.norm(share, eps, branch_sums), &weights, scale);
    values.store(x, row * cols, cols);
    values.scale(values.norm(share, eps, row_sums), &next_weights);
    if keep {
        values.store(normed, row * cols, cols);
    }
    values.prepare(&to, row, tiles);
}

const THREADS: Parameter = choice("threads", "320", "threads per block, a multiple of 32");
const CHUNKS: Parameter = choice(
    "chunks",
    "2",
    "four values of a thread, so many times: 4 * threads * chunks values are enough for the row, filled up to 256",
);
const KEEP: Parameter = choice(
    "keep",
    "false",
    "whether the normed row is stored as f32, too: true or false",
);

const PARTS: Parameter = choice("parts", "1", "parts whose sum is the branch, 1 to 8");

/// Threads of a block and chunks of a thread.
fn division(settings: &Settings) -> Result<(usize, usize), SettingError> {
    let (threads, chunks) = (settings.number("threads")?, settings.number("chunks")?);
    settings.require("chunks", (1..=16).contains(&chunks), "1 to 16")?;
    Ok((threads, chunks))
}

/// A number of columns that the settings have threads for, rows, and buffers for the results.
fn shape(settings: &Settings, random: &mut Random) -> Result<([usize; 3], Vec<Argument>), SettingError> {
    let (threads, chunks) = division(settings)?;
    let most = (threads * chunks * 4 / TILE_COLS * TILE_COLS / 32).max(1);
    let (rows, cols) = (random.size(1, 5), 32 * random.size(1, most));
    let stride = token_stride(rows);
    let groups = tiles_across(cols) * stride;
    let outputs = [groups * TILE_COLS, groups * SUB_BLOCKS * 4, groups * SUB_BLOCKS * 8].map(Argument::output);
    Ok(([rows, cols, stride], outputs.to_vec()))
}

/// Registration of [`prepare_rows`].
pub const ROWS: Entry = Entry {
    name: "prepare_rows",
    parameters: &[THREADS, CHUNKS],
    build: |settings| division(settings).map(|(threads, chunks)| prepare_rows(threads, chunks)),
    example: |settings, random| {
        let ([rows, cols, stride], outputs) = shape(settings, random)?;
        let mut arguments = vec![random.floats("f32", rows * cols)];
        arguments.extend(outputs);
        arguments.extend([cols, stride].map(|size| Argument::U32(size as u32)));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments,
        })
    },
};

/// Registration of [`prepare_norm`].
pub const NORM: Entry = Entry {
    name: "prepare_norm",
    parameters: &[THREADS, CHUNKS],
    build: |settings| division(settings).map(|(threads, chunks)| prepare_norm(threads, chunks)),
    example: |settings, random| {
        let ([rows, cols, stride], outputs) = shape(settings, random)?;
        let mut arguments = vec![random.floats("f32", rows * cols), random.floats("f32", cols)];
        arguments.extend(outputs);
        arguments.extend([cols, stride].map(|size| Argument::U32(size as u32)));
        arguments.push(Argument::F32(1e-6));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments,
        })
    },
};

/// Registration of [`prepare_residual`].
pub const RESIDUAL: Entry = Entry {
    name: "prepare_residual",
    parameters: &[THREADS, CHUNKS, PARTS],
    build: |settings| {
        let (threads, chunks) = division(settings)?;
        Ok(prepare_residual(threads, chunks, parts(settings)?))
    },
    example: |settings, random| {
        let ([rows, cols, stride], outputs) = shape(settings, random)?;
        let mut arguments = vec![
            random.floats("f32", rows * cols),
            random.floats("f32", parts(settings)? * rows * cols),
            random.floats("f32", cols),
        ];
        arguments.extend(outputs);
        arguments.extend([cols, stride].map(|size| Argument::U32(size as u32)));
        arguments.extend([1e-6, 0.75].map(Argument::F32));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments,
        })
    },
};

/// Registration of [`prepare_residual_norm`].
pub const RESIDUAL_NORM: Entry = Entry {
    name: "prepare_residual_norm",
    parameters: &[THREADS, CHUNKS, KEEP, PARTS],
    build: |settings| {
        let (threads, chunks) = division(settings)?;
        let keep = match settings.text("keep")? {
            "true" => true,
            "false" => false,
            other => return Err(settings.unsupported("keep", other, &["true", "false"])),
        };
        Ok(prepare_residual_norm(threads, chunks, keep, parts(settings)?))
    },
    example: |settings, random| {
        let ([rows, cols, stride], outputs) = shape(settings, random)?;
        let mut arguments = vec![
            random.floats("f32", rows * cols),
            random.floats("f32", parts(settings)? * rows * cols),
            random.floats("f32", cols),
            random.floats("f32", cols),
            Argument::output(rows * cols * 4),
        ];
        arguments.extend(outputs);
        arguments.extend([cols, stride].map(|size| Argument::U32(size as u32)));
        arguments.extend([1e-6, 0.75].map(Argument::F32));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments,
        })
    },
};
