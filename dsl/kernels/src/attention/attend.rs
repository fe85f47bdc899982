//! Attention of single query rows over a cache of slots: the attention of a decode step. The online softmax is Milakov
//! and Gimelshein, "Online normalizer calculation for softmax" (2018).

use tilekiln_dsl::prelude::*;

use crate::heads::{HEAD_DIM, head_dim};
use crate::packed::{Packed, load_vector, vector_length};
use crate::registry::prelude::*;

/// Keys that a warp takes at once: as many as keep enough loads in flight without spilling registers.
pub fn keys_at_once(head_dim: usize) -> usize {
    (2048 / head_dim).clamp(1, 4)
}

/// log2(e), because exponentials are taken to base 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Below every score: stands for "not visible" without the infinities that would make NaN.
const LOWEST: f32 = -1e30;

/// A warp's part of a row of `head_dim` values: each lane holds `per_lane` of them, `vector` next to each other.
#[derive(Clone, Copy)]
struct Split {
    per_lane: usize,
    vector: usize,
}

impl Split {
    /// For rows that are loaded from memory of this element type.
    fn of<Element: Packed>(head_dim: usize) -> Self {
        let per_lane = head_dim / 32;
        Self {
            per_lane,
            vector: vector_length::<Element>(per_lane),
        }
    }

    /// Loads of a lane.
    fn parts(self) -> usize {
        self.per_lane / self.vector
    }

    /// The column at which this lane's part `part` starts.
    #[tile_fn]
    fn column(self, part: Val<u32>) -> Val<u32> {
        (part * 32 + lane_index()) * self.vector
    }
}

/// The softmax of one warp so far: the highest score, the sum of exponentials, the weighted sum of values.
#[derive(Clone, Copy)]
struct Running {
    highest: Val<f32>,
    total: Val<f32>,
    weighted: Registers<f32>,
}

/// This lane's part of the product of a query with the key that starts at element `start`.
#[tile_fn]
fn score_part<Element: Packed>(query: Registers<f32>, cache: In<Element>, start: Val<u32>, split: Split) -> Val<f32> {
    let mut sum = f32(0.0);
    for part in unrolled(0..split.parts()) {
        let values = load_vector(cache, start + split.column(part), split.vector);
        for i in 0..split.vector {
            sum = fma(query[part * split.vector + i], values[i], sum);
        }
    }
    sum
}

/// Where the keys of a row lie, and which of them it sees.
#[derive(Clone, Copy)]
struct Ring {
    /// The row of the cache that holds position 0.
    first_row: Val<u32>,
    capacity: Val<u32>,
    /// The first key that is visible and the one behind the last.
    begin: Val<u32>,
    end: Val<u32>,
}

impl Ring {
    /// Whether the row sees a key.
    #[tile_fn]
    fn is_visible(&self, key: Val<u32>) -> Val<bool> {
        key >= self.begin && key < self.end
    }

    /// The element at which a key starts; for one that is not visible that of one that is.
    #[tile_fn]
    fn element(&self, key: Val<u32>, #[comptime] head_dim: usize) -> Val<u32> {
        let visible = min(max(key, self.begin), self.end - 1);
        (self.first_row + visible % self.capacity) * head_dim
    }
}

/// Takes the next keys from `first` on into the softmax of this warp, [`keys_at_once`] of them.
#[tile_fn]
fn step<Element: Packed>(
    running: &mut Running,
    query: Registers<f32>,
    cache_k: In<Element>,
    cache_v: In<Element>,
    ring: Ring,
    first: Val<u32>,
    split: Split,
    #[comptime] head_dim: usize,
) {
    let keys = keys_at_once(head_dim);
    let scores = Registers::<f32>::undefined(keys);
    /// where each key starts, in both caches
    let starts = Registers::<u32>::undefined(keys);
    let mut now = running.highest;
    for i in unrolled(0..keys) {
        starts[i] = ring.element(first + i, head_dim);
        let product = warp_sum(score_part(query, cache_k, starts[i], split));
        scores[i] = select(ring.is_visible(first + i), product, LOWEST);
        now = max(now, scores[i]);
    }
    /// what was summed before shrinks to the new highest score
    let shrink = ((running.highest - now) * LOG2_E).exp2();
    running.highest = now;
    running.total = running.total * shrink;
    for i in unrolled(0..split.per_lane) {
        running.weighted[i] = running.weighted[i] * shrink;
    }
    for i in unrolled(0..keys) {
        let visible = ring.is_visible(first + i);
        let p = select(visible, ((scores[i] - now) * LOG2_E).exp2(), 0.0);
        running.total = running.total + p;
        for part in unrolled(0..split.parts()) {
            let values = load_vector(cache_v, starts[i] + split.column(part), split.vector);
            for j in 0..split.vector {
                let at = part * split.vector + j;
                running.weighted[at] = fma(p, values[j], running.weighted[at]);
            }
        }
    }
}

