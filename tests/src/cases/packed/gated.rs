//! packed_gated and packed_gate: gated products as int8 for the product that follows.

use tilekiln_kernels::matmul::packed::stream::tokens_of_block;
use tilekiln_kernels::matmul::packed::{SUB_BLOCK, SUB_BLOCKS, TILE_COLS, tiles_across};

use super::super::trial::{Output, for_each, number};
use super::super::weights::Format;
use super::super::{Case, CaseError, Extent, Trial};
use super::product::activations;
use super::{Division, How, PackedActivations, bounds, case, invariant, selected, table};
use crate::reference::gated::{gelu, gelu_inner};
use crate::reference::quant::{BlockFormat, matrix_product};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let divisions = [
        (BlockFormat::Q4_K, [2, 2, 1]),
        (BlockFormat::Q4_K, [2, 1, 4]),
        (BlockFormat::Q6_K, [3, 1, 2]),
        (BlockFormat::Q8_0, [1, 2, 1]),
        (BlockFormat::Q5_K, [2, 1, 1]),
        (BlockFormat::Q4_K, [3, 1, 0]),
        (BlockFormat::Q6_K, [1, 2, 0]),
    ];
    let mut cases = table("packed_gated", &divisions, check_gated);
    // against kernels with one team, too
    for (format, division) in [
        (BlockFormat::Q4_K, [2, 2, 1]),
        (BlockFormat::Q4_0, [3, 1, 1]),
        (BlockFormat::Q6_K, [1, 1, 2]),
        (BlockFormat::Q8_0, [2, 1, 1]),
        (BlockFormat::Q4_K, [2, 1, 0]),
    ] {
        let selected = format!("{},teams=2", selected("packed_gated", format));
        cases.push(case("packed_gated", &selected, division, move |trial| {
            check_gated(trial, format, division)
        }));
    }
    cases.extend(table("packed_gate", &divisions, check_gate));
    cases
}

/// Groups of 32 results, sub-blocks of a row, tokens.
fn shapes(extent: Extent, width: usize) -> Vec<[std::ops::RangeInclusive<usize>; 3]> {
    match extent {
        Extent::Small => vec![[1..=1, 1..=1, 1..=1], [2..=3, 11..=13, 2..=width + 1]],
        Extent::Medium => vec![[1..=1, 1..=1, 1..=1], [7..=10, 11..=31, 1..=2 * width + 1]],
        Extent::Large => vec![[1..=1, 1..=1, 1..=1], [130..=300, 71..=90, 1..=2 * width + 1]],
    }
}

/// Buffers for the int8 results of some tokens.
struct Results {
    quants: Output<u8>,
    scales: Output<f32>,
    sums: Output<u16>,
    groups: usize,
    stride: usize,
}

impl Results {
    fn new(trial: &Trial<'_>, groups: usize, stride: usize) -> Result<Self, CaseError> {
        let tiles = groups.div_ceil(SUB_BLOCKS) * stride;
        Ok(Self {
            quants: trial.output(tiles * TILE_COLS)?,
            scales: trial.output(tiles * SUB_BLOCKS)?,
            sums: trial.output(tiles * SUB_BLOCKS * 4)?,
            groups,
            stride,
        })
    }

