//! linear over every weight format, several tiles; a token's results do not depend on its tile.

use super::trial::{for_each, number};
use super::weights::{Format, Launch, check_invariance};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::matmul::{MatmulShape, matmul_transposed};
use crate::reference::quant::BlockFormat;
use crate::reference::{values, widen};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let mut table: Vec<_> = Format::ALL.iter().map(|&format| (format, 4, 1)).collect();
    table.extend(
        Format::ALL
            .iter()
            .zip([2, 4, 8].into_iter().cycle())
            .map(|(&format, tile)| (format, 4, tile)),
    );
    let q4_k = Format::Blocks(BlockFormat::Q4_K);
    table.extend([(q4_k, 3, 4), (q4_k, 1, 8), (Format::Bf16, 8, 5), (Format::F32, 4, 16)]);
    table
        .into_iter()
        .map(|(format, warps, tile)| {
            let settings = [format.setting(), format!("warps={warps}"), format!("tile={tile}")];
            Case::new("linear", &settings.each_ref().map(String::as_str), move |trial| {
                check(trial, format, warps, tile)
            })
        })
        .collect()
}

/// Rows, columns in units of 32 values (fewer than lanes, and more), tokens: shapes for products over weights.
pub(super) fn shapes(extent: Extent, tile: usize) -> Vec<[std::ops::RangeInclusive<usize>; 3]> {
    let several = 1..=2 * tile + 1;
    match extent {
        Extent::Small => vec![[1..=1, 1..=1, 1..=1], [5..=11, 31..=41, 1..=tile + 1]],
        Extent::Medium => vec![
            [1..=1, 1..=1, 1..=1],
            [11..=43, 11..=31, 11..=11],
            [11..=43, 41..=150, several],
        ],
        Extent::Large => vec![
            [1..=1, 1..=1, 1..=1],
            [1001..=1400, 11..=31, 11..=13],
            [300..=500, 100..=200, several],
        ],
    }
}

fn check(trial: &mut Trial<'_>, format: Format, warps: usize, tile: usize) -> Result<(), CaseError> {
    let other_tile = if tile == 1 { 4 } else { 1 };
    let (warps_setting, tile_setting) = (format!("warps={warps}"), format!("tile={other_tile}"));
    let other = trial.variant(&[&format.setting(), &warps_setting, &tile_setting])?;
    for_each(trial, shapes(trial.extent, tile), |trial, [rows, groups, tokens]| {
        let rows = trial.random.odd_size(rows);
        let cols = (trial.random.odd_size(groups) * 32).next_multiple_of(format.elements());
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        trial.shape(format!("{tokens} tokens, {rows} rows of {cols}"));
        let weights = format.matrix(trial, rows, cols);
        let x = trial.random.activations(tokens * cols);

        let launch = |trial: &mut Trial<'_>, launch: Launch<'_>| {
            let count = launch.tokens.len();
            let y = trial.output::<f32>(count * rows)?;
            let arguments = vec![
                trial.input(&weights.bytes)?,
                trial.input(&x[launch.tokens.start * cols..launch.tokens.end * cols])?,
                y.argument(),
                number(rows),
                number(cols),
                number(count),
            ];
            let grid = [rows.div_ceil(warps), count.div_ceil(launch.tile), 1];
            match launch.kernel {
                Some(kernel) => trial.launch_variant(kernel, grid, arguments)?,
                None => trial.launch(grid, arguments)?,
            }
            Ok(trial.result(&y)?)
        };
        let all = Launch {
            kernel: None,
            tile,
            tokens: 0..tokens,
        };
        let got = launch(trial, all)?;
        let shape = MatmulShape {
            m: tokens,
            n: rows,
            k: cols,
        };
        let sums = matmul_transposed(&widen(&x), &weights.values, shape);
        let bounds: Vec<f64> = sums
            .iter()
            .map(|sum| tolerance::decoded_dot(cols, sum.magnitude))
            .collect();
        trial.within(&got, &values(&sums), &bounds);
        check_invariance(trial, (tile, other_tile, &other), tokens, &got, launch)
    })
}
