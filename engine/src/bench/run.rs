//! Measures a suite of tests.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::error::DeviceError;

use super::results::{DeviceFacts, FORMAT, Measured, ModelFacts, Results, StageFigures, StartFigures};
use super::roofline::{self, Roofline};
use super::session::{Session, room};
use super::suite::{Group, Suite, Test};
use super::{stages, start};
use crate::gguf;
use crate::kv::KvTypes;
use crate::model::config::TargetConfig;
use crate::model::{Chip, Design, Divisions, LoadOptions, ModelError, Phase, Row, Target, Tuning, Want};
use crate::plan::cards::Card;
use crate::plan::{self, KernelSpec, PlanError, Step};
use crate::schedule::{EngineError, EngineOptions, TooFewLayers, open_device};
use crate::tune;

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The model or the device, and what the options ask of them.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model's file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device while its memory or its kernels are timed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No place for a cache of kernels that is empty.
    #[error("no temporary folder for an empty cache of kernels: {0}")]
    Temporary(std::io::Error),
}

impl From<DeviceError> for BenchError {
    fn from(error: DeviceError) -> Self {
        Self::Plan(error.into())
    }
}

impl From<TooFewLayers> for BenchError {
    fn from(error: TooFewLayers) -> Self {
        Self::Engine(error.into())
    }
}

