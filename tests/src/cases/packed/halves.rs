//! split_rows and packed_halves, in both halves.

use half::{bf16, f16};
use tilekiln_kernels::matmul::packed::layout::Quads;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{SUB_BLOCK, SUB_BLOCKS, TILE_COLS, groups_down, tiles_across};

use super::super::trial::{for_each, number};
use super::super::weights::{Format, bits};
use super::super::{Case, CaseError, Extent, Trial};
use super::{Division, How, invariant, settings, shapes, split};
use crate::reference::matmul::{MatmulShape, matmul_transposed};
use crate::reference::{Sum, values, widen};
use crate::tolerance;

/// Which half.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    F16,
    Bf16,
}

impl Half {
    fn setting(self) -> &'static str {
        match self {
            Self::F16 => "half=f16",
            Self::Bf16 => "half=bf16",
        }
    }

    fn terms(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::Bf16 => 3,
        }
    }

    /// The terms of 32 activations, as bits and as numbers, and the power of two that multiplies them.
    fn split(self, values: &[f32]) -> (f32, Vec<Vec<u16>>, Vec<Vec<f64>>) {
        if self == Self::Bf16 {
            let terms: Vec<Vec<u16>> = values.iter().map(|&value| split(value).to_vec()).collect();
            let number = |bits: &u16| bf16::from_bits(*bits).to_f64();
            let numbers = terms.iter().map(|terms| terms.iter().map(number).collect()).collect();
            return (1.0, terms, numbers);
        }
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let power = f32::from_bits((largest.to_bits() & 0x7f80_0000).clamp(1 << 23, 253 << 23));
        let terms = values.iter().map(|value| {
            let scaled = value * (1.0 / power);
            let leading = f16::from_f32(scaled);
            let rest = f16::from_f32(scaled - leading.to_f32());
            [leading, rest]
        });
        let numbers = terms.clone().map(|terms| terms.map(f16::to_f64).to_vec()).collect();
        (
            power,
            terms.map(|terms| terms.map(f16::to_bits).to_vec()).collect(),
            numbers,
        )
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for half in [Half::F16, Half::Bf16] {
        for threads in [64, 32, 96] {
            let threads_setting = format!("threads={threads}");
            cases.push(Case::new(
                "split_rows",
                &[half.setting(), &threads_setting],
                move |trial| check_split(trial, half, threads),
            ));
        }
        for division in [[2, 2, 1], [1, 1, 2], [3, 1, 4]] {
            let settings = settings(half.setting(), division);
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new("packed_halves", &settings, move |trial| {
                check_product(trial, half, division)
            }));
        }
    }
    cases
}

/// Activations of some rows in the order of a trial's target, and what their terms add up to.
struct Split {
    words: Vec<u16>,
    scales: Vec<f32>,
    numbers: Vec<f64>,
    stride: usize,
}

impl Split {
    fn new(trial: &Trial<'_>, half: Half, x: &[f32], cols: usize) -> Self {
        let rows = x.len() / cols;
        let (tiles, stride) = (tiles_across(cols), token_stride(rows));
        let quads = Quads::new(trial.target().fragments, 2);
        let mut all = Self {
            words: vec![0; tiles * stride * half.terms() * TILE_COLS],
            scales: vec![0.0; tiles * stride * SUB_BLOCKS],
            numbers: Vec::new(),
            stride,
        };
        for (row, x) in x.chunks_exact(cols).enumerate() {
            for (group, values) in x.chunks_exact(SUB_BLOCK).enumerate() {
                let (power, terms, numbers) = half.split(values);
                let (tile, sub_block) = (group / SUB_BLOCKS * stride + row, group % SUB_BLOCKS);
                all.scales[tile * SUB_BLOCKS + sub_block] = power;
                for (index, (terms, numbers)) in terms.iter().zip(numbers).enumerate() {
                    let col = sub_block * SUB_BLOCK + index;
                    for (term, &bits) in terms.iter().enumerate() {
                        let first = (tile * half.terms() + term) * TILE_COLS;
                        all.words[first + quads.right(col / 2) * 2 + col % 2] = bits;
                    }
                    all.numbers.push(numbers.iter().sum::<f64>() * f64::from(power));
                }
            }
        }
        all
    }
}

