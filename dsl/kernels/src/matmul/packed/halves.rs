//! Packed matrices of 16-bit floats. Activations come as sums of 16-bit terms, so that nothing of an f32 is lost.

use std::marker::PhantomData;

use tilekiln_dsl::prelude::*;

use super::columns::{pair_of, split_sum};
use super::layout::{
    Quads, SUB_BLOCK, SUB_BLOCKS, Sections, TILE_COLS, TILE_ROWS, groups_down, stored_word, tiles_across,
};
use super::product::{BLOCKS, SLOTS, WARPS, narrowest_block, tiling_with, token_stride};
use super::stream::{Footprint, Partials, Source, Stream, Tiling, Turns, tokens_of_block};
use super::worth::WorthShape;
use crate::matmul::codec::WeightCodec;
use crate::packed::Packed as Words;
use crate::registry::prelude::*;

/// A tile of halves: no scales.
pub const SECTIONS: Sections = Sections {
    planes: &[16],
    scales: &[],
};
/// Pieces in which a tile is copied: its halves of 16 rows.
const PIECES: usize = 2;
/// What products take of shared memory.
pub const FOOTPRINT: Footprint = Footprint {
    copy_bytes: SECTIONS.bytes() / PIECES,
    worth: WorthShape::NONE,
    planes: 1,
};
/// Words of a row of a tile.
const ROW_WORDS: usize = TILE_COLS / 2;

/// Bytes of the words of one tile's columns of one token, for a half of that name.
pub fn split_tile_bytes(half: &str) -> usize {
    let terms = if half == f16::NAME { f16::TERMS } else { bf16::TERMS };
    terms * ROW_WORDS * 4
}

/// A 16-bit float that packed matrices may have, and how an f32 is the sum of some.
pub trait PackedHalf: MatrixElement<Sum = f32, Right = Self> + Words {
    /// The name of the packed format in settings.
    const PACKED_NAME: &'static str;
    /// Terms of an activation.
    const TERMS: usize;
    /// Whether 32 activations are divided by a power of two, because the type's range is smaller than f32's.
    const IS_SCALED: bool;

    /// Words with the terms of two values.
    fn split(values: [Val<f32>; 2]) -> Vec<Val<u32>>;
}

impl PackedHalf for f16 {
    const PACKED_NAME: &'static str = "packed_f16";
    const TERMS: usize = 2;
    const IS_SCALED: bool = true;

    #[tile_fn]
    fn split(values: [Val<f32>; 2]) -> Vec<Val<u32>> {
        let leading = [values[0].to::<f16>(), values[1].to::<f16>()];
        let rest = [
            (values[0] - leading[0].to::<f32>()).to::<f16>(),
            (values[1] - leading[1].to::<f32>()).to::<f16>(),
        ];
        vec![
            Val::<Pack<f16, 2>>::pack(leading).bitcast::<u32>(),
            Val::<Pack<f16, 2>>::pack(rest).bitcast::<u32>(),
        ]
    }
}

impl PackedHalf for bf16 {
    const PACKED_NAME: &'static str = "packed_bf16";
    const TERMS: usize = 3;
    const IS_SCALED: bool = false;

    #[tile_fn]
    fn split(values: [Val<f32>; 2]) -> Vec<Val<u32>> {
        let first = split_sum(values[0]);
        let second = split_sum(values[1]);
        (0..3).map(|term| pair_of(first[term], second[term])).collect()
    }
}

/// A packed matrix of halves.
#[derive(Clone, Copy, Debug)]
pub struct PackedHalves<Half>(PhantomData<Half>);

impl<Half: PackedHalf> Named for PackedHalves<Half> {
    const NAME: &'static str = Half::PACKED_NAME;
}

