//! The end of a block: what its warps have summed, put together and handed out.

use std::ops::Range;

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Scales};
use super::flash::{Attended, Block, START, TEAM};
use super::values::{RAISE, Running, value_part};

/// Sums of exponentials of a block's columns, by the warps that share them: of each page at once, and of units of the
/// same values.
#[derive(Clone, Copy)]
pub(super) struct Totals {
    /// [pages at once, units at once, columns]
    parts: Shared<f32>,
    /// Highest score of each column, [pages at once, columns], where somebody asks for it.
    highest: Option<Shared<f32>>,
}

/// Warps of a team that take different units of the same values.
fn sharers(block: &Block) -> usize {
    TEAM / block.value_units()
}

impl Totals {
    /// Brings the totals of all columns into shared memory, and their highest scores, which pages at once need to be
    /// merged, and partial results to be worth something.
    #[tile_fn]
    pub(super) fn of(block: &Block, running: Running, is_partial: bool) -> Self {
        let columns = block.columns();
        let parts = Shared::<f32>::new(block.shape.pages * sharers(block) * columns);
        let mut highest = None;
        if is_partial || block.shape.pages > 1 {
            let of_columns = Shared::<f32>::new(block.shape.pages * columns);
            highest = Some(of_columns);
        }
        let k_parts = target().fragments.k_parts();
        let sharer = block.turn * sharers(block) + block.member / block.value_units();
        for tile in unrolled(0..block.shape.tiles) {
            let column = (block.team * block.shape.tiles + tile) * block.width + operand_column();
            let mut total = running.total[tile];
            if k_parts > 1 {
                total = group_sum(total, k_parts);
            }
            /// warps that take other values of the same positions have the same totals
            if block.member % block.value_units() == 0 && lane_index() == operand_column() * k_parts {
                parts[sharer * columns + column] = total;
                if let Some(highest) = highest {
                    /// all warps of a page know the same one
                    if block.member == 0 {
                        highest[block.turn * columns + column] = running.highest[tile];
                    }
                }
            }
        }
        barrier();
        Self { parts, highest }
    }

    /// The highest score of a column.
    #[tile_fn]
    pub(super) fn highest(&self, block: &Block, column: Val<u32>) -> Val<f32> {
        match self.highest {
            Some(of_columns) => {
                let mut highest = of_columns[column];
                for turn in 1..block.shape.pages {
                    highest = max(highest, of_columns[column + turn * block.columns()]);
                }
                highest
            }
            None => f32(START),
        }
    }

    /// What the sums of the pages `turn` are worth among all.
    #[tile_fn]
    fn factor(&self, block: &Block, column: Val<u32>, turn: Val<u32>) -> Val<f32> {
        match self.highest {
            Some(of_columns) if block.shape.pages > 1 => {
                let own = of_columns[turn * block.columns() + column];
                (own - self.highest(block, column)).exp2_flushed()
            }
            _ => f32(1.0),
        }
    }

    /// The total of a column.
    #[tile_fn]
    pub(super) fn get(&self, block: &Block, column: Val<u32>) -> Val<f32> {
        let mut total = f32(0.0);
        for turn in 0..block.shape.pages {
            let mut of_pages = self.parts[column + turn * sharers(block) * block.columns()];
            for sharer in 1..sharers(block) {
                of_pages = of_pages + self.parts[column + (turn * sharers(block) + sharer) * block.columns()];
            }
            total = fma(of_pages, self.factor(block, column, u32(turn as u32)), total);
        }
        total
    }
}

/// Hands out a block's weighted sums, four values of a column at a time: column, first of the values in the head, values.
/// They are still to be divided by the column's total.
#[tile_fn]
pub(super) fn hand_out<V: KvCodec>(
    block: &Block,
    attended: Attended,
    totals: Totals,
    mut take: impl FnMut(Val<u32>, Val<u32>, [Val<f32>; 4]),
) {
    let sums = attended.sums;
    let (group, _) = value_part(block);
    if sharers(block) * block.shape.pages == 1 {
        for tile in unrolled(0..block.shape.tiles) {
            for slot in 0..Products::<f32>::lane_columns() {
                let column = (block.team * block.shape.tiles + tile) * block.width + Products::<f32>::column(slot);
                let factor = f32(unraised::<V>());
                each_quad(block, sums, tile, (slot, all_rows()), factor, |_, dim, values| {
                    take(column, group * block.values.places.dims + dim, values);
                });
            }
        }
    } else {
        merge::<V>(block, sums, totals, group, take);
    }
}

/// What undoes the factor of weights.
fn unraised<V: KvCodec>() -> f32 {
    if V::SCALES == Scales::Position {
        1.0
    } else {
        1.0 / RAISE
    }
}

