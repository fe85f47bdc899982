//! `tilekiln doctor`

use clap::Args;
use serde::Serialize;
use tilekiln_dsl::target::TARGETS;
use tilekiln_runtime::compiler::cache::CacheState;
use tilekiln_runtime::probe::{LibraryFacts, Probe, probe};

use super::{Failure, print, print_json};

/// Show devices, drivers, compilers and caches, and what is missing
#[derive(Args)]
pub struct Doctor {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    targets: Vec<&'static str>,
    host_threads: usize,
    #[serde(flatten)]
    probe: Probe,
    devices: Vec<&'static str>,
}

/// One library, its version and file, or why it is not there.
fn library(name: &str, purpose: &str, facts: &LibraryFacts) -> String {
    let mut text = format!("{name:<8} {purpose:<22}");
    if facts.found {
        let version = facts.version.as_deref().unwrap_or("unknown version");
        text.push_str(&format!(
            "{version}, {}\n",
            facts.file.as_deref().unwrap_or("file unknown")
        ));
    } else {
        text.push_str("not found\n");
    }
    if let Some(reason) = &facts.reason {
        text.push_str(&format!("{:31}{reason}\n", ""));
    }
    if let Some(remedy) = &facts.remedy {
        text.push_str(&format!("{:31}try: {remedy}\n", ""));
    }
    for device in &facts.devices {
        let target = device.target.as_deref().unwrap_or("no target");
        let gib = device.memory_bytes as f64 / f64::from(1 << 30);
        text.push_str(&format!(
            "{:31}device {}: {} ({}, {gib:.1} GiB), kernels for {target}\n",
            "", device.ordinal, device.name, device.architecture
        ));
        if let Some(note) = &device.note {
            text.push_str(&format!("{:31}{note}\n", ""));
        }
    }
    text
}

fn cache(state: &CacheState) -> String {
    let folder = state
        .folder
        .as_ref()
        .map_or("none".to_string(), |folder| folder.display().to_string());
    let mib = state.bytes as f64 / f64::from(1 << 20);
    let mut text = format!(
        "cache    compiled kernels      {folder}, {} kernels, {mib:.1} MiB\n",
        state.entries
    );
    if let Some(reason) = &state.reason {
        text.push_str(&format!(
            "{:31}not writable, kernels are compiled anew each time: {reason}\n",
            ""
        ));
    }
    text.push('\n');
    text
}

/// Names for `--device` that would work here.
fn usable(probe: &Probe) -> Vec<&'static str> {
    let has = |facts: &LibraryFacts| facts.devices.iter().any(|device| device.target.is_some());
    let mut out = Vec::new();
    if probe.nvrtc.found && has(&probe.libcuda) {
        out.push("cuda");
    }
    if probe.hiprtc.found && has(&probe.amdhip) {
        out.push("hip");
    }
    out.push("host");
    out
}

impl Doctor {
    pub fn run(self) -> Result<(), Failure> {
        let probe = probe();
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            targets: TARGETS.iter().map(|target| target.name).collect(),
            host_threads: std::thread::available_parallelism().map_or(1, usize::from),
            devices: usable(&probe),
            probe,
        };
        if self.json {
            return print_json(&report);
        }
        let probe = &report.probe;
        let mut text = format!("tilekiln {}\n", report.version);
        text.push_str(&format!("targets  {}\n\n", report.targets.join(", ")));
        text.push_str(&library("nvrtc", "compiles for NVIDIA", &probe.nvrtc));
        text.push_str(&library("cuda", "runs on NVIDIA", &probe.libcuda));
        text.push_str(&library("hiprtc", "compiles for AMD", &probe.hiprtc));
        text.push_str(&library("hip", "runs on AMD", &probe.amdhip));
        text.push_str(&format!(
            "host     runs anywhere         {} threads\n",
            report.host_threads
        ));
        text.push_str(&cache(&probe.cache));
        text.push_str(&format!("usable with --device: {}\n", report.devices.join(", ")));
        print(&text)
    }
}
