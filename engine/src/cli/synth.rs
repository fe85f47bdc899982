//! `tilekiln synth`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Failure, print, print_json};
use crate::synth::{CONFIGS, Config, Error, FIRST_WORD, Model, Options};

/// Write a synthetic model and its assistant: true shapes, random weights, a known right answer
///
/// Greedy decoding follows a fixed cycle through the vocabulary, kept beside the models as <CONFIG>-pi.npy: the token
/// after each token. The assistant predicts the fraction --accept of its steps.
#[derive(Args)]
pub struct Synth {
    /// Which shapes
    #[arg(long, value_parser = CONFIGS.map(|config| config.name), default_value = "tiny", help = configs())]
    config: String,
    /// Fraction of tokens that the assistant predicts
    #[arg(long, value_name = "FRACTION", default_value_t = Options::default().accept)]
    accept: f64,
    /// Weight of the last norm of every block
    #[arg(long, value_name = "WEIGHT", default_value_t = Options::default().noise)]
    noise: f32,
    /// Another seed gives other weights and another cycle
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,
    /// Give the assistant an ordered (centroid) head beside the dense one
    #[arg(long)]
    centroids: bool,
    /// Folder for the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn configs() -> String {
    let rows = CONFIGS.map(|config| format!("{}: {}", config.name, config.about));
    format!("Which shapes: {}", rows.join("; "))
}

#[derive(Serialize)]
struct Written {
    config: &'static str,
    accept: f64,
    noise: f32,
    seed: u64,
    vocabulary: usize,
    /// Ids from here on are walked.
    first_word: usize,
    target: PathBuf,
    assistant: PathBuf,
    pi: PathBuf,
    bytes: usize,
    seconds: f64,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Accept(_) | Error::Noise(_) => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Synth {
    pub fn run(self) -> Result<(), Failure> {
        let config = Config::named(&self.config)
            .ok_or_else(|| Failure::Usage(format!("there is no config `{}`", self.config)))?;
        if self.centroids && config.assistant.centroids.is_none() {
            let with: Vec<_> = CONFIGS
                .iter()
                .filter(|config| config.assistant.centroids.is_some())
                .collect();
            return Err(Failure::Usage(format!(
                "the assistant of {} has a dense head only; --centroids works with {}",
                config.name,
                with.iter().map(|config| config.name).collect::<Vec<_>>().join(", ")
            )));
        }
        let start = Instant::now();
        let options = Options {
            accept: self.accept,
            noise: self.noise,
            seed: self.seed,
            centroids: self.centroids,
            force: self.force,
        };
        let model = Model::new(config, options)?;
        let bytes = model.sizes().iter().sum::<usize>();
        let bar = ProgressBar::new(bytes as u64).with_style(
            ProgressStyle::with_template(
                "writing {bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let files = model.write(&self.out, &|bytes| bar.inc(bytes as u64));
        bar.finish_and_clear();
        let files = files?;
        let seconds = start.elapsed().as_secs_f64();
        let speed = BinaryBytes((bytes as f64 / seconds) as u64);
        eprintln!("{} in {seconds:.2} s ({speed}/s)", BinaryBytes(bytes as u64));
        if self.json {
            return print_json(&Written {
                config: config.name,
                accept: self.accept,
                noise: self.noise,
                seed: self.seed,
                vocabulary: config.vocabulary,
                first_word: FIRST_WORD,
                target: files.target,
                assistant: files.assistant,
                pi: files.next,
                bytes,
                seconds,
            });
        }
        let lines: Vec<String> = files.all().iter().map(|path| format!("{}\n", path.display())).collect();
        print(&lines.concat())
    }
}
