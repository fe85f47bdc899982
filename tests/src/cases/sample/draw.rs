//! chunk_mass, draw_token.

use tilekiln_kernels::sample::mass::{LOWEST_KEY, mass_of};
use tilekiln_kernels::sample::settings::{KEEP_ALL, STEP, mix};
use tilekiln_kernels::sample::share::Split;

use super::inputs::{Rows, splits};
use crate::cases::trial::{Word, for_each, number};
use crate::cases::{Case, CaseError, Trial};
use crate::reference::sample::{choose, is_probable, kept_by_rank, key, ranked};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (split, settings) in splits(128) {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cases.push(Case::new("chunk_mass", &settings, move |trial| {
            check_mass(trial, split)
        }));
    }
    for (split, settings) in splits(256) {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cases.push(Case::new("draw_token", &settings, move |trial| {
            check_draw(trial, split)
        }));
    }
    cases
}

/// The key behind which nothing is kept, and how many tokens that have it are.
fn cut(rows: &Rows, row: usize) -> (u32, u32) {
    let (logits, settings) = (rows.row(row), rows.settings(row));
    let ranked = ranked(logits);
    let kept = &ranked[..kept_by_rank(logits, &ranked, settings)];
    match kept.last() {
        Some(&last) if settings.top_k != 0 || settings.top_p != KEEP_ALL => {
            let cut = key(logits[last]);
            let ties = kept.iter().filter(|&&token| key(logits[token]) == cut);
            (cut, ties.count() as u32)
        }
        _ => (LOWEST_KEY, 0),
    }
}

/// Mass above the cut and tokens at the cut of each chunk; poison where nothing is drawn.
fn masses(rows: &Rows) -> (Vec<u64>, Vec<u32>) {
    let (mut masses, mut ties) = (Vec::new(), Vec::new());
    for row in 0..rows.count {
        let (settings, best) = (rows.settings(row), rows.best(row));
        let (cut, _) = cut(rows, row);
        for chunk in rows.chunks_of(row) {
            if settings.scale == 0.0 {
                masses.push(Word::POISON);
                ties.push(Word::POISON);
                continue;
            }
            let probable = chunk.iter().filter(|logit| is_probable(**logit, best, settings));
            let above = probable.clone().filter(|logit| key(**logit) > cut);
            masses.push(above.map(|logit| mass_of(*logit, best, settings.scale)).sum());
            ties.push(probable.filter(|logit| key(**logit) == cut).count() as u32);
        }
    }
    (masses, ties)
}

fn cuts(rows: &Rows) -> Vec<u32> {
    (0..rows.count)
        .flat_map(|row| {
            let (key, ties) = cut(rows, row);
            [key, ties]
        })
        .collect()
}

fn check_mass(trial: &mut Trial<'_>, split: Split) -> Result<(), CaseError> {
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let chunks = rows.chunks();
        let found_masses = trial.output::<u64>(rows.count * chunks)?;
        let found_ties = trial.output::<u32>(rows.count * chunks)?;
        let [logits, choosers, settings] = rows.arguments(trial)?;
        let arguments = vec![
            logits,
            choosers,
            settings,
            trial.input(&rows.best_keys())?,
            trial.input(&cuts(&rows))?,
            found_masses.argument(),
            found_ties.argument(),
            number(rows.cols),
        ];
        trial.launch([chunks, rows.count, 1], arguments)?;
        let (want_masses, want_ties) = masses(&rows);
        let got = trial.result(&found_masses)?;
        trial.equal("masses", &got, &want_masses);
        let got = trial.result(&found_ties)?;
        trial.equal("ties", &got, &want_ties);
        Ok(())
    })
}

fn check_draw(trial: &mut Trial<'_>, split: Split) -> Result<(), CaseError> {
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let chunks = rows.chunks();
        let (masses, ties) = masses(&rows);
        let outputs: Vec<u32> = (0..rows.count as u32).rev().collect();
        let positions = trial.random.indices(rows.count, 1 << 17);
        let best_keys = rows.best_keys();
        let best_tokens: Vec<u32> = (0..rows.count)
            .flat_map(|row| {
                let chunks = rows.chunks_of(row).enumerate();
                chunks.map(move |(index, chunk)| {
                    let best = chunk.iter().map(|logit| key(*logit)).max().unwrap_or(0);
                    let place = chunk.iter().position(|logit| key(*logit) == best && best > 0);
                    place.map_or(u32::MAX, |place| (index * split.chunk + place) as u32)
                })
            })
            .collect();
        let chosen = trial.output::<u32>(rows.count)?;
        let [logits, choosers, settings] = rows.arguments(trial)?;
        let arguments = vec![
            logits,
            choosers,
            trial.input(&outputs)?,
            trial.input(&positions)?,
            settings,
            trial.input(&best_keys)?,
            trial.input(&best_tokens)?,
            trial.input(&cuts(&rows))?,
            trial.input(&masses)?,
            trial.input(&ties)?,
            chosen.argument(),
            number(rows.cols),
            number(chunks),
        ];
        trial.launch([rows.count, 1, 1], arguments)?;
        let want: Vec<u32> = (0..rows.count)
            .map(|row| {
                let position = u64::from(positions[outputs[row] as usize]);
                let state = rows.settings(row).seed.wrapping_add(position.wrapping_mul(STEP));
                choose(rows.row(row), rows.settings(row), mix(state))
            })
            .collect();
        let got = trial.result(&chosen)?;
        trial.equal("tokens", &got, &want);
        Ok(())
    })
}
