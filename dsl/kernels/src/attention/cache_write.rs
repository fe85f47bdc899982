//! Storing a step's keys and values into a cache of pages.

use tilekiln_dsl::prelude::*;

use super::codec::{KvStore, StorePage, UnitShape};
use super::formats::{self, HEAD_DIM, K, V};
use super::pages::{PAGE, Side};
use crate::heads::{head_scale, rotate_head};
use crate::registry::prelude::*;

/// The slot of tokens that are not stored.
pub const NOWHERE: u32 = u32::MAX;

/// Threads of a block: one for each value of a key or value as it is stored.
fn threads<K: KvStore, V: KvStore>(head_dim: usize) -> usize {
    K::stored(head_dim).max(V::stored(head_dim))
}

/// One block per token (x) and KV head (y), one thread per value: keys are normalised, weighted and rotated by position,
/// values are normalised; both are encoded and go to page `page_table\[slots\[token\], positions\[token\] / 64\]` of their
/// caches.
///
/// `k` and `v` are raw projections, whose heads of a token begin at `token * stride`; they may be the same buffer. The
/// table's rows are rings: page p is entry p % slot_pages. Tokens with the slot 0xffffffff are not stored. No two tokens
/// of a launch may go to the same place. Batch invariance: a head's sums are added by its own block, always in the same order.
#[kernel(threads = threads::<K, V>(head_dim))]
pub fn cache_write<K: KvStore, V: KvStore>(
    #[shape(tokens, stride)] k: In<f32>,
    #[shape(tokens, stride)] v: In<f32>,
    #[shape(head_dim)] w: In<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(tokens)] slots: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(pages, kv_heads, page_bytes)] cache_k: Out<u8>,
    #[shape(pages, kv_heads, page_bytes)] cache_v: Out<u8>,
    kv_heads: u32,
    stride: u32,
    slot_pages: u32,
    eps: f32,
    #[comptime] head_dim: usize,
) {
    trigger_dependents();
    store_pair::<K, V>(
        k,
        v,
        w,
        positions,
        slots,
        inverse_frequency,
        page_table,
        cache_k,
        cache_v,
        block_index_y(),
        kv_heads,
        stride,
        slot_pages,
        eps,
        head_dim,
        threads::<K, V>(head_dim),
    );
}

/// Stores one head's key and value of the block's token, one value a thread. Waits for the launches in front.
#[tile_fn]
pub(super) fn store_pair<K: KvStore, V: KvStore>(
    k: In<f32>,
    v: In<f32>,
    w: In<f32>,
    positions: In<u32>,
    slots: In<u32>,
    inverse_frequency: In<f32>,
    page_table: In<u32>,
    cache_k: Out<u8>,
    cache_v: Out<u8>,
    kv_head: Val<u32>,
    kv_heads: Val<u32>,
    stride: Val<u32>,
    slot_pages: Val<u32>,
    eps: Val<f32>,
    #[comptime] head_dim: usize,
    #[comptime] threads: usize,
) {
    let token = block_index();
    let dim = thread_index();
    let slot = slots[token];
    let terms = Shared::<f32>::new(threads);
    let codes = Shared::<u8>::new(threads);
    let mut weight = f32(0.0);
    if dim < head_dim {
        weight = w[dim];
    }
    /// also where nothing is stored: the launch behind relies on this one for all before it
    wait_for_prerequisites();
    if slot != NOWHERE {
        let position = positions[token];
        let page = page_table[slot * slot_pages + position / PAGE % slot_pages];
        let mut raw_key = f32(0.0);
        let mut raw_value = f32(0.0);
        if dim < head_dim {
            raw_key = k[token * stride + (kv_head * head_dim + dim)];
            raw_value = v[token * stride + (kv_head * head_dim + dim)];
        }
        let normed = raw_key * head_scale(raw_key, eps, head_dim, threads) * weight;
        let key = rotate_head(normed, position, inverse_frequency, head_dim, threads);
        store_head::<K>(
            Side::Key,
            cache_k,
            page,
            kv_heads,
            kv_head,
            position,
            key,
            terms,
            codes,
            head_dim,
        );

        /// the barriers of the rotation lie between the two sums, which share their memory
        let value = raw_value * head_scale(raw_value, eps, head_dim, threads);
        store_head::<V>(
            Side::Value,
            cache_v,
            page,
            kv_heads,
            kv_head,
            position,
            value,
            terms,
            codes,
            head_dim,
        );
    }
}

/// Encodes and stores one head's keys or values, one a thread.
#[tile_fn]
fn store_head<Codec: KvStore>(
    side: Side,
    cache: Out<u8>,
    page: Val<u32>,
    kv_heads: Val<u32>,
    kv_head: Val<u32>,
    position: Val<u32>,
    value: Val<f32>,
    terms: Shared<f32>,
    codes: Shared<u8>,
    #[comptime] head_dim: usize,
) {
    let shape = UnitShape::here::<Codec>(side, head_dim);
    let start = shape.page(page, kv_heads, kv_head);
    let place = StorePage {
        shape,
        cache,
        start,
        position: position % PAGE,
    };
    Codec::store(&place, value, thread_index(), terms, codes, Codec::stored(head_dim));
}

/// Registration of [`cache_write`] with every pair of formats.
pub const ENTRY: Entry = Entry {
    name: "cache_write",
    parameters: &[K, V, HEAD_DIM],
    build: |settings| Ok((formats::pair(settings)?.cache_write)(formats::head_dim(settings)?)),
    example: |settings, random| {
        let head_dim = formats::head_dim(settings)?;
        let (tokens, kv_heads, slot_pages) = (random.size(1, 5), random.size(1, 3), random.size(1, 2));
        let stride = kv_heads * head_dim + random.size(0, 7);
        // consecutive positions of one slot, across the end of a page and of the ring
        let first = random.size(0, 140) as u32;
        let slot = random.size(0, 2);
        let positions = (first..first + tokens as u32).flat_map(u32::to_le_bytes).collect();
        let slots = (0..tokens).flat_map(|_| (slot as u32).to_le_bytes()).collect();
        let page_table = (0..3 * slot_pages as u32).rev().flat_map(u32::to_le_bytes).collect();
        let [k, v] = formats::sides(settings)?;
        let bytes = |format: &formats::Format| 3 * slot_pages * kv_heads * (format.page_bytes)(head_dim);
        Ok(Example {
            grid: [tokens as u32, kv_heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * stride),
                random.floats("f32", tokens * stride),
                random.floats("f32", head_dim),
                Argument::Input(positions),
                Argument::Input(slots),
                random.floats("f32", head_dim / 2),
                Argument::Input(page_table),
                Argument::output(bytes(k)),
                Argument::output(bytes(v)),
                Argument::U32(kv_heads as u32),
                Argument::U32(stride as u32),
                Argument::U32(slot_pages as u32),
                Argument::F32(1e-6),
            ],
        })
    },
};
