//! row_product over every weight format that can be multiplied with int8; a token's results do not depend on its tile.

use super::linear::shapes;
use super::trial::{for_each, number};
use super::weights::{Format, Launch, check_invariance};
use super::{Case, CaseError, Trial};
use crate::reference::quant::{ACTIVATION_BLOCK, Activations, BlockFormat, matrix_product};
use crate::reference::{Sum, values};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let mut table: Vec<_> = BlockFormat::ALL.iter().map(|&format| (format, 4, 1)).collect();
    table.extend(
        BlockFormat::ALL
            .iter()
            .zip([2, 4, 8].into_iter().cycle())
            .map(|(&format, tile)| (format, 4, tile)),
    );
    table.extend([
        (BlockFormat::Q4_K, 1, 4),
        (BlockFormat::Q8_0, 3, 1),
        (BlockFormat::Q4_K, 4, 8),
        (BlockFormat::Q6_K, 4, 16),
    ]);
    table
        .into_iter()
        .map(|(format, warps, tile)| {
            let weight = Format::Blocks(format).setting();
            let settings = [weight, format!("warps={warps}"), format!("tile={tile}")];
            Case::new("row_product", &settings.each_ref().map(String::as_str), move |trial| {
                check(trial, format, warps, tile)
            })
        })
        .collect()
}

fn check(trial: &mut Trial<'_>, format: BlockFormat, warps: usize, tile: usize) -> Result<(), CaseError> {
    let weight = Format::Blocks(format);
    let other_tile = if tile == 1 { 4 } else { 1 };
    let (warps_setting, tile_setting) = (format!("warps={warps}"), format!("tile={other_tile}"));
    let other = trial.variant(&[&weight.setting(), &warps_setting, &tile_setting])?;
    for_each(trial, shapes(trial.extent, tile), |trial, [rows, groups, tokens]| {
        let rows = trial.random.odd_size(rows);
        let cols = (trial.random.odd_size(groups) * ACTIVATION_BLOCK).next_multiple_of(format.elements());
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        trial.shape(format!("{tokens} tokens, {rows} rows of {cols}"));
        let weights = weight.matrix(trial, rows, cols).bytes;
        let x = trial.random.activations(tokens * cols);
        let activations: Vec<Activations> = x.chunks_exact(cols).map(Activations::quantise).collect();

        let launch = |trial: &mut Trial<'_>, launch: Launch<'_>| {
            let some = &activations[launch.tokens.clone()];
            let quants: Vec<i8> = some.iter().flat_map(|row| row.quants.iter().copied()).collect();
            let scales: Vec<f32> = some.iter().flat_map(|row| row.scales.iter().copied()).collect();
            let y = trial.output::<f32>(some.len() * rows)?;
            let arguments = vec![
                trial.input(&weights)?,
                // a buffer of i8 is the buffer of words on little-endian machines, which all devices are
                trial.input(&quants)?,
                trial.input(&scales)?,
                y.argument(),
                number(rows),
                number(cols),
                number(some.len()),
            ];
            let grid = [rows.div_ceil(warps), some.len().div_ceil(launch.tile), 1];
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
        let sums: Vec<Sum> = activations
            .iter()
            .flat_map(|row| matrix_product(format, &weights, row))
            .collect();
        let additions = tolerance::chain(cols / ACTIVATION_BLOCK, 32);
        let bounds: Vec<f64> = sums
            .iter()
            .map(|sum| tolerance::int8_dot(additions, sum.magnitude))
            .collect();
        trial.within(&got, &values(&sums), &bounds);
        check_invariance(trial, (tile, other_tile, &other), tokens, &got, launch)
    })
}
