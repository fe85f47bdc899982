//! The house: what depends on what, what lies where, and what every kernel file owes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tilekiln_kernels::registry;

/// Every package of the workspace and the packages it may depend on, tests and benches included.
///
/// `tests` may be used by tests of the engine; nothing else depends on it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("dsl/macros", &[]),
    ("dsl", &["dsl/macros"]),
    ("dsl/kernels", &["dsl"]),
    ("codegen", &["dsl"]),
    ("runtime", &["dsl", "codegen"]),
    ("engine", &["dsl", "dsl/kernels", "codegen", "runtime", "tests"]),
    ("tests", &["dsl", "dsl/kernels", "codegen", "runtime", "engine"]),
];

/// What lies at the top, and nothing else does.
const TOP: &[&str] = &[
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "codegen",
    "docs",
    "dsl",
    "engine",
    "runtime",
    "rustfmt.toml",
    "snapshots",
    "tests",
];

/// Not part of the sources.
const IGNORED: &[&str] = &[".git", "target", "dist"];

/// Where calls into vendor libraries are made and files are mapped, and the only places where `unsafe` may stand.
const DRIVER_LAYER: &[&str] = &[
    "runtime/src/compiler/rtc.rs",
    "runtime/src/cuda/",
    "runtime/src/hip/",
    "runtime/src/library.rs",
    "runtime/src/map.rs",
    "runtime/src/retire.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Rust files below a folder, as paths from the root with `/`.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let entry = entry.expect("a folder that can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if entry.path().is_dir() {
            if name != "target" {
                found.extend(sources(&path));
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

/// `key = value` pairs of a Cargo.toml by section. Enough of TOML for manifests as this workspace writes them.
fn sections(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut sections: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_string();
            sections.entry(section.clone()).or_default();
        } else if let Some((key, value)) = line.split_once('=')
            && !line.starts_with('#')
        {
            let pair = (key.trim().to_string(), value.trim().to_string());
            sections.entry(section.clone()).or_default().push(pair);
        }
    }
    sections
}

/// Names of the packages that a manifest depends on, in whatever section.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (section, pairs) in sections(manifest) {
        match section.rsplit_once("dependencies") {
            Some((_, "")) => found.extend(
                pairs
                    .iter()
                    .map(|(key, _)| key.split('.').next().unwrap_or_default().to_string()),
            ),
            Some((_, name)) => {
                found.insert(name.trim_start_matches('.').to_string());
            }
            None => {}
        }
    }
    found
}

fn package_name(manifest: &str) -> String {
    let sections = sections(manifest);
    let pair = sections["package"]
        .iter()
        .find(|(key, _)| key == "name")
        .expect("a package has a name");
    pair.1.trim_matches('"').to_string()
}

#[test]
fn dependencies_point_one_way() {
    let manifests: BTreeMap<&str, String> = MAY_USE
        .iter()
        .map(|(folder, _)| (*folder, read(&format!("{folder}/Cargo.toml"))))
        .collect();
    let folders: BTreeMap<String, &str> = manifests
        .iter()
        .map(|(folder, text)| (package_name(text), *folder))
        .collect();
    for (folder, may_use) in MAY_USE {
        for dependency in dependencies(&manifests[folder]) {
            let Some(used) = folders.get(&dependency) else { continue };
            assert!(may_use.contains(used), "{folder} must not depend on {used}");
        }
    }
    // The other way to reach a package: its path.
    for (folder, manifest) in &manifests {
        assert!(
            !manifest.contains("path = \"../") || *folder == "tests",
            "{folder}: paths to packages stand in the root Cargo.toml only"
        );
    }
    let uses = |folder: &str| {
        MAY_USE
            .iter()
            .find(|(name, _)| *name == folder)
            .expect("in the table")
            .1
    };
    assert!(!uses("codegen").contains(&"dsl/kernels") && !uses("runtime").contains(&"dsl/kernels"));
}

#[test]
fn the_table_of_packages_is_the_workspace() {
    let root = read("Cargo.toml");
    let members = sections(&root)["workspace"]
        .iter()
        .find(|(key, _)| key == "members")
        .map(|(_, value)| value.clone())
        .expect("a workspace has members");
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    let table: BTreeSet<&str> = MAY_USE.iter().map(|(folder, _)| *folder).collect();
    assert_eq!(members, table);
    for folder in table {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let lints = sections(&manifest).remove("lints").unwrap_or_default();
        assert!(
            lints.contains(&("workspace".into(), "true".into())),
            "{folder} does not take the workspace's lints"
        );
        for shared in ["version", "edition", "rust-version", "license"] {
            assert!(
                manifest.contains(&format!("{shared}.workspace = true")),
                "{folder} has a {shared} of its own"
            );
        }
    }
}

