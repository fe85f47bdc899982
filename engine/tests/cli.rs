//! The command line: what it prints where, and its exit codes (0 done, 1 failed, 2 usage).

mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::Stdio;

use serde_json::Value;
use support::{Run, command, refused};
use tilekiln_dsl::target::TARGETS;
use tilekiln_kernels::planted::PLANTED;
use tilekiln_kernels::registry::KERNELS;

/// Values of a key in a list of objects.
fn column<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    let rows = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    rows.iter()
        .map(|row| row[key].as_str().unwrap_or_else(|| panic!("no {key}: {row}")))
        .collect()
}

fn kernel_names() -> Vec<&'static str> {
    KERNELS.iter().map(|entry| entry.name).collect()
}

/// Command line, exit code, and what stderr has to name.
#[test]
fn what_cannot_be_is_named() {
    let all_kernels = kernel_names().join(", ");
    let all_targets = TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let table: &[(&str, i32, &[&str])] = &[
        (
            "emit rms_norn",
            2,
            &["`rms_norn`", "did you mean rms_norm?", &all_kernels],
        ),
        ("emit zzzzzzzz", 2, &["`zzzzzzzz`", &all_kernels]),
        ("emit rms_norm --target sm_9", 2, &["`sm_9`", &all_targets]),
        ("emit rms_norm --set color=red", 2, &["`color`", "element, threads"]),
        ("emit best_token --set color=red", 2, &["`color`", "it has none"]),
        ("emit rms_norm --set element=f8", 2, &["element=f8", "f16, bf16, f32"]),
        ("emit rms_norm --set threads=many", 2, &["threads=many", "whole number"]),
        ("emit rms_norm --set threads=-1", 2, &["threads=-1", "whole number"]),
        ("emit rms_norm --set element", 2, &["`element`", "key=value"]),
        ("emit --set element=f16", 2, &["--set belongs to one kernel"]),
        (
            "emit flash_decode --set k=q9",
            2,
            &["k=q9", "f32, f16, bf16, q8_0, q4_0, turbo2, turbo3"],
        ),
        ("emit flash_decode --set tiles=9", 2, &["tiles=9", "1 to 8"]),
        (
            "emit row_product --set weight=q3_k",
            2,
            &["weight=q3_k", "q4_0, q5_0, q8_0, q4_k, q5_k, q6_k"],
        ),
        ("emit rms_norm --target host", 1, &["`host`", &all_targets]),
        (
            "emit rms_norm --set threads=100",
            1,
            &["100 threads", "norm.rs", "multiples of 32"],
        ),
        ("check zzzzzzzz", 2, &["`zzzzzzzz`", &all_kernels]),
        ("check rms_norm --target sm_9", 2, &["`sm_9`", &all_targets]),
        ("check rms_norm --rounds 0", 2, &["--rounds"]),
        ("check rms_norm --planted", 2, &["--planted"]),
        ("check --set element=f16", 2, &["--set belongs to one kernel"]),
        ("kernels --loud", 2, &["--loud"]),
        ("frobnicate", 2, &["frobnicate"]),
        ("", 2, &["Usage"]),
    ];
    for (line, code, named) in table {
        let run = refused(line, *code, named);
        assert!(
            !run.stderr.contains("tilekiln_"),
            "`{line}` names a crate:\n{}",
            run.stderr
        );
    }
}

