//! Products with packed weights, over every format that can be packed; a token's results depend on neither the other
//! tokens, nor the column tiles, the depth of the rings or the grid.

use std::ops::Range;

use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::matmul::packed::layout::Quads;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{SUB_BLOCK, SUB_BLOCKS, TILE_COLS, groups_down, tiles_across};
use tilekiln_runtime::device::{Argument, Loaded};

use super::trial::{for_each, number};
use super::weights::{Format, bits, pack};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::quant::{Activations, BlockFormat, matrix_product};
use crate::reference::{Sum, values};
use crate::tolerance;

/// How a product is divided: warps, slots, column tiles.
type Division = [usize; 3];

pub(super) fn cases() -> Vec<Case> {
    let mut table: Vec<(BlockFormat, Division)> = Vec::new();
    for format in BlockFormat::ALL {
        table.extend([(format, [2, 2, 1]), (format, [3, 1, 2])]);
    }
    table.extend([
        (BlockFormat::Q4_K, [1, 3, 1]),
        (BlockFormat::Q4_K, [2, 2, 4]),
        (BlockFormat::Q6_K, [2, 1, 4]),
        (BlockFormat::Q8_0, [2, 1, 4]),
    ]);
    table
        .into_iter()
        .map(|(format, division)| {
            let settings = settings(format, division);
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            Case::new("packed_product", &settings, move |trial| check(trial, format, division))
        })
        .collect()
}

fn settings(format: BlockFormat, [warps, slots, columns]: Division) -> [String; 4] {
    [
        Format::Blocks(format).setting(),
        format!("warps={warps}"),
        format!("slots={slots}"),
        format!("columns={columns}"),
    ]
}

/// An f32 as three bf16, by cutting off: their sum is the number.
pub(super) fn split(value: f32) -> [u16; 3] {
    let mut rest = value;
    [0; 3].map(|_| {
        let part = rest.to_bits() & 0xffff_0000;
        rest -= f32::from_bits(part);
        (part >> 16) as u16
    })
}

/// Activations as products with packed weights take them: words, scales, and scaled sums.
pub(super) struct PackedActivations {
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
pub(super) fn bounds(sums: &[Sum], format: BlockFormat, cols: usize, warps: usize) -> Vec<f64> {
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

fn check(trial: &mut Trial<'_>, format: BlockFormat, division: Division) -> Result<(), CaseError> {
    let [warps, slots, columns] = division;
    let layout = trial.target().fragments;
    // all that must not matter, changed
    let other_columns = if columns == 1 { 2 } else { 1 };
    let others = settings(format, [warps, slots % 3 + 1, other_columns]);
    let other = trial.variant(&others.each_ref().map(String::as_str))?;
    let width = columns * layout.columns();
    for_each(
        trial,
        shapes(trial.extent, width),
        |trial, [rows, sub_blocks, tokens]| {
            let rows = trial.random.odd_size(rows);
            let cols = (trial.random.odd_size(sub_blocks) * SUB_BLOCK).next_multiple_of(format.elements());
            let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
            trial.shape(format!("{tokens} tokens, {rows} rows of {cols}"));
            let file = Format::Blocks(format).matrix(trial, rows, cols).bytes;
            let weights = pack(format, layout, &file, rows, cols);
            let x = trial.random.activations(tokens * cols);
            let activations: Vec<Activations> = x.chunks_exact(cols).map(Activations::quantise).collect();

            let launch =
                |trial: &mut Trial<'_>, kernel: Option<&Loaded>, columns: usize, blocks: usize, some: Range<usize>| {
                    let some = PackedActivationsOf(&activations[some]);
                    some.launch(trial, kernel, columns, blocks, &weights, rows, cols)
                };
            let groups = groups_down(rows);
            let got = launch(trial, None, columns, groups, 0..tokens)?;
            let sums: Vec<Sum> = activations
                .iter()
                .flat_map(|row| matrix_product(format, &file, row))
                .collect();
            trial.within(&got, &values(&sums), &bounds(&sums, format, cols, warps));

            let of = |range: &Range<usize>| bits(&got[range.start * rows..range.end * rows]);
            for range in [0..1, tokens - 1..tokens, tokens / 2..tokens] {
                let alone = launch(trial, None, columns, groups, range.clone())?;
                trial.equal(&format!("bits of tokens {range:?} alone"), &bits(&alone), &of(&range));
            }
            let fewer_blocks = launch(trial, None, columns, groups.div_ceil(2), 0..tokens)?;
            trial.equal("bits with half the blocks", &bits(&fewer_blocks), &bits(&got));
            let otherwise = launch(trial, Some(&other), other_columns, groups, 0..tokens)?;
            trial.equal(
                &format!("bits with {}", others[1..].join(" ")),
                &bits(&otherwise),
                &bits(&got),
            );
            Ok(())
        },
    )
}

/// Some of a case's tokens.
struct PackedActivationsOf<'a>(&'a [Activations]);

impl PackedActivationsOf<'_> {
    fn launch(
        &self,
        trial: &mut Trial<'_>,
        kernel: Option<&Loaded>,
        columns: usize,
        blocks: usize,
        weights: &[u8],
        rows: usize,
        cols: usize,
    ) -> Result<Vec<f32>, CaseError> {
        let tokens = self.0.len();
        let layout = trial.target().fragments;
        let packed = PackedActivations::new(self.0, layout);
        let [words, scales, sums] = packed.inputs(trial)?;
        let y = trial.output::<f32>(tokens * rows)?;
        let arguments = vec![
            trial.input(weights)?,
            words,
            scales,
            sums,
            y.argument(),
            number(rows),
            number(tiles_across(cols)),
            number(tokens),
            number(packed.stride),
        ];
        let grid = [blocks, tokens.div_ceil(columns * layout.columns()), 1];
        match kernel {
            Some(kernel) => trial.launch_variant(kernel, grid, arguments)?,
            None => trial.launch(grid, arguments)?,
        }
        Ok(trial.result(&y)?)
    }
}
