//! argmax and top_k: exact, with ties, infinities and NaN. take: exact. confidence.

use tilekiln_kernels::select::NOTHING;

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::random::Random;
use crate::reference::select::{confidence, top_k};
use crate::reference::widen;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("argmax", &[], check_argmax),
        Case::new("argmax", &["threads=32"], check_argmax),
    ];
    for (k, threads) in [(32, 256), (7, 32), (1, 96)] {
        let settings = [format!("k={k}"), format!("threads={threads}")];
        cases.push(Case::new("top_k", &[&settings[0], &settings[1]], move |trial| {
            check_top_k(trial, k)
        }));
    }
    for threads in [32, 96] {
        cases.push(Case::new("take", &[&format!("threads={threads}")], move |trial| {
            check_take(trial, threads)
        }));
        cases.push(Case::new(
            "confidence",
            &[&format!("threads={threads}")],
            move |trial| check_confidence(trial, threads),
        ));
    }
    cases.push(Case::new("confidence", &[], |trial| check_confidence(trial, 256)));
    cases
}

/// Rows, columns.
fn shapes(extent: Extent) -> Vec<(usize, std::ops::RangeInclusive<usize>)> {
    match extent {
        Extent::Small => vec![(KINDS, 1..=1), (KINDS, 280..=400)],
        Extent::Medium => vec![(KINDS, 1..=1), (KINDS + 2, 11..=31), (2 * KINDS + 3, 280..=1500)],
        Extent::Large => vec![
            (KINDS, 1..=1),
            (307, 11..=31),
            (67, 5000..=9000),
            (KINDS, 262_000..=262_200),
        ],
    }
}

const KINDS: usize = 8;

/// Row number `row` of a kind that is hard in some way.
fn row(random: &mut Random, row: usize, cols: usize) -> Vec<f32> {
    let mut values = random.normals(cols, 1.0);
    let few = [-1.0, -0.0, 0.0, 2.0, 2.0, f32::NEG_INFINITY];
    match row % KINDS {
        // distinct values
        0 => {}
        // ties, and zeros of both signs
        1 => values
            .iter_mut()
            .for_each(|value| *value = few[random.integer(0..=4) as usize]),
        // zeros of both signs are the largest
        2 => values
            .iter_mut()
            .for_each(|value| *value = few[random.integer(0..=2) as usize]),
        // NaN of both signs among numbers
        3 => values.iter_mut().for_each(|value| match random.integer(0..=9) {
            0 => *value = f32::NAN,
            1 => *value = -f32::NAN,
            _ => {}
        }),
        // nothing but minus infinity
        4 => values.fill(f32::NEG_INFINITY),
        // nothing but NaN
        5 => values.fill(f32::NAN),
        // a few numbers and minus infinities among NaN
        6 => values.iter_mut().for_each(|value| match random.integer(0..=79) {
            0 => *value = f32::INFINITY,
            1..=3 => *value = few[random.integer(0..=5) as usize],
            _ => *value = f32::NAN,
        }),
        // the largest number is the last one
        _ => values[cols - 1] = f32::MAX,
    }
    values
}

/// The first `k` numbers of each row and their indices; what is missing is minus infinity and [`NOTHING`]. The
/// reference puts NaN last, the kernels leave them out.
fn want(x: &[f32], cols: usize, k: usize) -> (Vec<u32>, Vec<u32>) {
    let mut found = (Vec::new(), Vec::new());
    for row in x.chunks_exact(cols) {
        let mut best = top_k(row, k);
        best.retain(|(_, value)| !value.is_nan());
        for place in 0..k {
            let (index, value) = best
                .get(place)
                .map_or((NOTHING, f32::NEG_INFINITY), |&(index, value)| (index as u32, value));
            found.0.push(value.to_bits());
            found.1.push(index);
        }
    }
    found
}

