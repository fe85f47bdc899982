//! head_norm_rope: norm and rotation of heads; what caches and queries of attention begin with, too.

use tilekiln_runtime::device::Argument;

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::random::Random;
use crate::reference::norm::rms_norm;
use crate::reference::rope::rotate;
use crate::reference::widen;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in [32, 64, 96, 128, 256, 512, 1024] {
        let setting = format!("head_dim={head_dim}");
        cases.push(Case::new("head_norm_rope", &[&setting], move |trial| {
            check_rope(trial, head_dim)
        }));
    }
    cases
}

/// One thread a value: five steps within a warp, one addition for each warp.
pub(super) fn additions(head_dim: usize) -> usize {
    1 + 5 + head_dim / 32
}

/// Inverse frequencies of a random base, some of them zero.
pub(super) fn frequencies(random: &mut Random, pairs: usize) -> Vec<f32> {
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
pub(super) fn normed_and_rotated(
    x: &[f32],
    w: &[f32],
    positions: &[u32],
    frequencies: &[f32],
    eps: f32,
) -> (Vec<f64>, Vec<f64>) {
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
