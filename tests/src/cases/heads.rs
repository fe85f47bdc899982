//! head_norm_rope and cache_write: norm and rotation of heads, and where cached rows go.

use half::{bf16, f16};
use tilekiln_kernels::attention::cache_write::NOWHERE;
use tilekiln_runtime::device::Argument;

use super::trial::{Word, for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::random::Random;
use crate::reference::norm::rms_norm;
use crate::reference::rope::rotate;
use crate::reference::widen;
use crate::tolerance::{self, Element};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in [32, 64, 96, 128, 256, 512, 1024] {
        let setting = format!("head_dim={head_dim}");
        cases.push(Case::new("head_norm_rope", &[&setting], move |trial| {
            check_rope(trial, head_dim)
        }));
    }
    for head_dim in [32, 64, 128, 256, 512] {
        let setting = format!("head_dim={head_dim}");
        cases.push(Case::new("cache_write", &["element=f16", &setting], move |trial| {
            check_write::<f16>(trial, head_dim, tolerance::stored_f16)
        }));
    }
    cases.push(Case::new("cache_write", &["element=bf16", "head_dim=256"], |trial| {
        check_write::<bf16>(trial, 256, tolerance::stored_bf16)
    }));
    cases.push(Case::new("cache_write", &["element=f32", "head_dim=96"], |trial| {
        check_write::<f32>(trial, 96, |_, bound| bound)
    }));
    cases
}

/// One thread a value: five steps within a warp, one addition for each warp.
fn additions(head_dim: usize) -> usize {
    1 + 5 + head_dim / 32
}

/// Inverse frequencies of a random base, some of them zero.
fn frequencies(random: &mut Random, pairs: usize) -> Vec<f32> {
    let theta: f32 = if random.uniform() < 0.5 { 1e4 } else { 1e6 };
    (0..pairs)
        .map(|pair| match random.uniform() {
            // pairs that stand still, as in models with partial rotation
            chance if chance < 0.25 => 0.0,
            _ => theta.powf(-(pair as f32) / pairs as f32),
        })
        .collect()
}

/// Heads after norm and rotation, and bounds. The angle is part of what the kernel promises: a product in f32.
fn normed_and_rotated(x: &[f32], w: &[f32], positions: &[u32], frequencies: &[f32], eps: f32) -> (Vec<f64>, Vec<f64>) {
    let normed = rms_norm(&widen(x), w.len(), Some(&widen(w)), f64::from(eps));
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|&position| {
            frequencies
                .iter()
                .map(move |frequency| f64::from(position as f32 * frequency))
        })
        .collect();
    let pairs = frequencies.len();
    let magnitude = |index: usize| {
        let (head, pair) = (index / w.len() * w.len(), index % pairs);
        normed[head + pair].abs() + normed[head + pair + pairs].abs()
    };
    let bounds = (0..x.len())
        .map(|index| tolerance::head_norm_rope(additions(w.len()), magnitude(index)))
        .collect();
    (rotate(&normed, &angles, pairs), bounds)
}

