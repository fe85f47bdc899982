//! gated and softcap: from where the functions are straight to where they have saturated.

use tilekiln_runtime::device::Argument;

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::gated::{gelu, gelu_inner, softcap};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("gated", &[], |trial| check_gated(trial, 256)),
        Case::new("gated", &["threads=96"], |trial| check_gated(trial, 96)),
        Case::new("softcap", &[], |trial| check_softcap(trial, 256)),
        Case::new("softcap", &["threads=32"], |trial| check_softcap(trial, 32)),
    ]
}

/// Values that saturate every function, and zeros of both signs.
const EXTREMES: [f32; 8] = [0.0, -0.0, 9.0, -9.0, 1e4, -1e4, 1e15, -1e15];

fn check_gated(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    // tokens, columns
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1), (11..=13, 280..=400)],
        Extent::Medium => vec![(1..=1, 1..=1), (11..=13, 11..=31), (11..=43, 500..=2100)],
        Extent::Large => vec![(1..=1, 1..=1), (101..=130, 9000..=11_000)],
    };
    for_each(trial, shapes, |trial, (tokens, cols)| {
        let (tokens, cols) = (trial.random.odd_size(tokens), trial.random.odd_size(cols));
        let b_offset = trial.random.integer(0..=9) as usize;
        let b_stride = b_offset + cols + trial.random.integer(0..=9) as usize;
        trial.shape(format!(
            "{tokens} tokens, {cols} columns, b from {b_offset} of {b_stride}"
        ));
        let mut a = trial.random.activations(tokens * cols);
        a.iter_mut()
            .rev()
            .zip(EXTREMES)
            .skip(1)
            .for_each(|(a, extreme)| *a = extreme);
        let b = trial.random.activations(tokens * b_stride);

        let out = trial.output::<f32>(tokens * cols)?;
        let arguments = vec![
            trial.input(&a)?,
            trial.input(&b)?,
            out.argument(),
            number(cols),
            number(b_stride),
            number(b_offset),
        ];
        trial.launch([cols.div_ceil(threads), tokens, 1], arguments)?;

        let (want, bounds): (Vec<f64>, Vec<f64>) = (0..tokens * cols)
            .map(|index| {
                let u = f64::from(a[index]);
                let b = f64::from(b[index / cols * b_stride + b_offset + index % cols]);
                (gelu(u) * b, tolerance::gated(u, gelu_inner(u), b))
            })
            .unzip();
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}

fn check_softcap(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    let sizes = match trial.extent {
        Extent::Small => vec![1..=1, 280..=400],
        Extent::Medium => vec![1..=1, 11..=31, 3001..=9000],
        Extent::Large => vec![1..=1, 1_000_001..=1_300_000],
    };
    for_each(trial, sizes, |trial, size| {
        let count = trial.random.odd_size(size);
        let cap = (1.0 + 50.0 * trial.random.uniform()) as f32;
        trial.shape(format!("{count} values, cap {cap}"));
        let mut x = trial.random.normals(count, 2.0 * f64::from(cap));
        x.iter_mut()
            .rev()
            .zip(EXTREMES)
            .skip(1)
            .for_each(|(x, extreme)| *x = extreme);

        let values = trial.in_out(&x)?;
        let arguments = vec![values.argument(), number(count), Argument::F32(cap)];
        trial.launch([count.div_ceil(threads), 1, 1], arguments)?;

        let cap = f64::from(cap);
        let (want, bounds): (Vec<f64>, Vec<f64>) = x
            .iter()
            .map(|&x| (softcap(f64::from(x), cap), tolerance::softcap(f64::from(x), cap)))
            .unzip();
        let got = trial.result(&values)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
