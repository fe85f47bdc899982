//! Kernels that rustc itself rejects, and every word an author then reads.

use std::path::{Path, PathBuf};

#[path = "../ui/internal.rs"]
mod internal;

fn files(ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui/compile");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder of this repository")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    files.sort();
    files
}

#[test]
fn rustc_rejects_them_with_these_words() {
    let cases = files("rs");
    assert!(cases.len() >= 25, "only {} cases in tests/ui/compile", cases.len());
    trybuild::TestCases::new().compile_fail("ui/compile/*.rs");
}

#[test]
fn messages_name_nothing_internal() {
    let messages = files("stderr");
    assert_eq!(messages.len(), files("rs").len(), "one .stderr per case");
    for path in messages {
        let text = std::fs::read_to_string(&path).expect("a file of this repository");
        internal::assert_absent(&path.display().to_string(), &text);
    }
}

#[test]
fn messages_point_at_the_author() {
    for path in files("stderr") {
        let text = std::fs::read_to_string(&path).expect("a file of this repository");
        let source = path.with_extension("rs");
        let name = source.file_name().and_then(|n| n.to_str()).expect("a UTF-8 name");
        let first = text.lines().find(|line| line.trim_start().starts_with("-->"));
        assert!(
            first.is_some_and(|line| line.contains(&format!("ui/compile/{name}:"))),
            "{name} is not reported at its author's line:\n{text}"
        );
    }
}
