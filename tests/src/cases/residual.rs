//! residual_norm and ple_combine.

use tilekiln_runtime::device::Argument;

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::residual::{ple_combine, residual_norm};
use crate::reference::widen;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for threads in [256, 96, 32] {
        let setting = format!("threads={threads}");
        cases.push(Case::new("residual_norm", &[&setting], move |trial| {
            check_residual(trial, threads)
        }));
        cases.push(Case::new("ple_combine", &[&setting], move |trial| {
            check_ple(trial, threads)
        }));
    }
    cases
}

/// Rows, columns: one element; less than a warp; more columns than threads; many rows.
fn shapes(extent: Extent) -> Vec<[std::ops::RangeInclusive<usize>; 2]> {
    match extent {
        Extent::Small => vec![[1..=1, 1..=1], [1..=13, 11..=31], [1..=1, 521..=700]],
        Extent::Medium => vec![[1..=1, 1..=1], [1..=13, 11..=31], [11..=19, 521..=1300]],
        Extent::Large => vec![[1..=1, 1..=1], [101..=400, 11..=31], [500..=900, 2000..=2900]],
    }
}

/// Each thread its columns, five steps within a warp, one addition for each warp.
fn additions(cols: usize, threads: usize) -> usize {
    cols.div_ceil(threads) + 5 + threads / 32
}

fn check_residual(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, [rows, cols]| {
        let (rows, cols) = (trial.random.odd_size(rows), trial.random.odd_size(cols));
        trial.shape(format!("{rows} rows of {cols}"));
        let x = trial.random.activations(rows * cols);
        let mut branch = trial.random.activations(rows * cols);
        if rows > 1 {
            // a branch of zeros adds nothing
            branch[..cols].fill(0.0);
        }
        let w = trial.random.normals(cols, 1.0);
        let eps = 10_f32.powi(-(trial.random.integer(4..=6) as i32));
        let scale = (0.1 + trial.random.uniform()) as f32;

        let stream = trial.in_out(&x)?;
        let arguments = vec![
            stream.argument(),
            trial.input(&branch)?,
            trial.input(&w)?,
            number(cols),
            Argument::F32(eps),
            Argument::F32(scale),
        ];
        trial.launch([rows, 1, 1], arguments)?;

        let scale = f64::from(scale);
        let (want, sizes) = residual_norm(&widen(&x), &widen(&branch), &widen(&w), f64::from(eps), scale);
        let bounds: Vec<f64> = x
            .iter()
            .zip(sizes)
            .map(|(&x, size)| tolerance::residual_norm(additions(cols, threads), f64::from(x), size, scale))
            .collect();
        let got = trial.result(&stream)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}

fn check_ple(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, [rows, cols]| {
        let (rows, cols) = (trial.random.odd_size(rows), trial.random.odd_size(cols));
        trial.shape(format!("{rows} rows of {cols}"));
        let context = trial.random.activations(rows * cols);
        let token = trial.random.activations(rows * cols);
        let w = trial.random.normals(cols, 1.0);
        let eps = 10_f32.powi(-(trial.random.integer(4..=6) as i32));
        let scale = (0.01 + 0.1 * trial.random.uniform()) as f32;

        let out = trial.output::<f32>(rows * cols)?;
        let arguments = vec![
            trial.input(&context)?,
            trial.input(&token)?,
            trial.input(&w)?,
            out.argument(),
            number(cols),
            Argument::F32(scale),
            Argument::F32(eps),
        ];
        trial.launch([rows, 1, 1], arguments)?;

        let (scale, eps) = (f64::from(scale), f64::from(eps));
        let (want, sizes) = ple_combine(&widen(&context), &widen(&token), &widen(&w), scale, eps);
        let bounds: Vec<f64> = token
            .iter()
            .zip(sizes)
            .map(|(&token, size)| {
                let half = std::f64::consts::FRAC_1_SQRT_2;
                tolerance::ple_combine(additions(cols, threads), size, f64::from(token), half)
            })
            .collect();
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
