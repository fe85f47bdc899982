//! What happens to rows between products: prepare_rows, prepare_norm, prepare_residual and prepare_residual_norm. The f32
//! results against references, int8 against the f32 results they are made of, and the order of everything.

use std::ops::Range;

use tilekiln_kernels::matmul::packed::layout::Quads;
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{SUB_BLOCK, SUB_BLOCKS, TILE_COLS, tiles_across};
use tilekiln_runtime::device::Argument;

use super::super::trial::{for_each, number};
use super::super::weights::bits;
use super::super::{Case, CaseError, Extent, Trial};
use super::{PackedActivations, split};
use crate::reference::norm::rms_norm;
use crate::reference::quant::Activations;
use crate::reference::residual::residual_norm;
use crate::reference::widen;
use crate::tolerance;

/// What a kernel does to a row before it becomes int8.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rows,
    Norm,
    Residual { parts: usize },
    ResidualNorm { keep: bool, parts: usize },
}

impl Kind {
    /// Parts in which the branch comes; 0 where there is none.
    fn parts(self) -> usize {
        match self {
            Self::Rows | Self::Norm => 0,
            Self::Residual { parts } | Self::ResidualNorm { parts, .. } => parts,
        }
    }

    /// Whether the normed row is kept as f32.
    fn keeps(self) -> bool {
        matches!(self, Self::ResidualNorm { keep: true, .. })
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (threads, chunks) in [(32, 3), (64, 4), (320, 2), (640, 1)] {
        for (name, kind) in [
            ("prepare_rows", Kind::Rows),
            ("prepare_norm", Kind::Norm),
            ("prepare_residual", Kind::Residual { parts: 1 }),
            ("prepare_residual", Kind::Residual { parts: 4 }),
            ("prepare_residual_norm", Kind::ResidualNorm { keep: false, parts: 1 }),
            ("prepare_residual_norm", Kind::ResidualNorm { keep: true, parts: 3 }),
        ] {
            let mut settings = vec![format!("threads={threads}"), format!("chunks={chunks}")];
            if let Kind::ResidualNorm { keep, .. } = kind {
                settings.push(format!("keep={keep}"));
            }
            if kind.parts() > 1 {
                settings.push(format!("parts={}", kind.parts()));
            }
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new(name, &settings, move |trial| {
                check(trial, kind, threads, chunks)
            }));
        }
    }
    cases
}

/// The inputs of a launch.
struct Inputs {
    cols: usize,
    x: Vec<f32>,
    /// The parts of the branch, each as long as `x`, and their sum in order, as f32.
    branch_parts: Vec<Vec<f32>>,
    branch: Vec<f32>,
    w: Vec<f32>,
    next_w: Vec<f32>,
    eps: f32,
    scale: f32,
}

/// What a launch gives, in the order of the rows.
struct Results {
    /// The residual stream behind the branch.
    x: Vec<f32>,
    normed: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<[u16; 4]>,
}

