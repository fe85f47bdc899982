//! Rows of int8 activations times a packed matrix, 1 to 32 of them in one read of the weights.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

use super::columns::Columns;
use super::format::PackedFormat;
use super::layout::{SUB_BLOCKS, TILE_COLS, TILE_ROWS, groups_down, tiles_across};
use super::lone::{TokenTile, add_tile_of_token};
use super::stream::{Partials, Source, Stream, Tiling, Turns, tokens_of_block};
use super::tile::{Early, Sums, add_tile};
use super::worth::{RowWorth, WorthShape};
use crate::matmul::q6_k::Q6K;
use crate::matmul::weights::{self, Weight};
use crate::registry::prelude::*;

/// Adds this warp's tiles of a group of rows onto `sums`; the first of the group's is tile `first_tile` of the columns.
#[tile_fn]
pub fn add_group<Format: PackedFormat>(
    sums: &Sums,
    stream: &mut Stream,
    worth: &RowWorth,
    x: &Columns,
    first_tile: Option<Val<u32>>,
    tiling: Tiling,
) {
    for tile_of_group in stepped(stream.member, x.tiles, tiling.warps) {
        let k_tile = match first_tile {
            Some(first) => first + tile_of_group,
            None => tile_of_group,
        };
        match sums {
            Sums::Columns(sums) => {
                let early = Early::load::<Format>(x, k_tile);
                let tile = stream.next::<Format>(worth);
                add_tile::<Format>(*sums, &tile, worth, x, &early, k_tile);
            }
            Sums::Row(sum, own) => {
                let token = TokenTile::load::<Format>(x, k_tile);
                let tile = stream.next::<Format>(worth);
                add_tile_of_token::<Format>(*sum, *own, &tile, worth, &token);
            }
        }
        stream.give_back();
    }
}

/// The columns that a block multiplies, and how many of them are tokens.
#[tile_fn]
pub fn columns_of_block(
    words: In<u32>,
    scales: In<f32>,
    sums: In<u32>,
    tiles: Val<u32>,
    tokens: Val<u32>,
    stride: Val<u32>,
    tiling: Tiling,
) -> (Columns, Val<u32>) {
    let width = tokens_of_block(tiling.columns, target().fragments);
    let first_token = block_index_y() * width;
    let here = min(max(tokens, first_token) - first_token, width);
    let columns = Columns {
        words,
        scales,
        sums,
        first_token,
        stride,
        tiles,
        count: tiling.columns,
    };
    (columns, here)
}

