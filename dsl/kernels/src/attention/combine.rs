//! The partial results of split attention, put together.

use tilekiln_dsl::prelude::*;

use super::flash::START;
use super::partition::{NO_WINDOW, Span, chunks, chunks_of_span};
use crate::matmul::packed::layout::{SUB_BLOCKS, TILE_COLS, tiles_across};
use crate::matmul::packed::product::token_stride;
use crate::matmul::prepare::PreparedRows;
use crate::registry::prelude::*;
use crate::turbo::rotation::{SIGNS_1, SIGNS_2, rotate_quads};

/// The comptime shape of a combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Comptime)]
pub struct CombineShape {
    /// Values of a head that one block puts together: 64 or 128.
    pub slice: usize,
    /// Results are rotated back from the domain of turbo values, 128 at a time.
    pub rotated: bool,
    /// Warps of a block.
    pub warps: usize,
    /// Chunks whose results a warp loads before it adds them.
    pub ahead: usize,
}

impl CombineShape {
    /// For up to so many chunks a row, however long its sequence: with few, each has a warp.
    pub fn of(slice: usize, rotated: bool, chunks: usize) -> Self {
        let [warps, ahead] = match chunks {
            0..=8 => [8, 1],
            9..=16 => [16, 1],
            _ => [16, 8],
        };
        Self {
            slice,
            rotated,
            warps,
            ahead,
        }
    }
}

/// What a block puts together.
#[derive(Clone, Copy)]
struct Part {
    /// Column of the group: a row times a query head.
    column: Val<u32>,
    /// First of the head's values.
    first_dim: Val<u32>,
    /// Row of the step.
    row: Val<u32>,
    head: Val<u32>,
    span: Span,
}

/// The part of this block, and whether there is one: x is columns of a group times slices of the stored values, y the KV
/// head, z the group.
#[tile_fn]
fn part(
    row_groups: In<u32>,
    positions: In<u32>,
    visible: In<u32>,
    gqa: Val<u32>,
    window: Val<u32>,
    stored: Val<u32>,
    #[comptime] shape: CombineShape,
) -> (Part, Val<bool>) {
    let slices = stored / shape.slice;
    let column = block_index() / slices;
    let group = block_index_z();
    let first_row = row_groups[group * 3];
    let rows = row_groups[group * 3 + 1];
    let part = Part {
        column,
        first_dim: block_index() % slices * shape.slice,
        row: first_row + column / gqa,
        head: block_index_y() * gqa + column % gqa,
        span: Span::of_rows(positions, visible, first_row, rows, window),
    };
    (part, column < rows * gqa)
}

/// Four values of a part for each lane of the first warp, the other warps' are worth nothing: the part's chunks' weighted
/// sums, each worth 2^(its highest score - the highest of all), divided by the sum of powers and rotated back where values
/// are stored rotated. 0 where the row sees nothing.
#[tile_fn]
fn put_together(
    partial: In<f32>,
    worth: In<f32>,
    part: &Part,
    window: Val<u32>,
    stored: Val<u32>,
    columns: Val<u32>,
    chunks: Val<u32>,
    #[comptime] shape: CombineShape,
) -> [Val<f32>; 4] {
    let needed = chunks_of_span(part.span, window);
    /// what a step's rows are is known before the launches in front have ended
    wait_for_prerequisites();
    let start = (block_index_z() * grid_size_y() + block_index_y()) * chunks;
    let column = part.column;

    /// a warp's chunks are numbers of the whole sequence; each lane has a few values of the slice
    let per_lane = shape.slice / 32;
    let sums = Registers::<f32>::filled(per_lane, 0.0);
    let mut total = f32(0.0);
    let mut highest = f32(START);
    let first = needed.begin / shape.warps * shape.warps + warp_index();
    let from = select(first < needed.begin, first + shape.warps, first);
    for round in stepped(from, needed.end, shape.warps * shape.ahead) {
        /// loads of several chunks are under way together; behind the last chunk that one again, worth nothing
        let worths = Registers::<f32>::undefined(2 * shape.ahead);
        let parts = Registers::<f32>::undefined(per_lane * shape.ahead);
        for i in 0..shape.ahead {
            let chunk = min(round + i * shape.warps, needed.end - 1) - needed.begin;
            let at = (start + chunk) * columns + column;
            let pair = worth.load_as::<Pack<f32, 2>>(at * 2);
            worths[2 * i] = pair.component(0);
            worths[2 * i + 1] = pair.component(1);
            let lane_start = at * stored + part.first_dim + lane_index() * per_lane;
            if per_lane == 4 {
                let values = partial.load_as::<Pack<f32, 4>>(lane_start);
                for j in 0..4 {
                    parts[i * per_lane + j] = values.component(j);
                }
            } else {
                let values = partial.load_as::<Pack<f32, 2>>(lane_start);
                for j in 0..2 {
                    parts[i * per_lane + j] = values.component(j);
                }
            }
        }
        /// what was added before shrinks to the new highest score of this warp's chunks
        let mut now = highest;
        for i in 0..shape.ahead {
            let is_here = round + i * shape.warps < needed.end;
            now = select(is_here, max(now, worths[2 * i]), now);
        }
        let shrink = (highest - now).exp2_flushed();
        highest = now;
        total = total * shrink;
        for j in 0..per_lane {
            sums[j] = sums[j] * shrink;
        }
        for i in 0..shape.ahead {
            let power = (worths[2 * i] - now).exp2_flushed();
            let factor = select(round + i * shape.warps < needed.end, power, f32(0.0));
            total = fma(factor, worths[2 * i + 1], total);
            for j in 0..per_lane {
                sums[j] = fma(factor, parts[i * per_lane + j], sums[j]);
            }
        }
    }
    sum_of_warps(sums, total, highest, shape)
}

