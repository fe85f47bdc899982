//! row_product over every weight codec.

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::quant::{ACTIVATION_BLOCK, Activations, BlockFormat, matrix_product};
use crate::reference::values;
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("row_product", &["weight=q4_k"], |trial| {
            check(trial, BlockFormat::Q4_K, 4)
        }),
        Case::new("row_product", &["weight=q4_k", "warps=1"], |trial| {
            check(trial, BlockFormat::Q4_K, 1)
        }),
        Case::new("row_product", &["weight=q6_k"], |trial| {
            check(trial, BlockFormat::Q6_K, 4)
        }),
        Case::new("row_product", &["weight=q4_0"], |trial| {
            check(trial, BlockFormat::Q4_0, 4)
        }),
        Case::new("row_product", &["weight=q8_0", "warps=3"], |trial| {
            check(trial, BlockFormat::Q8_0, 3)
        }),
    ]
}

fn check(trial: &mut Trial<'_>, format: BlockFormat, warps: usize) -> Result<(), CaseError> {
    // rows, columns in units of 32 values: fewer runs than lanes, and more
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1), (11..=13, 41..=100)],
        Extent::Medium => vec![(1..=1, 1..=1), (11..=43, 11..=31), (11..=43, 41..=300)],
        Extent::Large => vec![(1..=1, 1..=1), (3001..=4000, 11..=31), (500..=700, 200..=400)],
    };
    for_each(trial, shapes, |trial, (rows, runs)| {
        let rows = trial.random.odd_size(rows);
        let cols = (trial.random.odd_size(runs) * ACTIVATION_BLOCK).next_multiple_of(format.elements());
        trial.shape(format!("{rows} rows of {cols}"));
        let count = rows * cols / format.elements();
        // scales may be zero, but a lone block of zeros would prove nothing
        let weights = loop {
            let blocks = trial.random.blocks(format, count);
            if format.decode(&blocks).iter().any(|&weight| weight != 0.0) {
                break blocks;
            }
        };
        let activations = Activations::quantise(&trial.random.activations(cols));

        let out = trial.output::<f32>(rows)?;
        let arguments = vec![
            trial.input(&weights)?,
            // a buffer of i8 is the buffer of words on little-endian machines, which all devices are
            trial.input(&activations.quants)?,
            trial.input(&activations.scales)?,
            out.argument(),
            number(rows),
            number(cols),
            number(1),
        ];
        trial.launch([rows.div_ceil(warps), 1, 1], arguments)?;

        let sums = matrix_product(format, &weights, &activations);
        let additions = tolerance::chain(cols / ACTIVATION_BLOCK, 32);
        let bounds: Vec<f64> = sums
            .iter()
            .map(|sum| tolerance::int8_dot(additions, sum.magnitude))
            .collect();
        let got = trial.result(&out)?;
        trial.within(&got, &values(&sums), &bounds);
        Ok(())
    })
}