impl<Half: PackedHalf> WeightCodec for PackedHalves<Half> {
    #[tile_fn]
    fn decode(weights: In<u8>, row: Val<u32>, cols: Val<u32>, group: Val<u32>) -> Registers<f32> {
        let quads = Quads::here(2);
        let rows_per_slot = 16 / quads.slots();
        let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
        let tile = (row / TILE_ROWS * tiles + group / SUB_BLOCKS) * SECTIONS.bytes();
        /// the sub-block's quads of the row's half, then its lanes, then its slot
        let quad_bytes = quads.start(0, 0, 1);
        let step_bytes = quad_bytes * quads.per_step();
        let sub_block = (row % TILE_ROWS / 16 * SUB_BLOCKS + group % SUB_BLOCKS) * (step_bytes * quads.steps());
        let lane = row % rows_per_slot * quads.parts();
        let slot = row % 16 / rows_per_slot;
        let first = tile + sub_block + lane * 16 + slot * (quads.words() % 4 * 4);
        let values = Registers::<f32>::undefined(SUB_BLOCK);
        for step in 0..quads.steps() {
            for part in 0..quads.parts() {
                for word in 0..quads.words() {
                    let at = step * step_bytes + word / 4 * quad_bytes + part * 16 + word % 4 * 4;
                    let pair = Half::unpack(weights.load_as::<u32>(first + at));
                    let place = (step * quads.words() + word) * quads.parts() + part;
                    values[2 * place] = pair[0];
                    values[2 * place + 1] = pair[1];
                }
            }
        }
        values
    }
}

/// The power of two by which 32 values are divided: that of the largest, so that all are below 4 in f16.
#[tile_fn]
fn power_below(highest_bits: Val<u32>) -> Val<u32> {
    min(max(highest_bits & 0x7f80_0000, 0x0080_0000), 0x7e80_0000)
}

/// Rows of f32 as sums of 16-bit terms, in the order in which matrix instructions take them.
///
/// Blocks: x over `threads` times four values of a row, filled up to a whole tile, y over rows. An f16 activation is a
/// power of two (`scales`, of its 32 values) times the sum of two terms; a bf16 one the sum of three, exactly.
#[kernel(threads = threads)]
pub fn split_rows<Half: PackedHalf>(
    #[shape(rows, cols)] x: In<f32>,
    #[shape(tiles, stride, terms, 128)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    cols: u32,
    stride: u32,
    #[comptime] threads: usize,
) {
    trigger_dependents();
    let row = block_index_y();
    let col = (block_index() * threads + thread_index()) * 4;
    let tile = col / TILE_COLS * stride + row;
    wait_for_prerequisites();
    let four = x.load_as::<Pack<f32, 4>>(row * cols + min(col, cols - 4));
    let mut highest = u32(0);
    let values = Registers::<f32>::undefined(4);
    for i in 0..4 {
        values[i] = select(col < cols, four.component(i), 0.0);
        highest = max(highest, values[i].bitcast::<u32>() & 0x7fff_ffff);
    }
    if Half::IS_SCALED {
        /// exact: the power's inverse is a power
        let power = power_below(group_max(highest, 8));
        let inverse = (u32(0x7f00_0000) - power).bitcast::<f32>();
        for i in 0..4 {
            values[i] = values[i] * inverse;
        }
        if col % SUB_BLOCK == 0 && col < (cols + (TILE_COLS - 1)) / TILE_COLS * TILE_COLS {
            scales[tile * SUB_BLOCKS + col % TILE_COLS / SUB_BLOCK] = power.bitcast::<f32>();
        }
    }
    if col < (cols + (TILE_COLS - 1)) / TILE_COLS * TILE_COLS {
        for pair in 0..2 {
            let terms = Half::split([values[2 * pair], values[2 * pair + 1]]);
            let word = stored_word(col % TILE_COLS / 2 + pair, Quads::here(2));
            for term in 0..Half::TERMS {
                words[(tile * Half::TERMS + term) * ROW_WORDS + word] = terms[term];
            }
        }
    }
}