fn launch(trial: &mut Trial<'_>, kind: Kind, inputs: &Inputs, some: Range<usize>) -> Result<Results, CaseError> {
    let Inputs { cols, .. } = *inputs;
    let (rows, tiles) = (some.len(), tiles_across(cols));
    let of = |values: &[f32]| values[some.start * cols..some.end * cols].to_vec();
    let stride = token_stride(rows);
    let x = trial.in_out(&of(&inputs.x))?;
    let normed = trial.output::<f32>(rows * cols)?;
    let words = trial.output::<u8>(tiles * stride * TILE_COLS)?;
    let scales = trial.output::<f32>(tiles * stride * SUB_BLOCKS)?;
    let sums = trial.output::<u16>(tiles * stride * SUB_BLOCKS * 4)?;
    let mut arguments = vec![x.argument()];
    if kind.parts() > 0 {
        let parts: Vec<f32> = inputs.branch_parts.iter().flat_map(|part| of(part)).collect();
        arguments.push(trial.input(&parts)?);
    }
    if kind != Kind::Rows {
        arguments.push(trial.input(&inputs.w)?);
    }
    if matches!(kind, Kind::ResidualNorm { .. }) {
        arguments.extend([trial.input(&inputs.next_w)?, normed.argument()]);
    }
    arguments.extend([
        words.argument(),
        scales.argument(),
        sums.argument(),
        number(cols),
        number(stride),
    ]);
    if kind != Kind::Rows {
        arguments.push(Argument::F32(inputs.eps));
    }
    if kind.parts() > 0 {
        arguments.push(Argument::F32(inputs.scale));
    }
    trial.launch([rows, 1, 1], arguments)?;

    let quads = Quads::new(trial.target().fragments, 1);
    let (words, scales, sums) = (trial.result(&words)?, trial.result(&scales)?, trial.result(&sums)?);
    let mut results = Results {
        x: trial.result(&x)?,
        normed: if kind.keeps() {
            trial.result(&normed)?
        } else {
            Vec::new()
        },
        quants: Vec::new(),
        scales: Vec::new(),
        sums: Vec::new(),
    };
    let mut padding = Vec::new();
    for row in 0..rows {
        for col in 0..tiles * TILE_COLS {
            let first = col / TILE_COLS * stride + row;
            let quant = words[first * TILE_COLS + quads.right(col % TILE_COLS / 4) * 4 + col % 4];
            let group = first * SUB_BLOCKS + col % TILE_COLS / SUB_BLOCK;
            match (col < cols, col % SUB_BLOCK) {
                (true, 0) => {
                    results.quants.push(quant as i8);
                    results.scales.push(scales[group]);
                    results.sums.push(of_group(&sums, group));
                }
                (true, _) => results.quants.push(quant as i8),
                (false, _) => {
                    padding.extend([u32::from(quant), scales[group].to_bits()]);
                    padding.extend(of_group(&sums, group).map(u32::from));
                }
            }
        }
    }
    if !padding.is_empty() {
        trial.equal("zeros past the last column", &padding, &vec![0; padding.len()]);
    }
    Ok(results)
}

/// The terms of a sub-block's sum, and nothing.
fn of_group(sums: &[u16], group: usize) -> [u16; 4] {
    let (tile, sub_block) = (group / SUB_BLOCKS, group % SUB_BLOCKS);
    std::array::from_fn(|term| sums[((tile * 4 + sub_block / 2) * 4 + term) * 2 + sub_block % 2])
}

/// The terms that a sum must have.
fn terms(sum: f32) -> [u16; 4] {
    let [first, second, third] = split(sum);
    [first, second, third, 0]
}

fn check(trial: &mut Trial<'_>, kind: Kind, threads: usize, chunks: usize) -> Result<(), CaseError> {
    // rows, groups of 32 columns: one; no whole tile; as many as there are threads for
    let most = threads * chunks * 4 / TILE_COLS * TILE_COLS / SUB_BLOCK;
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1), (2..=3, most.min(11))],
        Extent::Medium => vec![(1..=1, 1), (11..=13, most.min(11)), (2..=5, most)],
        Extent::Large => vec![(1..=1, 1), (11..=31, most.min(11)), (31..=61, most)],
    };
    for_each(trial, shapes, |trial, (rows, groups)| {
        let rows = trial.random.integer(*rows.start() as i64..=*rows.end() as i64) as usize;
        let cols = groups * SUB_BLOCK;
        trial.shape(format!("{rows} rows of {cols}"));
        let branch_parts: Vec<Vec<f32>> = (0..kind.parts().max(1))
            .map(|_| trial.random.activations(rows * cols))
            .collect();
        let sum = |index: usize| {
            branch_parts[1..]
                .iter()
                .fold(branch_parts[0][index], |sum, part| sum + part[index])
        };
        let inputs = Inputs {
            cols,
            x: trial.random.activations(rows * cols),
            branch: (0..rows * cols).map(sum).collect(),
            branch_parts,
            w: trial.random.normals(cols, 1.0),
            next_w: trial.random.normals(cols, 1.0),
            eps: 10_f32.powi(-(trial.random.integer(4..=6) as i32)),
            scale: (0.1 + trial.random.uniform()) as f32,
        };
        let got = launch(trial, kind, &inputs, 0..rows)?;
        check_floats(trial, kind, &inputs, &got, threads, chunks);
        check_int8(trial, kind, &inputs, &got, threads, chunks);

        let alone = launch(trial, kind, &inputs, rows - 1..rows)?;
        let last = |values: &[f32], width: usize| bits(&values[(rows - 1) * width..]);
        trial.equal("bits of x of the last row alone", &bits(&alone.x), &last(&got.x, cols));
        trial.equal("bits of its scales", &bits(&alone.scales), &last(&got.scales, groups));
        trial.equal("its quants", &alone.quants, &got.quants[(rows - 1) * cols..]);
        Ok(())
    })
}