/// y\[token, row\] = sum over k of w\[row, k\] * x\[token, k\], with x as int8 per 32 values.
///
/// k is divided into `parts` equal parts of `tiles` tiles, each with results of its own, which whoever reads them adds in
/// order: y\[part, token, row\]. So few rows have work for many blocks.
///
/// Blocks: x over the parts of groups of 32 rows, each block takes every `grid`-th; y over as many tokens as the column tiles
/// hold. The first tiles of weights are fetched before the launch in front of this one has ended. Batch invariance: a warp
/// adds every `warps`-th tile of a part in order, then the warps are added, with every rounding written out; a token's results
/// are the same bits whatever the column tiles, the slots, the grid or the other tokens are.
#[kernel(threads = tiling.warps * 32, blocks = tiling.blocks)]
pub fn packed_product<Weight: PackedFormat>(
    #[shape(groups, parts, tiles, tile_bytes)] w: In<u8>,
    #[shape(all_tiles, stride, 64)] x: In<u32>,
    #[shape(all_tiles, stride, 8)] x_scale: In<f32>,
    #[shape(all_tiles, stride, 4, 4)] x_sum: In<u32>,
    #[shape(parts, tokens, rows)] y: Out<f32>,
    rows: u32,
    tiles: u32,
    tokens: u32,
    stride: u32,
    #[comptime] tiling: Tiling,
    #[comptime] parts: usize,
) {
    trigger_dependents();
    // the parts of a group lie behind each other, as groups do
    let units = (rows + (TILE_ROWS - 1)) / TILE_ROWS * parts;
    let mut stream = Stream::start(&[Source::of::<Weight>(w, units)], tiles, Turns::SINGLE, tiling);
    let worth = RowWorth::new(tiling.warps, WorthShape::of::<Weight>(), tiling);
    let partials = Partials::new(1, tiling);
    let (columns, here) = columns_of_block(x, x_scale, x_sum, tiles, tokens, stride, tiling);
    stream.first::<Weight>(&worth, tiling);
    wait_for_prerequisites();
    for unit in stepped(block_index(), units, grid_size()) {
        let sums = Sums::zeros(&worth, tiling);
        let (group, first_tile, first_token) = if parts > 1 {
            let group = unit / parts;
            let part = unit % parts;
            let first_tile = part * tiles;
            let first_token = part * tokens + columns.first_token;
            (group, Some(first_tile), first_token)
        } else {
            (unit, None, columns.first_token)
        };
        add_group::<Weight>(&sums, &mut stream, &worth, &columns, first_tile, tiling);
        partials.store(&sums, u32(0));
        barrier();
        /// a warp adds up the rows of a token
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

/// Two matrices of two formats that share activations, in one launch: y\[token, row\] of the first one's rows, then of the
/// second one's.
///
/// Blocks, batch invariance: as in [`packed_product`].
#[kernel(threads = tiling.warps * 32, blocks = tiling.blocks)]
pub fn packed_pair<First: PackedFormat, Second: PackedFormat>(
    #[shape(groups, tiles, tile_bytes)] w: In<u8>,
    #[shape(more_groups, tiles, tile_bytes)] more_w: In<u8>,
    #[shape(tiles, stride, 64)] x: In<u32>,
    #[shape(tiles, stride, 8)] x_scale: In<f32>,
    #[shape(tiles, stride, 4, 4)] x_sum: In<u32>,
    #[shape(tokens, both_rows)] y: Out<f32>,
    rows: u32,
    more_rows: u32,
    tiles: u32,
    tokens: u32,
    stride: u32,
    #[comptime] tiling: Tiling,
) {
    trigger_dependents();
    let groups = (rows + (TILE_ROWS - 1)) / TILE_ROWS;
    let more_groups = (more_rows + (TILE_ROWS - 1)) / TILE_ROWS;
    let sources = [
        Source::of::<First>(w, groups),
        Source::of::<Second>(more_w, more_groups),
    ];
    let mut stream = Stream::start(&sources, tiles, Turns::SINGLE, tiling);
    let shape = WorthShape::of::<First>().max(WorthShape::of::<Second>());
    let worth = RowWorth::new(tiling.warps, shape, tiling);
    let partials = Partials::new(1, tiling);
    let (columns, here) = columns_of_block(x, x_scale, x_sum, tiles, tokens, stride, tiling);
    if block_index() < groups {
        stream.first::<First>(&worth, tiling);
    } else {
        stream.first::<Second>(&worth, tiling);
    }
    wait_for_prerequisites();
    for group in stepped(block_index(), groups + more_groups, grid_size()) {
        let sums = Sums::zeros(&worth, tiling);
        if group < groups {
            add_group::<First>(&sums, &mut stream, &worth, &columns, None, tiling);
        } else {
            add_group::<Second>(&sums, &mut stream, &worth, &columns, None, tiling);
        }
        partials.store(&sums, u32(0));
        barrier();
        let is_first = group < groups;
        let start = select(is_first, group * TILE_ROWS, rows + (group - groups) * TILE_ROWS);
        let end = select(is_first, rows, rows + more_rows);
        for token in stepped(warp_index(), here, tiling.warps) {
            let row = start + lane_index();
            let sum = partials.sum(0, token);
            if row < end {
                y[(columns.first_token + token) * (rows + more_rows) + row] = sum;
            }
        }
        barrier();
    }
}

/// The setting for the warps of a block.
pub const WARPS: Parameter = choice("warps", "4", "warps that share the columns of the matrix");
/// The setting for the depth of the rings.
pub const SLOTS: Parameter = choice("slots", "1", "tiles that each warp has under way");
/// The setting for the column tiles.
pub const COLUMNS: Parameter = choice(
    "columns",
    "1",
    "column tiles, of 8 or 16 tokens: 1, 2 or 4; 0: one token, whose sub-blocks are the columns",
);
/// The setting for the blocks of a multiprocessor.
pub const BLOCKS: Parameter = choice(
    "blocks",
    "1",
    "blocks that should fit beside each other on a multiprocessor; 0 leaves it to the compiler",
);
/// The setting for the parts of k.
const PARTS: Parameter = choice("parts", "1", "equal parts of k with results of their own, 1 to 8");
/// The setting that names the format in the file.
pub const FORMAT: Parameter = choice("weight", "q4_k", "weight format, as GGUF calls it");

const FIRST: Parameter = choice("first", "q4_k", "format of the first matrix, as GGUF calls it");
const SECOND: Parameter = choice("second", "q6_k", "format of the second matrix: q6_k");

/// How the settings divide a product.
///
/// # Errors
/// More warps, slots or column tiles than a block can have.
pub fn tiling(settings: &Settings) -> Result<Tiling, SettingError> {
    tiling_with(settings, &[0, 1, 2, 4], "0, 1, 2 or 4")
}

/// As [`tiling`], with the numbers of column tiles that a kernel has, and how a message lists them.
///
/// # Errors
/// As [`tiling`].
pub fn tiling_with(settings: &Settings, columns: &[usize], listed: &str) -> Result<Tiling, SettingError> {
    let tiling = Tiling {
        warps: settings.number("warps")?,
        slots: settings.number("slots")?,
        columns: settings.number("columns")?,
        blocks: settings.number("blocks")?,
    };
    settings.require("warps", (1..=32).contains(&tiling.warps), "1 to 32")?;
    settings.require("slots", (1..=16).contains(&tiling.slots), "1 to 16")?;
    settings.require("blocks", tiling.blocks <= 8, "0 to 8")?;
    settings.require("columns", columns.contains(&tiling.columns), listed)?;
    Ok(tiling)
}

/// Parts in which results come, as the settings say.
///
/// # Errors
/// None, or too many.
pub fn parts(settings: &Settings) -> Result<usize, SettingError> {
    let parts = settings.number("parts")?;
    settings.require("parts", (1..=8).contains(&parts), "1 to 8")?;
    Ok(parts)
}

/// Tokens for which activations need memory, whatever the column tiles: all columns of four of the widest.
pub const fn token_stride(tokens: usize) -> usize {
    tokens.next_multiple_of(64)
}

/// Tokens of a block with so many column tiles on the target that has the fewest.
pub const fn narrowest_block(columns: usize) -> usize {
    tokens_of_block(columns, FragmentLayout::PairOfM16N8K16)
}

/// Activations as a product takes them: words, scales, sums.
pub fn sample_activations(random: &mut Random, stride: usize, tiles: usize) -> [Argument; 3] {
    [
        random.bytes(stride * tiles * TILE_COLS),
        random.floats("f32", stride * tiles * SUB_BLOCKS),
        random.bytes(stride * tiles * SUB_BLOCKS * 8),
    ]
}

/// Registration of [`packed_product`] with every weight format that can be packed.
pub const ENTRY: Entry = Entry {
    name: "packed_product",
    parameters: &[FORMAT, WARPS, SLOTS, COLUMNS, BLOCKS, PARTS],
    build: |settings| {
        let product = weights::packable(settings, "weight")?.1.product;
        Ok(product(tiling(settings)?, parts(settings)?))
    },
    example: |settings, random| {
        let weight: &Weight = weights::named(settings)?;
        let (tiling, parts) = (tiling(settings)?, parts(settings)?);
        let mut cols = weight.block_values * random.size(1, 4);
        if parts > 1 {
            cols = cols.next_multiple_of(TILE_COLS) * parts;
        }
        let (rows, tokens) = (random.size(1, 70), random.size(1, 17));
        let tiles = tiles_across(cols);
        let packed = (weights::packable(settings, "weight")?.0.bytes)(rows, cols);
        let [words, scales, sums] = sample_activations(random, token_stride(tokens), tiles);
        Ok(Example {
            grid: [
                random.size(1, groups_down(rows) * parts) as u32,
                tokens.div_ceil(narrowest_block(tiling.columns)) as u32,
                1,
            ],
            arguments: vec![
                random.bytes(packed),
                words,
                scales,
                sums,
                Argument::output(parts * tokens * rows * 4),
                Argument::U32(rows as u32),
                Argument::U32((tiles / parts) as u32),
                Argument::U32(tokens as u32),
                Argument::U32(token_stride(tokens) as u32),
            ],
        })
    },
};

/// Registration of [`packed_pair`]: the first matrix in any format that can be packed, the second in Q6_K.
///
/// Files mix formats that way: values in more bits than queries and keys.
pub const PAIR: Entry = Entry {
    name: "packed_pair",
    parameters: &[FIRST, SECOND, WARPS, SLOTS, COLUMNS, BLOCKS],
    build: |settings| {
        let second = settings.text("second")?;
        if second != Q6K::NAME {
            return Err(settings.unsupported("second", second, &[Q6K::NAME]));
        }
        Ok((weights::packable(settings, "first")?.1.pair)(tiling(settings)?))
    },
    example: |settings, random| {
        let tiling = tiling(settings)?;
        let (rows, more_rows, cols) = (random.size(1, 40), random.size(1, 40), 256 * random.size(1, 3));
        let tokens = random.size(1, 9);
        let (tiles, stride) = (tiles_across(cols), token_stride(tokens));
        let packed = (weights::packable(settings, "first")?.0.bytes)(rows, cols);
        let more = groups_down(more_rows) * tiles * Q6K::SECTIONS.bytes();
        let mut arguments = vec![random.bytes(packed), random.bytes(more)];
        arguments.extend(sample_activations(random, stride, tiles));
        arguments.push(Argument::output(tokens * (rows + more_rows) * 4));
        let numbers = [rows, more_rows, tiles, tokens, stride];
        arguments.extend(numbers.map(|size| Argument::U32(size as u32)));
        let blocks = random.size(1, groups_down(rows) + groups_down(more_rows));
        Ok(Example {
            grid: [
                blocks as u32,
                tokens.div_ceil(narrowest_block(tiling.columns)) as u32,
                1,
            ],
            arguments,
        })
    },
};
