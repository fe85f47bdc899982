//! attend: element types, head sizes, groupings, rings that have gone round, windows, slots; a token's result does not
//! depend on the other tokens.

use half::{bf16, f16};
use tilekiln_kernels::attention::attend::keys_at_once;
use tilekiln_runtime::device::Argument;

use super::trial::{Word, for_each, number};
use super::weights::bits;
use super::{Case, CaseError, Extent, Trial};
use crate::reference::attention::{AttentionShape, Mask, attention};
use crate::reference::widen;
use crate::tolerance::{self, Accumulation, AttentionArithmetic};

const NO_WINDOW: u32 = u32::MAX;

pub(super) fn cases() -> Vec<Case> {
    let table = [
        ("f16", 32, 4, 1),
        ("f16", 64, 4, 2),
        ("f16", 128, 1, 3),
        ("f16", 256, 4, 4),
        ("f16", 256, 4, 8),
        ("f16", 512, 4, 8),
        ("f16", 512, 8, 2),
        ("f16", 96, 2, 1),
        ("bf16", 32, 3, 4),
        ("bf16", 256, 4, 2),
        ("bf16", 512, 4, 1),
        ("f32", 64, 4, 3),
        ("f32", 256, 4, 2),
        ("f32", 512, 2, 4),
    ];
    table
        .into_iter()
        .map(|(element, head_dim, warps, gqa)| {
            let settings = [
                format!("element={element}"),
                format!("head_dim={head_dim}"),
                format!("warps={warps}"),
            ];
            let variant = Variant { head_dim, warps, gqa };
            Case::new(
                "attend",
                &settings.each_ref().map(String::as_str),
                move |trial| match element {
                    "f16" => check(trial, variant, f16::from_f32),
                    "bf16" => check(trial, variant, bf16::from_f32),
                    _ => check(trial, variant, |value| value),
                },
            )
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Variant {
    head_dim: usize,
    warps: usize,
    gqa: usize,
}

#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    slots: usize,
    kv_heads: usize,
    /// Places of a ring.
    capacity: usize,
    /// Largest position.
    last: usize,
    window: u32,
}

fn shapes(trial: &mut Trial<'_>) -> Vec<Shape> {
    let scale = if trial.extent == Extent::Large { 10 } else { 1 };
    let capacity = trial.random.odd_size(41 * scale..=97 * scale);
    let one = Shape {
        tokens: 1,
        slots: 1,
        kv_heads: 1,
        capacity: 1,
        last: 0,
        window: NO_WINDOW,
    };
    let whole = Shape {
        tokens: 3 * scale,
        slots: 3,
        kv_heads: 2,
        capacity,
        last: capacity - 1,
        window: NO_WINDOW,
    };
    // positions far behind the end of the ring: the window fits it
    let ring = Shape {
        last: 40 * capacity,
        window: trial.random.integer(1..=capacity as i64) as u32,
        ..whole
    };
    // a window that hides nothing at some positions and much at others
    let half = Shape {
        window: capacity as u32 / 3,
        kv_heads: 1,
        ..whole
    };
    // some tokens see nothing: their own key is not stored yet
    let own = Shape {
        tokens: 7,
        window: 1,
        ..ring
    };
    match trial.extent {
        Extent::Small => vec![one, own, ring],
        _ => vec![one, whole, own, ring, half],
    }
}

/// What the tokens of a launch see.
struct Tokens {
    slots: Vec<u32>,
    positions: Vec<u32>,
    visible: Vec<u32>,
}

impl Tokens {
    fn draw(trial: &mut Trial<'_>, shape: &Shape) -> Self {
        let mut tokens = Self {
            slots: trial.random.indices(shape.tokens, shape.slots),
            positions: Vec::new(),
            visible: Vec::new(),
        };
        for token in 0..shape.tokens {
            // early positions see few keys
            let low = if token % 3 == 1 { 0 } else { shape.last as i64 / 2 };
            let position = trial.random.integer(low..=shape.last as i64) as u32;
            let visible = match token % 4 {
                // keys of this step are not stored yet, or later ones are seen, too
                2 => position,
                3 => position + 1 + u32::from(shape.window == NO_WINDOW && (position as usize) < shape.last),
                _ => position + 1,
            };
            tokens.positions.push(position);
            tokens.visible.push(visible);
        }
        if shape.tokens > 2 {
            tokens.visible[1] = 0;
        }
        tokens
    }

    /// The keys that a token sees.
    fn keys(&self, token: usize, window: u32) -> std::ops::Range<u32> {
        let first = (i64::from(self.positions[token]) + 1 - i64::from(window)).max(0);
        first as u32..self.visible[token].max(first as u32)
    }
}

fn check<T: Word + Into<f64>>(
    trial: &mut Trial<'_>,
    variant: Variant,
    from_f32: impl Fn(f32) -> T,
) -> Result<(), CaseError> {
    let shapes = shapes(trial);
    for_each(trial, shapes, |trial, shape| {
        let Variant { head_dim, warps, gqa } = variant;
        let Shape { kv_heads, capacity, .. } = shape;
        let heads = kv_heads * gqa;
        let window_text = match shape.window {
            NO_WINDOW => "no window".to_owned(),
            window => format!("window {window}"),
        };
        trial.shape(format!(
            "{} tokens up to {}, {kv_heads} kv heads x {gqa}, {} rings of {capacity}, {window_text}",
            shape.tokens, shape.last, shape.slots
        ));
        let tokens = Tokens::draw(trial, &shape);
        let row = heads * head_dim;
        let q = trial.random.normals(shape.tokens * row, 1.5 / (head_dim as f64).sqrt());
        let cached = shape.slots * kv_heads * capacity * head_dim;
        let mut cache = || -> Vec<T> { trial.random.normals(cached, 1.0).into_iter().map(&from_f32).collect() };
        let (mut cache_k, mut cache_v) = (cache(), cache());
        // what no token sees is what memory held before
        let mut seen = vec![false; shape.slots * capacity];
        for token in 0..shape.tokens {
            let ring = tokens.slots[token] as usize * capacity;
            tokens
                .keys(token, shape.window)
                .for_each(|key| seen[ring + key as usize % capacity] = true);
        }
        for (index, row) in cache_k
            .chunks_exact_mut(head_dim)
            .zip(cache_v.chunks_exact_mut(head_dim))
            .enumerate()
        {
            let (slot, place) = (index / capacity / kv_heads, index % capacity);
            if !seen[slot * capacity + place] {
                row.0.fill(from_f32(f32::NAN));
                row.1.fill(from_f32(f32::NAN));
            }
        }

        let launch = |trial: &mut Trial<'_>, range: std::ops::Range<usize>| -> Result<Vec<f32>, CaseError> {
            let out = trial.output::<f32>(range.len() * row)?;
            let arguments = vec![
                trial.input(&q[range.start * row..range.end * row])?,
                trial.input(&cache_k)?,
                trial.input(&cache_v)?,
                trial.input(&tokens.slots[range.clone()])?,
                trial.input(&tokens.positions[range.clone()])?,
                trial.input(&tokens.visible[range.clone()])?,
                out.argument(),
                number(heads),
                number(gqa),
                number(capacity),
                Argument::U32(shape.window),
            ];
            trial.launch([range.len(), heads, 1], arguments)?;
            Ok(trial.result(&out)?)
        };
        let got = launch(trial, 0..shape.tokens)?;

        let model = AttentionShape {
            heads,
            kv_heads,
            key_dim: head_dim,
            value_dim: head_dim,
            scale: 1.0,
            softcap: None,
        };
        let (mut want, mut bounds) = (Vec::new(), Vec::new());
        for token in 0..shape.tokens {
            let keys = tokens.keys(token, shape.window);
            // [keys, kv_heads, head_dim] out of [slot, kv_head, place, head_dim]
            let visible = |cache: &[T]| -> Vec<f64> {
                let place = |key: u32, kv_head: usize| {
                    let ring = tokens.slots[token] as usize * kv_heads + kv_head;
                    (ring * capacity + key as usize % capacity) * head_dim
                };
                keys.clone()
                    .flat_map(|key| (0..kv_heads).map(move |kv_head| place(key, kv_head)))
                    .flat_map(|from| widen(&cache[from..from + head_dim]))
                    .collect()
            };
            let queries = widen(&q[token * row..(token + 1) * row]);
            let exact = attention(model, &queries, &visible(&cache_k), &visible(&cache_v), Mask::None);
            let arithmetic = AttentionArithmetic {
                key_dim: head_dim,
                accumulation: Accumulation::Fma { lanes: 32 },
                // keys may begin inside a round of the warps, and the warps' parts are rescaled once more
                steps: keys.len().div_ceil(keys_at_once(head_dim) * warps) + 2,
                query_unit: 0.0,
                key_unit: 0.0,
                value_unit: 0.0,
                weight_unit: 0.0,
            };
            bounds.extend(exact.out.iter().enumerate().map(|(index, out)| {
                tolerance::softmax_weighted_sum(&arithmetic, &exact.scores[index / head_dim], out)
            }));
            want.extend(exact.values());
        }
        trial.within(&got, &want, &bounds);
        for token in [0, shape.tokens / 2, shape.tokens - 1] {
            let alone = launch(trial, token..token + 1)?;
            let what = format!("bits of token {token} alone");
            trial.equal(&what, &bits(&alone), &bits(&got[token * row..(token + 1) * row]));
        }
        Ok(())
    })
}