fn check_rope(trial: &mut Trial<'_>, head_dim: usize) -> Result<(), CaseError> {
    // tokens, heads, positions below
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 30), (11..=11, 1..=1, 262_144)],
        Extent::Medium => vec![(1..=1, 1..=1, 30), (1..=13, 11..=13, 1000), (11..=31, 1..=11, 262_144)],
        Extent::Large => vec![(1..=1, 1..=1, 30), (301..=400, 11..=31, 262_144)],
    };
    for_each(trial, shapes, |trial, (tokens, heads, positions)| {
        let (tokens, heads) = (trial.random.odd_size(tokens), trial.random.odd_size(heads));
        trial.shape(format!("{tokens} tokens below {positions}, {heads} heads"));
        let x = trial.random.activations(tokens * heads * head_dim);
        let w = trial.random.normals(head_dim, 1.0);
        let mut positions = trial.random.indices(tokens, positions);
        if tokens > 1 {
            positions[0] = 0;
        }
        let frequencies = frequencies(&mut trial.random, head_dim / 2);
        let eps = 1e-6;

        let out = trial.in_out(&x)?;
        let arguments = vec![
            out.argument(),
            trial.input(&w)?,
            trial.input(&positions)?,
            trial.input(&frequencies)?,
            number(heads),
            Argument::F32(eps),
        ];
        trial.launch([tokens, heads, 1], arguments)?;

        let (want, bounds) = normed_and_rotated(&x, &w, &positions, &frequencies, eps);
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}

/// `stored` is the bound on a result once it is rounded to the cache's type.
fn check_write<T: Word + Element + PartialEq>(
    trial: &mut Trial<'_>,
    head_dim: usize,
    stored: impl Fn(f64, f64) -> f64,
) -> Result<(), CaseError> {
    // slots, KV heads, places of a ring, tokens of a slot, positions below; and whether k and v are one buffer
    let shapes = match trial.extent {
        Extent::Small => vec![(1, 1, 1, 1, 30, false), (3, 2, 7, 3, 1000, true)],
        Extent::Medium => vec![
            (1, 1, 1, 1, 30, false),
            (3, 2, 7, 5, 1000, true),
            (5, 3, 41, 41, 262_000, false),
        ],
        Extent::Large => vec![(1, 1, 1, 1, 30, false), (7, 8, 101, 67, 262_000, true)],
    };
    for_each(
        trial,
        shapes,
        |trial, (slots, kv_heads, capacity, each, below, is_shared)| {
            trial.shape(format!(
                "{each} tokens of {slots} slots, {kv_heads} kv heads, rings of {capacity}{}",
                if is_shared { ", v is k" } else { "" }
            ));
            // consecutive positions of each slot: a ring holds each of them
            let mut places: Vec<(u32, u32)> = (0..slots as u32)
                .flat_map(|slot| {
                    let first = trial.random.integer(0..=below) as u32;
                    (first..first + each as u32).map(move |position| (slot, position))
                })
                .collect();
            if places.len() > 2 {
                places.swap(0, 1);
                places[2].0 = NOWHERE;
            }
            let (target, positions): (Vec<u32>, Vec<u32>) = places.into_iter().unzip();
            let len = target.len() * kv_heads * head_dim;
            let k = trial.random.activations(len);
            let v = if is_shared {
                k.clone()
            } else {
                trial.random.activations(len)
            };
            let w = trial.random.normals(head_dim, 1.0);
            let frequencies = frequencies(&mut trial.random, head_dim / 2);
            let eps = 1e-6;

            let cached = slots * kv_heads * capacity * head_dim;
            let (cache_k, cache_v) = (trial.output::<T>(cached)?, trial.output::<T>(cached)?);
            let k_argument = trial.input(&k)?;
            let v_argument = if is_shared {
                k_argument.clone()
            } else {
                trial.input(&v)?
            };
            let arguments = vec![
                k_argument,
                v_argument,
                trial.input(&w)?,
                trial.input(&positions)?,
                trial.input(&target)?,
                trial.input(&frequencies)?,
                cache_k.argument(),
                cache_v.argument(),
                number(kv_heads),
                number(capacity),
                Argument::F32(eps),
            ];
            trial.launch([target.len(), kv_heads, 1], arguments)?;

            let (keys, key_bounds) = normed_and_rotated(&k, &w, &positions, &frequencies, eps);
            let values = rms_norm(&widen(&v), head_dim, None, f64::from(eps));
            let value_bounds: Vec<f64> = values
                .iter()
                .map(|&value| tolerance::rms_norm(additions(head_dim) + 1, value))
                .collect();
            let rows = |token: usize, kv_head: usize| {
                let place = positions[token] as usize % capacity;
                ((target[token] as usize * kv_heads + kv_head) * capacity + place) * head_dim
            };
            for (cache, exact, bounds) in [(&cache_k, keys, key_bounds), (&cache_v, values, value_bounds)] {
                let mut got = trial.result(cache)?;
                let (mut found, mut want, mut within) = (Vec::new(), Vec::new(), Vec::new());
                for token in (0..target.len()).filter(|&token| target[token] != NOWHERE) {
                    for kv_head in 0..kv_heads {
                        let from = (token * kv_heads + kv_head) * head_dim;
                        let row = &mut got[rows(token, kv_head)..][..head_dim];
                        found.extend_from_slice(row);
                        // what remains in the end was not to be written
                        row.fill(<T as Word>::POISON);
                        want.extend_from_slice(&exact[from..from + head_dim]);
                        let bounds = exact[from..from + head_dim].iter().zip(&bounds[from..]);
                        within.extend(bounds.map(|(&value, &bound)| stored(value, bound)));
                    }
                }
                trial.within(&found, &want, &within);
                let poison = vec![<T as Word>::POISON; cached];
                let (got, poison): (&[u8], &[u8]) = (bytemuck::cast_slice(&got), bytemuck::cast_slice(&poison));
                trial.equal("bytes of other places", got, poison);
            }
            Ok(())
        },
    )
}