/// What happens while a suite is measured.
#[derive(Debug)]
pub enum Event<'a> {
    /// The memory was measured.
    Roofline(&'a Roofline),
    /// A model for the next tests is being loaded.
    Loading(plan::Progress),
    /// Caches are filled: positions done, of how many.
    Filling(usize, usize),
    /// A test begins: its number, of how many, and what it is called.
    Testing(usize, usize, &'a str),
    /// A test is done.
    Measured(&'a Measured),
    /// Types of cache that the engine does not have together, and what it says of them.
    Refused(String, String),
    /// Something could not be measured, and why.
    Failed(String, String),
    /// The kinds of launches are timed.
    Stages,
}

/// Measures a suite on a model. With `with_stages` also the launches of one step by kind: of the first model that
/// loads, at the depth of its first answer, else at depth 0.
///
/// What one test or one type of cache cannot do is reported and left out.
///
/// # Errors
/// A file that is no model, a device that is not there, and what makes every test impossible.
pub fn run(
    suite: &Suite,
    path: &Path,
    options: &EngineOptions,
    with_stages: bool,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Results, BenchError> {
    let opening = Instant::now();
    let device = open_device(options.device).map_err(EngineError::from)?;
    let open = opening.elapsed();

    let planning = Instant::now();
    let file = gguf::File::open(path).map_err(EngineError::from)?;
    let config = TargetConfig::read(file.metadata()).map_err(|error| EngineError::Model {
        path: path.to_owned(),
        error,
    })?;
    if device.properties().target.vendor != Vendor::Host {
        options.layers.allow(config.shape.layers.len())?;
    }
    let tuning = tune::load(&options.tuning, device.properties()).map_err(EngineError::from)?;
    let tuning = tuning.as_ref().map(|loaded| &loaded.tuning);
    let chip = Chip::of(device.properties()).tuned(tuning);
    let (groups, kernels, divisions) = plan_groups(suite, &file, &config, (options, chip), report)?;
    let plan = planning.elapsed();

    let roofline = roofline::measure(&device)?;
    report(Event::Roofline(&roofline));
    let compiled = start::compile(device.as_ref(), &kernels)?;
    let mut results = Results {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: facts(&file, &config, path),
        device: DeviceFacts {
            name: device.properties().name.clone(),
            target: device.properties().target.name.to_owned(),
            units: device.properties().units,
        },
        exact: options.exact,
        tuning: (divisions.tuned > 0).then(|| divisions.to_string()),
        repetitions: suite.repetitions,
        roofline,
        start: StartFigures {
            open_ms: milliseconds(open),
            plan_ms: milliseconds(plan),
            kernels: compiled.kernels,
            compile_cold_ms: milliseconds(compiled.cold),
            compile_warm_ms: milliseconds(compiled.warm),
            from_cache: compiled.from_cache,
            ..StartFigures::default()
        },
        tests: Vec::new(),
        stages: None,
    };
    let total = groups.iter().map(|(group, _)| group.tests.len()).sum();
    let mut bench = Bench {
        suite,
        exact: options.exact,
        results: &mut results,
        done: 0,
        total,
        report,
    };
    let mut unloaded = Vec::new();
    for (group, load) in &groups {
        match bench.load(*load, &file, (&device, tuning)) {
            Ok(session) => bench.group(group, session, with_stages),
            Err(error) => {
                bench.done += group.tests.len();
                unloaded.push((group, error));
            }
        }
    }
    if unloaded.len() == groups.len()
        && let Some((_, error)) = unloaded.pop()
    {
        return Err(error);
    }
    for (group, error) in unloaded {
        let (keys, values) = bench.cache(group);
        let what = format!("{keys}/{values} cache, {} sequences", group.slots);
        (bench.report)(Event::Failed(what, error.to_string()));
    }
    compare_rows(&mut results.tests);
    Ok(results)
}

/// A group with how its model is loaded.
type Planned = (Group, LoadOptions);

/// How each group's model is loaded, the kernels of all of them, and where their products' divisions come from. Groups that the engine cannot load are reported,
/// unless there is nothing else.
fn plan_groups(
    suite: &Suite,
    file: &gguf::File,
    config: &TargetConfig,
    (options, chip): (&EngineOptions, Chip<'_>),
    report: &mut dyn FnMut(Event<'_>),
) -> Result<(Vec<Planned>, BTreeSet<KernelSpec>, Divisions), BenchError> {
    let mut planned = Vec::new();
    let mut divisions = Divisions::default();
    let mut kernels = BTreeSet::new();
    let mut refused = Vec::new();
    for group in suite.groups() {
        let options = EngineOptions {
            slots: group.slots,
            chunk: group.chunk(),
            kv: (!options.exact).then(|| KvTypes {
                full: group.types(),
                sliding: group.types(),
            }),
            ..options.clone()
        };
        let load = room(&options, config, group.context(), [group.largest_step(), group.rows()]);
        let designed = load.and_then(|load| {
            let design = Design::read(file, None, load, chip).map_err(|error| EngineError::Model {
                path: file.path().unwrap_or(Path::new("the model")).to_owned(),
                error,
            })?;
            Ok((load, design))
        });
        match designed {
            Ok((load, design)) => {
                kernels.extend(design.kernels().into_iter().cloned());
                divisions = Divisions::of(design.all().0);
                planned.push((group, load));
            }
            Err(error) => refused.push((group, error)),
        }
    }
    if planned.is_empty()
        && let Some((_, error)) = refused.pop()
    {
        return Err(error.into());
    }
    // one line for each, however many numbers of sequences there are
    refused.dedup_by_key(|(group, _)| group.cache);
    for (group, error) in refused {
        let (keys, values) = group.cache;
        let what = format!("-ctk {} -ctv {}", keys.name(), values.name());
        report(Event::Refused(what, error.to_string()));
    }
    Ok((planned, kernels, divisions))
}

fn facts(file: &gguf::File, config: &TargetConfig, path: &Path) -> ModelFacts {
    let tensors = file.tensors();
    let bytes = tensors.iter().filter_map(|tensor| file.range(tensor).ok());
    ModelFacts {
        name: config.name.clone(),
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: bytes.map(|range| range.len() as u64).sum(),
        parameters: tensors.iter().map(|tensor| tensor.values() as u64).sum(),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A suite at work.
struct Bench<'a> {
    suite: &'a Suite,
    exact: bool,
    results: &'a mut Results,
    done: usize,
    total: usize,
    report: &'a mut dyn FnMut(Event<'_>),
}

impl Bench<'_> {
    /// Runs the tests of a group, and times the launches by kind if that is asked for and was not done yet.
    fn group(&mut self, group: &Group, mut session: Session, with_stages: bool) {
        let cache = self.cache(group);
        for test in &group.tests {
            let key = test.key((&cache.0, &cache.1));
            let label = key.label();
            (self.report)(Event::Testing(self.done, self.total, &label));
            match self.test(&mut session, test) {
                Ok(samples) => {
                    let work = session.work(test);
                    let roofline = self.results.roofline.bytes_per_second;
                    let measured = Measured::new(key, test.tokens(), samples, work, roofline);
                    (self.report)(Event::Measured(&measured));
                    self.results.tests.push(measured);
                }
                Err(error) => (self.report)(Event::Failed(label, error.to_string())),
            }
            self.done += 1;
        }
        if with_stages && self.results.stages.is_none() {
            (self.report)(Event::Stages);
            let answer = group.tests.iter().find(|test| test.answer > 0 && test.prompt == 0);
            let step = Step {
                sequences: answer.map_or(1, |test| test.sequences),
                rows: 1,
                depth: answer.map_or(0, |test| test.depth),
            };
            match self.stages(&mut session, step, &cache) {
                Ok(stages) => self.results.stages = Some(stages),
                Err(error) => (self.report)(Event::Failed("a step by kind".to_owned(), error.to_string())),
            }
        }
    }

    /// The names of a group's cache types, as they are used.
    fn cache(&self, group: &Group) -> (String, String) {
        let name = |kind: crate::kv::KvType| if self.exact { "f32" } else { kind.name() }.to_owned();
        (name(group.cache.0), name(group.cache.1))
    }

    fn load(
        &mut self,
        load: LoadOptions,
        file: &gguf::File,
        (device, tuning): (&Arc<dyn Device>, Option<&Tuning>),
    ) -> Result<Session, BenchError> {
        let begin = Instant::now();
        let mut compiling = Duration::ZERO;
        let mut weight_bytes = 0;
        let mut target = Target::load_tuned(file, None, (device.clone(), tuning), load, &mut |progress| {
            match progress {
                plan::Progress::Compiled { time, .. } => compiling = time,
                plan::Progress::Weights { total, .. } => weight_bytes = total as u64,
                plan::Progress::Compiling { .. } => {}
            }
            (self.report)(Event::Loading(progress));
        })?;
        device.synchronize()?;
        let loaded = begin.elapsed();
        let begin = Instant::now();
        target.forward(
            &[Row {
                token: 0,
                slot: 0,
                position: 0,
                want: Want::Token,
            }],
            Phase::Decode,
        )?;
        // the start is that of the first model
        if self.results.start.weight_bytes == 0 {
            let start = &mut self.results.start;
            start.weight_bytes = weight_bytes;
            start.weights_ms = milliseconds(loaded.saturating_sub(compiling));
            start.first_step_ms = milliseconds(begin.elapsed());
        }
        Ok(Session::new(target))
    }

    /// Nanoseconds of each repetition.
    fn test(&mut self, session: &mut Session, test: &Test) -> Result<Vec<u64>, ModelError> {
        session.fill(test.sequences, test.depth, &mut |done, total| {
            (self.report)(Event::Filling(done, total));
        })?;
        std::thread::sleep(Duration::from_secs(self.suite.delay));
        if self.suite.warm_up {
            session.warm_up(test)?;
        }
        (0..self.suite.repetitions)
            .map(|_| Ok(session.run(test)?.as_nanos() as u64))
            .collect()
    }

    fn stages(
        &mut self,
        session: &mut Session,
        step: Step,
        (keys, values): &(String, String),
    ) -> Result<StageFigures, BenchError> {
        let properties = session.target.machine().device().properties().clone();
        let roofline = self.results.roofline;
        let card = Card::measured(&properties, roofline.bytes_per_second, roofline.launch_us * 1e-6);
        session.fill(step.sequences, step.depth, &mut |done, total| {
            (self.report)(Event::Filling(done, total));
        })?;
        let timed = stages::measure(&mut session.target, step, &card, self.suite.repetitions)?;
        let cache = if keys == values {
            keys.clone()
        } else {
            format!("{keys}/{values}")
        };
        Ok(timed.figures(step, cache))
    }
}

/// Puts the time of steps beside that of one row at the same depth with the same cache.
fn compare_rows(tests: &mut [Measured]) {
    let ones: Vec<Measured> = tests.iter().filter(|test| test.key.n_rows == 1).cloned().collect();
    for test in tests.iter_mut().filter(|test| test.key.is_step()) {
        let one = ones.iter().find(|one| {
            let mut key = test.key.clone();
            key.n_rows = 1;
            one.key == key
        });
        test.ratio_to_one_row = one.map(|one| test.step_us() / one.step_us());
    }
}
