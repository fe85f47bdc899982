//! Attention in f32, for comparisons with references: one query row at a time, every cached value decoded by itself.

use tilekiln_dsl::prelude::*;

use super::codec::{KvStore, UnitShape};
use super::flash::{LOG2_E, LOWEST};
use super::formats::{self, HEAD_DIM, K, V};
use super::pages::{PAGE, Side, UNIT};
use super::partition::Span;
use crate::registry::prelude::*;
use crate::turbo::GROUP;
use crate::turbo::rotation::{SIGNS_1, SIGNS_2, rotate};

/// Warps of a block.
const WARPS: usize = 4;
/// Blocks of a multiprocessor: the compiler has 128 registers, and does not spill to have more blocks.
const BLOCKS: usize = 4;

/// Four values next to each other of each 128 that a lane takes of a head of `stored` values.
fn quads(stored: usize) -> usize {
    stored.div_ceil(GROUP)
}

/// The first of this lane's four values of part `part`, and whether they exist.
#[tile_fn]
fn first_dim(part: Val<u32>) -> Val<u32> {
    part * GROUP + lane_index() * 4
}

/// The softmax of one warp so far: the highest score, the sum of exponentials, the weighted sum of values.
#[derive(Clone, Copy)]
struct Running {
    highest: Val<f32>,
    total: Val<f32>,
    weighted: Registers<f32>,
}

/// One block per row (x) and query head (y): softmax of q·k over the keys that the row sees (scale 1), times v.
///
/// Row r sees keys j < visible\[r\] that are less than `window` before positions\[r\]. A row that sees nothing gets zeros.
/// Batch invariance: warp w takes keys w, w + 4, …, counted from key 0, and the warps are added in order.
#[kernel(threads = WARPS * 32, blocks = BLOCKS)]
pub fn attend_exact<K: KvStore, V: KvStore>(
    #[shape(rows, heads, head_dim)] q: In<f32>,
    #[shape(pages, kv_heads, page_bytes)] cache_k: In<u8>,
    #[shape(pages, kv_heads, page_bytes)] cache_v: In<u8>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(rows)] slots: In<u32>,
    #[shape(rows)] positions: In<u32>,
    #[shape(rows)] visible: In<u32>,
    #[shape(rows, heads, head_dim)] out: Out<f32>,
    heads: u32,
    gqa: u32,
    slot_pages: u32,
    window: u32,
    #[comptime] head_dim: usize,
) {
    let row = block_index();
    let head = block_index_y();
    let kv_head = head / gqa;
    let kv_heads = heads / gqa;
    let span = Span::of_row(positions, visible, row, window);
    let first_entry = slots[row] * slot_pages;
    let query = Shared::<f32>::new(K::stored(head_dim));
    let exchange = Shared::<f32>::new(WARPS * 32);
    load_query::<K>(query, exchange, q, (row * heads + head) * head_dim, head_dim);

    let keys = UnitShape::here::<K>(Side::Key, head_dim);
    let values = UnitShape::here::<V>(Side::Value, head_dim);
    let stored = V::stored(head_dim);
    let mut highest = f32(LOWEST);
    let mut total = f32(0.0);
    let weighted = Registers::<f32>::filled(quads(stored) * 4, 0.0);
    let mut running = Running {
        highest,
        total,
        weighted,
    };
    for key in stepped(span.begin / WARPS * WARPS + warp_index(), span.end, WARPS) {
        let entry = page_table[first_entry + key / PAGE % slot_pages];
        let keys_start = keys.page(entry, kv_heads, kv_head);
        let score = score_of::<K>(&keys, cache_k, keys_start, key % PAGE, query, head_dim);
        let is_visible = key >= span.begin;
        let now = select(is_visible, max(running.highest, score), running.highest);
        /// what was summed before shrinks to the new highest score
        let shrink = ((running.highest - now) * LOG2_E).exp2();
        let p = select(is_visible, ((score - now) * LOG2_E).exp2(), 0.0);
        running.highest = now;
        running.total = fma(running.total, shrink, p);
        let start = values.page(entry, kv_heads, kv_head);
        for part in unrolled(0..quads(stored)) {
            let dim = first_dim(part);
            if dim < stored {
                let unit = values.unit(start, dim / values.places.dims, key % PAGE / UNIT);
                let four = V::four(&values, cache_v, unit, key % UNIT, dim % values.places.dims);
                for i in 0..4 {
                    let before = running.weighted[part * 4 + i] * shrink;
                    running.weighted[part * 4 + i] = fma(p, four[i], before);
                }
            }
        }
    }
    combine::<V>(out, (row * heads + head) * head_dim, running, exchange, head_dim);
}