    /// Results of each token: for each group of 32 its scale's bits, and its values; behind the last group of a tile there
    /// have to be zeros. The sums are checked on the way.
    fn read(&self, trial: &mut Trial<'_>, tokens: usize) -> Result<Vec<u32>, CaseError> {
        let quads = super::Quads::new(trial.target().fragments, 1);
        let quants = trial.result(&self.quants)?;
        let (scales, sums) = (trial.result(&self.scales)?, trial.result(&self.sums)?);
        let (mut found, mut found_sums, mut want_sums) = (Vec::new(), Vec::new(), Vec::new());
        let mut padding = Vec::new();
        for token in 0..tokens {
            for group in 0..self.groups.next_multiple_of(SUB_BLOCKS) {
                let (tile, sub_block) = (group / SUB_BLOCKS * self.stride + token, group % SUB_BLOCKS);
                let of_group: Vec<i8> = (0..SUB_BLOCK)
                    .map(|value| {
                        let word = quads.right(sub_block * SUB_BLOCK / 4 + value / 4);
                        quants[tile * TILE_COLS + word * 4 + value % 4] as i8
                    })
                    .collect();
                let scale = scales[tile * SUB_BLOCKS + sub_block];
                let to = if group < self.groups { &mut found } else { &mut padding };
                to.push(scale.to_bits());
                to.extend(of_group.iter().map(|&quant| u32::from(quant as u8)));
                let sum: i32 = of_group.iter().map(|&quant| i32::from(quant)).sum();
                let [first, second, third] = super::split(scale * sum as f32);
                want_sums.push([first, second, third, 0]);
                let term = |term: usize| sums[((tile * 4 + sub_block / 2) * 4 + term) * 2 + sub_block % 2];
                found_sums.push([0, 1, 2, 3].map(term));
            }
        }
        trial.equal("terms of sums", &found_sums, &want_sums);
        if !padding.is_empty() {
            trial.equal("zeros to the end of the tile", &padding, &vec![0; padding.len()]);
        }
        Ok(found)
    }
}

/// A gated value and how far it may be off, before it becomes int8.
#[derive(Clone, Copy)]
struct Gated {
    value: f64,
    bound: f64,
}

/// gelu(gate) * by of factors that are known within their bounds. The slope of GELU is below 1.13 everywhere.
fn gated((gate, gate_bound): (f64, f64), (by, by_bound): (f64, f64)) -> Gated {
    let largest = by.abs() + by_bound;
    let gelu_bound = 1.13 * gate_bound;
    Gated {
        value: gelu(gate) * by,
        bound: tolerance::gated(gate, gelu_inner(gate), by) * 1.001
            + gelu_bound * largest
            + gelu(gate).abs() * by_bound,
    }
}

/// int8 results, as [`Results::read`] gives them, against what they should be.
fn compare(trial: &mut Trial<'_>, got: &[u32], want: &[Gated]) {
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    let (mut value_bounds, mut scale_bounds) = (Vec::new(), Vec::new());
    for (got, want) in got.chunks_exact(1 + SUB_BLOCK).zip(want.chunks_exact(SUB_BLOCK)) {
        let scale = f32::from_bits(got[0]);
        scales.push(scale);
        let largest = want.iter().fold(0.0_f64, |most, gated| most.max(gated.value.abs()));
        let bound = want.iter().fold(0.0_f64, |most, gated| most.max(gated.bound));
        scale_bounds.push((largest / 127.0, tolerance::int8_scale(bound, largest)));
        for (quant, gated) in got[1..].iter().zip(want) {
            values.push(scale * f32::from(*quant as u8 as i8));
            value_bounds.push(tolerance::int8_of(gated.bound, scale, gated.value));
        }
    }
    let exact: Vec<f64> = want.iter().map(|gated| gated.value).collect();
    trial.within(&values, &exact, &value_bounds);
    let (exact, bounds): (Vec<f64>, Vec<f64>) = scale_bounds.into_iter().unzip();
    trial.within(&scales, &exact, &bounds);
}

