//! The attention reference, fed by the codecs, against end-to-end outputs of another implementation.

use half::f16;

use super::rotation::{self, Direction};
use super::{Codec, ScaleRange, TURBO2, TURBO3, TURBO4_COMPAT};
use crate::golden::{Golden, Tensor};
use crate::reference::attention::{AttentionShape, Mask, attention};
use crate::reference::quant::{BlockFormat, encode};
use crate::reference::widen;
use crate::requirement::require;

fn turbo(name: &str) -> Option<&'static Codec> {
    match name {
        "turbo2" => Some(&TURBO2),
        "turbo3" => Some(&TURBO3),
        "turbo4" => Some(&TURBO4_COMPAT),
        _ => None,
    }
}

/// What a cache of the named type gives back for `[cells, heads, dim]`, in the domain it is stored in.
fn cached(name: &str, rows: &Tensor<f32>) -> Vec<f64> {
    match (name, turbo(name)) {
        (_, Some(codec)) => codec.decode_row_f64(&codec.encode_row(&rows.values, ScaleRange::Unclamped)),
        ("q8_0", _) => BlockFormat::Q8_0.decode(&encode(BlockFormat::Q8_0, &rows.values)),
        _ => rows.values.iter().map(|&value| f16::from_f32(value).to_f64()).collect(),
    }
}

fn relative_distance(got: &[f64], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(got, &want)| (got - f64::from(want)).powi(2))
        .sum();
    let size: f64 = want.iter().map(|&want| f64::from(want).powi(2)).sum();
    (error / size).sqrt()
}

/// Limits on the relative distance over a tensor, published with the goldens: the other implementation rounds queries or
/// accumulators to f16 beside an f16 side, and quantises queries to 8 bits for q8_0 keys.
fn limit(keys: &str, values: &str) -> f64 {
    match (keys, values) {
        ("q8_0", _) => 1.2e-2,
        ("f16", _) | (_, "f16") => 2e-3,
        _ => 2e-5,
    }
}

#[test]
fn attention_over_cached_blocks_meets_the_goldens() {
    let Some(golden) = require("shared", Golden::open("golden/turboquant/attention.safetensors")) else {
        return;
    };
    let mut compared = 0;
    for dim in [128, 256, 512] {
        let read = |name: &str| golden.f32(&format!("d{dim}.{name}")).unwrap();
        let (q, k, v, mask) = (read("q"), read("k"), read("v"), read("mask"));
        let shape = AttentionShape {
            heads: q.shape[1],
            kv_heads: k.shape[1],
            key_dim: dim,
            value_dim: dim,
            scale: 1.0,
            softcap: None,
        };
        let run = |q: &[f64], k: &[f64], v: &[f64]| attention(shape, q, k, v, Mask::Additive(&mask.values)).values();
        let exact = run(&widen(&q.values), &widen(&k.values), &widen(&v.values));
        assert!(
            relative_distance(&exact, &read("ref_unquantized").values) < 1e-6,
            "d{dim}"
        );

        for (name, codec) in [("turbo2", &TURBO2), ("turbo3", &TURBO3), ("turbo4", &TURBO4_COMPAT)] {
            for (side, rows) in [("kbytes", &k), ("vbytes", &v)] {
                let Ok(bytes) = golden.bytes(&format!("d{dim}.{side}.{name}")) else {
                    continue;
                };
                assert_eq!(
                    codec.encode_row(&rows.values, ScaleRange::Unclamped),
                    bytes.values,
                    "d{dim} {side} {name}"
                );
            }
        }

        let prefix = format!("d{dim}.out.");
        for name in golden.names().iter().filter_map(|name| name.strip_prefix(&prefix)) {
            let (key_type, value_type) = name.split_once('.').unwrap();
            let mut queries = widen(&q.values);
            if turbo(key_type).is_some() {
                queries = rotation::rotate_f64(&queries, Direction::Forward);
            }
            let mut out = run(&queries, &cached(key_type, &k), &cached(value_type, &v));
            if turbo(value_type).is_some() {
                out = rotation::rotate_f64(&out, Direction::Inverse);
            }
            let distance = relative_distance(&out, &golden.f32(&format!("{prefix}{name}")).unwrap().values);
            assert!(distance < limit(key_type, value_type), "d{dim} {name}: {distance:.2e}");
            eprintln!("d{dim} {name}: {distance:.1e} of {:.1e}", limit(key_type, value_type));
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared} outputs compared");
}
