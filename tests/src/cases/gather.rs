//! gather over f16, bf16 and f32 tables.

use half::{bf16, f16};
use tilekiln_runtime::device::Argument;

use super::trial::{Word, for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::gather::{Table, gather};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("gather", &["element=f16"], |trial| {
            check(trial, f16::from_f32, |table| Table::F16(table))
        }),
        Case::new("gather", &["element=bf16", "threads=32"], |trial| {
            check(trial, bf16::from_f32, |table| Table::Bf16(table))
        }),
        Case::new("gather", &["element=f32", "threads=96"], |trial| {
            check(trial, |value| value, |table| Table::F32(table))
        }),
    ]
}

fn check<T: Word>(
    trial: &mut Trial<'_>,
    from_f32: impl Fn(f32) -> T,
    as_table: impl for<'t> Fn(&'t [T]) -> Table<'t>,
) -> Result<(), CaseError> {
    // tokens, rows of the table, columns
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 1..=1), (11..=13, 11..=19, 280..=400)],
        Extent::Medium => vec![
            (1..=1, 1..=1, 1..=1),
            (101..=200, 11..=90, 1..=31),
            (11..=43, 100..=300, 280..=900),
        ],
        Extent::Large => vec![
            (1..=1, 1..=1, 1..=1),
            (5000..=6000, 11..=90, 1..=31),
            (500..=700, 3000..=5000, 1000..=1700),
        ],
    };
    for_each(trial, shapes, |trial, (tokens, rows, cols)| {
        let (tokens, rows, cols) = (
            trial.random.odd_size(tokens),
            trial.random.odd_size(rows),
            trial.random.odd_size(cols),
        );
        trial.shape(format!("{tokens} of {rows} rows of {cols}"));
        let table: Vec<T> = trial
            .random
            .activations(rows * cols)
            .into_iter()
            .map(&from_f32)
            .collect();
        let mut ids = trial.random.indices(tokens, rows);
        if let [first, .., last] = ids.as_mut_slice() {
            (*first, *last) = (rows as u32 - 1, 0);
        }
        let scale = (0.5 + 40.0 * trial.random.uniform()) as f32;

        let out = trial.output::<f32>(tokens * cols)?;
        let arguments = vec![
            trial.input(&table)?,
            trial.input(&ids)?,
            out.argument(),
            number(cols),
            Argument::F32(scale),
        ];
        trial.launch([tokens, 1, 1], arguments)?;

        let want = gather(as_table(&table), cols, &ids, f64::from(scale));
        let bounds: Vec<f64> = want.iter().map(|&value| tolerance::product_f32(value)).collect();
        let got = trial.result(&out)?;
        trial.within(&got, &want, &bounds);
        Ok(())
    })
}
