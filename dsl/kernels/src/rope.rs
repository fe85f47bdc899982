//! Rotary position embedding, NEOX pairing. Source: Su et al., "RoFormer" (2021).

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// Rotates element i of every head with element i + head_dim/2 by position * inverse_frequency\[i\].
///
/// One block per token (x) and head (y). Frequencies come as a table, so that partial rotation and scaled
/// frequencies are data: a frequency of 0 leaves its pair as it is.
#[kernel(threads = head_dim / 2)]
pub fn rope(
    #[shape(tokens, heads, head_dim)] x: InOut<f32>,
    #[shape(tokens)] positions: In<u32>,
    #[shape(pairs)] inverse_frequency: In<f32>,
    heads: u32,
    #[comptime] head_dim: usize,
) {
    let token = block_index();
    let head = block_index_y();
    let pair = thread_index();
    let angle = positions[token].to::<f32>() * inverse_frequency[pair];
    let cosine = angle.cos();
    let sine = angle.sin();

    let first = x[(token, head, pair)];
    let second = x[(token, head, pair + head_dim / 2)];
    x[(token, head, pair)] = first * cosine - second * sine;
    x[(token, head, pair + head_dim / 2)] = second * cosine + first * sine;
}

/// Registration of [`rope`].
pub const ENTRY: Entry = Entry {
    name: "rope",
    parameters: &[choice("head_dim", "256", "values per head, an even number up to 2048")],
    build: |settings| Ok(rope(settings.number("head_dim")?)),
    example: |settings, random| {
        let head_dim = settings.number("head_dim")?;
        let (tokens, heads) = (random.size(1, 6), random.size(1, 5));
        Ok(Example {
            grid: [tokens as u32, heads as u32, 1],
            arguments: vec![
                random.floats("f32", tokens * heads * head_dim),
                random.below(tokens, 131_072),
                random.floats("f32", head_dim / 2),
                Argument::U32(heads as u32),
            ],
        })
    },
};
