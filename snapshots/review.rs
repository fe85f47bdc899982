//! Generated text against the reviewed text beside this file.
//!
//! `cargo insta review` shows what changed and accepts it. This is the only file of this folder that is not
//! generated: cargo-insta looks for snapshots below the folders of test sources, and only there.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tilekiln_codegen::generate;
use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::target::{TARGETS, Target};
use tilekiln_kernels::registry::{self, Settings};
use tilekiln_tests::variants::{self, snapshot_path, snapshots_folder};

#[test]
fn generated_text_is_the_reviewed_text() {
    let mut changed = Vec::new();
    for (target, variant) in variants::all() {
        let generated = variant.generate(target);
        let mut settings = insta::Settings::new();
        settings.set_snapshot_path(snapshots_folder().join(target.name));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let assertion = || insta::assert_snapshot!(generated.file_name.as_str(), generated.text);
        // The others are compared as well, so that one review shows all changes.
        if settings.bind(|| catch_unwind(AssertUnwindSafe(assertion))).is_err() {
            changed.push(format!("{}/{}", target.name, generated.file_name));
        }
    }
    assert!(
        changed.is_empty(),
        "{} texts are not the reviewed ones; look at them with `cargo insta review`:\n{}",
        changed.len(),
        changed.join("\n")
    );
}

#[test]
fn every_reviewed_text_has_its_kernel() {
    let mut expected: BTreeSet<PathBuf> = variants::all()
        .map(|(target, variant)| snapshot_path(&variant.generate(target)))
        .collect();
    expected.insert(snapshots_folder().join("review.rs"));
    let unreferenced: Vec<_> = files(&snapshots_folder())
        .into_iter()
        // what `cargo insta review` is about to decide on
        .filter(|path| path.extension().is_none_or(|extension| extension != "new"))
        // messages of rejected kernels: `tests/ui/record` holds that folder to its own table
        .filter(|path| !path.starts_with(snapshots_folder().join("rejected")))
        .filter(|path| !expected.contains(path))
        .collect();
    assert!(
        unreferenced.is_empty(),
        "no variant of tests/src/variants.rs makes these; delete them, or add the variant:\n{unreferenced:#?}"
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder that can be listed").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn generating_twice_gives_the_same_text() {
    for (target, variant) in variants::all() {
        let kernel = variant.record(target);
        let [first, second] = [0, 1].map(|_| generate(&kernel).expect("generated before"));
        assert_eq!(first.text, second.text, "one record, {}", kernel.symbol);
        let again = variant.generate(target);
        assert_eq!(first.text, again.text, "another record, {}", kernel.symbol);
        assert_eq!(first.lines, again.lines, "{}", kernel.symbol);
    }
}

#[test]
fn the_command_in_the_header_makes_the_same_text() {
    for (target, variant) in variants::all() {
        let text = variant.generate(target).text;
        let command = text
            .lines()
            .find_map(|line| line.strip_prefix("// remake"))
            .unwrap_or_else(|| panic!("no command in:\n{text}"));
        let words: Vec<_> = command.split_whitespace().collect();
        let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1).copied();
        assert_eq!(words[..2], ["tilekiln", "emit"], "{command}");
        let entry = registry::find(words[2]).unwrap_or_else(|| panic!("{command}"));
        let target = after("--target")
            .and_then(Target::named)
            .unwrap_or_else(|| panic!("{command}"));
        let given = after("--set").unwrap_or_default();
        let settings = Settings::parse(entry, given.split(',').filter(|pair| !pair.is_empty()));
        let def = settings.and_then(|settings| (entry.build)(&settings));
        let def = def.unwrap_or_else(|error| panic!("{command}: {error}"));
        let kernel = def.record(target).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(generate(&kernel).expect("generated before").text, text, "{command}");
    }
}

/// One kernel, written with two names for one variable.
macro_rules! scaled_rows {
    ($module:ident, $name:ident) => {
        mod $module {
            use tilekiln_dsl::prelude::*;

            /// y = x * (1 + mean of the row)
            #[kernel(threads = 64)]
            pub fn scaled_rows(
                #[shape(rows, cols)] x: In<f32>,
                #[shape(rows, cols)] y: Out<f32>,
                #[shape(rows)] means: Out<f32>,
                cols: u32,
            ) {
                let row = block_index();
                let tile = Shared::<f32>::new(64);
                let mut partial = f32(0.0);
                for col in strided(cols, 64) {
                    partial += x[(row, col)];
                }
                tile[thread_index()] = warp_sum(partial);
                barrier();
                /// both warps
                let $name = (tile[0] + tile[32]) / cols.to::<f32>();
                for col in strided(cols, 64) {
                    y[(row, col)] = x[(row, col)] * (1.0 + $name);
                }
                if thread_index() == 0 {
                    means[row] = $name;
                }
            }
        }
    };
}
scaled_rows!(before, average);
scaled_rows!(after, row_mean);

#[test]
fn a_new_name_changes_only_the_lines_that_use_it() {
    let text = |def: KernelDef, target: &Target| {
        let kernel = def.record(target).unwrap_or_else(|error| panic!("{error}"));
        generate(&kernel).unwrap_or_else(|error| panic!("{error}")).text
    };
    for target in TARGETS {
        let (old, new) = (text(before::scaled_rows(), target), text(after::scaled_rows(), target));
        assert_eq!(old.lines().count(), new.lines().count(), "{old}\n{new}");
        let mut uses = 0;
        for (old, new) in old.lines().zip(new.lines()) {
            assert_eq!(old.replace("average", "row_mean"), new, "{}", target.name);
            uses += usize::from(old != new);
        }
        assert_eq!(uses, 3, "its definition and two uses:\n{old}");
    }
}
