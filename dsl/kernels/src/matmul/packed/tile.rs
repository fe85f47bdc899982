//! The product of one tile of packed weights with int8 activations.

use tilekiln_dsl::prelude::*;

use super::format::{PackedFormat, Tile};
use super::layout::{Quads, SUB_BLOCKS, TILE_COLS, TILE_ROWS};

/// Sums of products start here: as the bits of a float, this number plus a small integer is 1.5·2^23 plus that integer.
/// So the integer sum of a matrix instruction is a float at once, exact for integers below 2^22.
const FLOAT_BITS: i32 = 0x4b40_0000;
/// What the bits stand for.
const FLOAT_START: f32 = 12_582_912.0;

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
    /// Column tiles: matrix instructions side by side.
    pub count: usize,
}

/// Activations of one column tile in four sub-blocks of a tile, in registers.
#[derive(Clone, Copy)]
struct FourSubBlocks {
    /// This lane's words.
    words: Registers<u32>,
    /// [columns of this lane, 4]
    scales: Registers<f32>,
}

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
    /// Tokens that a block multiplies at once.
    pub fn width(count: usize) -> usize {
        count * target().fragments.columns()
    }

    /// Where this lane's activations of a tile start: its words and its scales. 64 bits, so that what is added to them is
    /// a known distance.
    #[tile_fn]
    fn start_of(&self, tile: Val<u32>) -> (Val<u64>, Val<u64>) {
        let first = tile * self.stride + self.first_token;
        let first_word = ((first + operand_column()) * (TILE_COLS / 4) + operand_part() * 4).to::<u64>();
        let first_scale = ((first + Products::<i32>::column(0)) * SUB_BLOCKS).to::<u64>();
        (first_word, first_scale)
    }

    /// Right operands of the sums of one column tile: the first two terms, and the third.
    #[tile_fn]
    fn load_sums(&self, column_tile: Val<u32>, tile: Val<u32>) -> [ColumnOperand<bf16>; 2] {
        let quads = Quads::here(2);
        let token = self.first_token + column_tile * target().fragments.columns() + operand_column();
        let first = (tile * self.stride + token) * 16;
        let operands = [ColumnOperand::<bf16>::undefined(), ColumnOperand::<bf16>::undefined()];
        for pair in 0..4 / quads.parts() {
            let terms = self.sums.load_as::<Pack<u32, 4>>(first + (operand_part() + pair) * 4);
            for term in 0..2 {
                let word = term * 4 / quads.parts() + pair;
                operands[0].set(word, terms.component(term));
                operands[1].set(word, terms.component(term + 2));
            }
        }
        operands
    }

    /// Sub-blocks `4 * quarter..` of one column tile.
    #[tile_fn]
    fn load(
        &self,
        column_tile: Val<u32>,
        (first_word, first_scale): (Val<u64>, Val<u64>),
        quarter: Val<u32>,
    ) -> FourSubBlocks {
        let quads = Quads::here(1);
        let first_column = column_tile * target().fragments.columns();
        let accesses = TILE_COLS / 8 / quads.chunk();
        let words = Registers::<u32>::undefined(accesses * 4);
        for access in unrolled(0..accesses) {
            let place = first_column * (TILE_COLS / 4) + quarter * (TILE_COLS / 8) + access * quads.chunk();
            let four = self.words.load_as::<Pack<u32, 4>>(first_word + place.to::<u64>());
            for word in 0..4 {
                words[access * 4 + word] = four.component(word);
            }
        }
        let lane_columns = Products::<i32>::lane_columns();
        let scales = Registers::<f32>::undefined_2d(lane_columns, 4);
        for column in unrolled(0..lane_columns) {
            let place = (first_column + column) * SUB_BLOCKS + quarter * 4;
            let four = self.scales.load_as::<Pack<f32, 4>>(first_scale + place.to::<u64>());
            for sub_block in 0..4 {
                scales[(column, sub_block)] = four.component(sub_block);
            }
        }
        FourSubBlocks { words, scales }
    }
}

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

    /// Each lane works out one row.
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
}

/// The weights' scales (and minima) of four sub-blocks of this lane's rows of a half, in registers.
struct FourScales {
    /// [rows of this lane, 4 or 8]
    scales: Registers<f32>,
    /// What [`FLOAT_START`] times the scale puts into a sum that should not be there.
    starts: Registers<f32>,
}

