//! packed_product and packed_pair, over every format that can be packed.

use tilekiln_kernels::matmul::packed::stream::tokens_of_block;
use tilekiln_kernels::matmul::packed::{SUB_BLOCK, TILE_COLS, groups_down, tiles_across};

use super::super::trial::{for_each, number};
use super::super::weights::{Format, bits};
use super::super::{Case, CaseError, Trial};
use super::{Division, How, PackedActivations, bounds, case, invariant, selected, shapes, table};
use crate::reference::quant::{Activations, BlockFormat, matrix_product};
use crate::reference::values;

pub(super) fn cases() -> Vec<Case> {
    // format, division, parts of k
    let mut products: Vec<(BlockFormat, Division, usize)> = Vec::new();
    for format in BlockFormat::ALL {
        products.extend([(format, [2, 2, 1], 1), (format, [3, 1, 2], 1), (format, [2, 2, 0], 1)]);
    }
    products.extend([
        (BlockFormat::Q4_K, [1, 3, 1], 1),
        (BlockFormat::Q4_K, [2, 2, 4], 1),
        (BlockFormat::Q6_K, [2, 1, 4], 1),
        (BlockFormat::Q8_0, [2, 1, 4], 1),
        (BlockFormat::Q4_K, [2, 2, 1], 3),
        (BlockFormat::Q6_K, [3, 1, 2], 2),
        (BlockFormat::Q8_0, [1, 2, 1], 4),
        (BlockFormat::Q4_K, [3, 1, 0], 2),
    ]);
    let pairs = [
        (BlockFormat::Q4_K, [2, 2, 1]),
        (BlockFormat::Q8_0, [2, 1, 2]),
        (BlockFormat::Q5_0, [1, 2, 1]),
        (BlockFormat::Q4_K, [2, 1, 0]),
        (BlockFormat::Q8_0, [1, 3, 0]),
    ];
    let mut cases = Vec::new();
    for (format, division, parts) in products {
        let selected = in_parts(format, parts);
        cases.push(case("packed_product", &selected, division, move |trial| {
            check_product(trial, format, division, parts)
        }));
    }
    cases.extend(table("packed_pair", &pairs, check_pair));
    cases
}

/// What selects a product in parts.
fn in_parts(format: BlockFormat, parts: usize) -> String {
    let weight = selected("packed_product", format);
    match parts {
        1 => weight,
        _ => format!("{weight},parts={parts}"),
    }
}

/// Each part of k by itself: the product with what is left of activations when the other parts are zero.
fn check_product(
    trial: &mut Trial<'_>,
    format: BlockFormat,
    division: Division,
    parts: usize,
) -> Result<(), CaseError> {
    let [warps, _, columns] = division;
    let layout = trial.target().fragments;
    let shapes = shapes(trial.extent, tokens_of_block(columns, layout));
    // parts are whole tiles
    let unit = if parts > 1 { TILE_COLS } else { format.elements() };
    for_each(trial, shapes, |trial, [rows, sub_blocks, tokens]| {
        let rows = trial.random.odd_size(rows);
        let part_cols = (trial.random.odd_size(sub_blocks) * SUB_BLOCK).next_multiple_of(unit);
        let cols = parts * part_cols;
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        trial.shape(format!("{tokens} tokens, {rows} rows of {parts} times {part_cols}"));
        let file = Format::Blocks(format).matrix(trial, rows, cols).bytes;
        let weights = Format::Blocks(format).pack(layout, &file, rows, cols);
        let activations = activations(trial, tokens, cols);
        let launch = |trial: &mut Trial<'_>, how: &How<'_>| {
            let here = how.tokens.len();
            let packed = PackedActivations::new(&activations[how.tokens.clone()], layout);
            let y = trial.output::<f32>(parts * here * rows)?;
            let mut arguments = vec![trial.input(&weights)?];
            arguments.extend(packed.inputs(trial)?);
            arguments.push(y.argument());
            arguments.extend([rows, tiles_across(part_cols), here, packed.stride].map(number));
            how.launch(trial, arguments)?;
            let y = bits(&trial.result(&y)?);
            let places = (0..here).flat_map(|token| (0..parts).map(move |part| (part * here + token) * rows));
            Ok(places.flat_map(|first| y[first..first + rows].to_vec()).collect())
        };
        let selected = in_parts(format, parts);
        let got: Vec<u32> = invariant(
            trial,
            (&selected, division),
            (tokens, groups_down(rows) * parts),
            launch,
        )?;
        let (mut sums, mut limits) = (Vec::new(), Vec::new());
        for row in &activations {
            for part in 0..parts {
                let of_part = matrix_product(format, &file, &only(row, part * part_cols..(part + 1) * part_cols));
                limits.extend(bounds(&of_part, format, part_cols, warps));
                sums.extend(of_part);
            }
        }
        let got: Vec<f32> = got.into_iter().map(f32::from_bits).collect();
        trial.within(&got, &values(&sums), &limits);
        Ok(())
    })
}

