//! gather over f16, bf16 and f32 tables; copy_rows and scatter_rows.

use half::{bf16, f16};
use tilekiln_runtime::device::Argument;

use super::trial::{Word, for_each, number};
use super::weights::bits;
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
        Case::new("copy_rows", &[], check_copy),
        Case::new("copy_rows", &["threads=32"], check_copy),
        Case::new("scatter_rows", &[], check_scatter),
        Case::new("scatter_rows", &["threads=32"], check_scatter),
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

fn check_copy(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    // rows, rows of the source, columns
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 1..=1), (11..=13, 11..=19, 280..=400)],
        Extent::Medium => vec![(1..=1, 1..=1, 1..=1), (101..=200, 11..=90, 280..=900)],
        Extent::Large => vec![(1..=1, 1..=1, 1..=1), (500..=700, 300..=500, 1000..=5000)],
    };
    for_each(trial, shapes, |trial, (rows, source_rows, cols)| {
        let (rows, source_rows, cols) = (
            trial.random.odd_size(rows),
            trial.random.odd_size(source_rows),
            trial.random.odd_size(cols),
        );
        let offset = trial.random.integer(0..=9) as usize;
        let stride = offset + cols + trial.random.integer(0..=9) as usize;
        trial.shape(format!(
            "{rows} of {source_rows} rows, {cols} of {stride} columns from {offset}"
        ));
        let source = trial.random.activations(source_rows * cols);
        let indices = trial.random.indices(rows, source_rows);

        let out = trial.output::<f32>(rows * stride)?;
        let arguments = vec![
            trial.input(&source)?,
            trial.input(&indices)?,
            out.argument(),
            number(cols),
            number(stride),
            number(offset),
        ];
        trial.launch([rows, 1, 1], arguments)?;

        let mut want = vec![<f32 as Word>::POISON; rows * stride];
        for (row, &index) in want.chunks_exact_mut(stride).zip(&indices) {
            row[offset..offset + cols].copy_from_slice(&source[index as usize * cols..][..cols]);
        }
        let got = trial.result(&out)?;
        trial.equal("bits", &bits(&got), &bits(&want));
        Ok(())
    })
}

fn check_scatter(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    // rows, rows of the output that nobody writes, columns
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1, 1..=1), (11..=13, 11..=19, 280..=400)],
        Extent::Medium => vec![(1..=1, 1..=1, 1..=1), (101..=200, 11..=90, 280..=900)],
        Extent::Large => vec![(1..=1, 1..=1, 1..=1), (500..=700, 300..=500, 1000..=5000)],
    };
    for_each(trial, shapes, |trial, (rows, others, cols)| {
        let rows = trial.random.odd_size(rows);
        let out_rows = rows + trial.random.odd_size(others);
        let cols = trial.random.odd_size(cols);
        trial.shape(format!("{rows} rows of {cols} to some of {out_rows}"));
        let source = trial.random.activations(rows * cols);
        let mut indices: Vec<u32> = (0..out_rows as u32).collect();
        indices.sort_by_cached_key(|_| trial.random.integer(0..=i64::MAX));
        indices.truncate(rows);

        let out = trial.output::<f32>(out_rows * cols)?;
        let arguments = vec![
            trial.input(&source)?,
            trial.input(&indices)?,
            out.argument(),
            number(cols),
        ];
        trial.launch([rows, 1, 1], arguments)?;

        let mut want = vec![<f32 as Word>::POISON; out_rows * cols];
        for (row, &index) in source.chunks_exact(cols).zip(&indices) {
            want[index as usize * cols..][..cols].copy_from_slice(row);
        }
        let got = trial.result(&out)?;
        trial.equal("bits", &bits(&got), &bits(&want));
        Ok(())
    })
}