#[test]
fn help_says_what_there_is() {
    let help = Run::new(&["--help"]).ended(0).stdout;
    for name in ["emit", "kernels", "check", "doctor", "run", "serve", "bench", "plan"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
        let help = Run::new(&[name, "--help"]).ended(0).stdout;
        assert!(
            help.contains("--json") && help.contains(&format!("Usage: tilekiln {name}")),
            "{help}"
        );
    }
    let version = Run::new(&["--version"]).ended(0).stdout;
    assert_eq!(version.trim(), concat!("tilekiln ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn kernels_lists_all_with_their_settings() {
    let text = Run::new(&["kernels"]).ended(0).stdout;
    let json = Run::new(&["kernels", "--json"]).ended(0).json();
    assert_eq!(column(&json, "name"), kernel_names());
    for (entry, listed) in KERNELS.iter().zip(json.as_array().expect("a list")) {
        assert!(
            text.lines().any(|line| line.starts_with(&format!("{}  ", entry.name))),
            "{text}"
        );
        assert!(!listed["summary"].as_str().unwrap_or_default().is_empty(), "{listed}");
        assert!(
            listed["source"]
                .as_str()
                .is_some_and(|source| source.starts_with("dsl/kernels/src/")),
            "{listed}"
        );
        let keys: Vec<_> = entry.parameters.iter().map(|parameter| parameter.key).collect();
        assert_eq!(column(&listed["settings"], "key"), keys);
        for parameter in entry.parameters {
            assert!(
                text.contains(&format!("--set {}={}", parameter.key, parameter.default)),
                "{text}"
            );
        }
    }
    let planted = Run::new(&["kernels", "--planted", "--json"]).ended(0).json();
    assert_eq!(
        column(&planted, "name"),
        PLANTED.iter().map(|planted| planted.entry.name).collect::<Vec<_>>()
    );
}

#[test]
fn emit_prints_one_text() {
    let run = Run::new(&[
        "emit",
        "rms_norm",
        "--target",
        "sm_80",
        "--set",
        "element=bf16,threads=128",
    ])
    .ended(0);
    assert_eq!(run.stderr, "");
    assert!(run.stdout.starts_with("// kernel   rms_norm<bf16>"), "{}", run.stdout);
    assert!(run.stdout.contains("rms_norm_bf16_t128("), "{}", run.stdout);
    let again = Run::new(&[
        "emit",
        "rms_norm",
        "--target",
        "sm_80",
        "--set",
        "element=bf16",
        "--set",
        "threads=128",
    ]);
    assert_eq!(again.ended(0).stdout, run.stdout, "settings may be given one by one");

    let hip = Run::new(&["emit", "rms_norm", "--target", "gfx1150"]).ended(0).stdout;
    assert!(hip.contains("// target   gfx1150") && hip.contains("_Float16"), "{hip}");
    let default = Run::new(&["emit", "rms_norm"]).ended(0).stdout;
    assert!(default.contains("// target   sm_90"), "{default}");
}

#[test]
fn emit_as_json_is_the_same_text() {
    let text = Run::new(&["emit", "argmax", "--target", "sm_90"]).ended(0).stdout;
    let json = Run::new(&["emit", "argmax", "--target", "sm_90,gfx1150", "--json"])
        .ended(0)
        .json();
    assert_eq!(column(&json, "target"), ["sm_90", "gfx1150"]);
    assert_eq!(column(&json, "kernel"), ["argmax", "argmax"]);
    assert_eq!(column(&json, "symbol"), ["argmax_t256", "argmax_t256"]);
    assert_eq!(column(&json, "file"), ["argmax_t256.cu", "argmax_t256.hip"]);
    assert_eq!(column(&json, "text")[0], text);
    assert_eq!(
        (&json[0]["threads"], &json[0]["dynamic_shared_bytes"]),
        (&256.into(), &0.into())
    );
}

#[test]
fn emit_writes_one_folder_per_target() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("new").join("folder");
    let out = out.to_str().expect("a plain name");
    let run = Run::new(&["emit", "--out", out]).ended(0);
    let written: BTreeSet<&str> = run.stdout.lines().collect();
    assert_eq!(written.len(), KERNELS.len() * TARGETS.len(), "{}", run.stdout);
    for path in &written {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(
            TARGETS
                .iter()
                .any(|target| path.contains(&format!("/{}/", target.name))),
            "{path}"
        );
        assert!(text.starts_with("// kernel   "), "{path}");
    }
    let one = written
        .iter()
        .find(|path| path.ends_with("sm_120/argmax_t256.cu"))
        .expect("argmax for sm_120");
    let printed = Run::new(&["emit", "argmax", "--target", "sm_120"]).ended(0).stdout;
    assert_eq!(std::fs::read_to_string(one).expect("written"), printed);

    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, "x").expect("written");
    let run = Run::new(&["emit", "argmax", "--out", occupied.to_str().expect("a plain name")]).ended(1);
    assert!(
        run.stderr.contains("cannot write") && run.stderr.contains("occupied"),
        "{}",
        run.stderr
    );
}