impl FourScales {
    #[tile_fn]
    fn load<Format: PackedFormat>(worth: &RowWorth, half: Val<u32>, quarter: Val<u32>) -> Self {
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

/// This lane's words of all planes for one sub-block of four.
struct PlaneWords {
    /// By plane and step: what was loaded last.
    loaded: Vec<Vec<Val<Pack<u32, 4>>>>,
}

impl PlaneWords {
    fn new() -> Self {
        Self { loaded: Vec::new() }
    }

    /// Loads what sub-block `field` needs and an earlier one has not loaded.
    #[tile_fn]
    fn load<Format: PackedFormat>(&mut self, tile: &Tile, half: Val<u32>, quarter: Val<u32>, field: usize) {
        let quads = Quads::here(1);
        self.loaded.resize(Format::SECTIONS.planes.len(), Vec::new());
        for (plane, bits) in Format::SECTIONS.planes.iter().copied().enumerate() {
            let fields = 8 / bits;
            if field % fields.min(4) == 0 {
                let mut steps = Vec::new();
                for step in 0..quads.steps() {
                    // quads of a sub-block group of the half, then of the step
                    let known = field / fields * quads.steps() + step;
                    let quad = match bits {
                        1 => half * quads.steps() + known,
                        bits => half * (bits * quads.steps()) + quarter * (bits / 2 * quads.steps()) + known,
                    };
                    let lane = if quads.lanes() == 32 {
                        lane_index()
                    } else {
                        lane_index() % quads.lanes()
                    };
                    let place = quad * quads.start(0, 0, 1) + lane * 16 + Format::SECTIONS.plane(plane);
                    steps.push(tile.load::<Pack<u32, 4>>(place));
                }
                self.loaded.remove(plane);
                self.loaded.insert(plane, steps);
            }
        }
    }

    /// Word `word` of a step's quad in every plane, sub-blocks counted from the four at hand.
    #[tile_fn]
    fn word<Format: PackedFormat>(&self, quarter: Val<u32>, step: usize, word: usize) -> Vec<Val<u32>> {
        let mut words = Vec::new();
        for (plane, bits) in Format::SECTIONS.planes.iter().copied().enumerate() {
            let loaded = self.loaded[plane][step].component(word);
            // a byte of one-bit fields has all eight sub-blocks
            words.push(if bits == 1 { loaded >> (quarter * 4) } else { loaded });
        }
        words
    }
}

/// Adds the product of a tile and its activations onto `sums`, [2 halves, column tiles].
///
/// First minima, where a format has them: with the sums of the activations they make a small product of their own. Then
/// for each sub-block in order: the integer products of 32 values (16 where a format has two scales), exact; times the
/// weights' scale; times the activations' scale, onto the sum. Each rounding is written out, and what is added to a sum
/// depends on its row and token only.
#[tile_fn]
pub fn add_tile<Format: PackedFormat>(
    sums: Products<f32>,
    tile: &Tile,
    worth: &RowWorth,
    x: &Columns,
    k_tile: Val<u32>,
) {
    worth.fill::<Format>(tile);
    // activations of several column tiles do not stay in registers from one half to the next
    let is_kept = x.count == 1;
    if Format::HAS_MINIMA {
        for half in unrolled(0..2) {
            add_minima::<Format>(sums, worth, x, k_tile, half);
        }
    }
    let start = x.start_of(k_tile);
    let quarters = if is_kept { unrolled(0..2) } else { unrolled_by(1, 0..2) };
    for quarter in quarters {
        let mut kept = None;
        if is_kept {
            kept = Some(x.load(u32(0), start, quarter));
        }
        for half in unrolled(0..2) {
            let scales = FourScales::load::<Format>(worth, half, quarter);
            let lefts = left_operands::<Format>(tile, half, quarter);
            for column_tile in unrolled(0..x.count) {
                if !is_kept {
                    /// keeps the compiler from loading the activations of all columns at once
                    warp_barrier();
                }
                let activations = match kept {
                    Some(kept) => kept,
                    None => x.load(column_tile, start, quarter),
                };
                let sum = sums.at(half * x.count + column_tile);
                for index in 0..lefts.len() {
                    add_products::<Format>(sum, &lefts[index], &scales, &activations, index);
                }
            }
        }
    }
}

/// Adds the minima of a half: minus `minimum_step` times the sum over sub-blocks of minimum times activations.
///
/// Sums of activations are split into three bf16 without loss, minima are whole numbers below 64: products are exact.
#[tile_fn]
fn add_minima<Format: PackedFormat>(
    sums: Products<f32>,
    worth: &RowWorth,
    x: &Columns,
    k_tile: Val<u32>,
    half: Val<u32>,
) {
    let quads = Quads::here(2);
    let scales = Format::SCALES * SUB_BLOCKS;
    let left = RowOperand::<bf16>::undefined();
    for slot in 0..quads.slots() {
        let row = worth.row(half * 16 + operand_row(slot)) + scales;
        for pair in 0..4 / quads.parts() {
            let minima = worth.values.load_as::<u32>(row + operand_part() + pair);
            for term in 0..2 {
                left.set(slot, term * 4 / quads.parts() + pair, minima);
            }
        }
    }
    for column_tile in unrolled(0..x.count) {
        let [leading, rest] = x.load_sums(column_tile, k_tile);
        let minima = Products::<f32>::zeros(1);
        multiply(minima.at(0), left, leading);
        multiply(minima.at(0), left, rest);
        let sum = sums.at(half * x.count + column_tile);
        for row in unrolled(0..Products::<f32>::lane_rows()) {
            let step = worth.values[worth.row(half * 16 + Products::<f32>::row(row)) + (scales + 4)];
            for column in unrolled(0..Products::<f32>::lane_columns()) {
                let total = fma(minima.at(0).get(row, column), step, sum.get(row, column));
                sum.set(row, column, total);
            }
        }
    }
}

/// The left operands of values with one scale: one for each step that has some of them, other values zero.
type LeftOperands<Format> = Vec<(usize, RowOperand<<Format as PackedFormat>::Operand>)>;

/// The left operands of four sub-blocks of a half, for each scale.
#[tile_fn]
fn left_operands<Format: PackedFormat>(tile: &Tile, half: Val<u32>, quarter: Val<u32>) -> Vec<LeftOperands<Format>> {
    let quads = Quads::here(1);
    let share = quads.steps() * quads.words() / Format::SCALES;
    let mut planes = PlaneWords::new();
    let mut all = Vec::new();
    for field in 0..4 {
        planes.load::<Format>(tile, half, quarter, field);
        for part in 0..Format::SCALES {
            let mut operands = Vec::new();
            for step in 0..quads.steps() {
                let is_mine = |word: usize| (step * quads.words() + word) / share == part;
                if (0..quads.words()).any(is_mine) {
                    let left = RowOperand::<Format::Operand>::undefined();
                    for slot in 0..quads.slots() {
                        for word in 0..quads.words() {
                            let bits = if is_mine(word) {
                                let words = planes.word::<Format>(quarter, step, slot * quads.words() + word);
                                Format::operand(&words, field)
                            } else {
                                u32(0)
                            };
                            left.set(slot, word, bits);
                        }
                    }
                    operands.push((step, left));
                }
            }
            all.push(operands);
        }
    }
    all
}

/// Adds the products of the values with scale `index` of four sub-blocks onto the sums of one instruction's size.
#[tile_fn]
fn add_products<Format: PackedFormat>(
    sum: Product<f32>,
    lefts: &LeftOperands<Format>,
    weights: &FourScales,
    activations: &FourSubBlocks,
    index: usize,
) {
    let quads = Quads::here(1);
    let field = index / Format::SCALES;
    let product = Products::<i32>::filled(1, FLOAT_BITS);
    for number in 0..lefts.len() {
        let (step, left) = lefts[number];
        let right = ColumnOperand::<i8>::undefined();
        for word in 0..quads.words() {
            right.set(
                word,
                activations.words[(field * quads.steps() + step) * quads.words() + word],
            );
        }
        multiply(product.at(0), left, right);
    }
    for row in unrolled(0..Products::<i32>::lane_rows()) {
        for column in unrolled(0..Products::<i32>::lane_columns()) {
            let counted = product.at(0).get(row, column).bitcast::<f32>();
            let value = fma(counted, weights.scales[(row, index)], weights.starts[(row, index)]);
            let total = fma(value, activations.scales[(column, field)], sum.get(row, column));
            sum.set(row, column, total);
        }
    }
}
