//! rms_norm over f16, bf16 and f32.

use half::{bf16, f16};

use super::trial::{Word, for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::norm::rms_norm;
use crate::reference::widen;
use crate::tolerance::{self, Element};
use tilekiln_runtime::device::Argument;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("rms_norm", &["element=f16"], |trial| {
            check(trial, 256, f16::from_f32, tolerance::stored_f16)
        }),
        Case::new("rms_norm", &["element=bf16", "threads=96"], |trial| {
            check(trial, 96, bf16::from_f32, tolerance::stored_bf16)
        }),
        Case::new("rms_norm", &["element=f32", "threads=512"], |trial| {
            check(trial, 512, |value| value, |_, bound| bound)
        }),
        Case::new("rms_norm", &["element=f32", "threads=32"], |trial| {
            check(trial, 32, |value| value, |_, bound| bound)
        }),
    ]
}

/// `stored` is the bound on a result once it is rounded to the output's type.
fn check<T: Word + Element + Into<f64>>(
    trial: &mut Trial<'_>,
    threads: usize,
    from_f32: impl Fn(f32) -> T,
    stored: impl Fn(f64, f64) -> f64,
) -> Result<(), CaseError> {
    // rows, columns: one element; less than a warp; more columns than threads; many rows
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1), (1..=13, 11..=31), (1..=1, 521..=700)],
        Extent::Medium => vec![
            (1..=1, 1..=1),
            (1..=13, 11..=31),
            (11..=19, 521..=1300),
            (1..=1, 2000..=3100),
        ],
        Extent::Large => vec![
            (1..=1, 1..=1),
            (101..=400, 11..=31),
            (500..=900, 2000..=2900),
            (1..=1, 70_000..=90_000),
        ],
    };
    for_each(trial, shapes, |trial, (rows, cols)| {
        let (rows, cols) = (trial.random.odd_size(rows), trial.random.odd_size(cols));
        trial.shape(format!("{rows} rows of {cols}"));
        let mut x: Vec<T> = trial
            .random
            .activations(rows * cols)
            .into_iter()
            .map(&from_f32)
            .collect();
        if rows > 2 {
            // a row of zeros stays zero
            x[cols..2 * cols].fill(from_f32(0.0));
            // small values, beside which eps matters
            let small = trial.random.normals(cols, 2e-3);
            x[2 * cols..3 * cols]
                .iter_mut()
                .zip(small)
                .for_each(|(x, small)| *x = from_f32(small));
        }
        let weights = trial.random.normals(cols, 1.0);
        let eps = 10_f32.powi(-(trial.random.integer(4..=6) as i32));

        let out = trial.output::<T>(rows * cols)?;
        let arguments = vec![
            trial.input(&x)?,
            trial.input(&weights)?,
            out.argument(),
            number(cols),
            Argument::F32(eps),
        ];
        trial.launch([rows, 1, 1], arguments)?;

        let want = rms_norm(&widen(&x), cols, Some(&widen(&weights)), f64::from(eps));
        // each thread its columns, five steps within a warp, one addition for each warp
        let additions = cols.div_ceil(threads) + 5 + threads / 32;
        let bounds: Vec<f64> = want
            .iter()
            .map(|&element| stored(element, tolerance::rms_norm(additions, element)))
            .collect();
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
