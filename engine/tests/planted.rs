//! The sanitizer on the whole library: every planted defect at its author's line, and no finding in any kernel
//! under review.

use tilekiln::sanitize::{Outcome, check};
use tilekiln_dsl::target::{HOST, TARGETS, Target};
use tilekiln_kernels::planted::PLANTED;
use tilekiln_kernels::registry::{self, Entry, Settings};
use tilekiln_tests::variants::VARIANTS;

/// Kernel, and the statement of its source that the finding has to point at.
const AT: &[(&str, &str)] = &[
    ("planted_missing_barrier", "y[i] = tile[(i + 32) % 64];"),
    ("planted_race", "tile[i / 2] = x[i];"),
    ("planted_divergent_barrier", "barrier();"),
    ("planted_read_past_end", "y[i] = x[i] + x[i + 1];"),
    ("planted_write_before_start", "y[i - 1] = x[i];"),
    ("planted_shared_past_end", "tile[i * 2] = x[i];"),
    ("planted_uninitialised_shared", "y[i] = tile[63 - i];"),
    ("planted_divergent_shuffle", "value = shuffle(value, lane_index() + 1);"),
    ("planted_copy_not_waited", "y[i] = tile[(i / 16, i % 16)];"),
    ("planted_misaligned", "let four = x.load_as::<Pack<f32, 4>>(i % 60);"),
];

const SOURCE: &str = include_str!("../../dsl/kernels/src/planted.rs");

fn targets() -> impl Iterator<Item = &'static Target> {
    static ON_THE_CPU: Target = HOST;
    TARGETS.iter().chain([&ON_THE_CPU])
}

fn checked(entry: &Entry, given: &str, target: &Target, rounds: usize) -> Outcome {
    let settings = Settings::parse(entry, given.split(',').filter(|pair| !pair.is_empty())).expect("known settings");
    check(entry, &settings, target, 11, rounds).unwrap_or_else(|error| panic!("{} {given}: {error:?}", entry.name))
}

#[test]
fn every_planted_defect_is_found_at_its_line() {
    assert_eq!(AT.len(), PLANTED.len(), "each planted kernel has its statement");
    let mut missed = Vec::new();
    for target in targets() {
        for planted in PLANTED {
            let name = planted.entry.name;
            let statement = AT.iter().find(|(kernel, _)| *kernel == name).expect("in the table").1;
            let outcome = checked(planted.entry, "", target, 2);
            let findings = outcome.reports.iter().flat_map(|(_, report)| &report.findings);
            let is_it = |finding: &&tilekiln_runtime::host::Finding| {
                let line = SOURCE.lines().nth(finding.at.line as usize - 1).unwrap_or_default();
                let has_values = finding.lane < 64 && finding.block == [0, 0, 0] && finding.count > 0;
                finding.kind.name() == planted.finding && line.trim() == statement && has_values
            };
            if findings.filter(is_it).count() == 0 {
                missed.push(format!(
                    "{name} for {}: {} at `{statement}`",
                    target.name, planted.finding
                ));
            }
        }
    }
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n"));
}

#[test]
fn every_reviewed_kernel_is_clean() {
    let mut found = Vec::new();
    for target in targets() {
        for variant in VARIANTS.iter().filter(|variant| variant.is_for(target)) {
            let entry = registry::find(variant.entry).expect("a registered kernel");
            for (seed, report) in checked(entry, variant.settings, target, 2).reports {
                found.push(format!("{variant:?} for {}, seed {seed}:\n{report}", target.name));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}
