//! int8 activations as the columns of matrix instructions.

use tilekiln_dsl::prelude::*;

use super::layout::{Quads, SUB_BLOCKS, TILE_COLS};

/// int8 activations of some rows (tokens), the columns of matrix instructions. [`prepare`](crate::matmul::prepare) makes
/// them; all columns of a tile lie side by side.
#[derive(Clone, Copy)]
pub struct Columns {
    /// [tiles, stride, 64], four int8 to a word, in the order of [`Quads::right`].
    pub words: In<u32>,
    /// [tiles, stride, 8]: what one is worth, for each sub-block.
    pub scales: In<f32>,
    /// [tiles, stride, 4, 4]: for each two sub-blocks their sums times their scales, as [`split_sum`] splits them: a word
    /// with the first terms of both, then the second and third ones, then nothing.
    pub sums: In<u32>,
    /// The token of column 0.
    pub first_token: Val<u32>,
    /// Tokens for which there is memory: all columns of all column tiles.
    pub stride: Val<u32>,
    /// Tiles along k.
    pub tiles: Val<u32>,
    /// Column tiles: matrix instructions side by side. None where a block takes one token.
    pub count: usize,
}

/// Activations of one column tile, in registers: of four sub-blocks of a tile or of all eight.
#[derive(Clone, Copy)]
pub struct Activations {
    /// [quarters, this lane's words of four sub-blocks]
    pub words: Registers<u32>,
    /// [quarters and columns of this lane, 4]
    pub scales: Registers<f32>,
}

/// Right operands of a tile's sums: the first two terms, and the third.
pub type SumOperands = [ColumnOperand<bf16>; 2];

/// An f32 as the sum of three bf16, exactly: the first and second are its leading bits, each in the upper half of a word.
#[tile_fn]
pub fn split_sum(value: Val<f32>) -> [Val<u32>; 3] {
    let upper = u32(0xffff_0000u32);
    let first = value.bitcast::<u32>() & upper;
    let rest = value - first.bitcast::<f32>();
    let second = rest.bitcast::<u32>() & upper;
    let third = (rest - second.bitcast::<f32>()).bitcast::<u32>() & upper;
    [first, second, third]
}

/// Stores a sub-block's sum of activations times their scale, as [`Columns::sums`] has it; place `first` is where those of
/// the tile start, in halves of words.
#[tile_fn]
pub fn store_sum(memory: Out<u16>, first: Val<u32>, sub_block: Val<u32>, sum: Val<f32>) {
    let terms = split_sum(sum);
    let place = first + sub_block / 2 * 8 + sub_block % 2;
    for term in 0..3 {
        memory[place + term * 2] = terms[term] >> 16;
    }
    memory[place + 6] = u32(0);
}

/// Two bf16 in a word, each from the upper half of a word.
#[tile_fn]
pub fn pair_of(first: Val<u32>, second: Val<u32>) -> Val<u32> {
    first >> 16 | (second & 0xffff_0000u32)
}

impl Columns {
    /// Whether a tile's activations are loaded at once, before the tile is there, and stay in registers: those of several
    /// column tiles do not, nor where a lane has whole tokens.
    pub fn are_kept(&self) -> bool {
        self.count == 1 && Quads::here(1).parts() > 1
    }

    /// Right operands of the sums of one column tile.
    #[tile_fn]
    pub fn load_sums(&self, column_tile: Val<u32>, tile: Val<u32>) -> SumOperands {
        let token = self.first_token + column_tile * target().fragments.columns() + operand_column();
        self.load_sums_of(token, tile)
    }

    /// Right operands of the sums of the token that this lane's column stands for.
    #[tile_fn]
    pub fn load_sums_of(&self, token: Val<u32>, tile: Val<u32>) -> SumOperands {
        let quads = Quads::here(2);
        let first = (tile * self.stride + token) * 16;
        let leading = ColumnOperand::<bf16>::undefined();
        let rest = ColumnOperand::<bf16>::undefined();
        for pair in 0..4 / quads.parts() {
            let terms = self.sums.load_as::<Pack<u32, 4>>(first + (operand_part() + pair) * 4);
            for term in 0..2 {
                let word = term * 4 / quads.parts() + pair;
                leading.set(word, terms.component(term));
                rest.set(word, terms.component(term + 2));
            }
        }
        [leading, rest]
    }

    /// Activations of one column tile in a quarter of tile `tile` (four sub-blocks), or in all of it.
    #[tile_fn]
    pub fn load(&self, column_tile: Val<u32>, tile: Val<u32>, quarter: Option<Val<u32>>) -> Activations {
        let quads = Quads::here(1);
        let accesses = TILE_COLS / 8 / quads.chunk();
        let lane_columns = Products::<i32>::lane_columns();
        let count = if quarter.is_some() { 1 } else { 2 };
        let words = Registers::<u32>::undefined_2d(count, accesses * 4);
        let scales = Registers::<f32>::undefined_2d(count * lane_columns, 4);
        /// 64 bits, so that what is added to the first places are known distances
        let first = tile * self.stride + self.first_token;
        let first_column = column_tile * target().fragments.columns();
        let first_word = ((first + operand_column()) * (TILE_COLS / 4) + operand_part() * 4).to::<u64>();
        let first_scale = ((first + Products::<i32>::column(0)) * SUB_BLOCKS).to::<u64>();
        for index in unrolled(0..count) {
            let of_tile = match quarter {
                Some(quarter) => quarter,
                None => index,
            };
            for access in unrolled(0..accesses) {
                let place = first_column * (TILE_COLS / 4) + of_tile * (TILE_COLS / 8) + access * quads.chunk();
                let four = self.words.load_as::<Pack<u32, 4>>(first_word + place.to::<u64>());
                for word in 0..4 {
                    words[(index, access * 4 + word)] = four.component(word);
                }
            }
            for column in unrolled(0..lane_columns) {
                let place = (first_column + column) * SUB_BLOCKS + of_tile * 4;
                let four = self.scales.load_as::<Pack<f32, 4>>(first_scale + place.to::<u64>());
                for sub_block in 0..4 {
                    scales[(index * lane_columns + column, sub_block)] = four.component(sub_block);
                }
            }
        }
        Activations { words, scales }
    }
}