fn check_gated(trial: &mut Trial<'_>, format: BlockFormat, division: Division) -> Result<(), CaseError> {
    let [warps, _, columns] = division;
    let layout = trial.target().fragments;
    let shapes = shapes(trial.extent, tokens_of_block(columns, layout));
    for_each(trial, shapes, |trial, [units, sub_blocks, tokens]| {
        let pick = |trial: &mut Trial<'_>, range: std::ops::RangeInclusive<usize>| {
            trial.random.integer(*range.start() as i64..=*range.end() as i64) as usize
        };
        let (units, tokens) = (pick(trial, units), pick(trial, tokens));
        let cols = (trial.random.odd_size(sub_blocks) * SUB_BLOCK).next_multiple_of(format.elements());
        trial.shape(format!("{tokens} tokens, {units} times 32 gates of {cols}"));
        // 32 gate rows, then 32 up rows
        let file = Format::Blocks(format).matrix(trial, units * 64, cols).bytes;
        let weights = Format::Blocks(format).pack(layout, &file, units * 64, cols);
        let activations = activations(trial, tokens, cols);
        let launch = |trial: &mut Trial<'_>, how: &How<'_>| {
            let packed = PackedActivations::new(&activations[how.tokens.clone()], layout);
            let results = Results::new(trial, units, packed.stride)?;
            let mut arguments = vec![trial.input(&weights)?];
            arguments.extend(packed.inputs(trial)?);
            arguments.extend([
                results.quants.argument(),
                results.scales.argument(),
                results.sums.argument(),
            ]);
            arguments.extend([units, tiles_across(cols), how.tokens.len(), packed.stride].map(number));
            how.launch(trial, arguments)?;
            results.read(trial, how.tokens.len())
        };
        let got = invariant(
            trial,
            (&Format::Blocks(format).setting(), division),
            (tokens, units),
            launch,
        )?;
        let mut want = Vec::new();
        for row in &activations {
            let sums = matrix_product(format, &file, row);
            let limits = bounds(&sums, format, cols, warps);
            let known = |index: usize| (sums[index].value, limits[index]);
            want.extend((0..units * SUB_BLOCK).map(|index| {
                let gate = index / SUB_BLOCK * 64 + index % SUB_BLOCK;
                gated(known(gate), known(gate + SUB_BLOCK))
            }));
        }
        compare(trial, &got, &want);
        Ok(())
    })
}

fn check_gate(trial: &mut Trial<'_>, format: BlockFormat, division: Division) -> Result<(), CaseError> {
    let [warps, _, columns] = division;
    let layout = trial.target().fragments;
    let shapes = shapes(trial.extent, tokens_of_block(columns, layout));
    for_each(trial, shapes, |trial, [groups, sub_blocks, tokens]| {
        let groups = trial.random.integer(*groups.start() as i64..=*groups.end() as i64) as usize;
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        let cols = (trial.random.odd_size(sub_blocks) * SUB_BLOCK).next_multiple_of(format.elements());
        let rows = groups * SUB_BLOCK;
        let offset = trial.random.integer(0..=9) as usize;
        let factor_stride = offset + rows + trial.random.integer(0..=9) as usize;
        trial.shape(format!(
            "{tokens} tokens, {rows} gates of {cols}, factors from {offset} of {factor_stride}"
        ));
        let file = Format::Blocks(format).matrix(trial, rows, cols).bytes;
        let weights = Format::Blocks(format).pack(layout, &file, rows, cols);
        let activations = activations(trial, tokens, cols);
        let factors = trial.random.activations(tokens * factor_stride);
        let launch = |trial: &mut Trial<'_>, how: &How<'_>| {
            let packed = PackedActivations::new(&activations[how.tokens.clone()], layout);
            let results = Results::new(trial, groups, packed.stride)?;
            let some = &factors[how.tokens.start * factor_stride..how.tokens.end * factor_stride];
            let mut arguments = vec![trial.input(&weights)?];
            arguments.extend(packed.inputs(trial)?);
            arguments.push(trial.input(some)?);
            arguments.extend([
                results.quants.argument(),
                results.scales.argument(),
                results.sums.argument(),
            ]);
            let numbers = [
                groups,
                tiles_across(cols),
                how.tokens.len(),
                packed.stride,
                factor_stride,
                offset,
            ];
            arguments.extend(numbers.map(number));
            how.launch(trial, arguments)?;
            results.read(trial, how.tokens.len())
        };
        let got = invariant(
            trial,
            (&Format::Blocks(format).setting(), division),
            (tokens, groups),
            launch,
        )?;
        let mut want = Vec::new();
        for (row, factors) in activations.iter().zip(factors.chunks_exact(factor_stride)) {
            let sums = matrix_product(format, &file, row);
            let limits = bounds(&sums, format, cols, warps);
            for ((sum, limit), factor) in sums.iter().zip(limits).zip(&factors[offset..]) {
                want.push(gated((sum.value, limit), (f64::from(*factor), 0.0)));
            }
        }
        compare(trial, &got, &want);
        Ok(())
    })
}
