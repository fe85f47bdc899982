//! `tilekiln check`

use clap::Args;
use serde::Serialize;
use tilekiln_kernels::planted::PLANTED;
use tilekiln_kernels::registry::Settings;

use super::{Failure, SetArgs, print, print_json, selected, target};
use crate::sanitize::{CheckError, Outcome, check};

/// Run kernels under the sanitizer on generated inputs
#[derive(Args)]
pub struct Check {
    /// Kernel to check; all of the library when left out
    #[arg(conflicts_with = "planted")]
    kernel: Option<String>,
    #[command(flatten)]
    settings: SetArgs,
    /// Target the kernel is recorded for: its fragment layout is the one that is checked
    #[arg(long, default_value = "host", value_name = "TARGET")]
    target: String,
    /// Seed of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Launches per kernel, each with inputs of other sizes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Check the kernels with planted defects: fails when one is not found
    #[arg(long)]
    planted: bool,
    /// Print findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked {
    kernel: String,
    target: String,
    launches: usize,
    lane_operations: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    seed: u64,
    kind: &'static str,
    file: &'static str,
    line: u32,
    column: u32,
    block: [u32; 3],
    lane: u32,
    memory: String,
    index: Option<u64>,
    message: String,
    remedy: String,
    count: u64,
}

impl Checked {
    fn new(outcome: &Outcome, target: &str) -> Self {
        let findings = outcome.reports.iter().flat_map(|(seed, report)| {
            report.findings.iter().map(|finding| Found {
                seed: *seed,
                kind: finding.kind.name(),
                file: finding.at.file,
                line: finding.at.line,
                column: finding.at.column,
                block: finding.block,
                lane: finding.lane,
                memory: finding.memory.clone(),
                index: finding.index,
                message: finding.message.clone(),
                remedy: finding.remedy.clone(),
                count: finding.count,
            })
        });
        Self {
            kernel: outcome.symbol.clone(),
            target: target.to_string(),
            launches: outcome.rounds,
            lane_operations: outcome.lane_operations,
            findings: findings.collect(),
        }
    }
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let target = target(&self.target)?;
        if self.kernel.is_none() && !self.settings.set.is_empty() {
            return Err(Failure::Usage(
                "--set belongs to one kernel; name it: tilekiln check KERNEL --set …".to_string(),
            ));
        }
        let entries = match self.planted {
            true => PLANTED.iter().map(|planted| planted.entry).collect(),
            false => selected(self.kernel.as_deref())?,
        };
        let mut all = Vec::new();
        let mut failures = Vec::new();
        for entry in entries {
            let settings: Settings = self.settings.settings(entry)?;
            let outcome = match check(entry, &settings, target, self.seed, self.rounds as usize) {
                Ok(outcome) => outcome,
                Err(CheckError::Settings(message)) => return Err(Failure::Usage(message)),
                Err(CheckError::Failed(message)) => {
                    failures.push(format!("{}: {message}", entry.name));
                    continue;
                }
            };
            let checked = Checked::new(&outcome, target.name);
            let expected = PLANTED
                .iter()
                .find(|p| self.planted && p.entry.name == entry.name)
                .map(|p| p.finding);
            let is_found = |kind| checked.findings.iter().any(|f| f.kind == kind);
            match expected {
                Some(kind) if !is_found(kind) => {
                    failures.push(format!("{}: the planted {kind} was not found", entry.name))
                }
                None if !checked.findings.is_empty() => failures.push(format!("{} has findings", checked.kernel)),
                _ => {}
            }
            if !self.json {
                show(&outcome, &checked, expected.filter(|kind| is_found(kind)))?;
            }
            all.push(checked);
        }
        if self.json {
            print_json(&all)?;
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Failure::Failed(failures.join("\n"))),
        }
    }
}

fn show(outcome: &Outcome, checked: &Checked, expected: Option<&str>) -> Result<(), Failure> {
    let verdict = match (expected, checked.findings.len()) {
        (_, 0) => "clean".to_string(),
        (Some(kind), _) => format!("planted {kind}"),
        (None, n) => format!("{n} finding{}", if n == 1 { "" } else { "s" }),
    };
    let operations = checked.lane_operations as f64 / 1e6;
    let plural = if checked.launches == 1 { "" } else { "es" };
    let mut text = format!(
        "{} for {}: {verdict} ({} launch{plural}, {operations:.1} million lane operations)\n",
        checked.kernel, checked.target, checked.launches
    );
    // one launch's report says it all; the others only differ in sizes
    if let Some((seed, report)) = outcome.reports.first() {
        text.push_str(&format!("with --seed {seed} --rounds 1:\n{report}\n"));
    }
    print(&text)
}
