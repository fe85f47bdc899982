//! rope over a table of inverse frequencies.

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::rope::Rope;
use crate::reference::widen;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    [64, 128, 256, 512]
        .into_iter()
        .map(|head_dim| {
            Case::new("rope", &[&format!("head_dim={head_dim}")], move |trial| {
                check(trial, head_dim)
            })
        })
        .collect()
}

fn check(trial: &mut Trial<'_>, head_dim: usize) -> Result<(), CaseError> {
    // tokens, heads, positions below
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 30), (11..=11, 1..=1, 131_072)],
        Extent::Medium => vec![(1..=1, 1..=1, 30), (1..=13, 11..=13, 1000), (11..=43, 1..=11, 262_144)],
        Extent::Large => vec![
            (1..=1, 1..=1, 30),
            (1..=43, 11..=13, 1000),
            (1001..=1300, 11..=31, 262_144),
        ],
    };
    for_each(trial, shapes, |trial, (tokens, heads, positions)| {
        let (tokens, heads) = (trial.random.odd_size(tokens), trial.random.odd_size(heads));
        trial.shape(format!("{tokens} tokens below {positions}, {heads} heads"));
        let x = trial.random.activations(tokens * heads * head_dim);
        let mut positions = trial.random.indices(tokens, positions);
        if tokens > 1 {
            positions[0] = 0;
        }
        // some pairs stand still, as in models with partial rotation
        let divisors: Vec<f32> = (0..head_dim / 2)
            .map(|_| if trial.random.uniform() < 0.25 { 1e30 } else { 1.0 })
            .collect();
        let spec = Rope {
            head_dim,
            width: head_dim,
            theta: if trial.random.uniform() < 0.5 { 1e4 } else { 1e6 },
            divisors: Some(&divisors),
        };
        let table: Vec<f32> = (0..head_dim / 2)
            .map(|pair| match divisors[pair] {
                1.0 => spec.angle(1, pair) as f32,
                _ => 0.0,
            })
            .collect();

        let out = trial.in_out(&x)?;
        let arguments = vec![
            out.argument(),
            trial.input(&positions)?,
            trial.input(&table)?,
            number(heads),
        ];
        trial.launch([tokens, heads, 1], arguments)?;

        let exact = widen(&x);
        let want = spec.apply(&exact, &positions);
        let bounds: Vec<f64> = spec
            .angles(x.len(), &positions)
            .into_iter()
            .zip(spec.magnitudes(&exact))
            .map(|(angle, magnitude)| tolerance::rope_from_table(angle, magnitude))
            .collect();
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