/// Adds the product of half a tile and its activations onto `sums`, one for each column tile.
#[tile_fn]
fn add_half<Half: PackedHalf>(
    sums: Products<f32>,
    first_sum: usize,
    tile: &super::format::Tile,
    (words, scales): (In<u32>, In<f32>),
    first: Val<u32>,
    count: usize,
) {
    let quads = Quads::here(2);
    let layout = target().fragments;
    let sub_block_words = SUB_BLOCK / 2;
    for sub_block in unrolled_by(2, 0..SUB_BLOCKS) {
        let mut lefts = Vec::new();
        for step in 0..quads.steps() {
            let left = RowOperand::<Half>::undefined();
            for quad in 0..quads.per_step() {
                let lane = if quads.lanes() == 32 {
                    lane_index()
                } else {
                    lane_index() % quads.lanes()
                };
                let number = sub_block * (quads.steps() * quads.per_step()) + (step * quads.per_step() + quad);
                let four = tile.load::<Pack<u32, 4>>(number * quads.start(0, 0, 1) + lane * 16);
                for word in 0..4 {
                    let place = quad * 4 + word;
                    left.set(place / quads.words(), place % quads.words(), four.component(word));
                }
            }
            lefts.push(left);
        }
        for column_tile in unrolled(0..count) {
            let column = first + column_tile * layout.columns();
            let sum = sums.at(column_tile + first_sum);
            let mut product = sum;
            if Half::IS_SCALED {
                let of_sub_block = Products::<f32>::zeros(1);
                product = of_sub_block.at(0);
            }
            for term in 0..Half::TERMS {
                let row = ((column + operand_column()) * Half::TERMS + term) * ROW_WORDS;
                let start = row + sub_block * sub_block_words + operand_part() * 4;
                let accesses = sub_block_words / quads.chunk();
                let mut loaded = Vec::new();
                for access in 0..accesses {
                    loaded.push(words.load_as::<Pack<u32, 4>>(start + access * quads.chunk()));
                }
                for step in 0..quads.steps() {
                    let right = ColumnOperand::<Half>::undefined();
                    for word in 0..quads.words() {
                        let place = step * quads.words() + word;
                        right.set(word, loaded[place / 4].component(place % 4));
                    }
                    multiply(product, lefts[step], right);
                }
            }
            if Half::IS_SCALED {
                for slot in unrolled(0..Products::<f32>::lane_columns()) {
                    let place = (column + Products::<f32>::column(slot)) * SUB_BLOCKS + sub_block;
                    let power = scales[place];
                    for row in unrolled(0..Products::<f32>::lane_rows()) {
                        let total = fma(product.get(row, slot), power, sum.get(row, slot));
                        sum.set(row, slot, total);
                    }
                }
            }
        }
    }
}

/// y\[token, row\] = sum over k of w\[row, k\] * x\[token, k\], w in halves, x as `split_rows` makes it.
///
/// Blocks, batch invariance: as in [`packed_product`](super::product::packed_product). Sums are those of the matrix units,
/// over 32 values (f16) or a warp's share of a row (bf16).
#[kernel(threads = tiling.warps * 32, blocks = tiling.blocks)]
pub fn packed_halves<Half: PackedHalf>(
    #[shape(groups, tiles, tile_bytes)] w: In<u8>,
    #[shape(tiles, stride, terms, 128)] x: In<u32>,
    #[shape(tiles, stride, 8)] x_scale: In<f32>,
    #[shape(tokens, rows)] y: Out<f32>,
    rows: u32,
    tiles: u32,
    tokens: u32,
    stride: u32,
    #[comptime] tiling: Tiling,
) {
    trigger_dependents();
    let groups = (rows + (TILE_ROWS - 1)) / TILE_ROWS;
    let source = Source::in_pieces(w, groups, SECTIONS.bytes(), PIECES);
    let mut stream = Stream::start(&[source], tiles, Turns::SINGLE, tiling);
    let partials = Partials::new(1, tiling);
    let width = tokens_of_block(tiling.columns, target().fragments);
    let first_token = block_index_y() * width;
    let here = min(max(tokens, first_token) - first_token, width);
    wait_for_prerequisites();
    for group in stepped(block_index(), groups, grid_size()) {
        let sums = Products::<f32>::zeros(2 * tiling.columns);
        for k_tile in stepped(warp_index(), tiles, tiling.warps) {
            let first = k_tile * stride + first_token;
            for half in 0..PIECES {
                let piece = stream.take();
                add_half::<Half>(sums, half * tiling.columns, &piece, (x, x_scale), first, tiling.columns);
                stream.give_back();
            }
        }
        partials.store_columns(sums, u32(0));
        barrier();
        for token in stepped(warp_index(), here, tiling.warps) {
            let row = group * TILE_ROWS + lane_index();
            let sum = partials.sum(0, token);
            if row < rows {
                y[(first_token + token) * rows + row] = sum;
            }
        }
        barrier();
    }
}

