//! What the rows of a tile are worth: scales and minima, worked out once and read by the lanes of all columns.

use tilekiln_dsl::prelude::*;

use super::columns::pair_of;
use super::format::{PackedFormat, Tile};
use super::layout::{Quads, SUB_BLOCKS, TILE_ROWS};
use super::stream::Tiling;
use super::tile::FLOAT_START;

/// What there is to know of the rows of a format's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorthShape {
    /// Scales of a row.
    scales: usize,
    /// Floats of its scales and minima.
    all: usize,
}

impl WorthShape {
    /// Of rows that are worth what they are.
    pub const NONE: Self = Self { scales: 0, all: 0 };

    /// That of a format.
    pub const fn of<Format: PackedFormat>() -> Self {
        let scales = Format::SCALES * SUB_BLOCKS;
        let minima = if Format::HAS_MINIMA { SUB_BLOCKS } else { 0 };
        Self {
            scales,
            all: scales + minima,
        }
    }

    /// Room for rows of either.
    pub fn max(self, other: Self) -> Self {
        Self {
            scales: self.scales.max(other.scales),
            all: self.all.max(other.all),
        }
    }

    /// Floats of a row in shared memory, with so many column tiles: scales and minima, or integer sums and, before they are
    /// there, minima; padded so that eight rows fall into different banks.
    pub const fn floats(self, columns: usize) -> usize {
        match (self.scales, columns) {
            (0, _) => 0,
            (scales, 0) => scales + 4,
            _ => self.all + 4,
        }
    }
}

/// What the row of a lane is worth, where no other lane needs to know it.
#[derive(Clone, Copy)]
pub struct OwnRow {
    /// Of each sub-block, or each half of one.
    scales: Registers<f32>,
    /// What a minimum takes away: one number.
    minus_minimum_step: Registers<f32>,
}

/// What the rows of a warp's tile are worth, in shared memory, where the lanes of all columns find it. With one token, lanes
/// keep what their row is worth, and its place in shared memory is for the integer sums of its sub-blocks.
#[derive(Clone, Copy)]
pub struct RowWorth {
    /// [warps, 32 rows, stride]
    values: Shared<f32>,
    stride: usize,
    /// Where lanes keep it: with one token.
    pub own: Option<OwnRow>,
}

impl RowWorth {
    /// Room for the rows of all warps' tiles.
    #[tile_fn]
    pub fn new(warps: usize, shape: WorthShape, tiling: Tiling) -> Self {
        let stride = shape.floats(tiling.columns);
        let worth = Shared::<f32>::new(warps * TILE_ROWS * stride);
        let mut own = None;
        if tiling.columns == 0 {
            let own_scales = Registers::<f32>::undefined(shape.scales);
            let own_step = Registers::<f32>::undefined(1);
            own = Some(OwnRow {
                scales: own_scales,
                minus_minimum_step: own_step,
            });
        }
        Self {
            values: worth,
            stride,
            own,
        }
    }

    /// The place of a row of this warp's tile.
    #[tile_fn]
    fn row(&self, row: Val<u32>) -> Val<u32> {
        (warp_index() * TILE_ROWS + row) * self.stride
    }

    /// Where a row's minima are.
    fn place_of_minima<Format: PackedFormat>(&self) -> usize {
        if self.own.is_some() {
            0
        } else {
            Format::SCALES * SUB_BLOCKS
        }
    }

    /// Each lane works out one row of the tile.
    #[tile_fn]
    pub fn fill<Format: PackedFormat>(&self, tile: &Tile) {
        let row = self.row(lane_index());
        let worth = Format::worth(tile, lane_index());
        if let Some(own) = self.own {
            for index in 0..worth.scales.len() {
                own.scales[index] = worth.scales[index];
            }
        } else {
            for four in 0..worth.scales.len() / 4 {
                let pack = Val::<Pack<f32, 4>>::pack([
                    worth.scales[4 * four],
                    worth.scales[4 * four + 1],
                    worth.scales[4 * four + 2],
                    worth.scales[4 * four + 3],
                ]);
                self.values.store_as::<Pack<f32, 4>>(row + 4 * four, pack);
            }
        }
        if let Some(step) = worth.minimum_step {
            let pair = |index: usize| {
                let bits = |index: usize| worth.minima[index].bitcast::<u32>();
                pair_of(bits(2 * index), bits(2 * index + 1))
            };
            let pack = Val::<Pack<u32, 4>>::pack([pair(0), pair(1), pair(2), pair(3)]);
            self.values
                .store_as::<Pack<u32, 4>>(row + self.place_of_minima::<Format>(), pack);
            if let Some(own) = self.own {
                own.minus_minimum_step[0] = -step;
            } else {
                self.values[row + (worth.scales.len() + 4)] = -step;
            }
        }
        if self.own.is_none() || Format::HAS_MINIMA {
            warp_barrier();
        }
    }

