//! Every kernel that any cell of the attention matrix needs: generated, compiled, without spills.
//!
//! All of them are recorded and written in every run. They are compiled by the compilers that are there: a few dozen, the
//! same in every run, or others with another `TILEKILN_SEED`; instead of those all that `TILEKILN_COMPILE_MATRIX` lists:
//! `all`, targets (`sm_90,gfx1150`), or a target's kernels with a word in their names (`gfx1150:bf16_hd256`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tilekiln_codegen::{Generated, generate};
use tilekiln_dsl::prelude::KernelDef;
use tilekiln_dsl::target::{TARGETS, Target, Vendor};
use tilekiln_runtime::compiler::hiprtc::Hiprtc;
use tilekiln_runtime::compiler::{Compiler, compile_all};
use tilekiln_tests::attention::matrix::{HEAD_DIMS, kernels, pairs};
use tilekiln_tests::random::{Random, SEED_VARIABLE, seed};
use tilekiln_tests::requirement::require;

use super::{fault_of_spills, nvrtc};

/// Lists what is compiled instead of a sample.
const LISTED: &str = "TILEKILN_COMPILE_MATRIX";
/// Kernels of a sample, for each target.
const SAMPLE: usize = 10;

/// A pair of formats and a head_dim.
type Cell = ([&'static str; 2], usize);

/// Every cell of the matrix.
fn cells() -> Vec<Cell> {
    let with_head_dims = |pair| HEAD_DIMS.map(|head_dim| (pair, head_dim));
    pairs().into_iter().flat_map(with_head_dims).collect()
}

/// The texts of the kernels that cells need on a target, as far as they are `wanted`, by symbol; and what is missing or
/// rejected.
fn texts(
    target: &Target,
    cells: &[Cell],
    wanted: impl Fn(Cell, Vec<KernelDef>) -> Vec<KernelDef> + Sync,
) -> (BTreeMap<String, Generated>, Vec<String>) {
    let next = AtomicUsize::new(0);
    let (written, faults) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while let Some(&(pair, head_dim)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            let fault = |text: String| faults.lock().expect("no worker panics").push(text);
            let Some(defs) = kernels(target, pair, head_dim) else {
                fault(format!(
                    "{} {pair:?} head_dim {head_dim}: a cell has no kernel",
                    target.name
                ));
                continue;
            };
            for def in wanted((pair, head_dim), defs) {
                if written.lock().expect("no worker panics").contains_key(&def.symbol()) {
                    continue;
                }
                match write(target, &def) {
                    Ok(text) => drop(written.lock().expect("no worker panics").insert(def.symbol(), text)),
                    Err(reason) => fault(reason),
                }
            }
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let written = written.into_inner().expect("no worker panics");
    (written, faults.into_inner().expect("no worker panics"))
}

fn write(target: &Target, def: &KernelDef) -> Result<Generated, String> {
    let kernel = def.record(target).map_err(|error| error.to_string())?;
    generate(&kernel).map_err(|error| format!("{}: {error}", kernel.symbol))
}

/// Past the test harness, which keeps what `println!` says in a test that passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

#[test]
fn every_kernel_of_the_attention_matrix_is_written() {
    let mut faults = Vec::new();
    for target in TARGETS {
        let start = Instant::now();
        let (written, missing) = texts(target, &cells(), |_, defs| defs);
        faults.extend(missing);
        say(&format!(
            "{}: {} kernels of the attention matrix written in {} s",
            target.name,
            written.len(),
            start.elapsed().as_secs()
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is to be compiled for a target: words in names of kernels. None if there is no list, and a sample is drawn.
fn listed(target: &Target) -> Option<Vec<String>> {
    let list = std::env::var(LISTED).ok()?;
    let mut words = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let (name, word) = entry.split_once(':').unwrap_or((entry, ""));
        let is_known = name == "all" || TARGETS.iter().any(|target| target.name == name);
        assert!(
            is_known,
            "{LISTED} lists `{entry}`: `{name}` is no target; there are {} and `all`",
            TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ")
        );
        if name == "all" || name == target.name {
            words.push(word.to_owned());
        }
    }
    Some(words)
}

/// The sample of a target: a kernel each of some cells, of those that no other cell has. Ranks of cells and of kernels
/// follow from their names, so that a kernel more or less in the matrix changes the sample where it belongs to one of
/// these cells, and nowhere else.
fn sample(target: &Target) -> Vec<Generated> {
    let rank = |name: &str| Random::new(&format!("{} {name}", target.name)).integer(0..=i64::MAX);
    let mut cells = cells();
    cells.sort_by_cached_key(|cell| rank(&format!("{cell:?}")));
    cells.truncate(SAMPLE);
    let first = |([k, v], _): Cell, mut defs: Vec<KernelDef>| {
        defs.retain(|def| def.symbol().contains(&format!("{k}_{v}")));
        defs.sort_by_cached_key(|def| rank(&def.symbol()));
        defs.truncate(1);
        defs
    };
    texts(target, &cells, first).0.into_values().collect()
}

fn compiled(compiler: &dyn Compiler, vendor: Vendor) {
    let mut faults = Vec::new();
    for target in TARGETS.iter().filter(|target| target.vendor == vendor) {
        let listed = listed(target);
        let texts: Vec<Generated> = match &listed {
            None => sample(target),
            Some(words) if words.is_empty() => continue,
            Some(words) => {
                let is_listed = |def: &KernelDef| words.iter().any(|word| def.symbol().contains(word));
                let all = texts(target, &cells(), |_, defs| defs.into_iter().filter(is_listed).collect());
                all.0.into_values().collect()
            }
        };
        assert!(
            !texts.is_empty(),
            "{LISTED}: no kernel of {} has such a word in its name",
            target.name
        );
        let start = Instant::now();
        let (mut spilling, mut most) = (0, 0);
        // some at a time: nobody needs the binaries
        for sources in texts.chunks(64) {
            for (source, result) in sources.iter().zip(compile_all(compiler, None, sources, None)) {
                let name = format!("{} {}", target.name, source.symbol);
                match result {
                    Err(error) => faults.push(format!("{name}: {error}")),
                    Ok(compiled) => {
                        let warnings = compiled.warnings();
                        faults.extend(warnings.iter().map(|warning| format!("{name}: {}", warning.message)));
                        most = most.max(compiled.resources.registers);
                        let spills = compiled.resources.spills;
                        if spills > 0 {
                            spilling += 1;
                            say(&format!("{name} spills {spills}"));
                        }
                        faults.extend(fault_of_spills(target.name, &source.symbol, spills));
                    }
                }
            }
        }
        say(&format!(
            "{}: {} of the attention matrix's kernels in {} s, {spilling} spill, {most} registers at most{}",
            target.name,
            texts.len(),
            start.elapsed().as_secs(),
            match listed {
                None => format!("; a sample, drawn by {SEED_VARIABLE}={}", seed()),
                Some(_) => String::new(),
            }
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nvrtc_compiles_the_attention_matrix() {
    let Some(nvrtc) = nvrtc() else { return };
    compiled(&nvrtc, Vendor::Nvidia);
}

#[test]
fn hiprtc_compiles_the_attention_matrix() {
    let Some(hiprtc) = require("hiprtc", Hiprtc::open()) else {
        return;
    };
    compiled(&hiprtc, Vendor::Amd);
}
