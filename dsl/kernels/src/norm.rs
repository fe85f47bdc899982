//! RMS normalisation. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019); Gemma 4 multiplies by
//! the weight directly, without adding one.

use tilekiln_dsl::prelude::*;

use crate::block::block_sum;
use crate::registry::prelude::*;

/// One block per row: y = x / sqrt(mean(x^2) + eps) * w
#[kernel(threads = threads)]
pub fn rms_norm<Element: Float>(
    #[shape(rows, cols)] x: In<Element>,
    #[shape(cols)] w: In<f32>,
    #[shape(rows, cols)] y: Out<Element>,
    cols: u32,
    eps: f32,
    #[comptime] threads: usize,
) {
    let row = block_index();

    /// sum of squares, one partial per thread
    let mut sum = f32(0.0);
    for col in strided(cols, threads) {
        let v = x[(row, col)].to::<f32>();
        sum += v * v;
    }
    let scale = (block_sum(sum, threads) / cols.to::<f32>() + eps).rsqrt();

    for col in strided(cols, threads) {
        y[(row, col)] = (x[(row, col)].to::<f32>() * scale * w[col]).to();
    }
}

/// Registration of [`rms_norm`].
pub const ENTRY: Entry = Entry {
    name: "rms_norm",
    parameters: &[ELEMENT, choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| {
        let threads = settings.number("threads")?;
        Ok(match settings.text("element")? {
            "f16" => rms_norm::<f16>(threads),
            "bf16" => rms_norm::<bf16>(threads),
            "f32" => rms_norm::<f32>(threads),
            other => return Err(settings.unsupported("element", other, &["f16", "bf16", "f32"])),
        })
    },
    example: |settings, random| {
        let (rows, cols) = (random.size(1, 5), random.size(1, 700));
        let element = settings.text("element")?;
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats(element, rows * cols),
                random.floats("f32", cols),
                Argument::output(rows * cols * width(element)),
                Argument::U32(cols as u32),
                Argument::F32(1e-6),
            ],
        })
    },
};
