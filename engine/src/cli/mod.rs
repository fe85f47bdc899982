//! The command line. Results go to stdout, progress and statistics to stderr; exit codes are 0 done, 1 failed, 2 usage.

mod bench;
mod cache_args;
mod check;
mod doctor;
mod emit;
mod engine_args;
mod inspect;
mod kernels;
mod load;
mod logits;
mod plan;
mod progress;
pub mod run;
mod serve;
mod synth;
mod tokenize;
mod tune;
mod tuning_args;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tilekiln_dsl::target::Target;
use tilekiln_kernels::registry::{self, Entry, KERNELS, SettingError, Settings};

/// GPU kernels from a typed Rust language: see them, check them, run them.
#[derive(Parser)]
#[command(name = "tilekiln", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the CUDA and HIP source of kernels
    Emit(emit::Emit),
    /// List the kernels and what can be set
    Kernels(kernels::Kernels),
    /// Run kernels under the sanitizer on generated inputs
    Check(check::Check),
    /// Show devices, drivers, compilers and caches, and what is missing
    Doctor(doctor::Doctor),
    /// Show the metadata and the tensors of a GGUF file
    Inspect(inspect::Inspect),
    /// Write a synthetic model and its assistant: true shapes, random weights, a known right answer
    Synth(synth::Synth),
    /// Generate text, once or in a conversation
    Run(Box<run::Run>),
    /// Answer requests over HTTP, as OpenAI's API and llama-server do
    Serve(Box<serve::Serve>),
    /// Write the logits of every position of a prompt
    Logits(Box<logits::Logits>),
    /// Show text as tokens, or tokens as text
    Tokenize(tokenize::Tokenize),
    /// Measure how fast a model runs, as llama-bench does, beside what the memory allows
    Bench(Box<bench::Bench>),
    /// Show the launches of one step: what they move and compute, and how long that takes on a card
    Plan(Box<plan::Plan>),
    /// Find the fastest divisions of a model's products on a device, and keep them for the other commands
    Tune(Box<tune::Tune>),
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for something that cannot be: exit code 2.
    Usage(String),
    /// It failed: exit code 1.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Settings of a kernel on the command line.
#[derive(Args, Clone)]
struct SetArgs {
    /// Comptime settings of the kernel, e.g. element=f16,threads=256 (see `tilekiln kernels`)
    #[arg(long = "set", value_name = "KEY=VALUE", value_delimiter = ',')]
    set: Vec<String>,
}

impl SetArgs {
    fn settings(&self, entry: &Entry) -> Result<Settings, SettingError> {
        Settings::parse(entry, self.set.iter().map(String::as_str))
    }
}

/// The kernel of that name, or all.
fn selected(name: Option<&str>) -> Result<Vec<&'static Entry>, Failure> {
    let Some(name) = name else { return Ok(KERNELS.to_vec()) };
    registry::find(name).map(|entry| vec![entry]).ok_or_else(|| {
        let known: Vec<_> = KERNELS.iter().map(|entry| entry.name).collect();
        let near = known
            .iter()
            .filter(|known| distance(known, name) <= 3)
            .copied()
            .collect::<Vec<_>>();
        let hint = if near.is_empty() {
            String::new()
        } else {
            format!("; did you mean {}?", near.join(" or "))
        };
        Failure::Usage(format!(
            "there is no kernel `{name}`{hint}\nkernels: {}",
            known.join(", ")
        ))
    })
}

/// The target of that name.
fn target(name: &str) -> Result<&'static Target, Failure> {
    Target::named(name).ok_or_else(|| {
        Failure::Usage(format!(
            "there is no target `{name}`; targets: {}, host",
            Target::names().join(", ")
        ))
    })
}

/// Edits that make one word of another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Prints a result. A reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Failed(e.to_string()))?;
    print(&format!("{text}\n"))
}

/// Parses the command line and runs it.
pub fn run() -> ExitCode {
    let result = match Cli::parse_from(engine_args::rewrite(std::env::args_os())).command {
        Command::Emit(command) => command.run(),
        Command::Kernels(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Synth(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Logits(command) => command.run(),
        Command::Tokenize(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Tune(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tilekiln: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}
