//! Products with packed weights whose results are gated and become int8 right there: the activations of the next product.

use tilekiln_dsl::prelude::*;

use super::columns::{Columns, store_sum};
use super::format::PackedFormat;
use super::layout::{Quads, SUB_BLOCK, SUB_BLOCKS, TILE_COLS, stored_word, tiles_across};
use super::product::{
    BLOCKS, COLUMNS, FORMAT, SLOTS, WARPS, add_group, columns_of_block, narrowest_block, sample_activations, tiling,
    token_stride,
};
use super::stream::{Partials, Source, Stream, Tiling, Turns};
use super::tile::Sums;
use super::worth::{RowWorth, WorthShape};
use crate::gated::gelu_tanh;
use crate::matmul::weights;
use crate::registry::prelude::*;

/// Results of 32 rows as a sub-block of the activations of the next product, a lane each: see
/// [`PreparedRows`](crate::matmul::prepare::PreparedRows).
#[derive(Clone, Copy)]
pub struct PreparedResults {
    /// [tiles, stride, 256], in the order of [`Quads::right`].
    pub quants: Out<u8>,
    /// [tiles, stride, 8]
    pub scales: Out<f32>,
    /// [tiles, stride, 4, 4]
    pub sums: Out<u16>,
    /// Tokens for which there is memory.
    pub stride: Val<u32>,
}

impl PreparedResults {
    /// Stores the values that the lanes of a warp hold, as [`quantise_rows`](crate::matmul::quantise::quantise_rows) has
    /// them.
    #[tile_fn]
    pub fn store(&self, token: Val<u32>, sub_block: Val<u32>, value: Val<f32>) {
        let highest = warp_max(value.bitcast::<u32>() & 0x7fff_ffff).bitcast::<f32>();
        let scale = highest / 127.0;
        let quotient = value.mul_unfused(127.0 / highest).round().to::<i32>();
        let q = select(scale == 0.0, 0, min(max(quotient, -127), 127));
        let count = warp_sum(q);
        let first = sub_block / SUB_BLOCKS * self.stride + token;
        let word = stored_word(
            sub_block % SUB_BLOCKS * (SUB_BLOCK / 4) + lane_index() / 4,
            Quads::here(1),
        );
        self.quants[first * TILE_COLS + word * 4 + lane_index() % 4] = q.bitcast::<u32>();
        if lane_index() == 0 {
            let of_tile = sub_block % SUB_BLOCKS;
            self.scales[first * SUB_BLOCKS + of_tile] = scale;
            store_sum(self.sums, first * SUB_BLOCKS * 4, of_tile, scale * count.to::<f32>());
        }
    }

    /// Zeros from sub-block `first` to the end of its tile.
    #[tile_fn]
    pub fn fill_tile(&self, token: Val<u32>, first: Val<u32>) {
        let end = (first + (SUB_BLOCKS - 1)) / SUB_BLOCKS * SUB_BLOCKS;
        for sub_block in stepped(first, end, 1) {
            self.store(token, sub_block, f32(0.0));
        }
    }
}

