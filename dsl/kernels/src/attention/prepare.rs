//! Queries, keys and values of a step in one launch: what attention needs of all projections.

use tilekiln_dsl::prelude::*;

use super::cache_write::{Storing, weight_of};
use super::codec::KvCodec;
use super::examples::Stored;
use super::formats::{self, HEAD_DIM, K, V};
use super::queries::store_query;
use crate::registry::prelude::*;

/// Threads of a block: one for each value of a head as it is stored.
fn threads<Keys: KvCodec, Values: KvCodec>(head_dim: usize) -> usize {
    Keys::stored(head_dim).max(Values::stored(head_dim))
}

/// One block per token (x) and head (y): the first `heads` along y prepare queries as
/// [`prepare_queries`](super::queries::prepare_queries) does, the next `kv_heads` store keys and the last as many values,
/// as [`cache_write`](super::cache_write::cache_write) does.
///
/// Batch invariance: as there.
#[kernel(threads = threads::<K, V>(head_dim))]
pub fn prepare_attention<K: KvCodec, V: KvCodec>(
    #[shape(tokens, q_stride)] q: In<f32>,
    #[shape(tokens, kv_stride)] k: In<f32>,
    #[shape(tokens, kv_stride)] v: In<f32>,
    #[shape(head_dim)] q_w: In<f32>,
    #[shape(head_dim)] k_w: In<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(tokens)] slots: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(tokens, heads, terms, words)] out: Out<u32>,
    #[shape(pages, kv_heads, page_bytes)] cache_k: Out<u8>,
    #[shape(pages, kv_heads, page_bytes)] cache_v: Out<u8>,
    heads: u32,
    kv_heads: u32,
    q_stride: u32,
    kv_stride: u32,
    slot_pages: u32,
    eps: f32,
    #[comptime] head_dim: usize,
) {
    trigger_dependents();
    let threads = threads::<K, V>(head_dim);
    let head = block_index_y();
    if head < heads {
        store_query::<K>(
            q,
            q_w,
            positions,
            inverse_frequency,
            out,
            head,
            heads,
            q_stride,
            eps,
            head_dim,
            threads,
        );
    } else {
        let side_and_head = head - heads;
        let kv_head = side_and_head % kv_heads;
        let place = [kv_head, kv_heads, kv_stride];
        let storing = Storing::here(positions, slots, page_table, slot_pages, place, eps, head_dim, threads);
        let weight = weight_of(k_w, head_dim);
        let turn = storing.turn(inverse_frequency);
        wait_for_prerequisites();
        if storing.is_stored() {
            if side_and_head < kv_heads {
                storing.key::<K>(k, weight, turn, cache_k);
            } else {
                storing.value::<V>(v, cache_v);
            }
        }
    }
}

/// Registration of [`prepare_attention`] with every pair of formats that has fast attention.
pub const ENTRY: Entry = Entry {
    name: "prepare_attention",
    parameters: &[K, V, HEAD_DIM],
    build: |settings| Ok((formats::prepare(settings)?)(formats::head_dim(settings)?)),
    example: |settings, random| {
        let head_dim = formats::head_dim(settings)?;
        let words = formats::fast(settings)?.query_words(head_dim);
        let stored = Stored::draw(settings, random)?;
        let (tokens, kv_heads) = (stored.tokens, stored.kv_heads);
        let heads = kv_heads * random.size(1, 3);
        let [q_stride, kv_stride] = [heads, kv_heads].map(|heads| heads * head_dim + random.size(0, 7));
        let mut arguments = vec![
            random.floats("f32", tokens * q_stride),
            random.floats("f32", tokens * kv_stride),
            random.floats("f32", tokens * kv_stride),
            random.floats("f32", head_dim),
            random.floats("f32", head_dim),
            stored.positions,
            stored.slots,
            random.floats("f32", head_dim / 2),
            stored.page_table,
            Argument::output(tokens * heads * words * 4),
        ];
        arguments.extend(stored.caches);
        let numbers = [heads, kv_heads, q_stride, kv_stride, stored.slot_pages];
        arguments.extend(numbers.map(|number| Argument::U32(number as u32)));
        arguments.push(Argument::F32(1e-6));
        Ok(Example {
            grid: [tokens as u32, (heads + 2 * kv_heads) as u32, 1],
            arguments,
        })
    },
};
