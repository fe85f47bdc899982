//! matmul over f16 and bf16.

use half::{bf16, f16};

use super::trial::{Word, for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::matmul::{MatmulShape, matmul_transposed};
use crate::reference::values;
use crate::tolerance;

/// Rows and columns of a block's tile.
const TILE: usize = 64;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("matmul", &["element=f16", "stages=2"], |trial| {
            check(trial, f16::from_f32)
        }),
        Case::new("matmul", &["element=f16", "stages=3"], |trial| {
            check(trial, f16::from_f32)
        }),
        Case::new("matmul", &["element=bf16", "stages=2"], |trial| {
            check(trial, bf16::from_f32)
        }),
        Case::new("matmul", &["element=bf16", "stages=3"], |trial| {
            check(trial, bf16::from_f32)
        }),
    ]
}

fn check<T: Word + Into<f64>>(trial: &mut Trial<'_>, from_f32: impl Fn(f32) -> T) -> Result<(), CaseError> {
    // m, n, k in units: one element; less than a tile; several tiles; k whole 16-byte chunks, which are copied
    // asynchronously
    let shapes = match trial.extent {
        Extent::Small => vec![
            (1..=1, 1..=1, 1..=1, 1),
            (11..=67, 67..=71, 11..=90, 1),
            (11..=31, 11..=31, 11..=23, 8),
        ],
        Extent::Medium => vec![
            (1..=1, 1..=1, 1..=1, 1),
            (11..=61, 11..=61, 11..=61, 1),
            (67..=131, 67..=131, 67..=300, 1),
            (67..=131, 11..=61, 11..=41, 8),
            (1..=1, 67..=131, 41..=61, 8),
        ],
        Extent::Large => vec![
            (1..=1, 1..=1, 1..=1, 1),
            (11..=61, 11..=61, 11..=61, 1),
            (300..=500, 400..=700, 500..=900, 1),
            (300..=500, 400..=700, 67..=131, 8),
            (1..=1, 3000..=4000, 199..=300, 8),
        ],
    };
    for_each(trial, shapes, |trial, (m, n, k, unit)| {
        let shape = MatmulShape {
            m: trial.random.odd_size(m),
            n: trial.random.odd_size(n),
            k: trial.random.odd_size(k) * unit,
        };
        let MatmulShape { m, n, k } = shape;
        trial.shape(format!("{m} x {n} x {k}"));
        let mut draw = |len| -> Vec<T> { trial.random.activations(len).into_iter().map(&from_f32).collect() };
        let (a, b) = (draw(m * k), draw(n * k));

        let out = trial.output::<f32>(m * n)?;
        let arguments = vec![
            trial.input(&a)?,
            trial.input(&b)?,
            out.argument(),
            number(m),
            number(n),
            number(k),
        ];
        trial.launch([n.div_ceil(TILE), m.div_ceil(TILE), 1], arguments)?;

        let sums = matmul_transposed(&a, &b, shape);
        let bounds: Vec<f64> = sums
            .iter()
            .map(|sum| tolerance::dot_f16_inputs(k, sum.magnitude))
            .collect();
        let got = trial.result(&out)?;
        trial.within(&got, &values(&sums), &bounds);
        Ok(())
    })
}