/// gelu(gate) * up as int8, for the product that follows; gate and up are the rows of one matrix, 32 of a kind in turns.
///
/// Blocks: x over units of 32 gate rows and their 32 up rows, y over as many tokens as the column tiles hold. All warps take
/// gates and then ups, or one of two teams takes gates and the other ups. Batch invariance: as in
/// [`packed_product`](super::product::packed_product); teams change no bit, either.
#[kernel(threads = tiling.all_warps(Turns::pair(teams)) * 32, blocks = tiling.blocks)]
pub fn packed_gated<Weight: PackedFormat>(
    #[shape(units, 2, tiles, tile_bytes)] w: In<u8>,
    #[shape(tiles, stride, 64)] x: In<u32>,
    #[shape(tiles, stride, 8)] x_scale: In<f32>,
    #[shape(tiles, stride, 4, 4)] x_sum: In<u32>,
    #[shape(out_tiles, stride, 256)] quants: Out<u8>,
    #[shape(out_tiles, stride, 8)] scales: Out<f32>,
    #[shape(out_tiles, stride, 4, 4, 2)] sums: Out<u16>,
    units: u32,
    tiles: u32,
    tokens: u32,
    stride: u32,
    #[comptime] tiling: Tiling,
    #[comptime] teams: usize,
) {
    trigger_dependents();
    let turns = Turns::pair(teams);
    let warps = tiling.all_warps(turns);
    let mut stream = Stream::start(&[Source::of::<Weight>(w, units * 2)], tiles, turns, tiling);
    let worth = RowWorth::new(warps, WorthShape::of::<Weight>(), tiling);
    let partials = Partials::new(turns.groups(), tiling);
    let (columns, here) = columns_of_block(x, x_scale, x_sum, tiles, tokens, stride, tiling);
    let results = PreparedResults {
        quants,
        scales,
        sums,
        stride,
    };
    stream.first::<Weight>(&worth, tiling);
    wait_for_prerequisites();
    if teams == 2 {
        for unit in stepped(block_index(), units, grid_size()) {
            let sums = Sums::zeros(&worth, tiling);
            add_group::<Weight>(&sums, &mut stream, &worth, &columns, None, tiling);
            partials.store(&sums, u32(0));
            store_gated(&partials, &columns, &results, unit, units, here, warps);
        }
    } else {
        let mut group = block_index() * 2;
        while group < units * 2 {
            let both = Sums::zeros(&worth, tiling);
            add_group::<Weight>(&both, &mut stream, &worth, &columns, None, tiling);
            partials.store(&both, group % 2);
            group += 1;
            /// gates and ups are there
            if group % 2 == 0 {
                store_gated(&partials, &columns, &results, group / 2 - 1, units, here, warps);
                group += (grid_size() - 1) * 2;
            }
        }
    }
}

/// Stores the results of a unit of 32 gates and ups, whose sums this block's warps have stored.
#[tile_fn]
fn store_gated(
    partials: &Partials,
    columns: &Columns,
    results: &PreparedResults,
    unit: Val<u32>,
    units: Val<u32>,
    here: Val<u32>,
    warps: usize,
) {
    barrier();
    for column in stepped(warp_index(), here, warps) {
        let gate = partials.sum(0, column);
        let up = partials.sum(1, column);
        let token = columns.first_token + column;
        results.store(token, unit, gelu_tanh(gate).mul_unfused(up));
        if unit + 1 == units {
            results.fill_tile(token, units);
        }
    }
    barrier();
}

/// gelu(product) * factor as int8, for the product that follows; factor\[token, row\] starts at `token * factor_stride +
/// factor_offset`.
///
/// Blocks: x over groups of 32 rows, of which there are whole ones; the rest as in [`packed_gated`].
#[kernel(threads = tiling.warps * 32, blocks = tiling.blocks)]
pub fn packed_gate<Weight: PackedFormat>(
    #[shape(groups, tiles, tile_bytes)] w: In<u8>,
    #[shape(tiles, stride, 64)] x: In<u32>,
    #[shape(tiles, stride, 8)] x_scale: In<f32>,
    #[shape(tiles, stride, 4, 4)] x_sum: In<u32>,
    #[shape(tokens, factor_stride)] factor: In<f32>,
    #[shape(out_tiles, stride, 256)] quants: Out<u8>,
    #[shape(out_tiles, stride, 8)] scales: Out<f32>,
    #[shape(out_tiles, stride, 4, 4, 2)] sums: Out<u16>,
    groups: u32,
    tiles: u32,
    tokens: u32,
    stride: u32,
    factor_stride: u32,
    factor_offset: u32,
    #[comptime] tiling: Tiling,
) {
    trigger_dependents();
    let mut stream = Stream::start(&[Source::of::<Weight>(w, groups)], tiles, Turns::SINGLE, tiling);
    let worth = RowWorth::new(tiling.warps, WorthShape::of::<Weight>(), tiling);
    let partials = Partials::new(1, tiling);
    let (columns, here) = columns_of_block(x, x_scale, x_sum, tiles, tokens, stride, tiling);
    let results = PreparedResults {
        quants,
        scales,
        sums,
        stride,
    };
    stream.first::<Weight>(&worth, tiling);
    wait_for_prerequisites();
    for group in stepped(block_index(), groups, grid_size()) {
        let gates = Sums::zeros(&worth, tiling);
        add_group::<Weight>(&gates, &mut stream, &worth, &columns, None, tiling);
        partials.store(&gates, u32(0));
        barrier();
        for column in stepped(warp_index(), here, tiling.warps) {
            let token = columns.first_token + column;
            let place = token * factor_stride + factor_offset + group * 32 + lane_index();
            let by = factor[place];
            let gate = partials.sum(0, column);
            results.store(token, group, gelu_tanh(gate).mul_unfused(by));
            if group + 1 == groups {
                results.fill_tile(token, groups);
            }
        }
        barrier();
    }
}

