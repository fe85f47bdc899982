//! `tilekiln plan`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tilekiln_runtime::device::Device;

use super::cache_args::CacheArgs;
use super::progress::{Reporter, init_logs};
use super::tuning_args::TuningArgs;
use super::{Failure, print, print_json, target};
use crate::bench::report::{StepFacts, StepReport};
use crate::bench::stages::{self, Stages};
use crate::bench::{roofline, room};
use crate::gguf;
use crate::model::config::TargetConfig;
use crate::model::{Chip, Design, LoadOptions, ModelError, Target, Tuning};
use crate::plan::Step;
use crate::plan::cards::Card;
use crate::schedule::{DeviceChoice, EngineError, EngineOptions, TuningChoice, open_device};
use crate::synth;
use crate::tune::{self, Loaded, Owner};

/// Show the launches of one step: what they move and compute, and how long that takes on a card
///
/// The prediction is a roofline: a launch takes its latency, then the time of its bytes or of its arithmetic, whichever is
/// longer; a launch with fewer blocks than the card has units gets its share of both. Nothing is run and no weights are
/// read, unless --measure is given. Products are divided by rule, or as --tuning says; with --measure also as `tilekiln
/// tune` has found for the device.
#[derive(Args)]
pub struct Plan {
    /// Model (GGUF); the demo model when left out
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Target whose card is meant [default: sm_90]
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// A card of the table, in place of the target's first
    #[arg(long, value_name = "CARD", help = cards())]
    card: Option<String>,
    /// New tokens of each sequence
    #[arg(long, value_name = "N", default_value_t = 1)]
    rows: usize,
    /// Sequences [short: -np]
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: usize,
    /// Positions of each sequence in the cache
    #[arg(short = 'd', long, visible_alias = "n-depth", value_name = "N", default_value_t = 0)]
    depth: usize,
    /// The rows are of prompts, and nothing is wanted of them but keys and values
    #[arg(long)]
    prompt: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// f32 activations and dequantised weights
    #[arg(long)]
    exact: bool,
    /// Load the model on the device and time the launches by kind; the card is then the device, as measured
    #[arg(long, conflicts_with_all = ["card", "prompt"])]
    measure: bool,
    /// Where to measure: host, cuda, hip, auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    tuning: TuningArgs,
    /// Timed runs of each kind
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Every launch, not only the kinds
    #[arg(long)]
    all: bool,
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

fn cards() -> String {
    let cards = Card::names().into_iter().filter_map(Card::named);
    let list: Vec<String> = cards.map(|card| format!("{} ({})", card.name, card.summary)).collect();
    format!(
        "A card of the table, in place of the target's first: {}",
        list.join("; ")
    )
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

impl Plan {
    /// Runs the command.
    pub fn run(&self) -> Result<(), Failure> {
        init_logs(self.verbose);
        let step = self.step()?;
        let path = match &self.model {
            Some(path) => path.clone(),
            None => synth::demo()?.target,
        };
        let file = gguf::File::open(&path).map_err(failed)?;
        let config = TargetConfig::read(file.metadata()).map_err(|error| at(&path, error))?;
        let options = self.options(&config, step)?;
        let outputs = if self.prompt { 0 } else { step.total_rows() };
        let (card, stages, tuning) = if self.measure {
            self.measured(&path, &file, options, step)?
        } else {
            self.predicted(&path, &file, options, step, outputs)?
        };
        let cache = options.kv.full;
        let facts = StepFacts {
            sequences: step.sequences,
            rows: step.rows,
            depth: step.depth,
            outputs,
            type_k: cache.keys.to_string(),
            type_v: cache.values.to_string(),
            exact: self.exact,
        };
        let tuning = tuning.map(|loaded| loaded.path);
        let report = StepReport::new(config.name, facts, (card, tuning), stages, self.all);
        if self.json {
            return print_json(&report);
        }
        print(&report.markdown())
    }

    fn step(&self) -> Result<Step, Failure> {
        for (flag, number) in [("--rows", self.rows), ("-np", self.parallel), ("-r", self.repetitions)] {
            if number == 0 || number > 1 << 16 {
                return Err(Failure::Usage(format!(
                    "{flag} {number}: it is a number from 1 to {}",
                    1 << 16
                )));
            }
        }
        if self.depth > 1 << 24 {
            return Err(Failure::Usage(format!(
                "-d {}: it is a number from 0 to {}",
                self.depth,
                1 << 24
            )));
        }
        Ok(Step {
            sequences: self.parallel,
            rows: self.rows,
            depth: self.depth,
        })
    }

    fn options(&self, config: &TargetConfig, step: Step) -> Result<LoadOptions, Failure> {
        let options = EngineOptions {
            slots: step.sequences,
            exact: self.exact,
            kv: self.cache.types()?,
            ..EngineOptions::default()
        };
        Ok(room(
            &options,
            config,
            step.depth + step.rows,
            [step.total_rows(), step.rows],
        )?)
    }

    /// The card that is asked for, by its name or by its target.
    fn card(&self) -> Result<Card, Failure> {
        let by_name = self.card.as_deref().map(|name| {
            Card::named(name).ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no card `{name}`; cards: {}",
                    Card::names().join(", ")
                ))
            })
        });
        let by_name = by_name.transpose()?;
        let by_target = self.target.as_deref().map(target).transpose()?;
        match (by_name, by_target) {
            (Some(card), Some(target)) if card.target != target.name => Err(Failure::Usage(format!(
                "--card {} runs {}, not {}; drop one of them",
                card.name, card.target, target.name
            ))),
            (Some(card), _) => Ok(card),
            (None, target) => {
                let name = target.map_or("sm_90", |target| target.name);
                Card::of_target(name).ok_or_else(|| {
                    Failure::Usage(format!(
                        "--target {name}: no card of the table runs it; add --measure to time the steps on this machine, or \
                         take one of {}",
                        Card::names().join(", ")
                    ))
                })
            }
        }
    }

    fn predicted(
        &self,
        path: &Path,
        file: &gguf::File,
        options: LoadOptions,
        step: Step,
        outputs: usize,
    ) -> Result<(Card, Stages, Option<Loaded>), Failure> {
        let card = self.card()?;
        let target = target(card.target)?;
        let tuning = match self.tuning.choice() {
            // no device, so none that something was kept for
            TuningChoice::Cached | TuningChoice::None => None,
            TuningChoice::File(path) => {
                let owner = Owner {
                    name: card.device,
                    is_whole: false,
                    target,
                    units: card.units,
                };
                Some(tune::read(&path, &owner).map_err(failed)?)
            }
        };
        let chip = Chip::new(target, card.units).tuned(tuning.as_ref().map(|loaded| &loaded.tuning));
        let design = Design::read(file, None, options, chip).map_err(|error| at(path, error))?;
        // what the target cannot have is said here, not when a model is loaded
        for kernel in design.kernels() {
            kernel.record(target).map_err(failed)?;
        }
        let stages = Stages::predicted(&design.step(step, outputs), &card);
        Ok((card, stages, tuning))
    }

    fn measured(
        &self,
        path: &Path,
        file: &gguf::File,
        options: LoadOptions,
        step: Step,
    ) -> Result<(Card, Stages, Option<Loaded>), Failure> {
        let device = open_device(self.device).map_err(EngineError::from)?;
        self.check_target(device.as_ref())?;
        let tuning = tune::load(&self.tuning.choice(), device.properties()).map_err(failed)?;
        let roofline = roofline::measure(&device).map_err(failed)?;
        let card = Card::measured(
            device.properties(),
            roofline.bytes_per_second,
            roofline.launch_us * 1e-6,
        );
        let reporter = Reporter::new(self.quiet);
        let on = (device, tuning.as_ref().map(|loaded| &loaded.tuning));
        let stages = self.time(file, options, on, step, &card, &reporter);
        reporter.clear();
        Ok((card, stages.map_err(|error| at(path, error))?, tuning))
    }

    fn time(
        &self,
        file: &gguf::File,
        options: LoadOptions,
        on: (Arc<dyn Device>, Option<&Tuning>),
        step: Step,
        card: &Card,
        reporter: &Reporter,
    ) -> Result<Stages, ModelError> {
        let mut target = Target::load_tuned(file, None, on, options, &mut |progress| reporter.plan(&progress))?;
        for slot in 0..step.sequences {
            let mut filled = |done| reporter.fill(slot * step.depth + done, step.sequences * step.depth);
            target.assume_depth(slot as u32, 0, step.depth, &mut filled)?;
        }
        stages::measure(&mut target, step, card, self.repetitions)
    }

    /// A target that is given has to be that of the device.
    fn check_target(&self, device: &dyn Device) -> Result<(), Failure> {
        let Some(name) = &self.target else { return Ok(()) };
        let (asked, found) = (target(name)?.name, device.properties().target.name);
        if asked == found {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "--measure runs on {} ({found}), not on {asked}; drop --target, or choose another --device",
            device.properties().name
        )))
    }
}

fn at(path: &Path, error: ModelError) -> Failure {
    EngineError::Model {
        path: path.to_owned(),
        error,
    }
    .into()
}