/// The query in shared memory, rotated where the keys are.
#[tile_fn]
fn load_query<Keys: KvStore>(
    query: Shared<f32>,
    exchange: Shared<f32>,
    q: In<f32>,
    start: Val<u32>,
    #[comptime] head_dim: usize,
) {
    let stored = Keys::stored(head_dim);
    for part in device_range(0, quads(stored)) {
        let dim = part * GROUP + thread_index();
        let mut value = f32(0.0);
        if dim < head_dim {
            value = q[start + dim];
        }
        if Keys::ROTATED {
            value = rotate(value, thread_index(), exchange, SIGNS_1, SIGNS_2);
            barrier();
        }
        if dim < stored {
            query[dim] = value;
        }
    }
    barrier();
}

/// The product of the query with one key, on every lane.
#[tile_fn]
fn score_of<Keys: KvStore>(
    shape: &UnitShape,
    cache: In<u8>,
    page: Val<u64>,
    position: Val<u32>,
    query: Shared<f32>,
    #[comptime] head_dim: usize,
) -> Val<f32> {
    let stored = Keys::stored(head_dim);
    let mut sum = f32(0.0);
    for part in unrolled(0..quads(stored)) {
        let dim = first_dim(part);
        if dim < stored {
            let unit = shape.unit(page, dim / shape.places.dims, position / UNIT);
            let four = Keys::four(shape, cache, unit, position % UNIT, dim % shape.places.dims);
            for i in 0..4 {
                sum = fma(query[dim + i], four[i], sum);
            }
        }
    }
    warp_sum(sum)
}

/// Adds the warps' parts in order, each worth exp(its highest score - the highest of all), divides by the sum of
/// exponentials (once for all values) and rotates back what was rotated.
#[tile_fn]
fn combine<Values: KvStore>(
    out: Out<f32>,
    start: Val<u32>,
    running: Running,
    exchange: Shared<f32>,
    #[comptime] head_dim: usize,
) {
    let stored = Values::stored(head_dim);
    let warp_highest = Shared::<f32>::new(WARPS);
    let warp_total = Shared::<f32>::new(WARPS);
    let warp_weighted = Shared::<f32>::new(WARPS * quads(stored) * GROUP);
    if lane_index() == 0 {
        warp_highest[warp_index()] = running.highest;
        warp_total[warp_index()] = running.total;
    }
    for part in unrolled(0..quads(stored)) {
        let four = [0, 1, 2, 3].map(|i: usize| running.weighted[part * 4 + i]);
        warp_weighted.store_as::<Pack<f32, 4>>(
            (warp_index() * quads(stored) + part) * GROUP + lane_index() * 4,
            Val::pack(four),
        );
    }
    barrier();
    let mut highest_of_all = f32(LOWEST);
    for warp in device_range(0, WARPS) {
        highest_of_all = max(highest_of_all, warp_highest[warp]);
    }
    let worth = Registers::<f32>::undefined(WARPS);
    let mut exponentials = f32(0.0);
    for warp in unrolled(0..WARPS) {
        worth[warp] = ((warp_highest[warp] - highest_of_all) * LOG2_E).exp2();
        exponentials = fma(worth[warp], warp_total[warp], exponentials);
    }
    let inverse = select(exponentials == 0.0, f32(0.0), 1.0 / exponentials);
    for part in device_range(0, quads(stored)) {
        let mut sum = f32(0.0);
        for warp in unrolled(0..WARPS) {
            let at = (warp * quads(stored) + part) * GROUP + thread_index();
            sum = fma(worth[warp], warp_weighted[at], sum);
        }
        let mut value = sum * inverse;
        if Values::ROTATED {
            value = rotate(value, thread_index(), exchange, SIGNS_2, SIGNS_1);
            barrier();
        }
        let dim = part * GROUP + thread_index();
        if dim < head_dim {
            out[start + dim] = value;
        }
    }
}

/// Registration of [`attend_exact`] with every pair of formats.
pub const ENTRY: Entry = Entry {
    name: "attend_exact",
    parameters: &[K, V, HEAD_DIM],
    build: |settings| Ok((formats::pair(settings)?.exact)(formats::head_dim(settings)?)),
    example: |settings, random| {
        let cache = super::examples::Cache::draw(settings, random)?;
        let rows = cache.rows;
        let mut arguments = cache.start(random);
        arguments.extend([
            cache.row_slots(),
            cache.positions(),
            cache.visible(),
            Argument::output(rows * cache.heads() * cache.head_dim * 4),
        ]);
        arguments.extend(cache.scalars(random.size(1, 90) as u32));
        Ok(Example {
            grid: [rows as u32, cache.heads() as u32, 1],
            arguments,
        })
    },
};
