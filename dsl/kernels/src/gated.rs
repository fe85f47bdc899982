//! Pointwise functions of activations: the gate of a feed-forward layer, the cap on logits.

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// sqrt(2/pi)
const GELU_SCALE: f32 = 0.797_884_6;
/// Weight of the cubic term.
const GELU_CUBIC: f32 = 0.044_715;

/// GELU, tanh approximation, every rounding written out. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016)
#[device_fn]
pub fn gelu_tanh(u: Val<f32>) -> Val<f32> {
    let cubic = u.mul_unfused(u).mul_unfused(GELU_CUBIC);
    let inner = fma(cubic, u, u).mul_unfused(GELU_SCALE);
    (0.5 * u).mul_unfused(1.0 + inner.tanh())
}

/// One thread per value: out\[token, i\] = gelu(a\[token, i\]) * b\[token, b_offset + i\]
///
/// Blocks: x over `threads` columns each, y over tokens. Rows of `b` are `b_stride` values apart.
#[kernel(threads = threads)]
pub fn gated(
    #[shape(tokens, cols)] a: In<f32>,
    #[shape(tokens, b_stride)] b: In<f32>,
    #[shape(tokens, cols)] out: Out<f32>,
    cols: u32,
    b_stride: u32,
    b_offset: u32,
    #[comptime] threads: usize,
) {
    let col = block_index() * threads + thread_index();
    let token = block_index_y();
    if col < cols {
        out[(token, col)] = gelu_tanh(a[(token, col)]) * b[(token, b_offset + col)];
    }
}

/// One thread per value: x = cap * tanh(x / cap)
#[kernel(threads = threads)]
pub fn softcap(#[shape(count)] x: InOut<f32>, count: u32, cap: f32, #[comptime] threads: usize) {
    trigger_dependents();
    wait_for_prerequisites();
    let i = block_index() * threads + thread_index();
    if i < count {
        x[i] = cap * (x[i] / cap).tanh();
    }
}

/// Registration of [`gated`].
pub const GATED: Entry = Entry {
    name: "gated",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(gated(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?.max(1);
        let (tokens, cols) = (random.size(1, 4), random.size(1, 700));
        let (b_stride, b_offset) = (cols + random.size(5, 9), random.size(0, 5));
        Ok(Example {
            grid: [cols.div_ceil(threads) as u32, tokens as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * cols),
                random.floats("f32", tokens * b_stride),
                Argument::output(tokens * cols * 4),
                Argument::U32(cols as u32),
                Argument::U32(b_stride as u32),
                Argument::U32(b_offset as u32),
            ],
        })
    },
};

/// Registration of [`softcap`].
pub const SOFTCAP: Entry = Entry {
    name: "softcap",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(softcap(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?.max(1);
        let count = random.size(1, 2000);
        Ok(Example {
            grid: [count.div_ceil(threads) as u32, 1, 1],
            arguments: vec![
                random.floats("f32", count),
                Argument::U32(count as u32),
                Argument::F32(30.0),
            ],
        })
    },
};
