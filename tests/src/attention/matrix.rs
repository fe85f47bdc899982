//! The matrix: head dims × query heads per KV head × pairs of formats × query tokens.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tilekiln_dsl::prelude::KernelDef;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::attention::cache_read::ReadShape;
use tilekiln_kernels::attention::combine::{CombineShape, flash_combine};
use tilekiln_kernels::attention::formats::{find, find_pair};
use tilekiln_kernels::attention::shapes::Shapes;

use super::expected::{Arithmetic, Errors, Expected};
use super::scene::Scene;
use crate::cases::CaseError;

/// Formats of keys, and of values.
pub const FORMATS: [&str; 7] = ["f16", "bf16", "q8_0", "q4_0", "turbo2", "turbo3", "turbo4"];
/// Values per head.
pub const HEAD_DIMS: [usize; 4] = [64, 128, 256, 512];
/// Query heads per KV head.
pub const GQA: [usize; 7] = [1, 2, 3, 4, 5, 8, 16];
/// Query tokens of a sequence.
pub const TOKENS: [usize; 8] = [1, 2, 3, 4, 8, 16, 64, 257];
/// Up to so many tokens are decoded, from so many on they are a prompt.
pub const DECODED: usize = 16;

/// Every pair of formats.
pub fn pairs() -> Vec<[&'static str; 2]> {
    FORMATS.iter().flat_map(|&k| FORMATS.map(|v| [k, v])).collect()
}

