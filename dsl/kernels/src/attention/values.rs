//! The online softmax, and weights times values.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Loaded, Scales, Stage};
use super::flash::{Block, TEAM};
use super::pages::{UNIT, UNITS};
use super::queries::terms;

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

/// Where a warp's values of a page are when they are weighed.
#[derive(Clone, Copy)]
pub(super) struct Values {
    stage: Stage,
    tables: [Val<u32>; 2],
    /// Units that are loaded while scores are exchanged; the others follow in the registers of those that are weighed.
    ahead: usize,
    /// Units that are not loaded ahead are loaded one by one, never two at a time.
    one_by_one: bool,
}

impl Values {
    /// With registers for `ahead` units.
    #[tile_fn]
    pub(super) fn new<V: KvCodec>(block: &Block, ahead: usize, one_by_one: bool) -> Self {
        let tables = V::tables();
        let stage = Stage::new::<V>(&block.values, ahead.max(1), tables);
        Self {
            stage,
            tables,
            ahead,
            one_by_one,
        }
    }

    /// Loads the units of a page that are loaded ahead.
    #[tile_fn]
    pub(super) fn fetch_ahead<V: KvCodec>(&self, block: &Block, cache_v: In<u8>, page: Val<u64>) {
        for unit in unrolled(0..self.ahead) {
            self.fetch::<V>(block, cache_v, page, unit, unit);
        }
    }

    /// Loads one unit of a page to a place of the registers that are kept for them.
    #[tile_fn]
    fn fetch<V: KvCodec>(&self, block: &Block, cache_v: In<u8>, page: Val<u64>, place: Val<u32>, unit: Val<u32>) {
        self.fetch_to::<V>(self.stage, block, cache_v, page, place, unit);
    }

    /// Loads one unit of a page to a place of a stage.
    #[tile_fn]
    fn fetch_to<V: KvCodec>(
        &self,
        stage: Stage,
        block: &Block,
        cache_v: In<u8>,
        page: Val<u64>,
        place: Val<u32>,
        unit: Val<u32>,
    ) {
        let (group, first_unit) = value_part(block);
        let starts = block
            .values
            .lane_starts::<V>(block.values.unit(page, group, first_unit));
        let distance = unit.to::<u64>() * block.values.bytes;
        stage.fetch::<V>(&block.values, cache_v, &starts, place, distance);
    }
}

/// Weights of this warp's units of a page times their values, added to `sums`, after what was summed before has shrunk to
/// the new highest scores. `after_unit` may use the registers that a unit has left.
#[tile_fn]
pub(super) fn add_values<V: KvCodec>(
    block: &Block,
    running: Running,
    sums: Products<f32>,
    scores: SharedTile<f32>,
    first_column: Val<u32>,
    values: &Values,
    cache_v: In<u8>,
    page: Val<u64>,
    mut after_unit: impl FnMut(Val<u32>),
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
        shrink[tile] = (running.highest[tile] - now).exp2_flushed();
        running.highest[tile] = now;
        running.total[tile] = running.total[tile] * shrink[tile];
    }
    shrink_sums(block, sums, shrink);

    let (_, first_unit) = value_part(block);
    let weigh = |loaded: Loaded, unit: Val<u32>| {
        let weights = Registers::<u32>::undefined_2d(V::TERMS * tiles, runs / 2);
        make_weights::<V>(block, running, weights, scores, first_column, loaded, first_unit + unit);
        multiply_values::<V>(block, sums, loaded, weights);
    };
    let units = block.value_units();
    let fetch_and_weigh = |unit: Val<u32>| {
        let stage = Stage::new::<V>(&block.values, 1, values.tables);
        values.fetch_to::<V>(stage, block, cache_v, page, u32(0), unit);
        weigh(stage.unit::<V>(&block.values, u32(0)), unit);
    };
    if values.ahead == 0 && target().fragments.k_parts() > 1 {
        for unit in unrolled(0..units) {
            if values.one_by_one {
                /// no load passes it
                warp_barrier();
            }
            fetch_and_weigh(unit);
            after_unit(unit);
        }
    } else if values.ahead == 0 {
        /// one after the other: where a lane has whole rows, two units have more words than there are registers
        for unit in unrolled_by(1, 0..units) {
            fetch_and_weigh(unit);
        }
        for unit in unrolled(0..units) {
            after_unit(unit);
        }
    } else {
        for round in unrolled(0..units / values.ahead) {
            for place in unrolled(0..values.ahead) {
                let unit = round * values.ahead + place;
                weigh(values.stage.unit::<V>(&block.values, place), unit);
                if values.ahead < units {
                    /// its registers take the unit that is as many behind
                    if unit + values.ahead < units {
                        values.fetch::<V>(block, cache_v, page, place, unit + values.ahead);
                    }
                }
                after_unit(unit);
            }
        }
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
    loaded: Loaded,
    unit: Val<u32>,
) {
    let tiles = block.shape.tiles;
    let runs = block.values.places.runs();
    let first = operand_part() * runs;
    for part in 0..runs / 4 {
        for tile in unrolled(0..tiles) {
            let column = first_column + (block.team * tiles + tile) * block.width + operand_column();
            let four = scores.load_as::<Pack<f32, 4>>(column, unit * UNIT + first + part * 4);
            let scaled = [0, 1, 2, 3].map(|i: usize| {
                /// 0 where a key is not visible: far below even the first highest score
                let weight = (four.component(i) - running.highest[tile]).exp2_flushed();
                running.total[tile] = running.total[tile] + weight;
                weight * weight_scale::<V>(loaded, part * 4 + i)
            });
            for pair in 0..2 {
                let words = terms::<V::Element>(scaled[2 * pair], scaled[2 * pair + 1], V::TERMS);
                for term in 0..V::TERMS {
                    weights[(tile * V::TERMS + term, part * 2 + pair)] = words[term];
                }
            }
        }
    }
}

/// What the weight of a position is multiplied by.
#[tile_fn]
fn weight_scale<V: KvCodec>(loaded: Loaded, position: usize) -> Val<f32> {
    if V::SCALES == Scales::Position {
        loaded.scale(position)
    } else {
        f32(RAISE)
    }
}

/// `sums += values · weights` over the positions of one unit.
#[tile_fn]
fn multiply_values<V: KvCodec>(block: &Block, sums: Products<f32>, loaded: Loaded, weights: Registers<u32>) {
    let tiles = block.shape.tiles;
    let places = block.values.places;
    let (runs, slots) = (places.runs(), target().fragments.lane_rows());
    for quad in unrolled(0..places.run_len() / 4) {
        let pairs = (0..runs / 2)
            .map(|pair: usize| V::quad_of_pair(&block.values, loaded, pair, quad))
            .collect::<Vec<[Val<u32>; 4]>>();
        for part in 0..4 / slots {
            let operand = RowOperand::<V::Element>::undefined();
            for slot in 0..slots {
                for pair in 0..runs / 2 {
                    operand.set(slot, pair, pairs[pair][part * slots + slot]);
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