/// Each thread its values, five steps within a warp, one addition for each warp.
fn additions(threads: usize, chunks: usize) -> usize {
    4 * chunks + 5 + threads / 32
}

fn check_floats(trial: &mut Trial<'_>, kind: Kind, inputs: &Inputs, got: &Results, threads: usize, chunks: usize) {
    let additions = additions(threads, chunks);
    if matches!(kind, Kind::Rows | Kind::Norm) {
        trial.equal("x, which is only read", &bits(&got.x), &bits(&inputs.x));
        return;
    }
    let scale = f64::from(inputs.scale);
    let (x, branch, w) = (widen(&inputs.x), widen(&inputs.branch), widen(&inputs.w));
    let (want, sizes) = residual_norm(&x, &branch, &w, f64::from(inputs.eps), scale);
    let bounds: Vec<f64> = x
        .iter()
        .zip(sizes)
        .map(|(&x, size)| tolerance::residual_norm(additions, x, size, scale))
        .collect();
    trial.within(&got.x, &want, &bounds);
    if kind.keeps() {
        let want = rms_norm(
            &widen(&got.x),
            inputs.cols,
            Some(&widen(&inputs.next_w)),
            f64::from(inputs.eps),
        );
        let bounds: Vec<f64> = want
            .iter()
            .map(|&value| tolerance::rms_norm(additions, value))
            .collect();
        trial.within(&got.normed, &want, &bounds);
    }
}

/// int8 against the f32 values they come from: those that the kernel stored, or their norm.
fn check_int8(trial: &mut Trial<'_>, kind: Kind, inputs: &Inputs, got: &Results, threads: usize, chunks: usize) {
    let cols = inputs.cols;
    let exact = match kind {
        Kind::Rows | Kind::Residual { .. } => Some(&got.x),
        _ if kind.keeps() => Some(&got.normed),
        _ => None,
    };
    if let Some(values) = exact {
        let rows: Vec<Activations> = values.chunks_exact(cols).map(Activations::quantise).collect();
        let (quants, scales, sums) = PackedActivations::flat(&rows);
        trial.equal("quants", &got.quants, &quants);
        trial.equal("bits of scales", &bits(&got.scales), &bits(&scales));
        let sums: Vec<[u16; 4]> = sums.into_iter().map(terms).collect();
        trial.equal("terms of sums", &got.sums, &sums);
        return;
    }
    let w = if kind == Kind::Norm { &inputs.w } else { &inputs.next_w };
    let values = rms_norm(&widen(&got.x), cols, Some(&widen(w)), f64::from(inputs.eps));
    let additions = additions(threads, chunks);
    let decoded: Vec<f32> = got
        .quants
        .iter()
        .enumerate()
        .map(|(index, &quant)| got.scales[index / SUB_BLOCK] * f32::from(quant))
        .collect();
    let bounds: Vec<f64> = values
        .iter()
        .enumerate()
        .map(|(index, &value)| {
            let norm = tolerance::rms_norm(additions, value);
            tolerance::int8_of(norm, got.scales[index / SUB_BLOCK], value)
        })
        .collect();
    trial.within(&decoded, &values, &bounds);
    let highest: Vec<f64> = values
        .chunks_exact(SUB_BLOCK)
        .map(|group| group.iter().fold(0.0_f64, |most, value| most.max(value.abs())))
        .collect();
    let want: Vec<f64> = highest.iter().map(|highest| highest / 127.0).collect();
    let bounds: Vec<f64> = highest
        .iter()
        .map(|&highest| tolerance::int8_scale(tolerance::rms_norm(additions, highest), highest))
        .collect();
    trial.within(&got.scales, &want, &bounds);
    let sums: Vec<[u16; 4]> = got
        .quants
        .chunks_exact(SUB_BLOCK)
        .zip(&got.scales)
        .map(|(group, scale)| terms(scale * group.iter().map(|&quant| f32::from(quant)).sum::<f32>()))
        .collect();
    trial.equal("terms of sums", &got.sums, &sums);
}