/// A row with zeros outside some of its columns.
fn only(row: &Activations, cols: std::ops::Range<usize>) -> Activations {
    let mut row = row.clone();
    for (col, quant) in row.quants.iter_mut().enumerate() {
        if !cols.contains(&col) {
            *quant = 0;
        }
    }
    for (index, sum) in row.sums.iter_mut().enumerate() {
        if !cols.contains(&(index * SUB_BLOCK)) {
            *sum = 0;
        }
    }
    row
}

/// Random rows as int8.
pub(super) fn activations(trial: &mut Trial<'_>, tokens: usize, cols: usize) -> Vec<Activations> {
    let x = trial.random.activations(tokens * cols);
    x.chunks_exact(cols).map(Activations::quantise).collect()
}

fn check_pair(trial: &mut Trial<'_>, format: BlockFormat, division: Division) -> Result<(), CaseError> {
    let [warps, _, columns] = division;
    let layout = trial.target().fragments;
    let shapes = shapes(trial.extent, tokens_of_block(columns, layout));
    let second = BlockFormat::Q6_K;
    for_each(trial, shapes, |trial, [rows, sub_blocks, tokens]| {
        let (rows, more_rows) = (trial.random.odd_size(rows.clone()), trial.random.odd_size(rows));
        let cols = (trial.random.odd_size(sub_blocks) * SUB_BLOCK).next_multiple_of(second.elements());
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        trial.shape(format!("{tokens} tokens, {rows} and {more_rows} rows of {cols}"));
        let files = [(format, rows), (second, more_rows)]
            .map(|(format, rows)| Format::Blocks(format).matrix(trial, rows, cols).bytes);
        let weights = [
            Format::Blocks(format).pack(layout, &files[0], rows, cols),
            Format::Blocks(second).pack(layout, &files[1], more_rows, cols),
        ];
        let activations = activations(trial, tokens, cols);
        let launch = |trial: &mut Trial<'_>, how: &How<'_>| {
            let packed = PackedActivations::new(&activations[how.tokens.clone()], layout);
            let y = trial.output::<f32>(how.tokens.len() * (rows + more_rows))?;
            let mut arguments = vec![trial.input(&weights[0])?, trial.input(&weights[1])?];
            arguments.extend(packed.inputs(trial)?);
            arguments.push(y.argument());
            arguments.extend([rows, more_rows, tiles_across(cols), how.tokens.len(), packed.stride].map(number));
            how.launch(trial, arguments)?;
            Ok(bits(&trial.result(&y)?))
        };
        let blocks = groups_down(rows) + groups_down(more_rows);
        let got = invariant(
            trial,
            (&selected("packed_pair", format), division),
            (tokens, blocks),
            launch,
        )?;
        let (mut sums, mut limits) = (Vec::new(), Vec::new());
        for row in &activations {
            for (format, file) in [format, second].into_iter().zip(&files) {
                let products = matrix_product(format, file, row);
                limits.extend(bounds(&products, format, cols, warps));
                sums.extend(products);
            }
        }
        let got: Vec<f32> = got.into_iter().map(f32::from_bits).collect();
        trial.within(&got, &values(&sums), &limits);
        Ok(())
    })
}
