//! Matrix product with 16-bit inputs on the matrix units: what prefill runs on.

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// Rows and columns of C per block.
const TILE: usize = 64;
/// Values of k per step: 128 bytes, so that tiles can be swizzled.
const DEPTH: usize = 64;

/// copies 64 rows by 64 k into the tile, zeros outside of the matrix; whole 16-byte chunks go asynchronously
#[device_fn]
fn load_tile<Element: HalfElement>(
    tile: SharedTile<Element>,
    tile_row: Val<u32>,
    source: In<Element>,
    first_row: Val<u32>,
    first_k: Val<u32>,
    rows: Val<u32>,
    k: Val<u32>,
    #[comptime] threads: usize,
) {
    for chunk in strided(TILE * DEPTH / 8, threads) {
        let row = chunk / (DEPTH / 8);
        let col = chunk % (DEPTH / 8) * 8;
        let from = (first_row + row) * k + first_k + col;
        let is_inside = first_row + row < rows && first_k + col + 8 <= k;
        if is_inside && k % 8 == 0 {
            async_copy(tile, (tile_row + row, col), source, from);
        } else {
            for i in device_range(0, 8) {
                let mut value = u32(0);
                if first_row + row < rows && first_k + col + i < k {
                    value = source.load_as::<u16>(from + i);
                }
                tile.store_as::<u16>(tile_row + row, col + i, value);
            }
        }
    }
    async_commit();
}

/// C = A * transpose(B), A m x k and B n x k in 16 bits, C in f32.
///
/// One block of four warps per 64 x 64 tile of C, each warp 32 x 32; `stages` tiles of 64 k are in flight.
#[kernel(threads = 128)]
pub fn matmul<Element: HalfElement>(
    #[shape(m, k)] a: In<Element>,
    #[shape(n, k)] b: In<Element>,
    #[shape(m, n)] c: Out<f32>,
    m: u32,
    n: u32,
    k: u32,
    #[comptime] stages: usize,
) {
    let first_row = block_index_y() * TILE;
    let first_col = block_index() * TILE;
    let a_tile = SharedTile::<Element>::new(stages * TILE, DEPTH, TileLayout::Swizzled);
    let b_tile = SharedTile::<Element>::new(stages * TILE, DEPTH, TileLayout::Swizzled);
    let warp_row = warp_index() / 2 * 32;
    let warp_col = warp_index() % 2 * 32;
    let acc = Accumulators::zeros(4);
    let steps = (k + (DEPTH - 1)) / DEPTH;

    /// fill all stages but one
    for step in device_range(0, stages - 1) {
        load_tile(a_tile, step * TILE, a, first_row, step * DEPTH, m, k, 128);
        load_tile(b_tile, step * TILE, b, first_col, step * DEPTH, n, k, 128);
    }
    for step in 0..steps {
        /// this step's tiles have arrived, and nobody reads the stage that is filled next
        async_wait(2 * (stages - 2));
        barrier();
        let ahead = step + (stages - 1);
        let free = ahead % stages * TILE;
        load_tile(a_tile, free, a, first_row, ahead * DEPTH, m, k, 128);
        load_tile(b_tile, free, b, first_col, ahead * DEPTH, n, k, 128);

        let stage = step % stages * TILE;
        for slice in unrolled(0..DEPTH / 16) {
            let left_cols = OperandB::load_transposed(b_tile, stage + warp_col, slice * 16);
            let right_cols = OperandB::load_transposed(b_tile, stage + warp_col + 16, slice * 16);
            for side in unrolled(0..2) {
                let rows = OperandA::load(a_tile, stage + warp_row + side * 16, slice * 16);
                mma(acc.at(side * 2), rows, left_cols);
                mma(acc.at(side * 2 + 1), rows, right_cols);
            }
        }
    }
    async_wait(0);

    for tile in unrolled(0..4) {
        acc.at(tile).each(|element, value| {
            let row = first_row + warp_row + tile / 2 * 16 + element.row;
            let col = first_col + warp_col + tile % 2 * 16 + element.column;
            if row < m && col < n {
                c[(row, col)] = value;
            }
        });
    }
}

/// Registration of [`matmul`].
pub const ENTRY: Entry = Entry {
    name: "matmul",
    parameters: &[
        choice("element", "f16", "element type: f16, bf16"),
        choice("stages", "2", "tiles in flight, 2 to 4"),
    ],
    build: |settings| {
        let stages = settings.number("stages")?;
        settings.require("stages", (2..=4).contains(&stages), "2, 3 or 4")?;
        Ok(match settings.text("element")? {
            "f16" => matmul::<f16>(stages),
            "bf16" => matmul::<bf16>(stages),
            other => return Err(settings.unsupported("element", other, &["f16", "bf16"])),
        })
    },
    example: |settings, random| {
        let element = settings.text("element")?;
        let (m, n) = (random.size(1, 130), random.size(1, 130));
        let k = if random.size(0, 1) == 0 {
            random.size(1, 200)
        } else {
            8 * random.size(1, 30)
        };
        Ok(Example {
            grid: [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1],
            arguments: vec![
                random.floats(element, m * k),
                random.floats(element, n * k),
                Argument::output(m * n * 4),
                Argument::U32(m as u32),
                Argument::U32(n as u32),
                Argument::U32(k as u32),
            ],
        })
    },
};
