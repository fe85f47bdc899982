//! The online softmax, and weights times values.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Loaded, Scales};
use super::flash::{Block, LOG2_E, LOWEST, TEAM};
use super::pages::{UNIT, UNITS};
use super::queries::take_term;

/// Weights are multiplied by it where values have no scale of their own: small ones survive in f16.
pub(super) const RAISE: f32 = 64.0;

/// The softmax of the columns whose weights this lane makes.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Highest score so far, on all lanes of a column.
    pub highest: Registers<f32>,
    /// Sum of the exponentials that this lane has made.
    pub total: Registers<f32>,
}

/// Weights of this warp's units of a page times their values, added to `sums`, after what was summed before has shrunk to
/// the new highest scores.
#[tile_fn]
pub(super) fn add_values<V: KvCodec>(
    block: &Block,
    running: Running,
    sums: Products<f32>,
    scores: SharedTile<f32>,
    first_column: Val<u32>,
    cache_v: In<u8>,
    page: Val<u64>,
) {
    let tiles = block.shape.tiles;
    let runs = block.values.places.runs();
    let shrink = Registers::<f32>::undefined(tiles);
    for tile in unrolled(0..tiles) {
        let column = first_column + (block.team * tiles + tile) * block.width + operand_column();
        let mut step_highest = running.highest[tile];
        for unit in unrolled(0..UNITS) {
            for part in 0..runs / 4 {
                let first = operand_part() * runs + part * 4;
                let four = scores.load_as::<Pack<f32, 4>>(column, unit * UNIT + first);
                for i in 0..4 {
                    step_highest = max(step_highest, four.component(i));
                }
            }
        }
        let now = column_max(step_highest);
        shrink[tile] = ((running.highest[tile] - now) * LOG2_E).exp2();
        running.highest[tile] = now;
        running.total[tile] = running.total[tile] * shrink[tile];
    }
    shrink_sums(block, sums, shrink);

    let (group, first_unit) = value_part(block);
    for i in unrolled(0..block.value_units()) {
        let unit = first_unit + i;
        let start = block.values.unit(page, group, unit);
        let loaded = Loaded::from::<V>(&block.values, cache_v, start);
        let weights = Registers::<u32>::undefined_2d(V::TERMS * tiles, runs / 2);
        make_weights::<V>(block, running, weights, scores, first_column, cache_v, start, unit);
        multiply_values::<V>(block, sums, loaded, weights);
    }
}

/// Which group of a head's values this warp takes, and from which unit of a page on.
#[tile_fn]
pub(super) fn value_part(block: &Block) -> (Val<u32>, Val<u32>) {
    let groups = block.values.groups;
    if groups >= TEAM {
        (block.member, u32(0))
    } else {
        (block.member % groups, block.member / groups * groups)
    }
}

/// The largest value of the lanes that share a column.
#[tile_fn]
fn column_max(value: Val<f32>) -> Val<f32> {
    if target().fragments.k_parts() > 1 {
        group_max(value, target().fragments.k_parts())
    } else {
        value
    }
}

/// Multiplies sums by their columns' factors, unless all are 1.
#[tile_fn]
fn shrink_sums(block: &Block, sums: Products<f32>, shrink: Registers<f32>) {
    let tiles = block.shape.tiles;
    let held = Products::<f32>::lane_columns();
    let mut is_less = shrink[0] != 1.0;
    for tile in 1..tiles {
        is_less = is_less | (shrink[tile] != 1.0);
    }
    if ballot(is_less) != 0 {
        for tile in unrolled(0..tiles) {
            for slot in 0..held {
                let factor = factor_of_column(shrink[tile], slot);
                for part in unrolled(0..block.value_tiles()) {
                    for row in 0..Products::<f32>::lane_rows() {
                        let product = sums.at(part * tiles + tile);
                        product.set(row, slot, product.get(row, slot) * factor);
                    }
                }
            }
        }
    }
}

/// What the lanes of an operand's column know, for the lanes that hold products of column `slot`.
#[tile_fn]
fn factor_of_column(value: Val<f32>, slot: usize) -> Val<f32> {
    let parts = target().fragments.k_parts();
    if parts > 1 {
        shuffle(value, Products::<f32>::column(slot) * parts)
    } else {
        value
    }
}

/// The weights of one unit's keys, as columns of the right operand, times the values' scales where they have some.
#[tile_fn]
fn make_weights<V: KvCodec>(
    block: &Block,
    running: Running,
    weights: Registers<u32>,
    scores: SharedTile<f32>,
    first_column: Val<u32>,
    cache_v: In<u8>,
    start: Val<u64>,
    unit: Val<u32>,
) {
    let tiles = block.shape.tiles;
    let runs = block.values.places.runs();
    let first = operand_part() * runs;
    for part in 0..runs / 4 {
        let scales = Registers::<f32>::filled(4, RAISE);
        if V::SCALES == Scales::Position {
            for i in 0..4 {
                let position = first + (part * 4 + i);
                scales[i] = cache_v.load_as::<f16>(block.values.scale_of(start, position)).to::<f32>();
            }
        }
        for tile in unrolled(0..tiles) {
            let column = first_column + (block.team * tiles + tile) * block.width + operand_column();
            let four = scores.load_as::<Pack<f32, 4>>(column, unit * UNIT + first + part * 4);
            let scaled = Registers::<f32>::undefined(4);
            for i in 0..4 {
                let score = four.component(i);
                let power = ((score - running.highest[tile]) * LOG2_E).exp2();
                let weight = select(score > LOWEST, power, 0.0);
                running.total[tile] = running.total[tile] + weight;
                scaled[i] = weight * scales[i];
            }
            for term in 0..V::TERMS {
                for pair in 0..2 {
                    weights[(tile * V::TERMS + term, part * 2 + pair)] = take_term::<V::Element>(scaled, 2 * pair);
                }
            }
        }
    }
}

/// `sums += values · weights` over the positions of one unit.
#[tile_fn]
fn multiply_values<V: KvCodec>(block: &Block, sums: Products<f32>, loaded: Loaded, weights: Registers<u32>) {
    let tiles = block.shape.tiles;
    let places = block.values.places;
    let (runs, slots) = (places.runs(), target().fragments.lane_rows());
    for quad in unrolled(0..places.run_len() / 4) {
        let halves = (0..runs)
            .map(|run: usize| V::quad(&block.values, loaded, run, quad))
            .collect::<Vec<[Val<u32>; 2]>>();
        for part in 0..4 / slots {
            let operand = RowOperand::<V::Element>::undefined();
            for slot in 0..slots {
                let dim = part * slots + slot;
                let pick = if dim % 2 == 0 { 0x5410u32 } else { 0x7632 };
                for pair in 0..runs / 2 {
                    let word = byte_permute(halves[2 * pair][dim / 2], halves[2 * pair + 1][dim / 2], pick);
                    operand.set(slot, pair, word);
                }
            }
            for tile in unrolled(0..tiles) {
                for term in 0..V::TERMS {
                    let column = ColumnOperand::<V::Element>::undefined();
                    for word in unrolled(0..runs / 2) {
                        column.set(word, weights[(tile * V::TERMS + term, word)]);
                    }
                    multiply(sums.at((quad * (4 / slots) + part) * tiles + tile), operand, column);
                }
            }
        }
    }
}
