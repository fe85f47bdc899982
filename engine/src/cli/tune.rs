//! `tilekiln tune`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::Properties;

use super::progress::{Reporter, init_logs};
use super::{Failure, print, print_json};
use crate::bench::figures;
use crate::bench::table::{Align, markdown};
use crate::gguf;
use crate::schedule::{DeviceChoice, Progress, Stage, open_device};
use crate::synth::{self, CONFIGS, Config, Model, Options};
use crate::tune::{
    Effort, Entry, Event, Found, Owner, Place, Settings, Source, Tile, TuneError, TuningError, TuningFile, run,
    usual_path,
};

/// Find the fastest divisions of a model's products on a device, and keep them for the other commands
///
/// For every product with packed weights and each number of rows that share a read of them, warps, tiles under way and
/// blocks are tried, in graphs of launches that find their weights in memory. What beats the rule by more than noise, in
/// a second measurement as well, is kept in a file. run, serve, logits, bench and plan --measure take it from the cache
/// folder when they use the same device, or from a file that --tuning names. No weights are read: the shapes are enough.
#[derive(Args)]
pub struct Tune {
    /// Model (GGUF); the demo model when left out
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Assistant of the model (GGUF), whose products are tuned as well [short: -md]
    #[arg(long, visible_alias = "model-draft", value_name = "FILE", requires = "model")]
    mtp_head: Option<PathBuf>,
    /// Published shapes in place of a file; several are tuned together
    #[arg(long, value_name = "CONFIG", value_delimiter = ',', conflicts_with = "model",
        value_parser = CONFIGS.map(|config| config.name))]
    config: Vec<String>,
    /// Where to measure: host, cuda, hip, auto [also: -dev]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// File for the result, to ship [default: tuning/DEVICE.json in the cache folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Try only the warps next to those by rule, with as many blocks; three replays of each
    #[arg(long)]
    quick: bool,
    /// Replays of each division [default: 9, with --quick 3]
    #[arg(short = 'r', long, value_name = "N")]
    repetitions: Option<usize>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Log more (twice: everything); TILEKILN_LOG says it in detail
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress on stderr
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// What was found, for scripts.
#[derive(Serialize)]
struct Report {
    device: String,
    target: &'static str,
    units: usize,
    file: PathBuf,
    /// Products in the file, those of earlier runs included.
    products_in_file: usize,
    products: Vec<Found>,
}

