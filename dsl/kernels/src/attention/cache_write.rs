//! Storing a step's keys and values into a cache of slots, each a ring of positions per KV head.

use tilekiln_dsl::prelude::*;

use crate::heads::{HEAD_DIM, head_dim, head_scale, rotate_head};
use crate::registry::prelude::*;

/// The slot of tokens that are not stored.
pub const NOWHERE: u32 = u32::MAX;

/// One block per token (x) and KV head (y), one thread per value: keys are normalised, weighted and rotated, values are
/// normalised; both go to \[slots\[token\], kv_head, positions\[token\] % capacity\] of their caches.
///
/// `k` and `v` are raw projections and may be the same buffer. Tokens with the slot 0xffffffff are not stored. No two
/// tokens of a launch may go to the same place. Batch invariance: a head's sums are added by its own block, always in
/// the same order.
#[kernel(threads = head_dim)]
pub fn cache_write<Element: Float>(
    #[shape(tokens, kv_heads, head_dim)] k: In<f32>,
    #[shape(tokens, kv_heads, head_dim)] v: In<f32>,
    #[shape(head_dim)] w: In<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(tokens)] slots: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    #[shape(slots, kv_heads, capacity, head_dim)] cache_k: Out<Element>,
    #[shape(slots, kv_heads, capacity, head_dim)] cache_v: Out<Element>,
    kv_heads: u32,
    capacity: u32,
    eps: f32,
    #[comptime] head_dim: usize,
) {
    let token = block_index();
    let kv_head = block_index_y();
    let col = thread_index();
    let slot = slots[token];
    if slot != NOWHERE {
        let position = positions[token];
        let row = (slot * kv_heads + kv_head) * capacity + position % capacity;

        let key = k[(token, kv_head, col)];
        let normalised = key * head_scale(key, eps, head_dim) * w[col];
        let rotated = rotate_head(normalised, position, inverse_frequency, head_dim);
        cache_k[row * head_dim + col] = rotated.to();

        /// the barrier of the rotation lies between the two sums, which share their memory
        let value = v[(token, kv_head, col)];
        cache_v[row * head_dim + col] = (value * head_scale(value, eps, head_dim)).to();
    }
}

/// Registration of [`cache_write`].
pub const ENTRY: Entry = Entry {
    name: "cache_write",
    parameters: &[ELEMENT, HEAD_DIM],
    build: |settings| {
        let head_dim = head_dim(settings)?;
        Ok(match settings.text("element")? {
            "f16" => cache_write::<f16>(head_dim),
            "bf16" => cache_write::<bf16>(head_dim),
            "f32" => cache_write::<f32>(head_dim),
            other => return Err(settings.unsupported("element", other, &["f16", "bf16", "f32"])),
        })
    },
    example: |settings, random| {
        let head_dim = head_dim(settings)?;
        let (tokens, kv_heads, capacity) = (random.size(1, 5), random.size(1, 3), random.size(5, 11));
        // consecutive positions of one slot, across the end of the ring
        let first = random.size(0, 40) as u32;
        let slot = random.size(0, 2);
        let positions = (first..first + tokens as u32).flat_map(u32::to_le_bytes).collect();
        let slots = (0..tokens).flat_map(|_| (slot as u32).to_le_bytes()).collect();
        let cache = 3 * kv_heads * capacity * head_dim * width(settings.text("element")?);
        Ok(Example {
            grid: [tokens as u32, kv_heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * kv_heads * head_dim),
                random.floats("f32", tokens * kv_heads * head_dim),
                random.floats("f32", head_dim),
                Argument::Input(positions),
                Argument::Input(slots),
                random.floats("f32", head_dim / 2),
                Argument::output(cache),
                Argument::output(cache),
                Argument::U32(kv_heads as u32),
                Argument::U32(capacity as u32),
                Argument::F32(1e-6),
            ],
        })
    },
};