#[test]
fn check_passes_a_clean_kernel() {
    for target in ["host", "sm_90", "gfx1150"] {
        let run = Run::new(&["check", "rms_norm", "--target", target, "--rounds", "2"]).ended(0);
        assert!(run.stdout.contains("clean (2 launches"), "{}", run.stdout);
    }
    let json = Run::new(&["check", "rms_norm", "--json"]).ended(0).json();
    assert_eq!(column(&json, "kernel"), ["rms_norm_f16_t256"]);
    assert_eq!(json[0]["findings"], serde_json::json!([]));
    assert!(json[0]["lane_operations"].as_u64() > Some(1000), "{json}");
}

#[test]
fn check_passes_the_whole_library() {
    let run = Run::new(&["check", "--rounds", "1", "--seed", "7", "--json"]).ended(0);
    assert_eq!(column(&run.json(), "kernel").len(), KERNELS.len(), "{}", run.stdout);
}

#[test]
fn check_fails_a_kernel_with_a_defect() {
    let run = Run::new(&["check", "planted_race"]).ended(1);
    assert!(
        run.stdout.contains("dsl/kernels/src/planted.rs:"),
        "the report is a result:\n{}",
        run.stdout
    );
    assert!(run.stderr.contains("planted_race"), "{}", run.stderr);

    let run = Run::new(&["check", "planted_race", "--rounds", "1", "--seed", "5", "--json"]).ended(1);
    let json = run.json();
    let finding = &json[0]["findings"][0];
    assert_eq!(finding["kind"], "shared-race", "{json}");
    assert_eq!(finding["seed"], 5);
    assert_eq!(finding["file"], "dsl/kernels/src/planted.rs");
    let source = include_str!("../../dsl/kernels/src/planted.rs");
    let line = finding["line"]
        .as_u64()
        .and_then(|line| source.lines().nth(line as usize - 1))
        .unwrap_or_default();
    assert_eq!(line.trim(), "tile[i / 2] = x[i];", "the author's line: {finding}");
    for key in ["block", "lane", "memory", "index", "message", "remedy", "count"] {
        assert!(!finding[key].is_null(), "no {key}: {finding}");
    }
}

#[test]
fn every_planted_defect_is_found() {
    let run = Run::new(&["check", "--planted"]).ended(0);
    for planted in PLANTED {
        let verdict = format!("{} for host: planted {}", planted.entry.name, planted.finding);
        assert!(run.stdout.contains(&verdict), "no `{verdict}` in:\n{}", run.stdout);
    }
    let json = Run::new(&["check", "--planted", "--json"]).ended(0).json();
    for (planted, checked) in PLANTED.iter().zip(json.as_array().expect("a list")) {
        let kinds = column(&checked["findings"], "kind");
        assert!(kinds.contains(&planted.finding), "{}: {kinds:?}", planted.entry.name);
    }
}

/// `tilekiln emit | head -1`: a reader that has seen enough is no failure, and nothing is said about it.
#[test]
fn a_closed_pipe_is_no_failure() {
    for arguments in [
        &["emit", "--target", "sm_90,gfx1150"][..],
        &["kernels", "--json"],
        &["check", "--planted", "--json"],
    ] {
        let mut child = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("UTF-8");
        let status = child.wait().expect("it ends");
        let is_quiet = !said.contains("panicked") && !said.contains("Broken pipe");
        assert!(is_quiet, "{arguments:?}:\n{said}");
        if arguments[0] != "check" {
            assert_eq!(status.code(), Some(0), "{arguments:?}:\n{said}");
        }
    }
}
