//! Flash attention over a cache, one tile of queries at a time. Source: Dao et al., "FlashAttention" (2022); the online
//! softmax is Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).

use tilekiln_dsl::prelude::*;

use super::codec::KvCodec;
use super::kv_turbo3::Turbo3;
use crate::registry::prelude::*;

/// Query rows of a tile: 16 pairs of (token, query head) that share one KV head.
pub const ROWS: usize = 16;
/// log2(e), because exponentials are taken to base 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Below every score: stands for "not visible" without the infinities that would make NaN.
const LOWEST: f32 = -1e30;

/// The comptime shape of an attention kernel.
#[derive(Clone, Copy, Debug, Comptime)]
pub struct AttnShape {
    /// Values per head, a multiple of 64.
    pub head_dim: usize,
    /// Query heads per KV head; any number.
    pub gqa: usize,
    /// Keys per step: 16 for each warp that computes scores.
    pub keys: usize,
    /// Warps of a block. The head's values are divided among them.
    pub warps: usize,
}

/// What the queries of a tile may see.
#[derive(Clone, Copy)]
struct Sight {
    first_row: Val<u32>,
    tokens: Val<u32>,
    first_position: Val<u32>,
    keys: Val<u32>,
    window: Val<u32>,
    gqa: usize,
}

impl Sight {
    /// Causal by absolute position, within the sliding window, inside the cache, and a row that exists.
    #[tile_fn]
    fn is_visible(&self, row: Val<u32>, key: Val<u32>) -> Val<bool> {
        let token = (self.first_row + row) / self.gqa;
        let position = self.first_position + token;
        let is_inside = token < self.tokens && key < self.keys;
        is_inside && key <= position && position - key < self.window
    }
}

/// The 16 query rows of the tile as f16, scaled; zeros past the last one.
#[tile_fn]
fn load_queries(
    tile: SharedTile<f16>,
    q: In<f32>,
    sight: Sight,
    kv_head: Val<u32>,
    heads: Val<u32>,
    scale: Val<f32>,
    #[comptime] shape: AttnShape,
) {
    for i in strided(ROWS * shape.head_dim, shape.warps * 32) {
        let row = i / shape.head_dim;
        let col = i % shape.head_dim;
        let token = (sight.first_row + row) / shape.gqa;
        let head = kv_head * shape.gqa + (sight.first_row + row) % shape.gqa;
        let mut value = f32(0.0);
        if token < sight.tokens {
            value = q[(token * heads + head) * shape.head_dim + col] * scale;
        }
        tile[(row, col)] = value.to::<f16>();
    }
}

/// Keys (or values) `first..first+keys` of the cache; past its end the last one again, which nobody sees.
#[tile_fn]
fn load_step<Codec: KvCodec>(
    tile: SharedTile<f16>,
    cache: In<u8>,
    first: Val<u32>,
    keys: Val<u32>,
    kv_head: Val<u32>,
    kv_heads: Val<u32>,
    #[comptime] shape: AttnShape,
) {
    for chunk in strided(shape.keys * shape.head_dim / 8, shape.warps * 32) {
        let key = chunk / (shape.head_dim / 8);
        let position = min(first + key, keys - 1);
        let row = (position * kv_heads + kv_head) * Codec::row_bytes(shape.head_dim);
        Codec::load_eight(tile, key, cache, row, chunk % (shape.head_dim / 8) * 8);
    }
    async_commit();
}

/// Online softmax of a step: each warp takes every `warps`-th row. Leaves probabilities in `probabilities` and, per row,
/// the factor by which earlier sums shrink.
#[tile_fn]
fn softmax_step(
    scores: SharedTile<f32>,
    probabilities: SharedTile<f16>,
    highest: Shared<f32>,
    total: Shared<f32>,
    shrink: Shared<f32>,
    #[comptime] shape: AttnShape,
) {
    let lane = lane_index();
    for row in stepped(warp_index(), ROWS, shape.warps) {
        let mut step_highest = f32(LOWEST);
        for key in lane_strided(shape.keys) {
            step_highest = max(step_highest, scores[(row, key)]);
        }
        let before = highest[row];
        let now = max(before, warp_max(step_highest));
        let mut sum = f32(0.0);
        for key in lane_strided(shape.keys) {
            let score = scores[(row, key)];
            let p = select(score > LOWEST, ((score - now) * LOG2_E).exp2(), 0.0);
            probabilities[(row, key)] = p.to::<f16>();
            sum += p;
        }
        let factor = ((before - now) * LOG2_E).exp2();
        let new_total = total[row] * factor + warp_sum(sum);
        warp_barrier();
        if lane == 0 {
            highest[row] = now;
            shrink[row] = factor;
            total[row] = new_total;
        }
    }
}

