//! The product of one tile of packed weights with int8 activations.

use tilekiln_dsl::prelude::*;

use super::columns::{Activations, Columns, SumOperands};
use super::format::{PackedFormat, Tile};
use super::layout::Quads;
use super::stream::Tiling;
use super::worth::{FourScales, OwnRow, RowWorth};

/// Sums of products start here: as the bits of a float, this number plus a small integer is 1.5·2^23 plus that integer.
/// So the integer sum of a matrix instruction is a float at once, exact for integers below 2^22.
pub const FLOAT_BITS: i32 = 0x4b40_0000;
/// What the bits stand for.
pub const FLOAT_START: f32 = 12_582_912.0;

/// A warp's sums over its tiles of a group of rows.
pub enum Sums {
    /// [2 halves, column tiles]
    Columns(Products<f32>),
    /// Of one token: a row's in each lane, and what that row of the tile at hand is worth.
    Row(Registers<f32>, OwnRow),
}

impl Sums {
    /// Nothing yet, for tiles whose rows are worth what `worth` says.
    #[tile_fn]
    pub fn zeros(worth: &RowWorth, tiling: Tiling) -> Self {
        if let Some(own) = worth.own {
            let sum = Registers::<f32>::filled(1, 0.0);
            Self::Row(sum, own)
        } else {
            let sums = Products::<f32>::zeros(2 * tiling.columns);
            Self::Columns(sums)
        }
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

/// Activations of a tile that are loaded before the tile is there.
pub struct Early {
    activations: Activations,
    sums: Option<SumOperands>,
}

impl Early {
    /// Loads them, unless there are so many that they would not stay in registers.
    #[tile_fn]
    pub fn load<Format: PackedFormat>(x: &Columns, k_tile: Val<u32>) -> Option<Self> {
        let mut early = None;
        if x.are_kept() {
            let mut sums = None;
            if Format::HAS_MINIMA {
                sums = Some(x.load_sums(u32(0), k_tile));
            }
            let activations = x.load(u32(0), k_tile, None);
            early = Some(Self { activations, sums });
        }
        early
    }
}

/// Adds the product of a tile and its activations onto `sums`, [2 halves, column tiles]. `worth` has been filled.
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
    early: &Option<Early>,
    k_tile: Val<u32>,
) {
    if Format::HAS_MINIMA {
        for half in unrolled(0..2) {
            let minima = worth.minima::<Format>(half);
            for column_tile in unrolled(0..x.count) {
                let operands = match early {
                    Some(Early { sums: Some(sums), .. }) => *sums,
                    _ => x.load_sums(column_tile, k_tile),
                };
                add_minima::<Format>(sums.at(half * x.count + column_tile), minima, &operands, worth, half);
            }
        }
    }
    let quarters = if early.is_some() {
        unrolled(0..2)
    } else {
        unrolled_by(1, 0..2)
    };
    for quarter in quarters {
        for half in unrolled(0..2) {
            let scales = FourScales::load::<Format>(worth, half, quarter);
            let lefts = left_operands::<Format>(tile, half, quarter);
            for column_tile in unrolled(0..x.count) {
                let sum = sums.at(half * x.count + column_tile);
                if let Some(early) = early {
                    add_four::<Format>(sum, &lefts, &scales, &early.activations, quarter);
                } else {
                    /// keeps the compiler from loading the activations of all columns at once
                    warp_barrier();
                    let activations = x.load(column_tile, k_tile, Some(quarter));
                    add_four::<Format>(sum, &lefts, &scales, &activations, u32(0));
                }
            }
        }
    }
}

/// Adds minus `minimum_step` times the sum over sub-blocks of minimum times activations.
#[tile_fn]
fn add_minima<Format: PackedFormat>(
    sum: Product<f32>,
    minima: RowOperand<bf16>,
    activations: &SumOperands,
    worth: &RowWorth,
    half: Val<u32>,
) {
    let of_tile = Products::<f32>::zeros(1);
    multiply(of_tile.at(0), minima, activations[0]);
    multiply(of_tile.at(0), minima, activations[1]);
    for row in unrolled(0..Products::<f32>::lane_rows()) {
        let step = worth.minus_minimum_step::<Format>(half * 16 + Products::<f32>::row(row));
        for column in unrolled(0..Products::<f32>::lane_columns()) {
            let total = fma(of_tile.at(0).get(row, column), step, sum.get(row, column));
            sum.set(row, column, total);
        }
    }
}

/// The left operands of values with one scale: one for each step that has some of them, other values zero.
pub type LeftOperands<Format> = Vec<(usize, RowOperand<<Format as PackedFormat>::Operand>)>;

/// The left operands of four sub-blocks of a half, for each scale.
#[tile_fn]
pub fn left_operands<Format: PackedFormat>(
    tile: &Tile,
    half: Val<u32>,
    quarter: Val<u32>,
) -> Vec<LeftOperands<Format>> {
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

/// Adds the products of four sub-blocks onto the sums of one instruction's size. Their activations are number `quarter` of
/// those loaded.
#[tile_fn]
fn add_four<Format: PackedFormat>(
    sum: Product<f32>,
    lefts: &[LeftOperands<Format>],
    weights: &FourScales,
    activations: &Activations,
    quarter: Val<u32>,
) {
    let quads = Quads::here(1);
    let lane_columns = Products::<i32>::lane_columns();
    for index in 0..lefts.len() {
        let field = index / Format::SCALES;
        let product = Products::<i32>::filled(1, FLOAT_BITS);
        for number in 0..lefts[index].len() {
            let (step, left) = lefts[index][number];
            let right = ColumnOperand::<i8>::undefined();
            for word in 0..quads.words() {
                let place = (field * quads.steps() + step) * quads.words() + word;
                right.set(word, activations.words[(quarter, place)]);
            }
            multiply(product.at(0), left, right);
        }
        for row in unrolled(0..Products::<i32>::lane_rows()) {
            for column in unrolled(0..lane_columns) {
                let counted = product.at(0).get(row, column).bitcast::<f32>();
                let value = fma(counted, weights.scales[(row, index)], weights.starts[(row, index)]);
                let scale = activations.scales[(quarter * lane_columns + column, field)];
                sum.set(row, column, fma(value, scale, sum.get(row, column)));
            }
        }
    }
}
