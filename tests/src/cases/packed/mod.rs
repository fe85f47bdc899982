//! Kernels over packed weights: products, products that are gated, and what prepares rows for them. A token's results
//! depend on neither the other tokens, nor the column tiles, the depth of the rings or the grid.

mod gated;
mod halves;
mod prepare;
mod product;

use std::ops::Range;

use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::matmul::packed::layout::Quads;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::stream::tokens_of_block;
use tilekiln_kernels::matmul::packed::{SUB_BLOCKS, TILE_COLS, tiles_across};
use tilekiln_runtime::device::{Argument, Loaded};

use super::weights::Format;
use super::{Case, CaseError, Extent, Trial};
use crate::reference::Sum;
use crate::reference::quant::{Activations, BlockFormat};
use crate::tolerance;

pub(super) fn cases() -> Vec<Case> {
    let all = [product::cases(), gated::cases(), halves::cases(), prepare::cases()];
    all.into_iter().flatten().collect()
}

/// How a product is divided: warps, slots, column tiles (0: one token).
type Division = [usize; 3];

/// A case for each format and division of a kernel.
fn table(
    kernel: &'static str,
    table: &[(BlockFormat, Division)],
    check: fn(&mut Trial<'_>, BlockFormat, Division) -> Result<(), CaseError>,
) -> Vec<Case> {
    let case_of = |&(format, division): &(BlockFormat, Division)| {
        case(kernel, &selected(kernel, format), division, move |trial| {
            check(trial, format, division)
        })
    };
    table.iter().map(case_of).collect()
}

/// A case of the kernel that `selected` and a division name.
fn case(
    kernel: &'static str,
    selected: &str,
    division: Division,
    check: impl Fn(&mut Trial<'_>) -> Result<(), CaseError> + 'static,
) -> Case {
    let settings = settings(selected, division);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Case::new(kernel, &settings, check)
}

/// The setting of a kernel for the format of its (first) matrix.
fn selected(kernel: &str, format: BlockFormat) -> String {
    let key = if kernel == "packed_pair" { "first" } else { "weight" };
    format!("{key}={}", Format::Blocks(format).name())
}

/// The settings of a kernel over weights that `selected` names, with what else belongs to the meaning of its results behind a
/// comma.
fn settings(selected: &str, [warps, slots, columns]: Division) -> Vec<String> {
    let mut settings: Vec<String> = selected.split(',').map(str::to_owned).collect();
    settings.extend([
        format!("warps={warps}"),
        format!("slots={slots}"),
        format!("columns={columns}"),
    ]);
    settings
}

/// One launch over some tokens of a case.
struct How<'a> {
    /// The case's kernel, or one that is divided otherwise.
    kernel: Option<&'a Loaded>,
    columns: usize,
    blocks: usize,
    tokens: Range<usize>,
}

impl How<'_> {
    fn launch(&self, trial: &Trial<'_>, arguments: Vec<Argument>) -> Result<(), CaseError> {
        let width = tokens_of_block(self.columns, trial.target().fragments);
        let grid = [self.blocks, self.tokens.len().div_ceil(width), 1];
        match self.kernel {
            Some(kernel) => trial.launch_variant(kernel, grid, arguments)?,
            None => trial.launch(grid, arguments)?,
        }
        Ok(())
    }
}

/// Launches over all tokens, and checks that each token's results are the same bits alone, among some of the others, with
/// half the blocks, and in a kernel that is divided otherwise. `launch` gives results as bits, token after token.
fn invariant<T: PartialEq + Clone + std::fmt::Debug>(
    trial: &mut Trial<'_>,
    (weight, division): (&str, Division),
    (tokens, blocks): (usize, usize),
    launch: impl Fn(&mut Trial<'_>, &How<'_>) -> Result<Vec<T>, CaseError>,
) -> Result<Vec<T>, CaseError> {
    let [warps, slots, columns] = division;
    let other_columns = if columns < 2 { 2 } else { 1 };
    let others = settings(weight, [warps, slots % 3 + 1, other_columns]);
    let other = trial.variant(&others.iter().map(String::as_str).collect::<Vec<_>>())?;
    let all = || How {
        kernel: None,
        columns,
        blocks,
        tokens: 0..tokens,
    };
    let got = launch(trial, &all())?;
    let width = got.len() / tokens;
    for range in [0..1, tokens - 1..tokens, tokens / 2..tokens] {
        let alone = launch(
            trial,
            &How {
                tokens: range.clone(),
                ..all()
            },
        )?;
        let want = &got[range.start * width..range.end * width];
        trial.equal(&format!("bits of tokens {range:?} alone"), &alone, want);
    }
    let fewer_blocks = How {
        blocks: blocks.div_ceil(2),
        ..all()
    };
    let result = launch(trial, &fewer_blocks)?;
    trial.equal("bits with half the blocks", &result, &got);
    let otherwise = How {
        kernel: Some(&other),
        columns: other_columns,
        ..all()
    };
    let result = launch(trial, &otherwise)?;
    trial.equal(&format!("bits with {}", others[1..].join(" ")), &result, &got);
    Ok(got)
}

