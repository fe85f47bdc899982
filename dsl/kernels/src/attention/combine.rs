//! The partial results of split attention, put together.

use tilekiln_dsl::prelude::*;

use super::flash::{LOG2_E, LOWEST};
use super::partition::{Span, chunks_of_span};
use crate::registry::prelude::*;

/// Values of a head that one block puts together.
pub const SLICE: usize = 64;

/// The weighted sums of a row's chunks, each worth exp(its highest score - the highest of all), divided by the sum of
/// exponentials. Rows that see nothing get zeros.
///
/// Blocks: x over columns of a group times slices of 64 values, y over KV heads, z over groups. `columns`, `chunks` and
/// `stored` are those of the launch that made the parts. Batch invariance: warp w adds chunks w, w + warps, … of the
/// sequence in order, then the warps are added in order.
#[kernel(threads = warps * 32)]
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
    #[comptime] warps: usize,
) {
    let slices = head_dim / SLICE;
    let column = block_index() / slices;
    let slice = block_index() % slices;
    let group = block_index_z();
    let first_row = row_groups[group * 3];
    let rows = row_groups[group * 3 + 1];
    if column < rows * gqa {
        let span = Span::of_rows(positions, visible, first_row, rows, window);
        let needed = chunks_of_span(span, window);
        let start = (group * grid_size_y() + block_index_y()) * chunks;

        /// the highest score of all chunks
        let mut lane_highest = f32(LOWEST);
        for chunk in stepped(needed.begin + thread_index(), needed.end, warps * 32) {
            let at = (start + (chunk - needed.first_block)) * columns + column;
            lane_highest = max(lane_highest, worth[at * 2]);
        }
        let warp_highest = Shared::<f32>::new(warps);
        let of_warp = warp_max(lane_highest);
        if lane_index() == 0 {
            warp_highest[warp_index()] = of_warp;
        }
        barrier();
        let mut highest = f32(LOWEST);
        for warp in device_range(0, warps) {
            highest = max(highest, warp_highest[warp]);
        }

        /// each lane has two values of the slice; a warp's chunks are numbers of the whole sequence
        let mut sum_0 = f32(0.0);
        let mut sum_1 = f32(0.0);
        let mut total = f32(0.0);
        let first = needed.begin / warps * warps + warp_index();
        let from = select(first < needed.begin, first + warps, first);
        for chunk in stepped(from, needed.end, warps) {
            let at = (start + (chunk - needed.first_block)) * columns + column;
            let two = partial.load_as::<Pack<f32, 2>>(at * stored + slice * SLICE + lane_index() * 2);
            let factor = ((worth[at * 2] - highest) * LOG2_E).exp2();
            total = fma(factor, worth[at * 2 + 1], total);
            sum_0 = fma(factor, two.component(0), sum_0);
            sum_1 = fma(factor, two.component(1), sum_1);
        }
        let sums = SharedTile::<f32>::new(warps, SLICE, TileLayout::Plain);
        let totals = Shared::<f32>::new(warps);
        sums.store_as::<Pack<f32, 2>>(warp_index(), lane_index() * 2, Val::pack([sum_0, sum_1]));
        if lane_index() == 0 {
            totals[warp_index()] = total;
        }
        barrier();
        if thread_index() < SLICE {
            let mut value = f32(0.0);
            let mut exponentials = f32(0.0);
            for warp in device_range(0, warps) {
                value += sums[(warp, thread_index())];
                exponentials += totals[warp];
            }
            let row = first_row + column / gqa;
            let head = block_index_y() * gqa + column % gqa;
            let result = select(exponentials == 0.0, f32(0.0), value / exponentials);
            out[(row * heads + head) * head_dim + slice * SLICE + thread_index()] = result;
        }
    }
}

/// Registration of [`flash_combine`].
pub const ENTRY: Entry = Entry {
    name: "flash_combine",
    parameters: &[choice("warps", "8", "warps per block, 2 to 32")],
    build: |settings| {
        let warps = settings.number("warps")?;
        settings.require("warps", (2..=32).contains(&warps), "2 to 32")?;
        Ok(flash_combine(warps))
    },
    example: |_, random| {
        let (rows, kv_heads, gqa) = (random.size(1, 3), random.size(1, 2), random.size(1, 2));
        let (head_dim, columns, keys) = (64 * random.size(1, 2), 8, random.size(rows, 700));
        let chunks = super::partition::chunks(keys, super::partition::NO_WINDOW, rows);
        let parts = kv_heads * chunks * columns;
        let words = |values: std::ops::Range<usize>| {
            Argument::Input(values.flat_map(|value| (value as u32).to_le_bytes()).collect())
        };
        Ok(Example {
            grid: [(columns * head_dim / SLICE) as u32, kv_heads as u32, 1],
            arguments: vec![
                random.floats("f32", parts * head_dim),
                random.floats("f32", parts * 2),
                Argument::Input([0, rows as u32, 0].into_iter().flat_map(u32::to_le_bytes).collect()),
                words(keys - rows..keys),
                words(keys - rows + 1..keys + 1),
                Argument::output(rows * kv_heads * gqa * head_dim * 4),
                Argument::U32((kv_heads * gqa) as u32),
                Argument::U32(gqa as u32),
                Argument::U32(super::partition::NO_WINDOW),
                Argument::U32(head_dim as u32),
                Argument::U32(head_dim as u32),
                Argument::U32(columns as u32),
                Argument::U32(chunks as u32),
            ],
        })
    },
};
