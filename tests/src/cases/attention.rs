//! flash_attn_tile: every pair of cache formats, several head sizes, groupings, masks.

use tilekiln_kernels::attention::flash::ROWS;
use tilekiln_runtime::device::Argument;

use half::f16;

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::random::Random;
use crate::reference::attention::{AttentionShape, Mask, attention};
use crate::reference::turbo::{ScaleRange, TURBO3};
use crate::reference::widen;
use crate::tolerance::{self, Accumulation, AttentionArithmetic, UNIT_F16, UNIT_F32};

/// A format of cached rows.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    F16,
    Turbo3,
}
use Format::{F16, Turbo3};

impl Format {
    fn name(self) -> &'static str {
        match self {
            F16 => "f16",
            Turbo3 => "turbo3",
        }
    }

    /// Cached bytes of random values, and the values that they stand for.
    fn cache(self, random: &mut Random, len: usize) -> (Vec<u8>, Vec<f64>) {
        match self {
            F16 => {
                let values = random.normals_f16(len, 1.0);
                (bytemuck::cast_slice::<f16, u8>(&values).to_vec(), widen(&values))
            }
            Turbo3 => {
                let bytes = TURBO3.encode_row(&random.normals(len, 1.0), ScaleRange::Clamped);
                let values = TURBO3.decode_row_f64(&bytes);
                (bytes, values)
            }
        }
    }

    /// What a value is rounded to on its way from the cache to the product: scale times codeword in f32, then f16.
    fn unit(self) -> f64 {
        match self {
            F16 => 0.0,
            Turbo3 => UNIT_F16 + UNIT_F32,
        }
    }
}

#[derive(Clone, Copy)]
struct Variant {
    k: Format,
    v: Format,
    head_dim: usize,
    gqa: usize,
    /// Keys a step.
    step: usize,
}

pub(super) fn cases() -> Vec<Case> {
    let table = [
        (F16, F16, 64, 1, 64, 4),
        (F16, F16, 64, 5, 16, 1),
        (F16, F16, 128, 3, 64, 4),
        (F16, F16, 256, 4, 64, 4),
        (F16, F16, 256, 8, 48, 8),
        (F16, F16, 512, 2, 32, 4),
        (F16, F16, 512, 8, 32, 4),
        (Turbo3, Turbo3, 128, 1, 32, 2),
        (Turbo3, Turbo3, 256, 4, 64, 4),
        (Turbo3, Turbo3, 512, 8, 32, 4),
        (F16, Turbo3, 128, 5, 64, 4),
        (F16, Turbo3, 256, 2, 64, 4),
        (Turbo3, F16, 256, 3, 64, 4),
        (Turbo3, F16, 512, 1, 32, 4),
    ];
    table
        .into_iter()
        .map(|(k, v, head_dim, gqa, step, warps)| {
            let settings = [
                format!("k={}", k.name()),
                format!("v={}", v.name()),
                format!("head_dim={head_dim}"),
                format!("gqa={gqa}"),
                format!("keys={step}"),
                format!("warps={warps}"),
            ];
            let variant = Variant {
                k,
                v,
                head_dim,
                gqa,
                step,
            };
            Case::new(
                "flash_attn_tile",
                &settings.each_ref().map(String::as_str),
                move |trial| check(trial, variant),
            )
        })
        .collect()
}

struct Shape {
    tokens: usize,
    kv_heads: usize,
    keys: usize,
    window: u32,
    /// Whether scaled queries are numbers that f16 holds: their rounding hides smaller defects.
    exact_queries: bool,
}

fn shapes(trial: &mut Trial<'_>) -> Vec<Shape> {
    let large = trial.extent == Extent::Large;
    let random = &mut trial.random;
    let keys = if large { 700..=1500 } else { 67..=151 };
    let kv_heads = random.odd_size(1..=if large { 11 } else { 1 });
    let one = Shape {
        tokens: 1,
        kv_heads: 1,
        keys: 1,
        window: 1,
        exact_queries: true,
    };
    let window = Shape {
        // more than one tile of 16 rows, whatever the grouping
        tokens: random.odd_size(17..=19),
        kv_heads,
        keys: random.odd_size(keys.clone()),
        window: random.odd_size(11..=if large { 500 } else { 41 }) as u32,
        exact_queries: true,
    };
    if trial.extent == Extent::Small {
        return vec![
            one,
            Shape {
                tokens: 1 + random.integer(0..=3) as usize,
                ..window
            },
        ];
    }
    let causal = Shape {
        tokens: random.integer(2..=5) as usize,
        kv_heads: 2,
        keys: random.odd_size(keys.clone()),
        window: u32::MAX,
        exact_queries: true,
    };
    let rounded = Shape {
        tokens: 1,
        kv_heads: 3,
        keys: random.odd_size(keys),
        window: u32::MAX,
        exact_queries: false,
    };
    vec![one, window, causal, rounded]
}

