//! The queries of a block, brought into shared memory as columns of the right operand.

use tilekiln_dsl::prelude::*;

use super::codec::KvCodec;
use super::flash::{Block, TEAM};
use crate::turbo::rotation::{NORMALISE, SIGNS_1, SIGNS_2, with_sign, word_of};

/// Largest finite f16.
const LARGEST: f32 = 65504.0;

/// This block's queries as columns of the right operand: rotated where the keys are, split into terms.
#[tile_fn]
pub(super) fn load_queries<K: KvCodec>(block: &Block, queries: Shared<u32>, q: In<f32>) {
    let dims = block.keys.places.dims;
    let groups = block.keys.groups;
    let columns = block.columns();
    let head_dim = block.shape.head_dim;
    let per_lane = dims / 32;
    for part in stepped(warp_index(), columns * groups, TEAM * block.shape.teams) {
        let column = part / groups;
        let group = part % groups;
        let token = column / block.gqa;
        let head = block.kv_head * block.gqa + column % block.gqa;
        let first = group * dims + lane_index() * per_lane;
        /// past the last row, and where heads are padded, zeros
        let part_of_query = Registers::<f32>::filled(per_lane, 0.0);
        if token < block.rows && first < head_dim {
            let row = ((block.first_row + token) * block.heads + head) * head_dim;
            for i in unrolled(0..per_lane) {
                part_of_query[i] = q[row + first + i];
            }
        }
        if K::ROTATED {
            rotate_in_warp(part_of_query, SIGNS_1, SIGNS_2);
        }
        store_query::<K>(block, queries, part_of_query, column, group);
    }
}

/// Rotates 128 values of which each lane of a warp holds four, one after the other.
#[tile_fn]
fn rotate_in_warp(values: Registers<f32>, first: [u32; 4], second: [u32; 4]) {
    let lane = lane_index();
    let signs = word_of(first, lane / 8);
    for i in unrolled(0..4) {
        values[i] = with_sign(values[i], signs, lane % 8 * 4 + i);
    }
    for distance in [1, 2] {
        for pair in unrolled(0..2) {
            let low = pair / distance * (2 * distance) + pair % distance;
            let (a, b) = (values[low], values[low + distance]);
            values[low] = a + b;
            values[low + distance] = a - b;
        }
    }
    for distance in [1, 2, 4, 8, 16] {
        let is_low = lane & distance == 0;
        for i in unrolled(0..4) {
            let other = shuffle_xor(values[i], distance);
            values[i] = select(is_low, values[i] + other, other - values[i]);
        }
    }
    let signs = word_of(second, lane / 8);
    for i in unrolled(0..4) {
        values[i] = with_sign(values[i] * NORMALISE, signs, lane % 8 * 4 + i);
    }
}

/// Puts one lane's values of a query where the lanes that multiply them look for them.
#[tile_fn]
fn store_query<K: KvCodec>(
    block: &Block,
    queries: Shared<u32>,
    values: Registers<f32>,
    column: Val<u32>,
    group: Val<u32>,
) {
    let places = block.keys.places;
    let parts = target().fragments.k_parts();
    let per_lane = places.dims / 32;
    let step_dims = block.step_words() * 2;
    let inside = lane_index() * per_lane;
    let (part, place) = (inside / places.run_len(), inside % places.run_len());
    let (step, word) = (place / step_dims, place % step_dims / 2);
    let lane = column % block.width * parts + part;
    for term in 0..K::TERMS {
        let start = block.query_word(term, column / block.width, group, step / 2, lane);
        for pair in 0..per_lane / 2 {
            let word_of_pair = take_term::<K::Element>(values, 2 * pair);
            queries[start + step % 2 * block.step_words() + word + pair] = word_of_pair;
        }
    }
}

/// Two values as numbers of 16 bits in a word; what is left of them takes their place.
#[tile_fn]
pub(super) fn take_term<Element: HalfElement>(values: Registers<f32>, first: usize) -> Val<u32> {
    let (a, b) = (values[first], values[first + 1]);
    if Element::NAME == "bf16" {
        let (word_a, word_b) = (nearest_bf16(a), nearest_bf16(b));
        values[first] = a - word_a.bitcast::<f32>();
        values[first + 1] = b - word_b.bitcast::<f32>();
        word_a >> 16 | word_b
    } else {
        let halves = [a, b].map(|value| min(max(value, -LARGEST), LARGEST).to::<f16>());
        Val::<Pack<f16, 2>>::pack(halves).bitcast::<u32>()
    }
}

/// the nearest bf16, ties to even, as an f32
#[device_fn]
fn nearest_bf16(value: Val<f32>) -> Val<u32> {
    let bits = value.bitcast::<u32>();
    (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000u32
}
