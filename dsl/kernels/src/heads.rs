//! The norm of each head and its rotation: what queries and keys go through between projection and attention.
//!
//! Sources: Su et al., "RoFormer" (2021), NEOX pairing; Gemma 4's norms of queries, keys and values.

use tilekiln_dsl::prelude::*;

use crate::block::block_sum;
use crate::registry::prelude::*;

/// One over the root mean square of a head's values, of which each of `head_dim` threads holds one; the rest of the
/// block's `threads` hold zeros.
#[tile_fn]
pub fn head_scale(value: Val<f32>, eps: Val<f32>, #[comptime] head_dim: usize, #[comptime] threads: usize) -> Val<f32> {
    (block_sum(value * value, threads) * (1.0 / head_dim as f32) + eps).rsqrt()
}

/// The rotation of this thread's value: cosine and sine of its angle, position * inverse_frequency in f32.
#[derive(Clone, Copy)]
pub struct Turn {
    cosine: Val<f32>,
    sine: Val<f32>,
}

impl Turn {
    /// That of value `thread_index()` of a head: it goes with the one half a head away, by the same angle (NEOX). A frequency
    /// of 0 leaves a pair as it is.
    #[tile_fn]
    pub fn here(
        position: Val<u32>,
        inverse_frequency: In<f32>,
        #[comptime] head_dim: usize,
        #[comptime] threads: usize,
    ) -> Self {
        let half = head_dim / 2;
        let thread = thread_index();
        let mut pair = select(thread < half, thread, thread - half);
        if threads > head_dim {
            pair = min(pair, half - 1);
        }
        let angle = position.to::<f32>() * inverse_frequency[pair];
        Self {
            // variables, so that they are worked out here and not where they are used
            cosine: angle.cos().variable("cosine"),
            sine: angle.sin().variable("sine"),
        }
    }

    /// A head's values rotated, one per thread. Holds a barrier. Threads behind the head keep their zeros.
    #[tile_fn]
    pub fn rotate(self, value: Val<f32>, #[comptime] head_dim: usize, #[comptime] threads: usize) -> Val<f32> {
        let half = head_dim / 2;
        let thread = thread_index();
        let exchange = Shared::<f32>::new(threads);
        exchange[thread] = value;
        barrier();
        let is_first = thread < half;
        let other = exchange[select(is_first, thread + half, thread - half)];
        let rotated = value * self.cosine + select(is_first, -other, other) * self.sine;
        if threads > head_dim {
            select(thread < head_dim, rotated, f32(0.0))
        } else {
            rotated
        }
    }
}

/// One block per token (x) and head (y), one thread per value: x = rope(x / sqrt(mean(x^2) + eps) * w)
///
/// Batch invariance: a head's sum is added by its own block, always in the same order.
#[kernel(threads = head_dim)]
pub fn head_norm_rope(
    #[shape(tokens, heads, head_dim)] x: InOut<f32>,
    #[shape(head_dim)] w: In<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    heads: u32,
    eps: f32,
    #[comptime] head_dim: usize,
) {
    let token = block_index();
    let head = block_index_y();
    let col = thread_index();
    let turn = Turn::here(positions[token], inverse_frequency, head_dim, head_dim);
    let value = x[(token, head, col)];
    let normalised = value * head_scale(value, eps, head_dim, head_dim) * w[col];
    x[(token, head, col)] = turn.rotate(normalised, head_dim, head_dim);
}

/// The setting for the values of a head, one thread each.
pub const HEAD_DIM: Parameter = choice("head_dim", "256", "values per head, a multiple of 32 up to 1024");

/// Values of a head.
///
/// # Errors
/// Not a multiple of a warp, or more than a block has threads.
pub fn head_dim(settings: &Settings) -> Result<usize, SettingError> {
    let head_dim = settings.number("head_dim")?;
    let fits = head_dim > 0 && head_dim.is_multiple_of(32) && head_dim <= 1024;
    settings.require("head_dim", fits, "a multiple of 32 up to 1024")?;
    Ok(head_dim)
}

/// Registration of [`head_norm_rope`].
pub const ENTRY: Entry = Entry {
    name: "head_norm_rope",
    parameters: &[HEAD_DIM],
    build: |settings| Ok(head_norm_rope(head_dim(settings)?)),
    example: |settings, random| {
        let head_dim = head_dim(settings)?;
        let (tokens, heads) = (random.size(1, 6), random.size(1, 5));
        Ok(Example {
            grid: [tokens as u32, heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * heads * head_dim),
                random.floats("f32", head_dim),
                random.below(tokens, 262_144),
                random.floats("f32", head_dim / 2),
                Argument::U32(heads as u32),
                Argument::F32(1e-6),
            ],
        })
    },
};
