//! `tilekiln doctor` on machines that have some vendor libraries, and on one that has none.

mod support;

use std::ffi::{OsStr, OsString};

use serde_json::Value;
use support::{Run, run_with};
use tilekiln_runtime::compiler::hiprtc::Hiprtc;
use tilekiln_runtime::compiler::nvrtc::Nvrtc;
use tilekiln_tests::requirement::require;

/// The variable that names a library's folder, or leaves it to the loader.
const NVRTC: &str = "TILEKILN_NVRTC_DIR";
const ROCM: &str = "TILEKILN_ROCM_DIR";

/// Hides the vendors' libraries that a case is not about.
struct Machine {
    empty: tempfile::TempDir,
    has_nvrtc: bool,
    has_rocm: bool,
}

impl Machine {
    fn with(has_nvrtc: bool, has_rocm: bool) -> Self {
        Self {
            empty: tempfile::tempdir().expect("a temporary folder"),
            has_nvrtc,
            has_rocm,
        }
    }

    fn doctor(&self, arguments: &[&str]) -> Run {
        let empty = self.empty.path().as_os_str();
        let folder = |variable: &str, has: bool| -> OsString {
            let given = std::env::var_os(variable).unwrap_or_default();
            if has { given } else { empty.to_os_string() }
        };
        let (nvrtc, rocm) = (folder(NVRTC, self.has_nvrtc), folder(ROCM, self.has_rocm));
        let environment: [(&str, &OsStr); 2] = [(NVRTC, &nvrtc), (ROCM, &rocm)];
        let run = run_with(&[&["doctor"], arguments].concat(), &environment).ended(0);
        assert_eq!(run.stderr, "", "{}", run.stdout);
        run
    }

    /// Both forms of the report; fails unless they agree on what is there.
    fn report(&self) -> (String, Value) {
        let text = self.doctor(&[]).stdout;
        let json = self.doctor(&["--json"]).json();
        for (name, key) in [
            ("nvrtc", "nvrtc"),
            ("cuda", "libcuda"),
            ("hiprtc", "hiprtc"),
            ("hip", "amdhip"),
        ] {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
            let line = line.unwrap_or_else(|| panic!("no line about {name}:\n{text}"));
            let found = json[key]["found"].as_bool().unwrap_or_else(|| panic!("{json}"));
            assert_eq!(line.contains("not found"), !found, "{line}\n{json}");
            for fact in ["version", "file", "reason", "remedy"] {
                if let Some(fact) = json[key][fact].as_str() {
                    assert!(text.contains(fact), "`{fact}` is not in:\n{text}");
                }
            }
            let says_why = json[key]["reason"].is_string() && json[key]["remedy"].is_string();
            assert!(
                found || says_why,
                "{name} is missing without a reason or a way out: {json}"
            );
        }
        let devices: Vec<_> = json["devices"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(devices.last(), Some(&"host"), "the CPU always works: {json}");
        assert!(
            text.ends_with(&format!("usable with --device: {}\n", devices.join(", "))),
            "{text}"
        );
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert!(json["host_threads"].as_u64() >= Some(1), "{json}");
        assert_eq!(json["cache"]["writable"], true, "{json}");
        (text, json)
    }
}

fn is_missing(json: &Value, library: &str, variable: &str) {
    let facts = &json[library];
    assert_eq!(facts["found"], false, "{facts}");
    let remedy = facts["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains(variable), "the way out is to set {variable}: {facts}");
}

#[test]
fn no_vendor_library() {
    let (text, json) = Machine::with(false, false).report();
    is_missing(&json, "nvrtc", NVRTC);
    is_missing(&json, "hiprtc", ROCM);
    is_missing(&json, "amdhip", ROCM);
    assert_eq!(
        json["devices"],
        serde_json::json!(["host"]),
        "nothing compiles, so only the CPU is left"
    );
    assert!(text.contains("targets  sm_80, sm_90, sm_120, gfx1150"), "{text}");
}

#[test]
fn nvrtc_only() {
    let Some(nvrtc) = require("nvrtc", Nvrtc::open()) else {
        return;
    };
    let (text, json) = Machine::with(true, false).report();
    assert_eq!(json["nvrtc"]["found"], true);
    assert_eq!(json["nvrtc"]["file"], nvrtc.file());
    let (major, minor) = nvrtc.version();
    assert_eq!(json["nvrtc"]["version"], format!("{major}.{minor}"));
    is_missing(&json, "hiprtc", ROCM);
    is_missing(&json, "amdhip", ROCM);
    if json["libcuda"]["found"] == false {
        assert_eq!(
            json["devices"],
            serde_json::json!(["host"]),
            "a compiler alone runs nothing"
        );
        assert!(text.contains("install the NVIDIA driver"), "{text}");
    }
}

#[test]
fn rocm_libraries() {
    let Some(hiprtc) = require("hiprtc", Hiprtc::open()) else {
        return;
    };
    let (text, json) = Machine::with(false, true).report();
    is_missing(&json, "nvrtc", NVRTC);
    assert_eq!(json["hiprtc"]["file"], hiprtc.file());
    assert_eq!(json["amdhip"]["found"], true, "{json}");
    let version = json["hiprtc"]["version"].as_str().unwrap_or_default();
    assert!(version.starts_with("ROCm "), "{json}");
    without_an_amd_gpu(&text, &json);
}

#[test]
fn both_compilers() {
    let Some(_) = require("nvrtc", Nvrtc::open()) else {
        return;
    };
    let Some(_) = require("hiprtc", Hiprtc::open()) else {
        return;
    };
    let (text, json) = Machine::with(true, true).report();
    for library in ["nvrtc", "hiprtc", "amdhip"] {
        assert_eq!(json[library]["found"], true, "{json}");
    }
    without_an_amd_gpu(&text, &json);
}

/// The libraries are there and the GPU is not: a fact in the driver's words, and no failure.
fn without_an_amd_gpu(text: &str, json: &Value) {
    let gpus = json["amdhip"]["devices"].as_array().map_or(0, Vec::len);
    if gpus > 0 {
        return;
    }
    let reason = json["amdhip"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no AMD device"), "{json}");
    assert!(text.contains(reason), "{text}");
    let devices = json["devices"].as_array().expect("a list");
    assert!(!devices.iter().any(|name| name == "hip"), "{json}");
}

#[test]
fn libraries_that_are_no_libraries() {
    let machine = Machine::with(false, false);
    for name in ["libnvrtc.so.13", "libhiprtc.so.7", "libamdhip64.so.7"] {
        std::fs::write(machine.empty.path().join(name), "not a library").expect("written");
    }
    let (_, json) = machine.report();
    for library in ["nvrtc", "hiprtc", "amdhip"] {
        assert_eq!(json[library]["found"], false, "{json}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("occupied");
    std::fs::write(&file, "x").expect("written");
    let environment: [(&str, &OsStr); 1] = [("TILEKILN_CACHE_DIR", file.as_os_str())];
    let text = run_with(&["doctor"], &environment).ended(0).stdout;
    assert!(
        text.contains("not writable, kernels are compiled anew each time"),
        "{text}"
    );
}
