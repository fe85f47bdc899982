//! What the rows of a tile are worth: scales and minima, worked out once and read by the lanes of all columns.

use tilekiln_dsl::prelude::*;

use super::columns::pair_of;
use super::format::{PackedFormat, Tile};
use super::layout::{Quads, SUB_BLOCKS, TILE_ROWS};
use super::tile::FLOAT_START;

/// What the rows of a warp's tile are worth, in shared memory, where the lanes of all columns find it.
#[derive(Clone, Copy)]
pub struct RowWorth {
    /// [warps, 32 rows, stride]
    values: Shared<f32>,
    stride: usize,
}

impl RowWorth {
    /// Floats of a row: scales and minima, padded so that eight rows fall into different banks.
    pub const fn stride<Format: PackedFormat>() -> usize {
        let minima = if Format::HAS_MINIMA { SUB_BLOCKS } else { 0 };
        Format::SCALES * SUB_BLOCKS + minima + 4
    }

    /// Room for the rows of all warps' tiles, of formats that need at most `stride` floats a row.
    #[tile_fn]
    pub fn new(warps: usize, stride: usize) -> Self {
        let worth = Shared::<f32>::new(warps * TILE_ROWS * stride);
        Self { values: worth, stride }
    }

    /// The place of a row of this warp's tile.
    #[tile_fn]
    fn row(&self, row: Val<u32>) -> Val<u32> {
        (warp_index() * TILE_ROWS + row) * self.stride
    }

    /// Each lane works out one row of the tile.
    #[tile_fn]
    pub fn fill<Format: PackedFormat>(&self, tile: &Tile) {
        let row = self.row(lane_index());
        let worth = Format::worth(tile, lane_index());
        for four in 0..worth.scales.len() / 4 {
            let pack = Val::<Pack<f32, 4>>::pack([
                worth.scales[4 * four],
                worth.scales[4 * four + 1],
                worth.scales[4 * four + 2],
                worth.scales[4 * four + 3],
            ]);
            self.values.store_as::<Pack<f32, 4>>(row + 4 * four, pack);
        }
        if let Some(step) = worth.minimum_step {
            let pair = |index: usize| {
                let bits = |index: usize| worth.minima[index].bitcast::<u32>();
                pair_of(bits(2 * index), bits(2 * index + 1))
            };
            let pack = Val::<Pack<u32, 4>>::pack([pair(0), pair(1), pair(2), pair(3)]);
            self.values.store_as::<Pack<u32, 4>>(row + worth.scales.len(), pack);
            self.values[row + (worth.scales.len() + 4)] = -step;
        }
        warp_barrier();
    }

    /// The left operand of the minima of a half: whole numbers, once for each of two terms of the activations' sums. Both
    /// are exact in bf16, and so are the products.
    #[tile_fn]
    pub fn minima<Format: PackedFormat>(&self, half: Val<u32>) -> RowOperand<bf16> {
        let quads = Quads::here(2);
        let minima = RowOperand::<bf16>::undefined();
        for slot in 0..quads.slots() {
            let row = self.row(half * 16 + operand_row(slot)) + Format::SCALES * SUB_BLOCKS;
            for pair in 0..4 / quads.parts() {
                let bits = self.values.load_as::<u32>(row + operand_part() + pair);
                for term in 0..2 {
                    minima.set(slot, term * 4 / quads.parts() + pair, bits);
                }
            }
        }
        minima
    }

    /// What a minimum of a row takes away.
    #[tile_fn]
    pub fn minus_minimum_step<Format: PackedFormat>(&self, row: Val<u32>) -> Val<f32> {
        self.values[self.row(row) + (Format::SCALES * SUB_BLOCKS + 4)]
    }
}

/// The weights' scales of four sub-blocks of this lane's rows of a half, in registers.
pub struct FourScales {
    /// [rows of this lane, 4 or 8]
    pub scales: Registers<f32>,
    /// What [`FLOAT_START`] times the scale puts into a sum that should not be there.
    pub starts: Registers<f32>,
}

impl FourScales {
    /// Of sub-blocks `4 * quarter..` of a half.
    #[tile_fn]
    pub fn load<Format: PackedFormat>(worth: &RowWorth, half: Val<u32>, quarter: Val<u32>) -> Self {
        let rows = Products::<i32>::lane_rows();
        let count = 4 * Format::SCALES;
        let scales = Registers::<f32>::undefined_2d(rows, count);
        let starts = Registers::<f32>::undefined_2d(rows, count);
        for row in unrolled(0..rows) {
            let start = worth.row(half * 16 + Products::<i32>::row(row));
            for part in 0..Format::SCALES {
                let four = worth.values.load_as::<Pack<f32, 4>>(start + quarter * count + part * 4);
                for index in 0..4 {
                    scales[(row, part * 4 + index)] = four.component(index);
                    starts[(row, part * 4 + index)] = four.component(index) * -FLOAT_START;
                }
            }
        }
        Self { scales, starts }
    }
}
