//! chunk_histogram, chunk_candidates, sampling_cut.

use tilekiln_kernels::sample::candidates::PLAN;
use tilekiln_kernels::sample::cut::SORTED;
use tilekiln_kernels::sample::histogram::BINS;
use tilekiln_kernels::sample::mass::LOWEST_KEY;
use tilekiln_kernels::sample::settings::{KEEP_ALL, SlotSettings};
use tilekiln_kernels::sample::share::Split;

use super::inputs::{Rows, splits};
use crate::cases::trial::{Word, for_each, number};
use crate::cases::{Case, CaseError, Extent, Trial};
use crate::reference::sample::{asked, bin, is_limited, kept_by_rank, key, plain_mass, ranked};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (split, settings) in splits(128) {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cases.push(Case::new("chunk_histogram", &settings, move |trial| {
            check_histogram(trial, split)
        }));
        cases.push(Case::new("chunk_candidates", &settings, move |trial| {
            check_candidates(trial, split)
        }));
    }
    for threads in [128, 96] {
        cases.push(Case::new("sampling_cut", &[&format!("threads={threads}")], check_cut));
    }
    cases
}

/// Whether top-k or top-p may leave something out.
fn cuts(settings: &SlotSettings) -> bool {
    settings.top_k != 0 || settings.top_p != KEEP_ALL
}

/// Number and mass of some tokens in each bin.
fn histogram(logits: &[f32], best: f32) -> ([u32; BINS], [u64; BINS]) {
    let (mut counts, mut masses) = ([0; BINS], [0; BINS]);
    for &logit in logits.iter().filter(|logit| **logit > f32::NEG_INFINITY) {
        counts[bin(logit, best)] += 1;
        masses[bin(logit, best)] += plain_mass(logit, best);
    }
    (counts, masses)
}

/// Histograms of all chunks of all rows; poison where nothing is cut.
fn histograms(rows: &Rows) -> (Vec<u32>, Vec<u64>) {
    let (mut counts, mut masses) = (Vec::new(), Vec::new());
    for row in 0..rows.count {
        let best = rows.best(row);
        for chunk in rows.chunks_of(row) {
            let (mut of_bins, mut weights) = histogram(chunk, best);
            if !cuts(rows.settings(row)) {
                (of_bins, weights) = ([Word::POISON; BINS], [Word::POISON; BINS]);
            }
            counts.extend(of_bins);
            masses.extend(weights);
        }
    }
    (counts, masses)
}

fn check_histogram(trial: &mut Trial<'_>, split: Split) -> Result<(), CaseError> {
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let chunks = rows.chunks();
        let counts = trial.output::<u32>(rows.count * chunks * BINS)?;
        let masses = trial.output::<u64>(rows.count * chunks * BINS)?;
        let [logits, choosers, settings] = rows.arguments(trial)?;
        let arguments = vec![
            logits,
            choosers,
            settings,
            trial.input(&rows.best_keys())?,
            counts.argument(),
            masses.argument(),
            number(rows.cols),
        ];
        trial.launch([chunks, rows.count, 1], arguments)?;
        let (want_counts, want_masses) = histograms(&rows);
        let got = trial.result(&counts)?;
        trial.equal("counts", &got, &want_counts);
        let got = trial.result(&masses)?;
        trial.equal("masses", &got, &want_masses);
        Ok(())
    })
}

/// What has to be looked at one by one.
struct Plan {
    keys: Vec<u32>,
    words: [u64; PLAN],
}

/// The candidates of a row and what is known of the rest.
fn plan(logits: &[f32], settings: &SlotSettings) -> Plan {
    let ranked = ranked(logits);
    let Some(&best) = ranked.first() else {
        return Plan {
            keys: Vec::new(),
            words: [0; PLAN],
        };
    };
    let best = logits[best];
    let bin_of = |token: usize| bin(logits[token], best);
    let mass =
        |tokens: &mut dyn Iterator<Item = usize>| -> u64 { tokens.map(|token| plain_mass(logits[token], best)).sum() };
    let total = mass(&mut ranked.iter().copied());
    let limited = is_limited(settings, ranked.len());
    let end_of_k = limited.then(|| bin_of(ranked[settings.top_k as usize - 1]));
    let end_of_p = (settings.top_p != KEEP_ALL).then(|| {
        let sure = match end_of_k {
            Some(end) => mass(&mut ranked.iter().copied().filter(|&token| bin_of(token) < end)),
            None => total,
        };
        let least = asked(settings.top_p, sure);
        let mut sum = 0;
        let reached = ranked.iter().find(|&&token| {
            sum += plain_mass(logits[token], best);
            sum >= least
        });
        bin_of(*reached.unwrap())
    });
    let (first, last) = match (end_of_k, end_of_p) {
        (Some(k), Some(p)) => (p, k),
        (Some(end), None) | (None, Some(end)) => (end, end),
        // top-k keeps all: nobody is a candidate
        (None, None) => (1, 0),
    };
    let inside = |token: &usize| (first..=last).contains(&bin_of(*token));
    let candidates: Vec<usize> = ranked.iter().copied().filter(inside).collect();
    let above = ranked.iter().copied().filter(|&token| bin_of(token) < first);
    let above: Vec<usize> = above.take_while(|_| !candidates.is_empty()).collect();
    let rank = match limited {
        true => settings.top_k as usize - above.len(),
        false => 0,
    };
    Plan {
        keys: candidates.iter().map(|&token| key(logits[token])).collect(),
        words: [
            candidates.len() as u64,
            rank as u64,
            mass(&mut above.into_iter()),
            total,
        ],
    }
}