impl From<TuneError> for Failure {
    fn from(error: TuneError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<TuningError> for Failure {
    fn from(error: TuningError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Tune {
    /// Runs the command.
    pub fn run(&self) -> Result<(), Failure> {
        init_logs(self.verbose);
        let settings = self.settings()?;
        let device = open_device(self.device).map_err(TuneError::from)?;
        let properties = device.properties();
        let path = match &self.out {
            Some(path) => path.clone(),
            None => usual_path(&properties.name).ok_or(TuningError::NoFolder)?,
        };
        // found out before minutes of measuring
        let mut file = self.file(&path, properties)?;
        let place = Place::take(&path)?;
        let folder = tempfile::tempdir()?;
        let sources = self.sources(folder.path())?;
        if properties.target.vendor == Vendor::Host && !self.quiet {
            eprintln!("tilekiln: the host device interprets kernels, so its times say little about how to divide them");
        }
        let reporter = Reporter::new(self.quiet);
        let found = run(&sources, &device, settings, &mut |event| show(&reporter, event));
        reporter.clear();
        let found = found?;
        let measured: Vec<_> = found.iter().map(|found| found.entry.product.clone()).collect();
        let better = found
            .iter()
            .filter(|found| found.better)
            .map(|found| found.entry.clone());
        file.replace(&measured, better.collect(), &properties.target);
        place.write(&file)?;
        let report = Report {
            device: properties.name.clone(),
            target: properties.target.name,
            units: properties.units,
            file: path,
            products_in_file: file.products.len(),
            products: found,
        };
        if self.json {
            return print_json(&report);
        }
        print(&text(&report))
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let usual = if self.quick { 3 } else { 9 };
        let repetitions = self.repetitions.unwrap_or(usual);
        if !(1..=1000).contains(&repetitions) {
            return Err(Failure::Usage(format!(
                "-r {repetitions}: it is a number from 1 to 1000"
            )));
        }
        Ok(Settings {
            effort: if self.quick { Effort::Quick } else { Effort::Full },
            repetitions,
        })
    }

    /// What is in the file already, to which the new results are added. A file that is something else is not touched; of
    /// this device, but with other kernels, it has nothing to keep.
    fn file(&self, path: &Path, properties: &Properties) -> Result<TuningFile, Failure> {
        if !path.exists() {
            return Ok(TuningFile::new(properties));
        }
        let file = TuningFile::read(path);
        let checked = file.and_then(|file| file.check(path, &Owner::device(properties)).map(|()| file));
        match checked {
            Ok(file) => Ok(file),
            Err(TuningError::OtherKernels { kernels, .. }) => {
                let path = path.display();
                eprintln!("tilekiln: {path} was measured with other kernels ({kernels}); what it has is replaced");
                Ok(TuningFile::new(properties))
            }
            Err(error) => Err(Failure::Failed(format!(
                "{error}\nnothing is measured, so that the file stays as it is; move it, or give --out another name"
            ))),
        }
    }

    /// The models to tune. What stands in for published shapes is written into `folder`.
    fn sources(&self, folder: &Path) -> Result<Vec<Source>, TuneError> {
        let open = |target: &Path, assistant: Option<&Path>| -> Result<Source, TuneError> {
            Ok(Source {
                target: gguf::File::open(target)?,
                assistant: assistant.map(gguf::File::open).transpose()?,
            })
        };
        if let Some(model) = &self.model {
            return Ok(vec![open(model, self.mtp_head.as_deref())?]);
        }
        let configs = self.config.iter().filter_map(|name| Config::named(name));
        let mut sources = Vec::new();
        for config in configs {
            let files = Model::new(config, Options::default())?.outline(folder)?;
            sources.push(open(&files.target, Some(&files.assistant))?);
        }
        if sources.is_empty() {
            let demo = synth::demo()?;
            sources.push(open(&demo.target, Some(&demo.assistant))?);
        }
        Ok(sources)
    }
}

/// Shows what happens on stderr.
fn show(reporter: &Reporter, event: Event<'_>) {
    match event {
        Event::Compiling(done, total) => reporter.stage(Progress {
            stage: Stage::Compile,
            done: done as u64,
            total: total as u64,
        }),
        Event::Measuring(done, total, next) => reporter.division(done, total, next),
    }
}

/// For people: a line for a single row of every product, and for other numbers of rows where the rule is beaten.
fn text(report: &Report) -> String {
    let head = [
        ("stage", Align::Left),
        ("product", Align::Left),
        ("rows", Align::Right),
        ("by rule", Align::Left),
        ("best", Align::Left),
        ("by rule µs", Align::Right),
        ("best µs", Align::Right),
        ("gain", Align::Right),
    ];
    let rows = report.products.iter().flat_map(|found| {
        let entry = &found.entry;
        let is_shown = |tile: &&Tile| tile.columns == 1 || !is_by_rule(entry, tile);
        entry.tiles.iter().filter(is_shown).map(|tile| row(entry, tile))
    });
    let table = markdown(&head, &rows.collect::<Vec<_>>());
    let better = report.products.iter().filter(|found| found.better).count();
    format!(
        "{} ({}, {} units)\n\n{table}\n{better} of {} products are divided better than by rule; {} has {} in all\n",
        report.device,
        report.target,
        report.units,
        report.products.len(),
        report.file.display(),
        report.products_in_file,
    )
}

fn is_by_rule(entry: &Entry, tile: &Tile) -> bool {
    let by_rule = (entry.default_warps, tile.default_slots, tile.default_blocks);
    (entry.warps, tile.slots, tile.blocks) == by_rule
}

fn row(entry: &Entry, tile: &Tile) -> Vec<String> {
    let words = |[warps, slots, blocks]: [usize; 3]| format!("{warps} warps, {slots} slots, {blocks} blocks");
    let by_rule = [entry.default_warps, tile.default_slots, tile.default_blocks];
    let best = [entry.warps, tile.slots, tile.blocks];
    let (best, us, gain) = if is_by_rule(entry, tile) {
        ("as by rule".to_owned(), String::new(), String::new())
    } else {
        let gain = 100.0 * (1.0 - tile.us / tile.default_us);
        (words(best), figures(tile.us), format!("{gain:.1} %"))
    };
    vec![
        entry.stages.join(", "),
        format!(
            "{} {} x {}",
            entry.product.formats().collect::<Vec<_>>().join("+"),
            entry
                .product
                .rows
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join("+"),
            entry.product.cols
        ),
        tile.rows.to_string(),
        words(by_rule),
        best,
        figures(tile.default_us),
        us,
        gain,
    ]
}