fn check_split(trial: &mut Trial<'_>, half: Half, threads: usize) -> Result<(), CaseError> {
    // rows, groups of 32 values
    let shapes = match trial.extent {
        Extent::Small => vec![(1, 1), (3, 11)],
        Extent::Medium => vec![(1, 1), (11, 8), (5, 31)],
        Extent::Large => vec![(1, 1), (37, 80), (300, 91)],
    };
    for_each(trial, shapes, |trial, (rows, groups)| {
        let cols = groups * SUB_BLOCK;
        trial.shape(format!("{rows} rows of {cols}"));
        let mut x = trial.random.activations(rows * cols);
        if groups > 8 {
            // zeros; what is out of f16's range; what vanishes beside its neighbours
            x[32..64].fill(0.0);
            x[33] = -0.0;
            x[70] = 3e30;
            x[100] = -1e-30;
            x[130..160].fill(0.0);
            x[140] = 1e-20;
        }
        let want = Split::new(trial, half, &x, cols);
        let (tiles, stride) = (tiles_across(cols), want.stride);
        let words = trial.output::<u16>(tiles * stride * half.terms() * TILE_COLS)?;
        let scales = trial.output::<f32>(tiles * stride * SUB_BLOCKS)?;
        let mut arguments = vec![trial.input(&x)?, words.argument(), scales.argument()];
        arguments.extend([cols, stride].map(number));
        trial.launch([(tiles * TILE_COLS).div_ceil(threads * 4), rows, 1], arguments)?;

        let (words, scales) = (trial.result(&words)?, trial.result(&scales)?);
        let (mut found, mut expected) = (Vec::<u16>::new(), Vec::<u16>::new());
        let (mut powers, mut expected_powers) = (Vec::new(), Vec::new());
        for tile in 0..tiles {
            let of = |width: usize| tile * stride * width..(tile * stride + rows) * width;
            found.extend(&words[of(half.terms() * TILE_COLS)]);
            expected.extend(&want.words[of(half.terms() * TILE_COLS)]);
            powers.extend(bits(&scales[of(SUB_BLOCKS)]));
            expected_powers.extend(bits(&want.scales[of(SUB_BLOCKS)]));
        }
        trial.equal("bits of terms", &found, &expected);
        if half == Half::F16 {
            // past the last column the power of zeros
            let smallest = f32::from_bits(1 << 23).to_bits();
            let expected_powers: Vec<u32> = expected_powers.iter().map(|&power| power.max(smallest)).collect();
            trial.equal("bits of powers", &powers, &expected_powers);
        }
        let bounds: Vec<f64> = widen(&x)
            .iter()
            .enumerate()
            .map(|(index, &value)| match half {
                Half::F16 => {
                    let group = index % cols / SUB_BLOCK;
                    let tile = group / SUB_BLOCKS * stride + index / cols;
                    tolerance::two_halves(value, f64::from(want.scales[tile * SUB_BLOCKS + group % SUB_BLOCKS]))
                }
                Half::Bf16 => tolerance::three_brains(value),
            })
            .collect();
        // what the reference's terms are worth, which the kernel's equal
        let numbers: Vec<f32> = want.numbers.iter().map(|&number| number as f32).collect();
        trial.within(&numbers, &widen(&x), &bounds);
        Ok(())
    })
}

fn check_product(trial: &mut Trial<'_>, half: Half, division: Division) -> Result<(), CaseError> {
    let [warps, _, columns] = division;
    let layout = trial.target().fragments;
    let format = if half == Half::F16 { Format::F16 } else { Format::Bf16 };
    let shapes = shapes(trial.extent, columns * layout.columns());
    for_each(trial, shapes, |trial, [rows, sub_blocks, tokens]| {
        let (rows, cols) = (
            trial.random.odd_size(rows),
            trial.random.odd_size(sub_blocks) * SUB_BLOCK,
        );
        let tokens = trial.random.integer(*tokens.start() as i64..=*tokens.end() as i64) as usize;
        trial.shape(format!("{tokens} tokens, {rows} rows of {cols}"));
        let matrix = format.matrix(trial, rows, cols);
        let weights = format.pack(layout, &matrix.bytes, rows, cols);
        let x = trial.random.activations(tokens * cols);
        let launch = |trial: &mut Trial<'_>, how: &How<'_>| {
            let some = Split::new(trial, half, &x[how.tokens.start * cols..how.tokens.end * cols], cols);
            let y = trial.output::<f32>(how.tokens.len() * rows)?;
            let mut arguments = vec![
                trial.input(&weights)?,
                trial.input(&some.words)?,
                trial.input(&some.scales)?,
            ];
            arguments.push(y.argument());
            arguments.extend([rows, tiles_across(cols), how.tokens.len(), some.stride].map(number));
            how.launch(trial, arguments)?;
            Ok(bits(&trial.result(&y)?))
        };
        let got = invariant(trial, (half.setting(), division), (tokens, groups_down(rows)), launch)?;
        let numbers = Split::new(trial, half, &x, cols).numbers;
        let shape = MatmulShape {
            m: tokens,
            n: rows,
            k: cols,
        };
        let sums: Vec<Sum> = matmul_transposed(&numbers, &matrix.values, shape);
        let of_warp = tiles_across(cols).div_ceil(warps) * SUB_BLOCKS;
        let (matrix_terms, additions) = match half {
            Half::F16 => (2 * SUB_BLOCK, of_warp + warps),
            Half::Bf16 => (3 * SUB_BLOCK * of_warp, warps),
        };
        let bounds: Vec<f64> = sums
            .iter()
            .map(|sum| tolerance::packed_halves(matrix_terms, additions, sum.magnitude))
            .collect();
        let got: Vec<f32> = got.into_iter().map(f32::from_bits).collect();
        trial.within(&got, &values(&sums), &bounds);
        Ok(())
    })
}