/// Every kernel that cells of a pair and head_dim need on a target, each once. None if the pair has no fast attention.
pub fn kernels(target: &Target, names: [&'static str; 2], head_dim: usize) -> Option<Vec<KernelDef>> {
    let pair = find_pair(names)?;
    let [decode, prefill] = pair.flash?;
    let shapes = Shapes::of(target, pair, head_dim)?;
    let [k, v] = [find(names[0])?, find(names[1])?];
    let mut found = BTreeMap::new();
    let mut add = |def: KernelDef| {
        found.insert(def.symbol(), def);
    };
    for gqa in GQA {
        for tokens in TOKENS {
            if tokens <= DECODED {
                add(decode(shapes.decode(gqa, tokens)?.shape));
            }
            if tokens >= DECODED {
                add(prefill(shapes.prefill(gqa)?.shape));
            }
        }
    }
    add((pair.cache_write)(head_dim));
    add((pair.exact)(head_dim));
    add((k.fast?.prepare_queries)(head_dim));
    add((pair.prepare?)(head_dim));
    for (format, values) in [(k, false), (v, true)] {
        let head_dim = (format.stored)(head_dim);
        add((format.cache_read)(ReadShape { head_dim, values }));
    }
    for chunks in [1, 9, 17] {
        let slice = (v.stored)(head_dim).min(128);
        add(flash_combine(CombineShape::of(slice, v.rotated, chunks)));
    }
    Some(found.into_values().collect())
}

/// One cell, measured.
#[derive(Clone, Debug)]
pub struct Line {
    /// Formats of keys and values.
    pub pair: [&'static str; 2],
    /// Values per head.
    pub head_dim: usize,
    /// Query heads per KV head.
    pub gqa: usize,
    /// Query tokens of each sequence.
    pub tokens: usize,
    /// Keys of the longest sequence.
    pub keys: usize,
    /// Sliding window; 0 for none.
    pub window: usize,
    /// What was launched, its shape of blocks, and its errors.
    pub runs: Vec<(&'static str, String, Errors)>,
}

impl Line {
    /// What is wrong; None when nothing is.
    pub fn fault(&self) -> Option<String> {
        let name = format!(
            "{}/{} head_dim {} gqa {} tokens {} keys {} window {}",
            self.pair[0], self.pair[1], self.head_dim, self.gqa, self.tokens, self.keys, self.window
        );
        let fault = |(kernel, shape, errors): &(&str, String, Errors)| {
            (!errors.fault.is_empty()).then(|| format!("{name}: {kernel} {shape}: {}", errors.fault))
        };
        match self.runs.is_empty() {
            true => Some(format!("{name}: nothing was run")),
            false => self.runs.iter().find_map(fault),
        }
    }
}

/// Runs a cell: the last `tokens` tokens of every slot of the scene, with `gqa` query heads per KV head. `flash` and
/// `exact` are the references of at least these rows and heads.
///
/// # Errors
/// Those of kernels and devices.
pub fn run(
    scene: &Scene<'_>,
    flash: &Expected,
    exact: Option<&Expected>,
    gqa: usize,
    tokens: usize,
) -> Result<Line, CaseError> {
    let setup = &scene.setup;
    let rows: Vec<_> = (0..setup.lengths.len())
        .flat_map(|slot| scene.last_rows(slot, tokens))
        .collect();
    let mut line = Line {
        pair: setup.pair,
        head_dim: setup.head_dim,
        gqa,
        tokens,
        keys: setup.lengths.iter().copied().max().unwrap_or(0),
        window: setup.window.unwrap_or(0),
        runs: Vec::new(),
    };
    if tokens <= DECODED {
        let chosen = scene.shapes.decode(gqa, tokens);
        let chosen = chosen.ok_or(CaseError::UnknownKernel("flash_decode of that shape"))?;
        let per = chosen.rows(gqa).min(tokens);
        let got = scene.decode(&rows, gqa, chosen, per)?;
        let shape = format!("{}x{}x{}", chosen.shape.tiles, chosen.shape.teams, chosen.shape.pages);
        line.runs.push(("decode", shape, flash.compare(&rows, gqa, &got)));
        if let Some(exact) = exact {
            let got = scene.exact(&rows, gqa, &exact.exact_queries(&rows, gqa))?;
            line.runs
                .push(("exact", String::new(), exact.compare(&rows, gqa, &got)));
        }
    }
    if tokens >= DECODED {
        let chosen = scene.shapes.prefill(gqa);
        let chosen = chosen.ok_or(CaseError::UnknownKernel("flash_prefill of that shape"))?;
        let got = scene.prefill(&rows, gqa, chosen)?;
        let shape = format!("{}x{}x{}", chosen.shape.tiles, chosen.shape.teams, chosen.shape.pages);
        line.runs.push(("prefill", shape, flash.compare(&rows, gqa, &got)));
    }
    Ok(line)
}

/// The references that cells of a scene need: of all drawn rows for flash, of those that are decoded for exact attention.
///
/// # Errors
/// Those of kernels and devices.
pub fn references(scene: &Scene<'_>) -> Result<[Expected; 2], CaseError> {
    let rows = |count: usize| {
        let slots = 0..scene.setup.lengths.len();
        slots.flat_map(|slot| scene.last_rows(slot, count)).collect::<Vec<_>>()
    };
    let most = scene.setup.most_rows;
    Ok([
        Expected::of(scene, Arithmetic::Flash, rows(most), scene.setup.most_gqa)?,
        Expected::of(scene, Arithmetic::Exact, rows(most.min(DECODED)), scene.setup.most_gqa)?,
    ])
}

/// The header of [`csv`].
pub const HEADER: &str = "device,target,k,v,head_dim,gqa,tokens,keys,window,kernel,blocks,elements,max_error,bound_there,\
                          max_error_over_bound,verdict";

/// A table of cells: one line for each launch that was compared.
pub fn csv(device: &str, target: &str, lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        for (kernel, shape, errors) in &line.runs {
            let verdict = if errors.fault.is_empty() { "ok" } else { "WRONG" };
            let _ = writeln!(
                text,
                "{device},{target},{},{},{},{},{},{},{},{kernel},{shape},{},{:.3e},{:.3e},{:.4},{verdict}",
                line.pair[0],
                line.pair[1],
                line.head_dim,
                line.gqa,
                line.tokens,
                line.keys,
                line.window,
                errors.count,
                errors.error,
                errors.bound,
                errors.ratio
            );
        }
    }
    text
}

/// What the cells of a pair and head_dim come to.
#[derive(Default)]
struct Worst {
    cells: usize,
    /// Largest error over its bound, and that bound.
    ratio: f64,
    bound: f64,
    /// Largest error of each kernel.
    decode: f64,
    prefill: f64,
    exact: f64,
}

impl Worst {
    fn add(&mut self, line: &Line) {
        self.cells += 1;
        for (kernel, _, errors) in &line.runs {
            let largest = match *kernel {
                "prefill" => &mut self.prefill,
                "exact" => &mut self.exact,
                _ => &mut self.decode,
            };
            *largest = largest.max(errors.error);
            if errors.ratio >= self.ratio {
                (self.ratio, self.bound) = (errors.ratio, errors.bound);
            }
        }
    }
}

/// The worst of each pair and head_dim, as Markdown: how many cells, largest errors, and largest error over bound.
pub fn summary(lines: &[Line]) -> String {
    let mut found: BTreeMap<_, Worst> = BTreeMap::new();
    for line in lines {
        found.entry((line.pair, line.head_dim)).or_default().add(line);
    }
    let mut text = "| keys | values | head_dim | cells | decode | prefill | exact | error / bound | bound there |\n\
                    |---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (([k, v], head_dim), worst) in found {
        let Worst {
            cells,
            ratio,
            bound,
            decode,
            prefill,
            exact,
        } = worst;
        let _ = writeln!(
            text,
            "| {k} | {v} | {head_dim} | {cells} | {decode:.2e} | {prefill:.2e} | {exact:.2e} | {ratio:.4} | {bound:.2e} |"
        );
    }
    text
}