/// Buffers for the results of 32 rows in each of `groups`.
fn outputs(groups: usize, stride: usize) -> [Argument; 3] {
    let out = groups.div_ceil(SUB_BLOCKS) * stride;
    [out * TILE_COLS, out * SUB_BLOCKS * 4, out * SUB_BLOCKS * 8].map(Argument::output)
}

const TEAMS: Parameter = choice("teams", "1", "teams of warps: 2 have gates and ups each to themselves");

/// Registration of [`packed_gated`] with every weight format that can be packed.
pub const GATED: Entry = Entry {
    name: "packed_gated",
    parameters: &[FORMAT, WARPS, SLOTS, COLUMNS, BLOCKS, TEAMS],
    build: |settings| {
        let teams = settings.number("teams")?;
        settings.require("teams", [1, 2].contains(&teams), "1 or 2")?;
        let tiling = tiling(settings)?;
        let warps = tiling.all_warps(Turns::pair(teams));
        settings.require("teams", warps <= 32, "1 where more than 16 warps share the columns")?;
        Ok((weights::packable(settings, "weight")?.1.gated)(tiling, teams))
    },
    example: |settings, random| {
        let columns = tiling(settings)?.columns;
        let block = weights::named(settings)?.block_values;
        let (units, cols, tokens) = (random.size(1, 3), block * random.size(1, 3), random.size(1, 9));
        let (tiles, stride) = (tiles_across(cols), token_stride(tokens));
        let packed = (weights::packable(settings, "weight")?.0.bytes)(units * 64, cols);
        let mut arguments = vec![random.bytes(packed)];
        arguments.extend(sample_activations(random, stride, tiles));
        arguments.extend(outputs(units, stride));
        arguments.extend([units, tiles, tokens, stride].map(|size| Argument::U32(size as u32)));
        let grid = [
            random.size(1, units) as u32,
            tokens.div_ceil(narrowest_block(columns)) as u32,
            1,
        ];
        Ok(Example { grid, arguments })
    },
};

/// Registration of [`packed_gate`] with every weight format that can be packed.
pub const GATE: Entry = Entry {
    name: "packed_gate",
    parameters: &[FORMAT, WARPS, SLOTS, COLUMNS, BLOCKS],
    build: |settings| Ok((weights::packable(settings, "weight")?.1.gate)(tiling(settings)?)),
    example: |settings, random| {
        let columns = tiling(settings)?.columns;
        let block = weights::named(settings)?.block_values;
        let (groups, cols, tokens) = (random.size(1, 3), block * random.size(1, 3), random.size(1, 9));
        let (tiles, stride) = (tiles_across(cols), token_stride(tokens));
        let (rows, offset) = (groups * SUB_BLOCK, random.size(0, 9));
        let packed = (weights::packable(settings, "weight")?.0.bytes)(rows, cols);
        let mut arguments = vec![random.bytes(packed)];
        arguments.extend(sample_activations(random, stride, tiles));
        arguments.push(random.floats("f32", tokens * (rows + offset)));
        arguments.extend(outputs(groups, stride));
        let numbers = [groups, tiles, tokens, stride, rows + offset, offset];
        arguments.extend(numbers.map(|size| Argument::U32(size as u32)));
        let grid = [
            random.size(1, groups) as u32,
            tokens.div_ceil(narrowest_block(columns)) as u32,
            1,
        ];
        Ok(Example { grid, arguments })
    },
};