const COLUMNS: Parameter = choice("columns", "1", "column tiles, of 8 or 16 tokens: 1, 2 or 4");

fn tiling_of_halves(settings: &Settings) -> Result<Tiling, SettingError> {
    tiling_with(settings, &[1, 2, 4], "1, 2 or 4")
}

/// The setting for the element.
const HALF: Parameter = choice("half", "f16", "element of the matrix: f16, bf16");

fn is_f16(settings: &Settings) -> Result<bool, SettingError> {
    match settings.text("half")? {
        "f16" => Ok(true),
        "bf16" => Ok(false),
        other => Err(settings.unsupported("half", other, &["f16", "bf16"])),
    }
}

/// Registration of [`packed_halves`].
pub const PRODUCT: Entry = Entry {
    name: "packed_halves",
    parameters: &[HALF, WARPS, SLOTS, COLUMNS, BLOCKS],
    build: |settings| {
        let tiling = tiling_of_halves(settings)?;
        Ok(if is_f16(settings)? {
            packed_halves::<f16>(tiling)
        } else {
            packed_halves::<bf16>(tiling)
        })
    },
    example: |settings, random| {
        let terms = if is_f16(settings)? { f16::TERMS } else { bf16::TERMS };
        let columns = tiling_of_halves(settings)?.columns;
        let (rows, cols, tokens) = (random.size(1, 70), 32 * random.size(1, 20), random.size(1, 9));
        let (tiles, stride) = (tiles_across(cols), token_stride(tokens));
        Ok(Example {
            grid: [
                random.size(1, groups_down(rows)) as u32,
                tokens.div_ceil(narrowest_block(columns)) as u32,
                1,
            ],
            arguments: vec![
                random.bytes(groups_down(rows) * tiles * SECTIONS.bytes()),
                random.bytes(tiles * stride * terms * TILE_COLS * 2),
                random.floats("f32", tiles * stride * SUB_BLOCKS),
                Argument::output(tokens * rows * 4),
                Argument::U32(rows as u32),
                Argument::U32(tiles as u32),
                Argument::U32(tokens as u32),
                Argument::U32(stride as u32),
            ],
        })
    },
};

/// Registration of [`split_rows`].
pub const SPLIT: Entry = Entry {
    name: "split_rows",
    parameters: &[HALF, choice("threads", "64", "threads per block, a multiple of 32")],
    build: |settings| {
        let threads = settings.number("threads")?;
        Ok(if is_f16(settings)? {
            split_rows::<f16>(threads)
        } else {
            split_rows::<bf16>(threads)
        })
    },
    example: |settings, random| {
        let terms = if is_f16(settings)? { f16::TERMS } else { bf16::TERMS };
        let threads = settings.number("threads")?.max(1);
        let (rows, cols) = (random.size(1, 5), 32 * random.size(1, 20));
        let (tiles, stride) = (tiles_across(cols), token_stride(rows));
        Ok(Example {
            grid: [(tiles * TILE_COLS).div_ceil(threads * 4) as u32, rows as u32, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                Argument::output(tiles * stride * terms * TILE_COLS * 2),
                Argument::output(tiles * stride * SUB_BLOCKS * 4),
                Argument::U32(cols as u32),
                Argument::U32(stride as u32),
            ],
        })
    },
};