fn rows(trial: &mut Trial<'_>, rows: usize, cols: std::ops::RangeInclusive<usize>) -> (Vec<f32>, usize) {
    let cols = trial.random.odd_size(cols);
    trial.shape(format!("{rows} rows of {cols}"));
    let x = (0..rows)
        .flat_map(|number| row(&mut trial.random, number, cols))
        .collect();
    (x, cols)
}

fn check_argmax(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, (count, cols)| {
        let (x, cols) = rows(trial, count, cols);
        let index = trial.output::<u32>(count)?;
        let arguments = vec![trial.input(&x)?, index.argument(), number(cols)];
        trial.launch([count, 1, 1], arguments)?;
        let got = trial.result(&index)?;
        trial.equal("index", &got, &want(&x, cols, 1).1);
        Ok(())
    })
}

fn check_top_k(trial: &mut Trial<'_>, k: usize) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, (count, cols)| {
        let (x, cols) = rows(trial, count, cols);
        let (values, indices) = (trial.output::<f32>(count * k)?, trial.output::<u32>(count * k)?);
        let arguments = vec![trial.input(&x)?, values.argument(), indices.argument(), number(cols)];
        trial.launch([count, 1, 1], arguments)?;
        let (want_values, want_indices) = want(&x, cols, k);
        let got: Vec<u32> = trial.result(&values)?.into_iter().map(f32::to_bits).collect();
        trial.equal("bits of values", &got, &want_values);
        let got = trial.result(&indices)?;
        trial.equal("indices", &got, &want_indices);
        Ok(())
    })
}

fn check_take(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, (_, cols)| {
        let cols = trial.random.odd_size(cols);
        let rows = trial.random.odd_size(31..=103);
        trial.shape(format!("{rows} rows of {cols}"));
        let ids = trial.random.indices(rows * cols, 1 << 20);
        let mut index = trial.random.indices(rows, cols);
        // what argmax gives for a row of NaN, and the first index that is too large
        index[rows / 2] = NOTHING;
        index[rows / 3] = cols as u32;
        let out = trial.output::<u32>(rows)?;
        let arguments = vec![
            trial.input(&ids)?,
            trial.input(&index)?,
            out.argument(),
            number(rows),
            number(cols),
        ];
        trial.launch([rows.div_ceil(threads), 1, 1], arguments)?;
        let want: Vec<u32> = ids
            .chunks_exact(cols)
            .zip(&index)
            .map(|(row, &index)| row.get(index as usize).copied().unwrap_or(NOTHING))
            .collect();
        let got = trial.result(&out)?;
        trial.equal("ids", &got, &want);
        Ok(())
    })
}

fn check_confidence(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    for_each(trial, shapes(trial.extent), |trial, (rows, cols)| {
        let cols = trial.random.odd_size(cols);
        trial.shape(format!("{rows} rows of {cols}"));
        let scores = trial.random.normals(rows * cols, 5.0);
        // the best of a row as a rule, others now and then
        let mut index: Vec<u32> = scores.chunks_exact(cols).map(|row| top_k(row, 1)[0].0 as u32).collect();
        index[rows / 2] = cols as u32 - 1;
        index[rows / 3] = NOTHING;
        let probability = trial.output::<f32>(rows)?;
        let arguments = vec![
            trial.input(&scores)?,
            trial.input(&index)?,
            probability.argument(),
            number(cols),
        ];
        trial.launch([rows, 1, 1], arguments)?;
        // each thread its columns, five steps within a warp, one addition for each warp
        let additions = cols.div_ceil(threads) + 5 + threads / 32;
        let (want, bounds): (Vec<f64>, Vec<f64>) = scores
            .chunks_exact(cols)
            .zip(&index)
            .map(|(row, &index)| match index {
                NOTHING => (0.0, 0.0),
                index => {
                    let (probability, distance) = confidence(&widen(row), index as usize);
                    (probability, tolerance::confidence(additions, probability, distance))
                }
            })
            .unzip();
        let got = trial.result(&probability)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
