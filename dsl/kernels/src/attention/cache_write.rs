//! Storing a step's keys and values into a cache of pages.

use tilekiln_dsl::prelude::*;

use super::codec::{KvStore, StorePage, UnitShape};
use super::examples::Stored;
use super::formats::{self, HEAD_DIM, K, V};
use super::pages::{PAGE, Side};
use crate::heads::{Turn, head_scale};
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
    let threads = threads::<K, V>(head_dim);
    let heads = [block_index_y(), kv_heads, stride];
    let storing = Storing::here(positions, slots, page_table, slot_pages, heads, eps, head_dim, threads);
    let weight = weight_of(w, head_dim);
    let turn = storing.turn(inverse_frequency);
    /// also where nothing is stored: the launch behind relies on this one for all before it
    wait_for_prerequisites();
    if storing.is_stored() {
        storing.key::<K>(k, weight, turn, cache_k);
        /// the barriers of the rotation lie between the two sums, which share their memory
        storing.value::<V>(v, cache_v);
    }
}

/// What a block that stores keys or values of its token works with.
#[derive(Clone, Copy)]
pub(super) struct Storing {
    /// Where the token goes: its slot, and the page of its position there.
    slot: Val<u32>,
    page: Val<u32>,
    position: Val<u32>,
    kv_head: Val<u32>,
    kv_heads: Val<u32>,
    /// Values between tokens of the projections.
    stride: Val<u32>,
    eps: Val<f32>,
    terms: Shared<f32>,
    codes: Shared<u8>,
    head_dim: usize,
    threads: usize,
}

impl Storing {
    /// The block's token, one value of a head a thread.
    #[tile_fn]
    pub fn here(
        positions: In<u32>,
        slots: In<u32>,
        page_table: In<u32>,
        slot_pages: Val<u32>,
        [kv_head, kv_heads, stride]: [Val<u32>; 3],
        eps: Val<f32>,
        head_dim: usize,
        threads: usize,
    ) -> Self {
        let token = block_index();
        let slot = slots[token];
        let position = positions[token];
        /// tokens that are not stored look at slot 0
        let known = select(slot == NOWHERE, 0u32, slot);
        let page = page_table[known * slot_pages + position / PAGE % slot_pages];
        Self {
            slot,
            page,
            position,
            kv_head,
            kv_heads,
            stride,
            eps,
            terms: Shared::<f32>::new(threads),
            codes: Shared::<u8>::new(threads),
            head_dim,
            threads,
        }
    }

    /// This thread's value of the projection.
    #[tile_fn]
    fn raw(&self, from: In<f32>) -> Val<f32> {
        let mut raw = f32(0.0);
        if thread_index() < self.head_dim {
            raw = from[block_index() * self.stride + (self.kv_head * self.head_dim + thread_index())];
        }
        raw
    }

    /// The rotation of this thread's value of a key.
    #[tile_fn]
    pub fn turn(&self, inverse_frequency: In<f32>) -> Turn {
        Turn::here(self.position, inverse_frequency, self.head_dim, self.threads)
    }

    /// Stores the key: normalised, weighted by `weight`, rotated, encoded.
    #[tile_fn]
    pub fn key<Codec: KvStore>(&self, k: In<f32>, weight: Val<f32>, turn: Turn, cache: Out<u8>) {
        let raw = self.raw(k);
        let normed = raw * head_scale(raw, self.eps, self.head_dim, self.threads) * weight;
        let key = turn.rotate(normed, self.head_dim, self.threads);
        self.store::<Codec>(Side::Key, cache, key);
    }

    /// Stores the value: normalised, encoded.
    #[tile_fn]
    pub fn value<Codec: KvStore>(&self, v: In<f32>, cache: Out<u8>) {
        let raw = self.raw(v);
        let value = raw * head_scale(raw, self.eps, self.head_dim, self.threads);
        self.store::<Codec>(Side::Value, cache, value);
    }

    /// Whether the token is stored at all.
    #[tile_fn]
    pub fn is_stored(&self) -> Val<bool> {
        self.slot != NOWHERE
    }

    /// Encodes and stores one value a thread.
    #[tile_fn]
    fn store<Codec: KvStore>(&self, side: Side, cache: Out<u8>, value: Val<f32>) {
        let shape = UnitShape::here::<Codec>(side, self.head_dim);
        let start = shape.page(self.page, self.kv_heads, self.kv_head);
        let place = StorePage {
            shape,
            cache,
            start,
            position: self.position % PAGE,
        };
        Codec::store(
            &place,
            value,
            thread_index(),
            self.terms,
            self.codes,
            Codec::stored(self.head_dim),
        );
    }
}

/// This thread's weight of a head's norm.
#[tile_fn]
pub(super) fn weight_of(w: In<f32>, #[comptime] head_dim: usize) -> Val<f32> {
    let mut weight = f32(0.0);
    if thread_index() < head_dim {
        weight = w[thread_index()];
    }
    weight
}

/// Registration of [`cache_write`] with every pair of formats.
pub const ENTRY: Entry = Entry {
    name: "cache_write",
    parameters: &[K, V, HEAD_DIM],
    build: |settings| Ok((formats::pair(settings)?.cache_write)(formats::head_dim(settings)?)),
    example: |settings, random| {
        let head_dim = formats::head_dim(settings)?;
        let stored = Stored::draw(settings, random)?;
        let stride = stored.kv_heads * head_dim + random.size(0, 7);
        let mut arguments = vec![
            random.floats("f32", stored.tokens * stride),
            random.floats("f32", stored.tokens * stride),
            random.floats("f32", head_dim),
            stored.positions,
            stored.slots,
            random.floats("f32", head_dim / 2),
            stored.page_table,
        ];
        arguments.extend(stored.caches);
        arguments.extend([stored.kv_heads, stride, stored.slot_pages].map(|number| Argument::U32(number as u32)));
        arguments.push(Argument::F32(1e-6));
        Ok(Example {
            grid: [stored.tokens as u32, stored.kv_heads as u32, 1],
            arguments,
        })
    },
};