/// Four sums at a time that lie next to each other in the head, times a factor: their number among those of a column's rows,
/// the first one's place in the unit, and the sums. Rows count where a lane has several values of the same tile.
#[tile_fn]
fn each_quad(
    block: &Block,
    sums: Products<f32>,
    tile: Val<u32>,
    (slot, rows): (usize, Range<usize>),
    factor: Val<f32>,
    mut take: impl FnMut(Val<u32>, Val<u32>, [Val<f32>; 4]),
) {
    let tiles = block.shape.tiles;
    let slots = target().fragments.lane_rows();
    let sum = |part: Val<u32>, row: usize| sums.at(part * tiles + tile).get(row, slot) * factor;
    for quad in unrolled(0..block.value_tiles() * slots / 4) {
        if slots == 2 {
            let first = quad * 2;
            let dim = block.values.places.dim_of_row(first, Products::<f32>::row(0));
            let values = [sum(first, 0), sum(first, 1), sum(first + 1, 0), sum(first + 1, 1)];
            take(quad, dim, values);
        } else {
            for row in rows.clone() {
                let first = quad * 4;
                let dim = block.values.places.dim_of_row(first, Products::<f32>::row(row));
                let values = [
                    sum(first, row),
                    sum(first + 1, row),
                    sum(first + 2, row),
                    sum(first + 3, row),
                ];
                take(quad * rows.len() + (row - rows.start), dim, values);
            }
        }
    }
}

/// Rows of a product that are merged together.
const ROWS: usize = 2;

/// All rows of a product that a lane holds.
fn all_rows() -> Range<usize> {
    0..Products::<f32>::lane_rows()
}

/// Adds the sums of warps that have taken different pages and units, in order: each warp keeps a part of what it holds, and
/// gives the others what they keep, column by column through the same shared memory.
#[tile_fn]
fn merge<V: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    totals: Totals,
    group: Val<u32>,
    mut take: impl FnMut(Val<u32>, Val<u32>, [Val<f32>; 4]),
) {
    let (tiles, width) = (block.shape.tiles, block.width);
    let quads = block.value_tiles() * ROWS / 4;
    let turns = sharers(block) * block.shape.pages;
    let own_turn = block.turn * sharers(block) + block.member / block.value_units();
    /// warps with the same columns and values
    let set = block.team * block.value_units() + block.member % block.value_units();
    let given = Shared::<f32>::new(block.shape.teams * block.value_units() * quads * (turns - 1) * 128);
    let first_quad = set * quads;
    let place = |quad: Val<u32>, giver: Val<u32>| (((first_quad + quad) * (turns - 1) + giver) * 32 + lane_index()) * 4;
    let keeper = |quad: Val<u32>| quad * turns / quads;
    for tile in unrolled(0..tiles) {
        for slot in 0..Products::<f32>::lane_columns() {
            let column = (block.team * tiles + tile) * width + Products::<f32>::column(slot);
            let factor = totals.factor(block, column, block.turn) * unraised::<V>();
            for first_row in all_rows().step_by(ROWS) {
                let rows = (slot, first_row..first_row + ROWS);
                each_quad(block, sums, tile, rows.clone(), factor, |quad, _, values| {
                    /// turns behind the keeper's come first
                    let giver = (own_turn + (turns - 1) - keeper(quad)) % turns;
                    if giver < turns - 1 {
                        given.store_as::<Pack<f32, 4>>(place(quad, giver), Val::pack(values));
                    }
                });
                barrier();
                each_quad(block, sums, tile, rows, factor, |quad, dim, values| {
                    if own_turn == keeper(quad) {
                        let merged = Registers::<f32>::filled(4, 0.0);
                        for turn in unrolled(0..turns) {
                            let giver = (turn + (turns - 1) - keeper(quad)) % turns;
                            if giver == turns - 1 {
                                add_four(merged, values);
                            } else {
                                let four = given.load_as::<Pack<f32, 4>>(place(quad, giver));
                                add_four(merged, [0, 1, 2, 3].map(|i: usize| four.component(i)));
                            }
                        }
                        let first = group * block.values.places.dims + dim;
                        take(column, first, [0, 1, 2, 3].map(|i: usize| merged[i]));
                    }
                });
                barrier();
            }
        }
    }
}

/// Adds four sums to those of the turns before, rounded one by one.
#[tile_fn]
fn add_four(merged: Registers<f32>, values: [Val<f32>; 4]) {
    for i in 0..4 {
        merged[i] = Val::<f32>::add_unfused(merged[i], values[i]);
    }
}
