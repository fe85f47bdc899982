//! Queries as attention wants them: normed, rotated by position, in the domain of the cached keys, two 16-bit numbers to
//! a word in the order in which they become columns of the right operand.

use tilekiln_dsl::prelude::*;

use super::codec::KvCodec;
use super::flash::{Block, LOG2_E};
use super::formats::{self, HEAD_DIM, K};
use super::pages::{Places, Side};
use crate::heads::{Turn, head_scale};
use crate::registry::prelude::*;
use crate::turbo::rotation::{SIGNS_1, SIGNS_2, rotate};

/// Largest finite f16.
const LARGEST: f32 = 65504.0;

/// Where the words of a query lie: for each group of a head's values and each pair of steps along k, what every part's
/// lane takes of both steps.
#[derive(Clone, Copy)]
pub(super) struct Order {
    places: Places,
    /// Words of a column in one step.
    step_words: usize,
    parts: usize,
}

impl Order {
    /// The order of queries that meet keys of this format.
    pub fn of<Keys: KvCodec>(head_dim: usize) -> Self {
        let layout = target().fragments;
        Self {
            places: Places::here(Side::Key, Keys::stored(head_dim)),
            step_words: layout.words_per_row(2),
            parts: layout.k_parts(),
        }
    }

    /// Pairs of steps in a group.
    pub fn pairs(self) -> usize {
        self.places.dims / 32
    }

    /// Words that the lanes of a column take of a pair of steps.
    pub fn pair_words(self) -> usize {
        2 * self.step_words * self.parts
    }

    /// The word with value `dim` of the head.
    #[tile_fn]
    fn word(self, dim: Val<u32>) -> Val<u32> {
        let (dims, run_len) = (self.places.dims, self.places.run_len());
        let (part, place) = (dim % dims / run_len, dim % run_len);
        let step = place / (2 * self.step_words);
        let pair = dim / dims * self.pairs() + step / 2;
        (pair * self.parts + part) * (2 * self.step_words) + step % 2 * self.step_words + place / 2 % self.step_words
    }
}

fn threads<Keys: KvCodec>(head_dim: usize) -> usize {
    Keys::stored(head_dim)
}

/// One block per token (x) and head (y), one thread per value: the query is normalised, weighted, rotated by position and,
/// where keys are stored so, by the rotation of their format; times log2(e), because attention takes powers of 2.
///
/// The heads of a token begin at `token * stride`. Numbers that do not fit f16 become the largest one. A format of bf16 keys gets two terms, one after the other. Batch
/// invariance: a head's sums are added by its own block, always in the same order.
#[kernel(threads = threads::<K>(head_dim))]
pub fn prepare_queries<K: KvCodec>(
    #[shape(tokens, stride)] q: In<f32>,
    #[shape(head_dim)] w: In<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    #[shape(tokens, heads, terms, words)] out: Out<u32>,
    heads: u32,
    stride: u32,
    eps: f32,
    #[comptime] head_dim: usize,
) {
    trigger_dependents();
    store_query::<K>(
        q,
        w,
        positions,
        inverse_frequency,
        out,
        block_index_y(),
        heads,
        stride,
        eps,
        head_dim,
        threads::<K>(head_dim),
    );
}

/// Prepares one query of the block's token, one value a thread. Waits for the launches in front.
#[tile_fn]
pub(super) fn store_query<Keys: KvCodec>(
    q: In<f32>,
    w: In<f32>,
    positions: In<u32>,
    inverse_frequency: In<f32>,
    out: Out<u32>,
    head: Val<u32>,
    heads: Val<u32>,
    stride: Val<u32>,
    eps: Val<f32>,
    #[comptime] head_dim: usize,
    #[comptime] threads: usize,
) {
    let stored = Keys::stored(head_dim);
    let token = block_index();
    let dim = thread_index();
    let position = positions[token];
    let mut weight = f32(0.0);
    if dim < head_dim {
        weight = w[dim];
    }
    let turn = Turn::here(position, inverse_frequency, head_dim, threads);
    wait_for_prerequisites();
    let mut value = f32(0.0);
    if dim < head_dim {
        value = q[token * stride + (head * head_dim + dim)];
    }
    let normed = value * head_scale(value, eps, head_dim, threads) * weight;
    let mut query = turn.rotate(normed, head_dim, threads) * LOG2_E;
    if Keys::ROTATED {
        let exchange = Shared::<f32>::new(threads);
        query = rotate(query, dim, exchange, SIGNS_1, SIGNS_2);
    }
    /// threads with even values pack those of their neighbours
    let next = shuffle_down(query, 1);
    let order = Order::of::<Keys>(head_dim);
    let first = (token * heads + head) * (Keys::TERMS * stored / 2) + order.word(dim);
    let words = terms::<Keys::Element>(
        fitting::<Keys::Element>(query),
        fitting::<Keys::Element>(next),
        Keys::TERMS,
    );
    if (dim % 2 == 0) & (dim < stored) {
        for term in 0..Keys::TERMS {
            out[first + term * stored / 2] = words[term];
        }
    }
}

