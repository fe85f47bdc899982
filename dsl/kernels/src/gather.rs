//! Rows of an embedding table.

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