fn check_candidates(trial: &mut Trial<'_>, split: Split) -> Result<(), CaseError> {
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        let (counts, masses) = histograms(&rows);
        let candidates = trial.output::<u32>(rows.count * rows.cols)?;
        let plans = trial.output::<u64>(rows.count * PLAN)?;
        let [logits, choosers, settings] = rows.arguments(trial)?;
        let arguments = vec![
            logits,
            choosers,
            settings,
            trial.input(&rows.best_keys())?,
            trial.input(&counts)?,
            trial.input(&masses)?,
            candidates.argument(),
            plans.argument(),
            number(rows.cols),
        ];
        trial.launch([rows.chunks(), rows.count, 1], arguments)?;
        let mut lists = trial.result(&candidates)?;
        let mut found = trial.result(&plans)?;
        let (mut want_lists, mut want_plans) = (Vec::new(), Vec::new());
        for (row, list) in lists.chunks_exact_mut(rows.cols).enumerate() {
            let mut want = vec![<u32 as Word>::POISON; rows.cols];
            let words = &mut found[row * PLAN..][..PLAN];
            if cuts(rows.settings(row)) {
                let plan = plan(rows.row(row), rows.settings(row));
                want[..plan.keys.len()].copy_from_slice(&plan.keys);
                // their order does not matter
                list[..plan.keys.len()].sort_unstable_by(|a, b| b.cmp(a));
                want_plans.extend(plan.words);
                if plan.words[0] == 0 {
                    // nothing is looked at, so nothing has to be known of what is above
                    words[2] = 0;
                }
            } else {
                want_plans.extend([<u64 as Word>::POISON; PLAN]);
            }
            want_lists.extend(want);
        }
        trial.equal("candidates", &lists, &want_lists);
        trial.equal("plans", &found, &want_plans);
        Ok(())
    })
}

fn check_cut(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    let split = Split {
        chunk: 1024,
        vector: 1,
        threads: 32,
    };
    for_each(trial, Rows::shapes(trial.extent, split), |trial, shape| {
        let rows = Rows::new(trial, split, shape);
        check_cut_of(trial, &rows)
    })?;
    if trial.extent != Extent::Small {
        // as many as are sorted at once, and the cut among the last: they must be some thread's, whatever the threads
        let rows = Rows::alike(trial, split, SORTED - 20..=SORTED);
        check_cut_of(trial, &rows)?;
    }
    Ok(())
}

fn check_cut_of(trial: &mut Trial<'_>, rows: &Rows) -> Result<(), CaseError> {
    let (mut candidates, mut plans, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows.count {
        let (logits, settings) = (rows.row(row), rows.settings(row));
        let plan = plan(logits, settings);
        let mut list = vec![<u32 as Word>::POISON; rows.cols];
        // in an order that has nothing to do with the keys
        let count = plan.keys.len();
        let stride = [7, 11, 13, 17]
            .into_iter()
            .find(|stride| !count.is_multiple_of(*stride))
            .unwrap_or(1);
        for (place, key) in plan.keys.iter().enumerate() {
            list[place * stride % count] = *key;
        }
        candidates.extend(list);
        plans.extend(plan.words);
        let ranked = ranked(logits);
        let kept = kept_by_rank(logits, &ranked, settings);
        want.extend(match cuts(settings) {
            false => [Word::POISON; 2],
            true if count == 0 => [LOWEST_KEY, 0],
            true => {
                let cut = key(logits[ranked[kept - 1]]);
                let ties = ranked[..kept].iter().filter(|&&token| key(logits[token]) == cut);
                [cut, ties.count() as u32]
            }
        });
    }
    let found = trial.output::<u32>(rows.count * 2)?;
    let [_, choosers, settings] = rows.arguments(trial)?;
    let arguments = vec![
        choosers,
        settings,
        trial.input(&rows.best_keys())?,
        trial.input(&plans)?,
        trial.input(&candidates)?,
        found.argument(),
        number(rows.cols),
        number(rows.chunks()),
    ];
    trial.launch([rows.count, 1, 1], arguments)?;
    let got = trial.result(&found)?;
    trial.equal("cuts", &got, &want);
    Ok(())
}