/// The value, or the largest number of the element where it is larger.
#[tile_fn]
fn fitting<Element: HalfElement>(value: Val<f32>) -> Val<f32> {
    if Element::NAME == "f16" {
        min(max(value, -LARGEST), LARGEST)
    } else {
        value
    }
}

/// Two values as sums of `count` numbers of 16 bits each: a word for each term.
pub(super) fn terms<Element: HalfElement>(a: Val<f32>, b: Val<f32>, count: usize) -> Vec<Val<u32>> {
    let mut left = [a, b];
    (0..count)
        .map(|_| {
            let (word, rest) = term::<Element>(left);
            left = rest;
            word
        })
        .collect()
}

/// Two values that fit as numbers of 16 bits, and what is left of them.
#[tile_fn]
fn term<Element: HalfElement>(values: [Val<f32>; 2]) -> (Val<u32>, [Val<f32>; 2]) {
    if Element::NAME == "bf16" {
        let (a, b) = (nearest_bf16(values[0]), nearest_bf16(values[1]));
        let rest = [values[0] - a.bitcast::<f32>(), values[1] - b.bitcast::<f32>()];
        (a >> 16 | b, rest)
    } else {
        let halves = [values[0], values[1]].map(|value| value.to::<f16>());
        (Val::<Pack<f16, 2>>::pack(halves).bitcast::<u32>(), values)
    }
}

/// the nearest bf16, ties to even, as an f32
#[device_fn]
fn nearest_bf16(value: Val<f32>) -> Val<u32> {
    let bits = value.bitcast::<u32>();
    (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000u32
}

/// Brings a block's queries into shared memory; zeros behind the last one.
#[tile_fn]
pub(super) fn load_queries<Keys: KvCodec>(block: &Block, queries: Shared<u32>, q: In<u32>) {
    let order = Order::of::<Keys>(block.shape.head_dim);
    let stored = Keys::stored(block.shape.head_dim);
    let (columns, chunks) = (block.columns(), stored / 8);
    let pair_chunks = order.pair_words() / 4;
    for i in strided(Keys::TERMS * columns * chunks, block.shape.threads()) {
        let (column, chunk) = (i / chunks % columns, i % chunks);
        let term = i / (chunks * columns);
        let token = column / block.gqa;
        let head = block.kv_head * block.gqa + column % block.gqa;
        let query = ((block.first_row + token) * block.heads + head) * Keys::TERMS + term;
        let mut four = Val::pack([u32(0), u32(0), u32(0), u32(0)]);
        if token < block.rows {
            four = q.load_as::<Pack<u32, 4>>(query * (stored / 2) + chunk * 4);
        }
        let (pair, part) = (chunk / pair_chunks, chunk % pair_chunks);
        let row = (term * block.all_tiles() + column / block.width) * (chunks / pair_chunks) + pair;
        let start = row * (block.width * order.pair_words()) + column % block.width * order.pair_words();
        queries.store_as::<Pack<u32, 4>>(start + part * 4, four);
    }
}

/// Registration of [`prepare_queries`] with every format of keys.
pub const ENTRY: Entry = Entry {
    name: "prepare_queries",
    parameters: &[K, HEAD_DIM],
    build: |settings| Ok((formats::fast(settings)?.prepare_queries)(formats::head_dim(settings)?)),
    example: |settings, random| {
        let head_dim = formats::head_dim(settings)?;
        let (tokens, heads) = (random.size(1, 6), random.size(1, 5));
        let stride = heads * head_dim + random.size(0, 7);
        let words = formats::fast(settings)?.query_words(head_dim);
        Ok(Example {
            grid: [tokens as u32, heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * stride),
                random.floats("f32", head_dim),
                random.below(tokens, 262_144),
                random.floats("f32", head_dim / 2),
                Argument::output(tokens * heads * words * 4),
                Argument::U32(heads as u32),
                Argument::U32(stride as u32),
                Argument::F32(1e-6),
            ],
        })
    },
};
