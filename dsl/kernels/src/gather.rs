//! Rows of a table, by their numbers.

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// One block per token: out\[token\] = table\[ids\[token\]\] * scale
#[kernel(threads = threads)]
pub fn gather<Element: Float>(
    #[shape(vocabulary, cols)] table: In<Element>,
    #[shape(tokens)] ids: In<u32>,
    #[shape(tokens, cols)] out: Out<f32>,
    cols: u32,
    scale: f32,
    #[comptime] threads: usize,
) {
    let token = block_index();
    let row = ids[token];
    for col in strided(cols, threads) {
        out[(token, col)] = table[(row, col)].to::<f32>() * scale;
    }
}

/// One block per row: out\[r, offset..\] = source\[indices\[r\]\], rows of `out` being `stride` values apart.
#[kernel(threads = threads)]
pub fn copy_rows(
    #[shape(source_rows, cols)] source: In<f32>,
    #[shape(rows)] indices: In<u32>,
    #[shape(rows, stride)] out: Out<f32>,
    cols: u32,
    stride: u32,
    offset: u32,
    #[comptime] threads: usize,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let row = block_index();
    let index = indices[row];
    for col in strided(cols, threads) {
        out[(row, offset + col)] = source[(index, col)];
    }
}

/// One block per row: out\[indices\[r\]\] = source\[r\]. No two rows go to the same place.
#[kernel(threads = threads)]
pub fn scatter_rows(
    #[shape(rows, cols)] source: In<f32>,
    #[shape(rows)] indices: In<u32>,
    #[shape(out_rows, cols)] out: Out<f32>,
    cols: u32,
    #[comptime] threads: usize,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let row = block_index();
    let index = indices[row];
    for col in strided(cols, threads) {
        out[(index, col)] = source[(row, col)];
    }
}

/// Registration of [`gather`].
pub const ENTRY: Entry = Entry {
    name: "gather",
    parameters: &[ELEMENT, choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| {
        let threads = settings.number("threads")?;
        Ok(match settings.text("element")? {
            "f16" => gather::<f16>(threads),
            "bf16" => gather::<bf16>(threads),
            "f32" => gather::<f32>(threads),
            other => return Err(settings.unsupported("element", other, &["f16", "bf16", "f32"])),
        })
    },
    example: |settings, random| {
        let (tokens, vocabulary, cols) = (random.size(1, 6), random.size(1, 40), random.size(1, 600));
        Ok(Example {
            grid: [tokens as u32, 1, 1],
            arguments: vec![
                random.floats(settings.text("element")?, vocabulary * cols),
                random.below(tokens, vocabulary as u32),
                Argument::output(tokens * cols * 4),
                Argument::U32(cols as u32),
                Argument::F32(1.5),
            ],
        })
    },
};

/// Registration of [`copy_rows`].
pub const COPY_ROWS: Entry = Entry {
    name: "copy_rows",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(copy_rows(settings.number("threads")?)),
    example: |_, random| {
        let (rows, source_rows, cols) = (random.size(1, 6), random.size(1, 9), random.size(1, 600));
        let (stride, offset) = (cols + random.size(5, 9), random.size(0, 5));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", source_rows * cols),
                random.below(rows, source_rows as u32),
                Argument::output(rows * stride * 4),
                Argument::U32(cols as u32),
                Argument::U32(stride as u32),
                Argument::U32(offset as u32),
            ],
        })
    },
};

/// Registration of [`scatter_rows`].
pub const SCATTER_ROWS: Entry = Entry {
    name: "scatter_rows",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(scatter_rows(settings.number("threads")?)),
    example: |_, random| {
        let (rows, cols) = (random.size(1, 6), random.size(1, 600));
        let places = (0..rows as u32).rev().map(|row| 2 * row);
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                Argument::Input(places.flat_map(u32::to_le_bytes).collect()),
                Argument::output(2 * rows * cols * 4),
                Argument::U32(cols as u32),
            ],
        })
    },
};