/// Scores of a step, 16 keys per warp; what a row must not see is far below everything else.
#[tile_fn]
fn score_step(
    scores: SharedTile<f32>,
    q_tile: SharedTile<f16>,
    kv_tile: SharedTile<f16>,
    sight: Sight,
    first: Val<u32>,
    #[comptime] shape: AttnShape,
) {
    if warp_index() < shape.keys / 16 {
        let first_key = warp_index() * 16;
        let score = Accumulators::zeros(1);
        for slice in unrolled_by(4, 0..shape.head_dim / 16) {
            let queries = OperandA::load(q_tile, 0, slice * 16);
            let step_keys = OperandB::load_transposed(kv_tile, first_key, slice * 16);
            mma(score.at(0), queries, step_keys);
        }
        score.at(0).each(|element, value| {
            let key = first_key + element.column;
            let visible = sight.is_visible(element.row, first + key);
            scores[(element.row, key)] = select(visible, value, LOWEST);
        });
    }
}

/// Each warp's columns of the result, divided by the sums of the softmax.
#[tile_fn]
fn store_rows(
    out: Out<f32>,
    acc: Accumulators,
    total: Shared<f32>,
    sight: Sight,
    kv_head: Val<u32>,
    heads: Val<u32>,
    first_col: Val<u32>,
    #[comptime] shape: AttnShape,
) {
    for tile in unrolled(0..acc.count) {
        acc.at(tile).each(|element, sum| {
            let row = sight.first_row + element.row;
            let token = row / shape.gqa;
            if token < sight.tokens {
                let head = kv_head * shape.gqa + row % shape.gqa;
                let col = first_col + tile * 16 + element.column;
                out[(token * heads + head) * shape.head_dim + col] = sum / total[element.row];
            }
        });
    }
}

/// One tile of queries against the cached keys and values of one KV head.
///
/// Blocks: x over tiles of 16 query rows (a row is a token and one of the `gqa` heads that share the KV head), y over KV
/// heads. Token t is at position `first_position` + t and sees keys at its own position and before, less than `window`
/// back. `keys` counts cached positions.
#[kernel(threads = shape.warps * 32)]
pub fn flash_attn_tile<K: KvCodec, V: KvCodec>(
    #[shape(tokens, heads, head_dim)] q: In<f32>,
    #[shape(keys, kv_heads, row_bytes)] cache_k: In<u8>,
    #[shape(keys, kv_heads, row_bytes)] cache_v: In<u8>,
    #[shape(tokens, heads, head_dim)] out: Out<f32>,
    tokens: u32,
    kv_heads: u32,
    first_position: u32,
    keys: u32,
    window: u32,
    scale: f32,
    #[comptime] shape: AttnShape,
) {
    let kv_head = block_index_y();
    let heads = kv_heads * shape.gqa;
    let first_row = block_index() * ROWS;
    let sight = Sight {
        first_row,
        tokens,
        first_position,
        keys,
        window,
        gqa: shape.gqa,
    };
    let q_tile = SharedTile::<f16>::new(ROWS, shape.head_dim, TileLayout::Swizzled);
    let kv_tile = SharedTile::<f16>::new(shape.keys, shape.head_dim, TileLayout::Swizzled);
    let scores = SharedTile::<f32>::new(ROWS, shape.keys, TileLayout::Padded(4));
    let probabilities = SharedTile::<f16>::new(ROWS, shape.keys, TileLayout::Padded(8));
    let highest = Shared::<f32>::new(ROWS);
    let total = Shared::<f32>::new(ROWS);
    let shrink = Shared::<f32>::new(ROWS);
    load_queries(q_tile, q, sight, kv_head, heads, scale, shape);
    if thread_index() < ROWS {
        highest[thread_index()] = f32(LOWEST);
        total[thread_index()] = f32(0.0);
    }

    /// the span of keys that any row of this tile sees
    let first_query = first_position + first_row / shape.gqa;
    let last_query = first_position + min((first_row + (ROWS - 1)) / shape.gqa, tokens - 1);
    let begin = select(first_query < window, 0u32, first_query + 1 - window);
    let end = min(last_query + 1, keys);
    let tiles = shape.head_dim / 16 / shape.warps;
    let first_col = warp_index() * (tiles * 16);
    let acc = Accumulators::zeros(tiles);
    for first in stepped(begin, end, shape.keys) {
        load_step::<K>(kv_tile, cache_k, first, keys, kv_head, kv_heads, shape);
        async_wait(0);
        barrier();
        /// scores: 16 keys per warp
        score_step(scores, q_tile, kv_tile, sight, first, shape);
        barrier();
        /// values replace keys in the tile while the softmax runs
        load_step::<V>(kv_tile, cache_v, first, keys, kv_head, kv_heads, shape);
        softmax_step(scores, probabilities, highest, total, shrink, shape);
        async_wait(0);
        barrier();
        for tile in unrolled(0..tiles) {
            acc.at(tile).update(|element, sum| sum * shrink[element.row]);
        }
        for slice in unrolled(0..shape.keys / 16) {
            let weights = OperandA::load(probabilities, 0, slice * 16);
            for tile in unrolled(0..tiles) {
                let values = OperandB::load(kv_tile, slice * 16, first_col + tile * 16);
                mma(acc.at(tile), weights, values);
            }
        }
        barrier();
    }

    store_rows(out, acc, total, sight, kv_head, heads, first_col, shape);
}