/// One block per token (x) and query head (y): softmax of q·k over the keys that the token sees (scale 1), times v.
///
/// Token t sees keys j < visible\[t\] that are less than `window` before positions\[t\]. Key j lies at place j % capacity of
/// slot slots\[t\]; the KV head is head / gqa. A token that sees nothing gets zeros. Batch invariance: warps take
/// runs of consecutive keys in turns, counted from key 0, and are added in order: a token's result depends on its own keys
/// only.
#[kernel(threads = warps * 32)]
pub fn attend<Element: Packed>(
    #[shape(tokens, heads, head_dim)] q: In<f32>,
    #[shape(slots, kv_heads, capacity, head_dim)] cache_k: In<Element>,
    #[shape(slots, kv_heads, capacity, head_dim)] cache_v: In<Element>,
    #[shape(tokens)] slots: In<u32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(tokens)] visible: In<u32>,
    #[shape(tokens, heads, head_dim)] out: Out<f32>,
    heads: u32,
    gqa: u32,
    capacity: u32,
    window: u32,
    #[comptime] head_dim: usize,
    #[comptime] warps: usize,
) {
    let token = block_index();
    let head = block_index_y();
    let row = (token * heads + head) * head_dim;
    let position = positions[token];
    let split = Split::of::<Element>(head_dim);
    let begin = select(position < window, 0u32, position - window + 1);
    /// nothing from key 0 on where nothing is visible
    let end = select(visible[token] > begin, visible[token], 0u32);
    let first_row = (slots[token] * (heads / gqa) + head / gqa) * capacity;
    let ring = Ring {
        first_row,
        capacity,
        begin,
        end,
    };

    let query = Registers::<f32>::undefined(split.per_lane);
    for part in unrolled(0..split.parts()) {
        for i in 0..split.vector {
            query[part * split.vector + i] = q[row + split.column(part) + i];
        }
    }
    let mut highest = f32(LOWEST);
    let mut total = f32(0.0);
    let weighted = Registers::<f32>::filled(split.per_lane, 0.0);
    let mut running = Running {
        highest,
        total,
        weighted,
    };
    let keys = keys_at_once(head_dim);
    let round = keys * warps;
    for first in stepped(begin / round * round + warp_index() * keys, end, round) {
        step(&mut running, query, cache_k, cache_v, ring, first, split, head_dim);
    }

    /// the warps' parts: each is worth exp(its highest score - the highest of all)
    let warp_highest = Shared::<f32>::new(warps);
    let warp_total = Shared::<f32>::new(warps);
    let warp_weighted = Shared::<f32>::new(warps * head_dim);
    if lane_index() == 0 {
        warp_highest[warp_index()] = running.highest;
        warp_total[warp_index()] = running.total;
    }
    for part in unrolled(0..split.parts()) {
        for i in 0..split.vector {
            let at = warp_index() * head_dim + split.column(part) + i;
            warp_weighted[at] = running.weighted[part * split.vector + i];
        }
    }
    barrier();
    combine(out, row, warp_highest, warp_total, warp_weighted, head_dim, warps);
}

/// Adds the warps' parts in order and divides by the sum of exponentials.
#[tile_fn]
fn combine(
    out: Out<f32>,
    row: Val<u32>,
    warp_highest: Shared<f32>,
    warp_total: Shared<f32>,
    warp_weighted: Shared<f32>,
    #[comptime] head_dim: usize,
    #[comptime] warps: usize,
) {
    let mut highest_of_all = f32(LOWEST);
    for warp in device_range(0, warps) {
        highest_of_all = max(highest_of_all, warp_highest[warp]);
    }
    for col in strided(head_dim, warps * 32) {
        let mut sum = f32(0.0);
        let mut exponentials = f32(0.0);
        for warp in device_range(0, warps) {
            let worth = ((warp_highest[warp] - highest_of_all) * LOG2_E).exp2();
            sum = fma(worth, warp_weighted[warp * head_dim + col], sum);
            exponentials = fma(worth, warp_total[warp], exponentials);
        }
        out[row + col] = select(exponentials == 0.0, f32(0.0), sum / exponentials);
    }
}

/// Registration of [`attend`].
pub const ENTRY: Entry = Entry {
    name: "attend",
    parameters: &[ELEMENT, HEAD_DIM, choice("warps", "4", "warps per block")],
    build: |settings| {
        let (head_dim, warps) = (head_dim(settings)?, settings.number("warps")?);
        settings.require("warps", (1..=32).contains(&warps), "1 to 32")?;
        Ok(match settings.text("element")? {
            "f16" => attend::<f16>(head_dim, warps),
            "bf16" => attend::<bf16>(head_dim, warps),
            "f32" => attend::<f32>(head_dim, warps),
            other => return Err(settings.unsupported("element", other, &["f16", "bf16", "f32"])),
        })
    },
    example: |settings, random| {
        let head_dim = head_dim(settings)?;
        let (tokens, kv_heads, gqa) = (random.size(1, 4), random.size(1, 2), random.size(1, 4));
        let (heads, capacity) = (kv_heads * gqa, random.size(20, 60));
        // rings that have gone round, and a window that fits them
        let first = random.size(capacity, 3 * capacity) as u32;
        let positions: Vec<u8> = (first..first + tokens as u32).flat_map(u32::to_le_bytes).collect();
        let visible = (first + 1..first + 1 + tokens as u32)
            .flat_map(u32::to_le_bytes)
            .collect();
        let element = settings.text("element")?;
        Ok(Example {
            grid: [tokens as u32, heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * heads * head_dim),
                random.floats(element, 2 * kv_heads * capacity * head_dim),
                random.floats(element, 2 * kv_heads * capacity * head_dim),
                random.below(tokens, 2),
                Argument::Input(positions),
                Argument::Input(visible),
                Argument::output(tokens * heads * head_dim * 4),
                Argument::U32(heads as u32),
                Argument::U32(gqa as u32),
                Argument::U32(capacity as u32),
                Argument::U32(random.size(1, capacity) as u32),
            ],
        })
    },
};