/// The partial results of `flash_decode` put together, as f32.
///
/// Blocks: x over columns of a group times slices of the stored values, y over KV heads, z over groups. `columns`,
/// `chunks` and `stored` are those of the launch that made the parts. Batch invariance: warp w adds chunks w, w + warps, …
/// of the sequence in order, then the warps are added in order.
#[kernel(threads = shape.warps * 32, blocks = 1)]
pub fn flash_combine(
    #[shape(groups, kv_heads, chunks, columns, stored)] partial: In<f32>,
    #[shape(groups, kv_heads, chunks, columns, 2)] worth: In<f32>,
    #[shape(groups, 3)] row_groups: In<u32>,
    #[shape(rows)] positions: In<u32>,
    #[shape(rows)] visible: In<u32>,
    #[shape(rows, heads, head_dim)] out: Out<f32>,
    heads: u32,
    gqa: u32,
    window: u32,
    head_dim: u32,
    stored: u32,
    columns: u32,
    chunks: u32,
    #[comptime] shape: CombineShape,
) {
    trigger_dependents();
    let (part, is_used) = part(row_groups, positions, visible, gqa, window, stored, shape);
    if is_used {
        let four = put_together(partial, worth, &part, window, stored, columns, chunks, shape);
        let dim = part.first_dim + thread_index() * 4;
        if thread_index() < shape.slice / 4 && dim < head_dim {
            out.store_as::<Pack<f32, 4>>((part.row * heads + part.head) * head_dim + dim, Val::pack(four));
        }
    }
}

/// As [`flash_combine`], with the results as int8 rows for the product that follows. A token's values are a multiple of
/// 256, so that there is nothing to fill up.
#[kernel(threads = shape.warps * 32, blocks = 1)]
pub fn flash_combine_int8(
    #[shape(groups, kv_heads, chunks, columns, stored)] partial: In<f32>,
    #[shape(groups, kv_heads, chunks, columns, 2)] worth: In<f32>,
    #[shape(groups, 3)] row_groups: In<u32>,
    #[shape(rows)] positions: In<u32>,
    #[shape(rows)] visible: In<u32>,
    #[shape(tiles, stride, 64)] words: Out<u32>,
    #[shape(tiles, stride, 8)] scales: Out<f32>,
    #[shape(tiles, stride, 4, 4, 2)] sums: Out<u16>,
    heads: u32,
    gqa: u32,
    window: u32,
    head_dim: u32,
    stored: u32,
    columns: u32,
    chunks: u32,
    stride: u32,
    #[comptime] shape: CombineShape,
) {
    trigger_dependents();
    let (part, is_used) = part(row_groups, positions, visible, gqa, window, stored, shape);
    if is_used {
        let to = PreparedRows {
            words,
            scales,
            sums,
            stride,
        };
        let four = put_together(partial, worth, &part, window, stored, columns, chunks, shape);
        if warp_index() == 0 {
            let dim = part.first_dim + lane_index() * 4;
            let is_here = (lane_index() < shape.slice / 4) & (dim < head_dim);
            let tiles = heads * head_dim / TILE_COLS;
            /// what does not exist lies past the last tile
            let chunk = select(is_here, (part.head * head_dim + dim) / 4, tiles * (TILE_COLS / 4));
            to.store(part.row, chunk, tiles, &four);
        }
    }
}

