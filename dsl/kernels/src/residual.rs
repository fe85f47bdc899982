//! The end of a layer's branch: its norm, the sum with the residual stream, the layer's scale. Source: Gemma 4.

use tilekiln_dsl::prelude::*;

use crate::block::block_sum;
use crate::registry::prelude::*;

/// One block per row: x = (x + branch / sqrt(mean(branch^2) + eps) * w) * scale
///
/// Batch invariance: a row's sum is added by its own block, in an order that depends on `cols` only.
#[kernel(threads = threads)]
pub fn residual_norm(
    #[shape(rows, cols)] x: InOut<f32>,
    #[shape(rows, cols)] branch: In<f32>,
    #[shape(cols)] w: In<f32>,
    cols: u32,
    eps: f32,
    scale: f32,
    #[comptime] threads: usize,
) {
    let row = block_index();

    /// sum of squares, one partial per thread
    let mut sum = f32(0.0);
    for col in strided(cols, threads) {
        let v = branch[(row, col)];
        sum += v * v;
    }
    let norm = (block_sum(sum, threads) / cols.to::<f32>() + eps).rsqrt();

    for col in strided(cols, threads) {
        x[(row, col)] = (x[(row, col)] + branch[(row, col)] * norm * w[col]) * scale;
    }
}

/// 1/sqrt(2)
const HALF_SQRT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// One block per row, a layer of a token: the two parts of its per-layer embedding, out = (norm(context * context_scale)
/// * w + token) / sqrt(2)
///
/// Batch invariance: a row's sum is added by its own block, in an order that depends on `cols` only.
#[kernel(threads = threads)]
pub fn ple_combine(
    #[shape(rows, cols)] context: In<f32>,
    #[shape(rows, cols)] token: In<f32>,
    #[shape(cols)] w: In<f32>,
    #[shape(rows, cols)] out: Out<f32>,
    cols: u32,
    context_scale: f32,
    eps: f32,
    #[comptime] threads: usize,
) {
    trigger_dependents();
    wait_for_prerequisites();
    let row = block_index();

    /// sum of squares, one partial per thread
    let mut sum = f32(0.0);
    for col in strided(cols, threads) {
        let v = context[(row, col)] * context_scale;
        sum += v * v;
    }
    let norm = (block_sum(sum, threads) / cols.to::<f32>() + eps).rsqrt();

    for col in strided(cols, threads) {
        let part = context[(row, col)] * context_scale * norm * w[col];
        out[(row, col)] = (part + token[(row, col)]) * HALF_SQRT;
    }
}

/// Registration of [`residual_norm`].
pub const RESIDUAL_NORM: Entry = Entry {
    name: "residual_norm",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(residual_norm(settings.number("threads")?)),
    example: |_, random| {
        let (rows, cols) = (random.size(1, 5), random.size(1, 700));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                random.floats("f32", rows * cols),
                random.floats("f32", cols),
                Argument::U32(cols as u32),
                Argument::F32(1e-6),
                Argument::F32(0.75),
            ],
        })
    },
};

/// Registration of [`ple_combine`].
pub const PLE_COMBINE: Entry = Entry {
    name: "ple_combine",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(ple_combine(settings.number("threads")?)),
    example: |_, random| {
        let (rows, cols) = (random.size(1, 9), random.size(1, 500));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                random.floats("f32", rows * cols),
                random.floats("f32", cols),
                Argument::output(rows * cols * 4),
                Argument::U32(cols as u32),
                Argument::F32(0.02),
                Argument::F32(1e-6),
            ],
        })
    },
};