fn check(trial: &mut Trial<'_>, variant: Variant) -> Result<(), CaseError> {
    let shapes = shapes(trial);
    for_each(trial, shapes, |trial, shape| check_shape(trial, variant, &shape))
}

fn check_shape(trial: &mut Trial<'_>, variant: Variant, shape: &Shape) -> Result<(), CaseError> {
    let Variant { head_dim, gqa, .. } = variant;
    let Shape {
        tokens,
        kv_heads,
        keys,
        window,
        ..
    } = *shape;
    let heads = kv_heads * gqa;
    // the last token is not always the newest one: keys behind it are hidden
    let newest = (keys - tokens) as i64;
    // a window hides keys from the first token on
    let oldest = newest.min(i64::from(if window == u32::MAX { 0 } else { window }));
    let first_position = trial.random.integer(oldest..=newest) as usize;
    let window_text = if window == u32::MAX {
        "no window".to_owned()
    } else {
        format!("window {window}")
    };
    trial.shape(format!(
        "{tokens} tokens at {first_position}, {kv_heads} kv heads, {keys} keys, {window_text}{}",
        if shape.exact_queries { "" } else { ", rounded queries" }
    ));

    let len = tokens * heads * head_dim;
    let spread = 1.5 / (head_dim as f64).sqrt();
    let (q, scale) = if shape.exact_queries {
        let scale = 0.0625_f32;
        let scaled = trial.random.normals_f16(len, spread);
        (scaled.iter().map(|value| value.to_f32() / scale).collect(), scale)
    } else {
        let scale = (0.05 + 0.1 * trial.random.uniform()) as f32;
        (trial.random.normals(len, spread / f64::from(scale)), scale)
    };
    let cached = keys * kv_heads * head_dim;
    let (cache_k, k) = variant.k.cache(&mut trial.random, cached);
    let (cache_v, v) = variant.v.cache(&mut trial.random, cached);

    let out = trial.output::<f32>(len)?;
    let arguments = vec![
        trial.input(&q)?,
        trial.input(&cache_k)?,
        trial.input(&cache_v)?,
        out.argument(),
        number(tokens),
        number(kv_heads),
        number(first_position),
        number(keys),
        Argument::U32(window),
        Argument::F32(scale),
    ];
    trial.launch([(tokens * gqa).div_ceil(ROWS), kv_heads, 1], arguments)?;

    let positions: Vec<u32> = (first_position as u32..).take(tokens).collect();
    let key_positions: Vec<u32> = (0..keys as u32).collect();
    let mask = Mask::Causal {
        queries: &positions,
        keys: &key_positions,
        window: Some(window),
    };
    let model = AttentionShape {
        heads,
        kv_heads,
        key_dim: head_dim,
        value_dim: head_dim,
        scale: f64::from(scale),
        softcap: None,
    };
    let exact = attention(model, &widen(&q), &k, &v, mask);
    let arithmetic = AttentionArithmetic {
        key_dim: head_dim,
        accumulation: Accumulation::MatrixUnits,
        // a tile's rows are of at most 16 tokens: it sees that many keys more than the window
        steps: keys.min((window as usize).saturating_add(ROWS)).div_ceil(variant.step),
        // scaled in f32, then rounded to f16
        query_unit: if shape.exact_queries { 0.0 } else { UNIT_F16 + UNIT_F32 },
        key_unit: variant.k.unit(),
        value_unit: variant.v.unit(),
        weight_unit: UNIT_F16,
    };
    let bounds: Vec<f64> = exact
        .out
        .iter()
        .enumerate()
        .map(|(index, out)| tolerance::softmax_weighted_sum(&arithmetic, &exact.scores[index / head_dim], out))
        .collect();
    let got = trial.result(&out)?;
    trial.within(&got, &exact.values(), &bounds);
    Ok(())
}
