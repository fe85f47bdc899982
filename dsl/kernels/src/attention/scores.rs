//! Scores: keys times queries.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Loaded, Scales};
use super::flash::{Block, LOWEST};
use super::pages::UNIT;
use super::partition::Span;

/// Which keys the columns that this lane holds scores of may see.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// First visible key, and how many from there on; one for each column of the lane.
    begin: Registers<u32>,
    count: Registers<u32>,
}

impl Sight {
    #[tile_fn]
    pub(super) fn of(block: &Block, positions: In<u32>, visible: In<u32>, window: Val<u32>) -> Self {
        let held = Products::<f32>::lane_columns();
        let begin = Registers::<u32>::undefined(block.shape.tiles * held);
        let count = Registers::<u32>::undefined(block.shape.tiles * held);
        for tile in 0..block.shape.tiles {
            for slot in 0..held {
                let column = (block.team * block.shape.tiles + tile) * block.width + Products::<f32>::column(slot);
                let token = column / block.gqa;
                let row = block.first_row + min(token, block.rows - 1);
                let span = Span::of_row(positions, visible, row, window);
                begin[tile * held + slot] = span.begin;
                count[tile * held + slot] = select(token < block.rows, span.end - span.begin, 0u32);
            }
        }
        Self { begin, count }
    }
}

/// Scores of this warp's 16 keys of a page, with all columns of its team; what a column must not see is far below
/// everything else.
#[tile_fn]
pub(super) fn score_unit<K: KvCodec>(
    block: &Block,
    scores: SharedTile<f32>,
    first_column: Val<u32>,
    queries: Shared<u32>,
    cache_k: In<u8>,
    page: Val<u64>,
    first_key: Val<u32>,
    sight: Sight,
) {
    let tiles = block.shape.tiles;
    let (rows, held) = (Products::<f32>::lane_rows(), Products::<f32>::lane_columns());
    let sums = Products::<f32>::zeros(tiles);
    for group in unrolled(0..block.keys.groups) {
        let unit = block.keys.unit(page, group, block.member);
        let loaded = Loaded::from::<K>(&block.keys, cache_k, unit);
        if K::SCALES == Scales::Position {
            /// a key's scale multiplies its scores
            let part = Products::<f32>::zeros(tiles);
            multiply_keys::<K>(block, part, queries, loaded, group);
            for row in 0..rows {
                let scale = cache_k
                    .load_as::<f16>(block.keys.scale_of(unit, Products::<f32>::row(row)))
                    .to::<f32>();
                for tile in unrolled(0..tiles) {
                    for slot in 0..held {
                        let score = fma(part.at(tile).get(row, slot), scale, sums.at(tile).get(row, slot));
                        sums.at(tile).set(row, slot, score);
                    }
                }
            }
        } else {
            multiply_keys::<K>(block, sums, queries, loaded, group);
        }
    }
    for tile in unrolled(0..tiles) {
        for slot in 0..held {
            let column = (block.team * tiles + tile) * block.width + Products::<f32>::column(slot);
            for row in 0..rows {
                let key = block.member * UNIT + Products::<f32>::row(row);
                let is_visible = first_key + key - sight.begin[tile * held + slot] < sight.count[tile * held + slot];
                scores[(first_column + column, key)] = select(is_visible, sums.at(tile).get(row, slot), LOWEST);
            }
        }
    }
}

/// `sums += keys · queries` over the values of one unit.
#[tile_fn]
fn multiply_keys<K: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    queries: Shared<u32>,
    loaded: Loaded,
    group: Val<u32>,
) {
    let slots = block.keys.places.runs();
    let words = block.step_words();
    for pair in unrolled(0..block.key_steps() / 2) {
        let first_step = RowOperand::<K::Element>::undefined();
        let second_step = RowOperand::<K::Element>::undefined();
        for slot in 0..slots {
            for quad in 0..words {
                let pairs = K::quad(&block.keys, loaded, slot, pair * words + quad);
                let operand = if quad < words / 2 { first_step } else { second_step };
                let word = quad % (words / 2) * 2;
                operand.set(slot, word, pairs[0]);
                operand.set(slot, word + 1, pairs[1]);
            }
        }
        for term in 0..K::TERMS {
            for tile in unrolled(0..block.shape.tiles) {
                let lane = operand_column() * target().fragments.k_parts() + operand_part();
                let start = block.query_word(term, block.team * block.shape.tiles + tile, group, pair, lane);
                for step in 0..2 {
                    let column = ColumnOperand::<K::Element>::undefined();
                    load_words(column, queries, start + step * words);
                    multiply(
                        sums.at(tile),
                        if step == 0 { first_step } else { second_step },
                        column,
                    );
                }
            }
        }
    }
}

/// The words of a column operand that lie next to each other.
#[tile_fn]
fn load_words<Element: MatrixElement>(column: ColumnOperand<Element>, from: Shared<u32>, start: Val<u32>) {
    let words = ColumnOperand::<Element>::words();
    if words == 2 {
        let two = from.load_as::<Pack<u32, 2>>(start);
        column.set(0, two.component(0));
        column.set(1, two.component(1));
    } else {
        for part in 0..words / 4 {
            let four = from.load_as::<Pack<u32, 4>>(start + part * 4);
            for word in 0..4 {
                column.set(part * 4 + word, four.component(word));
            }
        }
    }
}
