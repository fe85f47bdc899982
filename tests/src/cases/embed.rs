//! embed over every weight format: rows of a part of a table, into rows with a stride.

use tilekiln_runtime::device::Argument;

use super::trial::{Word, for_each, number};
use super::weights::{Format, bits};
use super::{Case, CaseError, Extent, Trial};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    Format::ALL
        .iter()
        .zip([128, 32, 96].into_iter().cycle())
        .map(|(&format, threads)| {
            let settings = [format.setting(), format!("threads={threads}")];
            Case::new("embed", &settings.each_ref().map(String::as_str), move |trial| {
                check(trial, format)
            })
        })
        .collect()
}

fn check(trial: &mut Trial<'_>, format: Format) -> Result<(), CaseError> {
    // tokens, rows of the table, columns in units of 32 values (fewer than threads, and more)
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 1..=1), (11..=13, 11..=19, 31..=60)],
        Extent::Medium => vec![
            (1..=1, 1..=1, 1..=1),
            (11..=43, 11..=90, 11..=31),
            (11..=19, 11..=31, 131..=160),
        ],
        Extent::Large => vec![
            (1..=1, 1..=1, 1..=1),
            (900..=1100, 1100..=1300, 31..=80),
            (11..=19, 11..=31, 280..=300),
        ],
    };
    for_each(trial, shapes, |trial, (tokens, rows, groups)| {
        let (tokens, rows) = (trial.random.odd_size(tokens), trial.random.odd_size(rows));
        let cols = (trial.random.odd_size(groups) * 32).next_multiple_of(format.elements());
        let stride = cols + trial.random.integer(0..=9) as usize;
        // the table is a part of a larger one: some tokens are of rows before it, some of rows behind it
        let first_row = trial.random.integer(0..=9) as usize;
        let mut ids = trial.random.indices(tokens, first_row + rows + 3);
        ids[0] = (first_row + rows - 1) as u32;
        if let [_, second, .., last] = ids.as_mut_slice() {
            (*second, *last) = (first_row as u32, (first_row + rows) as u32);
        }
        trial.shape(format!(
            "{tokens} of rows {first_row} + {rows}, {cols} of {stride} columns"
        ));
        let table = format.matrix(trial, rows, cols);
        let scale = (0.5 + 40.0 * trial.random.uniform()) as f32;

        let out = trial.output::<f32>(tokens * stride)?;
        let arguments = vec![
            trial.input(&table.bytes)?,
            trial.input(&ids)?,
            out.argument(),
            number(cols),
            number(stride),
            number(first_row),
            number(rows),
            Argument::F32(scale),
        ];
        trial.launch([tokens, 1, 1], arguments)?;

        let got = trial.result(&out)?;
        let (mut found, mut want, mut left_alone) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &id) in got.chunks_exact(stride).zip(&ids) {
            let is_here = (first_row..first_row + rows).contains(&(id as usize));
            let written = if is_here { cols } else { 0 };
            if is_here {
                let values = &table.values[(id as usize - first_row) * cols..][..cols];
                want.extend(values.iter().map(|value| value * f64::from(scale)));
            }
            found.extend(&row[..written]);
            left_alone.extend(bits(&row[written..]));
        }
        if want.iter().all(|&value| value == 0.0) {
            // one row may be blocks of zeros: they prove nothing, but have to be zeros
            trial.equal("zeros", &found, &vec![0.0; want.len()]);
        } else {
            let bounds: Vec<f64> = want.iter().map(|&value| tolerance::decoded_product(value)).collect();
            trial.within(&found, &want, &bounds);
        }
        if !left_alone.is_empty() {
            let poison = vec![<f32 as Word>::POISON.to_bits(); left_alone.len()];
            trial.equal("what is not written", &left_alone, &poison);
        }
        Ok(())
    })
}