/// Adds the warps' sums in order, each worth 2^(its highest score - the highest of all), and divides by the total: each lane
/// of the first warp gets four values of the slice, rotated back; lanes behind the slice get its last ones.
#[tile_fn]
fn sum_of_warps(
    sums: Registers<f32>,
    total: Val<f32>,
    highest: Val<f32>,
    #[comptime] shape: CombineShape,
) -> [Val<f32>; 4] {
    let per_lane = shape.slice / 32;
    let of_warps = SharedTile::<f32>::new(shape.warps, shape.slice, TileLayout::Plain);
    let totals = Shared::<f32>::new(shape.warps);
    let highests = Shared::<f32>::new(shape.warps);
    if per_lane == 4 {
        let four = Val::pack([0, 1, 2, 3].map(|i: usize| sums[i]));
        of_warps.store_as::<Pack<f32, 4>>(warp_index(), lane_index() * 4, four);
    } else {
        let two = Val::pack([0, 1].map(|i: usize| sums[i]));
        of_warps.store_as::<Pack<f32, 2>>(warp_index(), lane_index() * 2, two);
    }
    if lane_index() == 0 {
        totals[warp_index()] = total;
        highests[warp_index()] = highest;
    }
    barrier();
    let values = Registers::<f32>::filled(4, 0.0);
    if warp_index() == 0 {
        let mut highest_of_all = f32(START);
        for warp in unrolled(0..shape.warps) {
            highest_of_all = max(highest_of_all, highests[warp]);
        }
        let mut powers = f32(0.0);
        let first = min(lane_index() * 4, shape.slice as u32 - 4);
        for warp in unrolled(0..shape.warps) {
            let worth = (highests[warp] - highest_of_all).exp2_flushed();
            powers = fma(worth, totals[warp], powers);
            let four = of_warps.load_as::<Pack<f32, 4>>(warp, first);
            for i in 0..4 {
                values[i] = fma(worth, four.component(i), values[i]);
            }
        }
        let inverse = select(powers == 0.0, f32(0.0), 1.0 / powers);
        for i in 0..4 {
            values[i] = values[i] * inverse;
        }
        if shape.rotated {
            rotate_quads(values, SIGNS_2, SIGNS_1);
        }
    }
    [0, 1, 2, 3].map(|i: usize| values[i])
}

const PARAMETERS: &[Parameter] = &[
    choice("slice", "128", "values of a head per block, 64 or 128"),
    choice("rotated", "false", "true: values are stored rotated"),
    choice("warps", "16", "warps per block: 4, 8, 16 or 32"),
    choice("ahead", "8", "chunks that a warp loads before it adds them, 1 to 16"),
];

fn shape(settings: &Settings) -> Result<CombineShape, SettingError> {
    let shape = CombineShape {
        slice: settings.number("slice")?,
        rotated: settings.text("rotated")? == "true",
        warps: settings.number("warps")?,
        ahead: settings.number("ahead")?,
    };
    settings.require("ahead", (1..=16).contains(&shape.ahead), "1 to 16")?;
    settings.require("warps", [4, 8, 16, 32].contains(&shape.warps), "4, 8, 16 or 32")?;
    settings.require("slice", [64, 128].contains(&shape.slice), "64 or 128")?;
    let known = ["true", "false"].contains(&settings.text("rotated")?);
    settings.require("rotated", known, "true or false")?;
    settings.require(
        "slice",
        !shape.rotated || shape.slice == 128,
        "128 where values are rotated",
    )?;
    Ok(shape)
}

/// Random parts, with their results in these buffers.
fn example(
    settings: &Settings,
    random: &mut Random,
    outputs: fn(rows: usize, width: usize) -> Vec<Argument>,
    last: fn(rows: usize) -> Option<Argument>,
) -> Result<Example, SettingError> {
    let slice = settings.number("slice")?.max(64);
    // four heads at least, so that a token's values fill whole tiles of 256
    let (rows, kv_heads, gqa) = (random.size(1, 3), 4, random.size(1, 2));
    let (stored, columns, keys) = (slice * random.size(1, 2), 8, random.size(rows, 700));
    let chunks = chunks(keys, NO_WINDOW, rows);
    let parts = kv_heads * chunks * columns;
    let words = |values: std::ops::Range<usize>| {
        Argument::Input(values.flat_map(|value| (value as u32).to_le_bytes()).collect())
    };
    let mut arguments = vec![
        random.floats("f32", parts * stored),
        random.floats("f32", parts * 2),
        Argument::Input([0, rows as u32, 0].into_iter().flat_map(u32::to_le_bytes).collect()),
        words(keys - rows..keys),
        words(keys - rows + 1..keys + 1),
    ];
    arguments.extend(outputs(rows, kv_heads * gqa * stored));
    let numbers = [kv_heads * gqa, gqa, NO_WINDOW as usize, stored, stored, columns, chunks];
    arguments.extend(numbers.map(|number| Argument::U32(number as u32)));
    arguments.extend(last(rows));
    Ok(Example {
        grid: [(columns * stored / slice) as u32, kv_heads as u32, 1],
        arguments,
    })
}

/// Registration of [`flash_combine`].
pub const ENTRY: Entry = Entry {
    name: "flash_combine",
    parameters: PARAMETERS,
    build: |settings| Ok(flash_combine(shape(settings)?)),
    example: |settings, random| {
        let floats = |rows, width| vec![Argument::output(rows * width * 4)];
        example(settings, random, floats, |_| None)
    },
};

/// Registration of [`flash_combine_int8`].
pub const INT8: Entry = Entry {
    name: "flash_combine_int8",
    parameters: PARAMETERS,
    build: |settings| Ok(flash_combine_int8(shape(settings)?)),
    example: |settings, random| {
        let int8 = |rows, width| {
            let groups = tiles_across(width) * token_stride(rows);
            [groups * TILE_COLS, groups * SUB_BLOCKS * 4, groups * SUB_BLOCKS * 8]
                .map(Argument::output)
                .to_vec()
        };
        let stride = |rows| Some(Argument::U32(token_stride(rows) as u32));
        example(settings, random, int8, stride)
    },
};