    /// Adds a tile's product with one token onto `sum`, which is that of this lane's row, worth `own`: `counts` are the integer sums of a
    /// warp's rows, [2 halves, scales of a sub-block], with sub-blocks as columns, `minima` those of minima times activations,
    /// [2 halves], the same in all columns. The scales of the activations are `scales`, one for each sub-block.
    #[tile_fn]
    pub fn add_row<Format: PackedFormat>(
        &self,
        sum: Registers<f32>,
        own: OwnRow,
        counts: Products<i32>,
        minima: Option<Products<f32>>,
        scales: Registers<f32>,
    ) {
        let count = Format::SCALES * SUB_BLOCKS;
        if Format::HAS_MINIMA {
            /// sums take the places of the minima
            warp_barrier();
        }
        for half in unrolled(0..2) {
            for row in unrolled(0..Products::<i32>::lane_rows()) {
                let place = self.row(half * 16 + Products::<i32>::row(row));
                self.store_counts::<Format>(place, counts, half, row);
                if let Some(minima) = minima {
                    /// one column stands for all
                    if Products::<f32>::column(0) == 0 {
                        self.values[place + count] = minima.at(half).get(row, 0);
                    }
                }
            }
        }
        warp_barrier();
        let row = self.row(lane_index());
        if minima.is_some() {
            sum[0] = fma(self.values[row + count], own.minus_minimum_step[0], sum[0]);
        }
        for four in 0..count / 4 {
            let counted = self.values.load_as::<Pack<f32, 4>>(row + 4 * four);
            for index in 0..4 {
                let scale = own.scales[4 * four + index];
                let start = scale * -FLOAT_START;
                let value = fma(counted.component(index), scale, start);
                sum[0] = fma(value, scales[(4 * four + index) / Format::SCALES], sum[0]);
            }
        }
    }

    /// Stores the integer sums of one row that this lane has, beside those of the row's other sub-blocks.
    #[tile_fn]
    fn store_counts<Format: PackedFormat>(
        &self,
        place: Val<u32>,
        counts: Products<i32>,
        half: Val<u32>,
        row: Val<u32>,
    ) {
        let mut bits = Vec::new();
        for column in 0..Products::<i32>::lane_columns() {
            for part in 0..Format::SCALES {
                let sums = counts.at(half * Format::SCALES + part);
                bits.push(sums.get(row, column).bitcast::<u32>());
            }
        }
        let column = Products::<i32>::column(0);
        let place = place + column * Format::SCALES;
        if target().fragments.columns() == SUB_BLOCKS {
            self.store_words(place, &bits);
        } else {
            /// columns without a sub-block have nothing
            if column < SUB_BLOCKS {
                self.store_words(place, &bits);
            }
        }
    }

    #[tile_fn]
    fn store_words(&self, place: Val<u32>, bits: &[Val<u32>]) {
        match *bits {
            [a, b, c, d] => self.values.store_as::<Pack<u32, 4>>(place, Val::pack([a, b, c, d])),
            [a, b] => self.values.store_as::<Pack<u32, 2>>(place, Val::pack([a, b])),
            _ => self.values.store_as::<u32>(place, bits[0]),
        }
    }

    /// The left operand of the minima of a half: whole numbers, once for each of two terms of the activations' sums. Both
    /// are exact in bf16, and so are the products.
    #[tile_fn]
    pub fn minima<Format: PackedFormat>(&self, half: Val<u32>) -> RowOperand<bf16> {
        let quads = Quads::here(2);
        let minima = RowOperand::<bf16>::undefined();
        for slot in 0..quads.slots() {
            let row = self.row(half * 16 + operand_row(slot)) + self.place_of_minima::<Format>();
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
