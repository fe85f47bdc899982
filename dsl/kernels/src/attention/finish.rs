//! The end of a block: what its warps have summed, put together and handed out.

use tilekiln_dsl::prelude::*;

use super::codec::KvCodec;
use super::flash::{Block, TEAM};
use super::rotate_back::rotate_back;
use super::values::{RAISE, Running, value_part};

/// Sums of exponentials of a block's columns.
#[derive(Clone, Copy)]
pub(super) struct Totals {
    /// [warps that share a group's units, columns]
    parts: Shared<f32>,
    /// Highest score of each column.
    pub highest: Shared<f32>,
}

/// Warps of a team that take different units of the same values.
fn sharers(block: &Block) -> usize {
    TEAM / block.value_units()
}

impl Totals {
    /// Brings the totals of all columns into shared memory.
    #[tile_fn]
    pub(super) fn of(block: &Block, running: Running) -> Self {
        let columns = block.columns();
        let parts = Shared::<f32>::new(sharers(block) * columns);
        let highest = Shared::<f32>::new(columns);
        let k_parts = target().fragments.k_parts();
        let sharer = block.member / block.value_units();
        for tile in unrolled(0..block.shape.tiles) {
            let column = (block.team * block.shape.tiles + tile) * block.width + operand_column();
            let mut total = running.total[tile];
            if k_parts > 1 {
                total = group_sum(total, k_parts);
            }
            // where a group has fewer warps than the team, some warps make the same
            if block.member % block.value_units() == 0 && lane_index() == operand_column() * k_parts {
                parts[sharer * columns + column] = total;
                highest[column] = running.highest[tile];
            }
        }
        barrier();
        Self { parts, highest }
    }

    /// The total of a column.
    #[tile_fn]
    pub(super) fn get(&self, block: &Block, column: Val<u32>) -> Val<f32> {
        let mut total = self.parts[column];
        for sharer in 1..sharers(block) {
            total = total + self.parts[column + sharer * block.columns()];
        }
        total
    }
}

/// Hands out a block's weighted sums, four values of a column at a time: column, first of the values in the head, values.
/// They are still to be divided by the column's total.
#[tile_fn]
pub(super) fn hand_out<V: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    mut take: impl FnMut(Val<u32>, Val<u32>, [Val<f32>; 4]),
) {
    if V::ROTATED {
        rotate_back(block, sums);
    }
    let (group, _) = value_part(block);
    if sharers(block) == 1 {
        for tile in unrolled(0..block.shape.tiles) {
            for slot in 0..Products::<f32>::lane_columns() {
                let column = (block.team * block.shape.tiles + tile) * block.width + Products::<f32>::column(slot);
                each_quad::<V>(block, sums, tile, slot, |dim, values| {
                    take(column, group * block.values.places.dims + dim, values);
                });
            }
        }
    } else {
        merge::<V>(block, sums, group, take);
    }
}

/// Four sums at a time that lie next to each other in the head.
#[tile_fn]
fn each_quad<V: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    tile: Val<u32>,
    slot: usize,
    mut take: impl FnMut(Val<u32>, [Val<f32>; 4]),
) {
    let tiles = block.shape.tiles;
    let slots = target().fragments.lane_rows();
    let scale = if V::SCALES == super::codec::Scales::Position { 1.0 } else { 1.0 / RAISE };
    let sum = |part: Val<u32>, row: usize| sums.at(part * tiles + tile).get(row, slot) * scale;
    for quad in unrolled(0..block.value_tiles() * slots / 4) {
        if slots == 2 {
            let first = quad * 2;
            let dim = block.values.places.dim_of_row(first, Products::<f32>::row(0));
            let values = [sum(first, 0), sum(first, 1), sum(first + 1, 0), sum(first + 1, 1)];
            take(dim, values);
        } else {
            for row in 0..Products::<f32>::lane_rows() {
                let first = quad * 4;
                let dim = block.values.places.dim_of_row(first, Products::<f32>::row(row));
                let values = [sum(first, row), sum(first + 1, row), sum(first + 2, row), sum(first + 3, row)];
                take(dim, values);
            }
        }
    }
}

/// Adds the sums of warps that have taken different units, in order, in shared memory.
#[tile_fn]
fn merge<V: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    group: Val<u32>,
    mut take: impl FnMut(Val<u32>, Val<u32>, [Val<f32>; 4]),
) {
    let stored = block.values.groups * block.values.places.dims;
    let (tiles, width, teams) = (block.shape.tiles, block.width, block.shape.teams);
    let merged = SharedTile::<f32>::new(teams * width, stored, TileLayout::Padded(4));
    let sharer = block.member / block.value_units();
    for tile in unrolled(0..tiles) {
        for turn in 0..sharers(block) {
            if sharer == turn {
                for slot in 0..Products::<f32>::lane_columns() {
                    let row = block.team * width + Products::<f32>::column(slot);
                    each_quad::<V>(block, sums, tile, slot, |dim, values| {
                        let first = group * block.values.places.dims + dim;
                        if turn == 0 {
                            merged.store_as::<Pack<f32, 4>>(row, first, Val::pack(values));
                        } else {
                            let before = merged.load_as::<Pack<f32, 4>>(row, first);
                            let added = [0, 1, 2, 3].map(|i: usize| before.component(i) + values[i]);
                            merged.store_as::<Pack<f32, 4>>(row, first, Val::pack(added));
                        }
                    });
                }
            }
            barrier();
        }
        for quad in strided(teams * width * stored / 4, block.shape.threads()) {
            let (row, first) = (quad / (stored / 4), quad % (stored / 4) * 4);
            let column = (row / width * tiles + tile) * width + row % width;
            let four = merged.load_as::<Pack<f32, 4>>(row, first);
            take(column, first, [0, 1, 2, 3].map(|i: usize| four.component(i)));
        }
        barrier();
    }
}