#[test]
fn the_top_level_is_exactly_what_it_should_be() {
    let there: BTreeSet<String> = std::fs::read_dir(root())
        .expect("the root can be listed")
        .map(|entry| {
            entry
                .expect("a folder that can be listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !IGNORED.contains(&name.as_str()))
        .collect();
    let expected: BTreeSet<String> = TOP.iter().map(|name| name.to_string()).collect();
    let missing: Vec<_> = expected.difference(&there).collect();
    let unexpected: Vec<_> = there.difference(&expected).collect();
    assert!(
        missing.is_empty() && unexpected.is_empty(),
        "missing: {missing:?}, unexpected: {unexpected:?}"
    );
}

/// Names of the functions with `#[kernel]` in a source file.
fn kernels_in(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_kernel = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[kernel") {
            is_kernel = true;
        } else if let (true, Some((_, rest))) = (is_kernel, line.split_once("fn ")) {
            found.extend(rest.split(['<', '(']).next());
            is_kernel = false;
        }
    }
    found
}

#[test]
fn every_kernel_is_registered() {
    let mut count = 0;
    for path in sources("dsl/kernels/src") {
        for kernel in kernels_in(&read(&path)) {
            assert!(
                registry::find(kernel).is_some(),
                "{path}: {kernel} is not in registry::KERNELS"
            );
            count += 1;
        }
    }
    let planted = tilekiln_kernels::planted::PLANTED.len();
    assert_eq!(
        count,
        registry::KERNELS.len() + planted,
        "registered names that no file has"
    );
}

/// The lines between the braces of a function that starts at the margin.
fn body<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    let start = text
        .find(&format!("fn {function}<"))
        .or_else(|| text.find(&format!("fn {function}(")));
    let start = start.unwrap_or_else(|| panic!("no function {function}"));
    let lines = text[start..].lines().skip_while(|line| !line.ends_with('{')).skip(1);
    lines.take_while(|line| *line != "}").collect()
}

/// Statements, as the algorithm on paper has them; comments and empty lines are free.
fn is_code(line: &&&str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

#[test]
fn proof_kernels_are_as_short_as_on_paper() {
    let kernels = sources("dsl/kernels/src")
        .into_iter()
        .filter(|path| !path.ends_with("planted.rs"));
    for path in kernels {
        let text = read(&path);
        for kernel in kernels_in(&text) {
            let lines = body(&text, kernel).iter().filter(is_code).count();
            assert!(
                (1..=60).contains(&lines),
                "{path}: the body of {kernel} has {lines} lines; split it, 60 are enough"
            );
        }
    }
}

/// The code of a line: no comment, no contents of strings.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"")
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|found| found == word)
}

#[test]
fn unsafe_code_stays_in_the_driver_layer() {
    for folder in ["dsl", "codegen", "runtime", "engine", "tests", "snapshots"] {
        // the rejected kernels of tests/ui are input of rustc, one of them for writing `unsafe`
        for path in sources(folder)
            .into_iter()
            .filter(|path| !path.starts_with("tests/ui/"))
        {
            let text = read(&path);
            let lines: Vec<&str> = text.lines().collect();
            let in_driver_layer = DRIVER_LAYER.iter().any(|part| path.starts_with(part));
            for (at, line) in lines.iter().enumerate() {
                let code = code(line);
                if has_word(&code, "unsafe_code") || !has_word(&code, "unsafe") {
                    let allowed = has_word(&code, "unsafe_code") && !in_driver_layer;
                    assert!(
                        !allowed,
                        "{path}:{}: `unsafe` may only stand in {DRIVER_LAYER:?}",
                        at + 1
                    );
                    continue;
                }
                assert!(
                    in_driver_layer,
                    "{path}:{}: `unsafe` may only stand in {DRIVER_LAYER:?}",
                    at + 1
                );
                let is_block = code.contains("unsafe {") || code.contains("unsafe impl");
                let above = &lines[at.saturating_sub(6)..=at];
                let has_reason = above.iter().any(|line| line.contains("SAFETY:"));
                assert!(
                    !is_block || has_reason,
                    "{path}:{}: no SAFETY comment says why this holds",
                    at + 1
                );
            }
        }
    }
}
