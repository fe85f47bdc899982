//! Every kernel that any cell of the attention matrix needs: generated, compiled, without spills.
//!
//! All of them are recorded and written in every run. They are compiled by the compilers that are there: a few dozen, others
//! in every run; all of them for the targets that `TILEKILN_COMPILE_MATRIX` lists (`sm_90,gfx1150`, or `all`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use tilekiln_codegen::{Generated, generate};
use tilekiln_dsl::prelude::KernelDef;
use tilekiln_dsl::target::{TARGETS, Target, Vendor};
use tilekiln_runtime::compiler::hiprtc::Hiprtc;
use tilekiln_runtime::compiler::{Compiler, compile_all};
use tilekiln_tests::attention::matrix::{HEAD_DIMS, kernels, pairs};
use tilekiln_tests::random::{Random, SEED_VARIABLE, seed};
use tilekiln_tests::requirement::require;

use super::{fault_of_spills, nvrtc};

/// Lists the targets whose kernels are all compiled.
const COMPLETE: &str = "TILEKILN_COMPILE_MATRIX";
/// Kernels of a sample, for each target.
const SAMPLE: usize = 10;

/// The texts of a target's kernels, by symbol, and what is missing or rejected.
fn all(target: &Target) -> (BTreeMap<String, Generated>, Vec<String>) {
    let cells: Vec<_> = pairs()
        .into_iter()
        .flat_map(|pair| HEAD_DIMS.map(|head_dim| (pair, head_dim)))
        .collect();
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
            for def in defs {
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
        let (written, missing) = all(target);
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

fn compiled(compiler: &dyn Compiler, vendor: Vendor) {
    let complete = std::env::var(COMPLETE).unwrap_or_default();
    let fresh = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |time| u64::from(time.subsec_nanos()));
    let chosen = std::env::var(SEED_VARIABLE).map_or(fresh, |_| seed());
    let mut faults = Vec::new();
    for target in TARGETS.iter().filter(|target| target.vendor == vendor) {
        let is_complete = complete.split(',').any(|name| name == "all" || name == target.name);
        let (texts, _) = all(target);
        let mut texts: Vec<Generated> = texts.into_values().collect();
        if !is_complete {
            say(&format!("{}: again with {SEED_VARIABLE}={chosen}", target.name));
            let mut random = Random::with_seed(chosen, target.name);
            let count = texts.len() as i64;
            let chosen = (0..SAMPLE).map(|_| texts[random.integer(0..=count - 1) as usize].clone());
            texts = chosen.collect();
        }
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
                        spilling += usize::from(spills > 0);
                        faults.extend(fault_of_spills(target.name, &source.symbol, spills));
                    }
                }
            }
        }
        say(&format!(
            "{}: {} of the attention matrix's kernels in {} s, {spilling} spill, {most} registers at most",
            target.name,
            texts.len(),
            start.elapsed().as_secs()
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