/// A pair of cache formats and the kernel they make.
struct Pair {
    names: [&'static str; 2],
    /// `head_dim` has to be a multiple of it.
    group: usize,
    samples: [fn(&mut Random, usize, usize) -> Argument; 2],
    kernel: fn(AttnShape) -> KernelDef,
}

impl Pair {
    const fn of<K: KvCodec, V: KvCodec>() -> Self {
        Self {
            names: [K::NAME, V::NAME],
            group: if K::GROUP > V::GROUP { K::GROUP } else { V::GROUP },
            samples: [K::sample, V::sample],
            kernel: flash_attn_tile::<K, V>,
        }
    }

    fn named(settings: &Settings) -> Result<&'static Self, SettingError> {
        let wanted = [settings.text("k")?, settings.text("v")?];
        let known: Vec<_> = PAIRS[0].iter().map(|pair| pair.names[1]).collect();
        for (key, name) in ["k", "v"].into_iter().zip(wanted) {
            if !known.contains(&name) {
                return Err(settings.unsupported(key, name, &known));
            }
        }
        let pair = PAIRS.iter().copied().flatten().find(|pair| pair.names == wanted);
        pair.ok_or_else(|| settings.unsupported("k", wanted[0], &known))
    }
}

/// Every key format with every value format.
macro_rules! pairs {
    ($($k:ty),*) => { pairs!(@rows [$($k),*] $($k),*) };
    (@rows $all:tt $($k:ty),*) => { &[$(pairs!(@row $k, $all)),*] };
    (@row $k:ty, [$($v:ty),*]) => { &[$(Pair::of::<$k, $v>()),*] };
}

/// Every pair of cache formats: a new format is a word here.
const PAIRS: &[&[Pair]] = pairs![f16, Turbo3];

/// Registration of [`flash_attn_tile`] with every pair of cache formats.
pub const ENTRY: Entry = Entry {
    name: "flash_attn_tile",
    parameters: &[
        choice("k", "f16", "format of cached keys"),
        choice("v", "f16", "format of cached values"),
        choice("head_dim", "256", "values per head, a multiple of 64"),
        choice("gqa", "4", "query heads per KV head"),
        choice("keys", "64", "keys per step, a multiple of 16"),
        choice("warps", "4", "warps per block"),
    ],
    build: |settings| {
        let shape = AttnShape {
            head_dim: settings.number("head_dim")?,
            gqa: settings.number("gqa")?,
            keys: settings.number("keys")?,
            warps: settings.number("warps")?,
        };
        settings.require("warps", (1..=32).contains(&shape.warps), "1 to 32")?;
        settings.require(
            "head_dim",
            shape.head_dim > 0 && shape.head_dim.is_multiple_of(16 * shape.warps) && shape.head_dim.is_multiple_of(64),
            "a multiple of 64 and of 16 times the warps",
        )?;
        settings.require(
            "keys",
            shape.keys > 0 && shape.keys.is_multiple_of(16) && shape.keys <= 16 * shape.warps,
            "a multiple of 16, at most 16 times the warps",
        )?;
        settings.require("gqa", shape.gqa > 0, "1 or more")?;
        let pair = Pair::named(settings)?;
        let fits = shape.head_dim.is_multiple_of(pair.group);
        settings.require(
            "head_dim",
            fits,
            &format!(
                "a multiple of {} with these formats (pad shorter heads with zeros)",
                pair.group
            ),
        )?;
        Ok((pair.kernel)(shape))
    },
    example: |settings, random| {
        let head_dim = settings.number("head_dim")?;
        let gqa = settings.number("gqa")?;
        let (tokens, kv_heads, keys) = (random.size(1, 9), random.size(1, 3), random.size(9, 150));
        let heads = kv_heads * gqa;
        let first_position = random.size(0, keys - tokens);
        let [cache_k, cache_v] = Pair::named(settings)?
            .samples
            .map(|sample| sample(random, keys * kv_heads, head_dim));
        Ok(Example {
            grid: [(tokens * gqa).div_ceil(ROWS) as u32, kv_heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * heads * head_dim),
                cache_k,
                cache_v,
                Argument::output(tokens * heads * head_dim * 4),
                Argument::U32(tokens as u32),
                Argument::U32(kv_heads as u32),
                Argument::U32(first_position as u32),
                Argument::U32(keys as u32),
                Argument::U32(random.size(1, 100) as u32),
                Argument::F32(0.0625),
            ],
        })
    },
};
