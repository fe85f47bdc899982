//! chunk_best, best_token.

use tilekiln_kernels::sample::share::Split;
use tilekiln_kernels::sample::{NOT_A_NUMBER, NOTHING_LEFT};

use super::inputs::{Rows, splits};
use crate::cases::trial::{for_each, number};
use crate::cases::{Case, CaseError, Trial};
use crate::reference::sample::{key, ranked};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("best_token", &[], check_best_token)];
    for (split, settings) in splits(128) {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cases.push(Case::new("chunk_best", &settings, move |trial| {
            check_chunk_best(trial, split)
        }));
    }
    cases
}

/// The token with the largest key, the first one on ties.
fn best_of(logits: &[f32]) -> (u32, u32) {
    let keys = logits.iter().map(|logit| key(*logit));
    let (mut best, mut token) = (0, NOT_A_NUMBER);
    for (place, key) in keys.enumerate() {
        if key > best {
            (best, token) = (key, place as u32);
        }
    }
    (best, token)
}

fn check_chunk_best(trial: &mut Trial<'_>, split: Split) -> Result<(), CaseError> {
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let chunks = rows.chunks();
        let keys = trial.output::<u32>(rows.count * chunks)?;
        let tokens = trial.output::<u32>(rows.count * chunks)?;
        let arguments = vec![
            trial.input(&rows.logits)?,
            keys.argument(),
            tokens.argument(),
            number(rows.cols),
        ];
        trial.launch([chunks, rows.count, 1], arguments)?;
        let want = (0..rows.count).flat_map(|row| {
            let chunks = rows.chunks_of(row).enumerate();
            chunks.map(|(index, chunk)| match best_of(chunk) {
                (0, token) => (0, token),
                (key, token) => (key, token + (index * split.chunk) as u32),
            })
        });
        let (want_keys, want_tokens): (Vec<u32>, Vec<u32>) = want.unzip();
        let got = trial.result(&keys)?;
        trial.equal("keys", &got, &want_keys);
        let got = trial.result(&tokens)?;
        trial.equal("tokens", &got, &want_tokens);
        Ok(())
    })
}

fn check_best_token(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    let split = Split {
        chunk: 7,
        vector: 1,
        threads: 32,
    };
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let chunks = rows.chunks();
        let tokens: Vec<u32> = (0..rows.count)
            .flat_map(|row| {
                let chunks = rows.chunks_of(row).enumerate();
                chunks.map(|(index, chunk)| match best_of(chunk) {
                    (0, token) => token,
                    (_, token) => token + (index * split.chunk) as u32,
                })
            })
            .collect();
        let chosen = trial.output::<u32>(rows.count)?;
        let arguments = vec![
            trial.input(&rows.best_keys())?,
            trial.input(&tokens)?,
            chosen.argument(),
            number(chunks),
        ];
        trial.launch([rows.count, 1, 1], arguments)?;
        let want: Vec<u32> = (0..rows.count)
            .map(|row| match ranked(rows.row(row)).first() {
                Some(&token) => token as u32,
                None if rows.row(row).iter().all(|logit| logit.is_nan()) => NOT_A_NUMBER,
                None => NOTHING_LEFT,
            })
            .collect();
        let got = trial.result(&chosen)?;
        trial.equal("tokens", &got, &want);
        Ok(())
    })
}