/// An f32 as three bf16, by cutting off: their sum is the number.
fn split(value: f32) -> [u16; 3] {
    let mut rest = value;
    [0; 3].map(|_| {
        let part = rest.to_bits() & 0xffff_0000;
        rest -= f32::from_bits(part);
        (part >> 16) as u16
    })
}

/// Activations as products with packed weights take them: words, scales, and scaled sums.
struct PackedActivations {
    pub words: Vec<u8>,
    pub scales: Vec<f32>,
    /// Three bf16 of which a sum is the sum, beside those of the other sub-block of two: `[tiles, stride, 4, 4, 2]`.
    pub sums: Vec<u16>,
    pub stride: usize,
}

impl PackedActivations {
    /// Of rows of one length.
    pub fn new(rows: &[Activations], layout: FragmentLayout) -> Self {
        let tiles = tiles_across(rows[0].quants.len());
        let stride = token_stride(rows.len());
        let quads = Quads::new(layout, 1);
        let mut all = Self {
            words: vec![0; tiles * stride * TILE_COLS],
            scales: vec![0.0; tiles * stride * SUB_BLOCKS],
            sums: vec![0; tiles * stride * SUB_BLOCKS * 4],
            stride,
        };
        for (token, row) in rows.iter().enumerate() {
            for (index, &quant) in row.quants.iter().enumerate() {
                let (tile, col) = (index / TILE_COLS, index % TILE_COLS);
                let place = (tile * stride + token) * TILE_COLS + quads.right(col / 4) * 4 + col % 4;
                all.words[place] = quant as u8;
            }
            for (index, (&scale, &sum)) in row.scales.iter().zip(&row.sums).enumerate() {
                let (tile, sub_block) = (index / SUB_BLOCKS * stride + token, index % SUB_BLOCKS);
                all.scales[tile * SUB_BLOCKS + sub_block] = scale;
                for (term, part) in split(scale * sum as f32).into_iter().enumerate() {
                    all.sums[((tile * 4 + sub_block / 2) * 4 + term) * 2 + sub_block % 2] = part;
                }
            }
        }
        all
    }

    /// Quants, scales and scaled sums of rows, in the order of their values.
    pub fn flat(rows: &[Activations]) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
        let sums = |row: &Activations| -> Vec<f32> {
            row.scales
                .iter()
                .zip(&row.sums)
                .map(|(scale, &sum)| scale * sum as f32)
                .collect()
        };
        (
            rows.iter().flat_map(|row| row.quants.clone()).collect(),
            rows.iter().flat_map(|row| row.scales.clone()).collect(),
            rows.iter().flat_map(sums).collect(),
        )
    }

    /// The launch arguments.
    pub fn inputs(&self, trial: &Trial<'_>) -> Result<[Argument; 3], CaseError> {
        Ok([
            trial.input(&self.words)?,
            trial.input(&self.scales)?,
            trial.input(&self.sums)?,
        ])
    }
}

/// Bounds for a product of that many columns: a warp adds the runs of its tiles, then the warps are added.
fn bounds(sums: &[Sum], format: BlockFormat, cols: usize, warps: usize) -> Vec<f64> {
    let scales = if format == BlockFormat::Q6_K { 2 } else { 1 };
    let has_minima = matches!(format, BlockFormat::Q4_K | BlockFormat::Q5_K);
    let tiles = tiles_across(cols).div_ceil(warps);
    let additions = tiles * SUB_BLOCKS * scales + warps;
    let minima = if has_minima { tiles } else { 0 };
    sums.iter()
        .map(|sum| tolerance::packed_dot(additions, minima, sum.magnitude))
        .collect()
}

/// Rows, sub-blocks (less than a tile, and several), tokens.
fn shapes(extent: Extent, width: usize) -> Vec<[std::ops::RangeInclusive<usize>; 3]> {
    let several = 1..=2 * width + 1;
    match extent {
        Extent::Small => vec![[1..=1, 1..=1, 1..=1], [31..=43, 11..=13, 2..=width + 1]],
        Extent::Medium => vec![
            [1..=1, 1..=1, 1..=1],
            [61..=101, 11..=31, width..=width],
            [31..=71, 41..=70, several],
        ],
        Extent::Large => vec![
            [1..=1, 1..=1, 1..=1],
            [1001..=1400, 71..=83, several.clone()],
            [2501..=2701, 300..=331, several],
        ],
    }
}
