//! Every reviewed text through every compiler: no warnings, no spills, the expected instructions, and the costs
//! that `tests/compile-ratchet.csv` holds.
//!
//! What is compiled is the text on disk, through the loaders that a device uses (NVRTC, hipRTC), and for AMD through
//! clang as a second opinion.

mod assembly;
mod clang;
mod matrix;
mod ratchet;
mod table;

use tilekiln_codegen::Generated;
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::compiler::hiprtc::Hiprtc;
use tilekiln_runtime::compiler::nvrtc::Nvrtc;
use tilekiln_runtime::compiler::{Compiler, compile_all};
use tilekiln_tests::requirement::{require, skip};
use tilekiln_tests::variants::{self, reviewed_text, snapshot_path};

use ratchet::Cost;

/// The reviewed texts of a vendor, with what a loader needs to know beside the text.
fn reviewed(vendor: Vendor) -> Vec<Generated> {
    variants::all()
        .filter(|(target, _)| target.vendor == vendor)
        .map(|(target, variant)| {
            let generated = variant.generate(target);
            let path = snapshot_path(&generated);
            let text = reviewed_text(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(
                text.trim_end() == generated.text.trim_end(),
                "{} is not what is generated now; look at it with `cargo insta test --review --test snapshots`",
                path.display()
            );
            Generated { text, ..generated }
        })
        .collect()
}

/// Compiles all of a vendor's texts with its own compiler; `version` names the compiler in the ratchet table.
fn through_the_loader(compiler: &dyn Compiler, version: &str, vendor: Vendor) {
    let sources = reviewed(vendor);
    let mut problems = Vec::new();
    let mut costs = Vec::new();
    for (source, result) in sources.iter().zip(compile_all(compiler, None, &sources, None)) {
        let name = format!("{}/{}", source.target.name, source.file_name);
        let compiled = match result {
            Ok(compiled) => compiled,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        for warning in compiled.warnings() {
            problems.push(format!("{name}:{:?}: warning: {}", warning.line, warning.message));
        }
        costs.push(Cost {
            compiler: version.to_string(),
            target: source.target.name.to_string(),
            kernel: source.symbol.clone(),
            registers: compiled.resources.registers,
            shared_bytes: compiled.resources.shared_bytes,
            spills: compiled.resources.spills,
            scratch_bytes: compiled.resources.scratch_bytes,
        });
    }
    conclude(version, problems, costs);
}

/// What is wrong with a kernel's spills.
fn fault_of_spills(target: &str, kernel: &str, spills: u32) -> Option<String> {
    (spills > 0).then(|| format!("{target} {kernel} spills {spills}"))
}

/// Fails with everything that is wrong: what compilers said, spills, and differences from the ratchet table.
fn conclude(version: &str, mut problems: Vec<String>, costs: Vec<Cost>) {
    problems.extend(
        costs
            .iter()
            .filter_map(|cost| fault_of_spills(&cost.target, &cost.kernel, cost.spills)),
    );
    if problems.is_empty() {
        problems = ratchet::compare(version, costs);
    }
    assert!(problems.is_empty(), "{version}:\n{}", problems.join("\n"));
}

/// NVRTC, where it is with the headers that texts include.
fn nvrtc() -> Option<Nvrtc> {
    let nvrtc = require("nvrtc", Nvrtc::open())?;
    if nvrtc.include().is_none() {
        skip(
            "nvrtc",
            "NVRTC is here, but no folder with cuda_fp16.h; set TILEKILN_CUDA_INCLUDE",
        );
        return None;
    }
    Some(nvrtc)
}

#[test]
fn nvrtc_compiles_every_reviewed_text() {
    let Some(nvrtc) = nvrtc() else { return };
    let (major, minor) = nvrtc.version();
    through_the_loader(&nvrtc, &format!("NVRTC {major}.{minor}"), Vendor::Nvidia);
}

#[test]
fn hiprtc_compiles_every_reviewed_text() {
    let Some(hiprtc) = require("hiprtc", Hiprtc::open()) else {
        return;
    };
    // 71460850 is 7.14.60850
    let version = hiprtc.version();
    let version = format!("ROCm {}.{}", version / 10_000_000, version / 100_000 % 100);
    through_the_loader(&hiprtc, &version, Vendor::Amd);
}

#[test]
fn clang_compiles_every_reviewed_text() {
    let Some(clang) = require("clang", clang::Clang::find()) else {
        return;
    };
    let sources = reviewed(Vendor::Amd);
    let mut problems = Vec::new();
    let mut costs = Vec::new();
    for (source, result) in sources.iter().zip(clang.compile_all(&sources)) {
        let name = format!("{}/{}", source.target.name, source.file_name);
        match result {
            Ok(compiled) => {
                problems.extend(
                    assembly::problems(source, &compiled.assembly)
                        .into_iter()
                        .map(|p| format!("{name}: {p}")),
                );
                costs.push(compiled.cost);
            }
            Err(said) => problems.push(format!("{name}:\n{said}")),
        }
    }
    conclude(clang.version(), problems, costs);
}

/// The compiler has to have its bug, and the check has to see it: clang 19 moves the exchange into the branch.
#[test]
fn an_exchange_that_is_moved_into_a_branch_is_seen() {
    let Some(clang) = require("clang", clang::Clang::find()) else {
        return;
    };
    let text = r#"
extern "C" __attribute__((global)) void moved(float* x) {
    const unsigned thread = __builtin_amdgcn_workitem_id_x();
    const unsigned mine = __builtin_bit_cast(unsigned, x[thread]);
    const unsigned other = __builtin_amdgcn_permlanex16(mine, mine, 0x76543210, 0xfedcba98, false, false);
    const float sum = x[thread] + __builtin_bit_cast(float, other);
    if (thread == 0)
        x[64] = sum;
}
"#;
    let assembly = clang
        .assembly("gfx1150", "moved", text)
        .unwrap_or_else(|said| panic!("{said}"));
    assert!(assembly.contains("v_permlanex16"), "{assembly}");
    match clang.version() {
        "clang 19" => assert_eq!(assembly::exchanges_in_branches(&assembly).len(), 1, "{assembly}"),
        other => eprintln!(
            "{other}: {} in a branch",
            assembly::exchanges_in_branches(&assembly).len()
        ),
    }
}
