//! The product of a tile with one token.
//!
//! Matrix instructions have eight columns or more, and one token fills one: what follows each instruction, scales above all,
//! is then computed for columns that nobody wants. Here the token's sub-blocks are the columns. Right operands have the values
//! of one sub-block in its column and zeros elsewhere, so eight instructions leave the integer sums of all sub-blocks of a row
//! side by side, each lane has some of them, and none is for nothing. They meet in shared memory, and each lane scales and
//! adds those of one row: as [`add_tile`](super::tile::add_tile) does, in its order, to the same bits.

use tilekiln_dsl::prelude::*;

use super::columns::{Columns, SumOperands};
use super::format::{PackedFormat, Tile};
use super::layout::{Quads, SUB_BLOCKS, TILE_COLS};
use super::tile::{FLOAT_BITS, left_operands};
use super::worth::{OwnRow, RowWorth};

/// One token's activations of a tile, in registers.
pub struct TokenTile {
    /// This lane's words of the sub-block that its column stands for.
    words: Registers<u32>,
    /// Of all sub-blocks.
    scales: Registers<f32>,
    sums: Option<SumOperands>,
}

impl TokenTile {
    /// Loads those of the block's token.
    #[tile_fn]
    pub fn load<Format: PackedFormat>(x: &Columns, k_tile: Val<u32>) -> Self {
        let quads = Quads::here(1);
        let count = quads.steps() * quads.words();
        let pack = count.min(4);
        let mut sums = None;
        if Format::HAS_MINIMA {
            sums = Some(x.load_sums_of(x.first_token, k_tile));
        }
        let first = k_tile * x.stride + x.first_token;
        let sub_block = operand_column() % SUB_BLOCKS;
        let of_half = first * (TILE_COLS / 4) + sub_block / 4 * (TILE_COLS / 8) + operand_part() * 4;
        let token_words = Registers::<u32>::undefined(count);
        for word in (0..count).step_by(pack) {
            let of_lane = sub_block % 4 * count + word;
            let place = of_half + of_lane / 4 * quads.chunk() + of_lane % 4;
            if pack == 2 {
                let two = x.words.load_as::<Pack<u32, 2>>(place);
                for index in 0..2 {
                    token_words[word + index] = two.component(index);
                }
            } else {
                let four = x.words.load_as::<Pack<u32, 4>>(place);
                for index in 0..4 {
                    token_words[word + index] = four.component(index);
                }
            }
        }
        let token_scales = Registers::<f32>::undefined(SUB_BLOCKS);
        for sub_block in (0..SUB_BLOCKS).step_by(4) {
            let four = x.scales.load_as::<Pack<f32, 4>>(first * SUB_BLOCKS + sub_block);
            for index in 0..4 {
                token_scales[sub_block + index] = four.component(index);
            }
        }
        Self {
            words: token_words,
            scales: token_scales,
            sums,
        }
    }

    /// The right operand of a step of sub-block `sub_block`: zeros in the columns of the others.
    #[tile_fn]
    fn right(&self, step: usize, sub_block: Val<u32>) -> ColumnOperand<i8> {
        let quads = Quads::here(1);
        let right = ColumnOperand::<i8>::undefined();
        let is_own = operand_column() == sub_block;
        for word in 0..quads.words() {
            right.set(word, select(is_own, self.words[step * quads.words() + word], u32(0)));
        }
        right
    }
}

/// Adds the product of a tile and a token onto `sum`, which is that of this lane's row, worth `own`. `worth` has been filled.
#[tile_fn]
pub fn add_tile_of_token<Format: PackedFormat>(
    sum: Registers<f32>,
    own: OwnRow,
    tile: &Tile,
    worth: &RowWorth,
    token: &TokenTile,
) {
    let mut minima = None;
    if let Some(sums) = token.sums {
        let of_tile = Products::<f32>::zeros(2);
        for half in unrolled(0..2) {
            let left = worth.minima::<Format>(half);
            for terms in sums {
                multiply(of_tile.at(half), left, terms);
            }
        }
        minima = Some(of_tile);
    }
    /// as the bits of floats, these start at 1.5 * 2^23
    let counts = Products::<i32>::filled(2 * Format::SCALES, FLOAT_BITS);
    for quarter in unrolled(0..2) {
        for half in unrolled(0..2) {
            let lefts = left_operands::<Format>(tile, half, quarter);
            for index in 0..lefts.len() {
                let (field, part) = (index / Format::SCALES, index % Format::SCALES);
                for number in 0..lefts[index].len() {
                    let (step, left) = lefts[index][number];
                    let right = token.right(step, quarter * 4 + field);
                    multiply(counts.at(half * Format::SCALES + part), left, right);
                }
            }
        }
    }
    worth.add_row::<Format>(sum, own, counts, minima, token.scales);
}
