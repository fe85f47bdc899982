//! candidate_scores over every weight format: the scores of the rows that centroids lead to.

use tilekiln_kernels::select::NOTHING;

use super::trial::{for_each, number};
use super::weights::{Format, bits};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::matmul::{MatmulShape, matmul_transposed};
use crate::reference::widen;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    Format::ALL
        .iter()
        .zip([4, 3, 1].into_iter().cycle())
        .map(|(&format, warps)| {
            let settings = [format.setting(), format!("warps={warps}")];
            Case::new(
                "candidate_scores",
                &settings.each_ref().map(String::as_str),
                move |trial| check(trial, format, warps),
            )
        })
        .collect()
}

fn check(trial: &mut Trial<'_>, format: Format, warps: usize) -> Result<(), CaseError> {
    // clusters, candidates of each, columns in units of 32 values, tokens
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 1..=1, 1..=1), (1..=13, 1..=11, 31..=41, 1..=1)],
        Extent::Medium => vec![(1..=1, 1..=1, 1..=1, 1..=1), (11..=13, 11..=13, 31..=60, 11..=11)],
        Extent::Large => vec![(1..=1, 1..=1, 1..=1, 1..=1), (101..=130, 31..=60, 11..=40, 11..=13)],
    };
    for_each(trial, shapes, |trial, (clusters, per, groups, tokens)| {
        let (clusters, per) = (trial.random.odd_size(clusters), trial.random.odd_size(per));
        let cols = (trial.random.odd_size(groups) * 32).next_multiple_of(format.elements());
        let tokens = trial.random.odd_size(tokens);
        let k = trial.random.integer(1..=clusters as i64) as usize;
        trial.shape(format!(
            "{tokens} tokens, {k} of {clusters} clusters of {per}, {cols} columns"
        ));
        let vocabulary = clusters * per;
        let weights = format.matrix(trial, vocabulary, cols);
        // some order of the vocabulary
        let mut ordering: Vec<u32> = (0..vocabulary as u32).collect();
        for place in (1..vocabulary).rev() {
            ordering.swap(place, trial.random.integer(0..=place as i64) as usize);
        }
        let mut centroids = trial.random.indices(tokens * k, clusters);
        if centroids.len() > 1 {
            // a place that top_k could not fill
            centroids[tokens * k / 2] = NOTHING;
        }
        let x = trial.random.activations(tokens * cols);

        let (scores, ids) = (
            trial.output::<f32>(tokens * k * per)?,
            trial.output::<u32>(tokens * k * per)?,
        );
        let arguments = vec![
            trial.input(&weights.bytes)?,
            trial.input(&ordering)?,
            trial.input(&centroids)?,
            trial.input(&x)?,
            scores.argument(),
            ids.argument(),
            number(k),
            number(per),
            number(cols),
        ];
        trial.launch([(k * per).div_ceil(warps), tokens, 1], arguments)?;

        let want_ids: Vec<u32> = centroids
            .iter()
            .flat_map(|&centroid| {
                let members = centroid as usize * per..;
                let ordering = &ordering;
                members
                    .take(per)
                    .map(move |place| ordering.get(place).copied().unwrap_or(NOTHING))
            })
            .collect();
        let shape = MatmulShape {
            m: tokens,
            n: vocabulary,
            k: cols,
        };
        let all = matmul_transposed(&widen(&x), &weights.values, shape);
        let got = trial.result(&scores)?;
        let (mut found, mut want, mut bounds, mut missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, (&score, &id)) in got.iter().zip(&want_ids).enumerate() {
            if id == NOTHING {
                missing.push(score);
                continue;
            }
            let sum = all[place / (k * per) * vocabulary + id as usize];
            found.push(score);
            want.push(sum.value);
            bounds.push(tolerance::decoded_dot(cols, sum.magnitude));
        }
        trial.within(&found, &want, &bounds);
        if !missing.is_empty() {
            let lowest = vec![f32::NEG_INFINITY.to_bits(); missing.len()];
            trial.equal("scores of missing centroids", &bits(&missing), &lowest);
        }
        let got_ids = trial.result(&ids)?;
        trial.equal("ids", &got_ids, &want_ids);
        Ok(())
    })
}
