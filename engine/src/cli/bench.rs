//! `tilekiln bench`

mod numbers;
mod others;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use numbers::{Numbers, all, numbers, pair};
use others::Others;

use super::cache_args::cache_type;
use super::progress::{Reporter, init_logs};
use super::tuning_args::TuningArgs;
use super::{Failure, print, print_json};
use crate::bench::compare::{Comparison, compare};
use crate::bench::{BenchError, Event, Results, Suite, plot, run, table};
use crate::kv::KvType;
use crate::schedule::{DeviceChoice, EngineOptions};
use crate::synth;

/// Measure how fast a model runs, as llama-bench does, beside what the memory allows
///
/// Every combination of what is listed is a test: prompts (pp), answers (tg) and both, at each depth, for each type of
/// cache and number of sequences. Numbers may be lists (1,2), ranges (0-8192+4096, 512-8192*2), and given several times.
/// Tokens are picked greedily and fed back; what is timed begins and ends on the CPU. Before each test the cache is filled
/// to its depth by evaluating made-up tokens, and the test is run once; neither is timed.
#[derive(Args)]
pub struct Bench {
    /// Model (GGUF); the demo model when left out
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Tokens of a prompt; 0 for none [default: 512]
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    n_prompt: Vec<Numbers>,
    /// Tokens of an answer; 0 for none [default: 128]
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    n_gen: Vec<Numbers>,
    /// A prompt with its answer, timed together [short: -pg]
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pg: Vec<(usize, usize)>,
    /// Positions in the cache before each test [default: 0]
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    n_depth: Vec<Numbers>,
    /// Also time one step of so many rows of one sequence, as verification of drafts does
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    rows: Vec<Numbers>,
    /// Sequences that are answered together [default: 1] [short: -npl, -np]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    parallel: Vec<Numbers>,
    /// Most prompt tokens per evaluation [default: 2048]
    #[arg(short = 'b', long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    batch_size: Vec<Numbers>,
    /// Prompt tokens per evaluation [default: 512] [short: -ub]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = numbers)]
    ubatch_size: Vec<Numbers>,
    /// Formats of cached keys, as for `run` [default: f16] [short: -ctk]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    cache_type_k: Vec<String>,
    /// Formats of cached values; each is combined with each type of keys [default: f16] [short: -ctv]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    cache_type_v: Vec<String>,
    /// Timed runs of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Seconds to wait before each test
    #[arg(long, value_name = "N", default_value_t = 0)]
    delay: u64,
    /// Time the first run, too
    #[arg(long)]
    no_warmup: bool,
    /// f32 activations and dequantised weights
    #[arg(long)]
    exact: bool,
    /// Where to run: host, cuda, hip, auto [also: -dev]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    tuning: TuningArgs,
    /// How to print the results
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// Print as JSON: the same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Draw tokens per second over depth, and the launches of one step by kind
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Put two results (-o json) side by side; nothing is measured
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2,
        conflicts_with_all = ["model", "n_prompt", "n_gen", "pg", "n_depth", "rows", "parallel", "plot"])]
    compare: Option<Vec<PathBuf>>,
    #[command(flatten)]
    others: Others,
    /// Log more (twice: everything); TILEKILN_LOG says it in detail
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress on stderr
    #[arg(short = 'q', long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown tables
    Md,
    /// Everything, for --compare and scripts
    Json,
    /// One line per test
    Csv,
}

fn usage(text: impl Into<String>) -> Failure {
    Failure::Usage(text.into())
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Engine(error) => error.into(),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Bench {
    /// Runs the command.
    pub fn run(&self) -> Result<(), Failure> {
        init_logs(self.verbose);
        if let Some([a, b]) = self.compare.as_deref() {
            return self.compare(a, b);
        }
        let suite = self.suite()?;
        let mut notes = Vec::new();
        let options = self.options(&mut notes)?;
        for note in notes {
            eprintln!("tilekiln: {note}");
        }
        let path = match &self.model {
            Some(path) => path.clone(),
            None => synth::demo()?.target,
        };
        // found out before minutes of measuring
        if let Some(plot) = &self.plot {
            let opened = std::fs::File::options().append(true).create(true).open(plot);
            opened.map_err(|error| unwritable(plot, &error))?;
        }
        let reporter = Reporter::new(self.quiet);
        let mut failed = Vec::new();
        let results = run(&suite, &path, &options, self.plot.is_some(), &mut |event| {
            show(&reporter, event, &mut failed);
        });
        reporter.clear();
        let results = results?;
        if let Some(path) = &self.plot {
            let drawn = plot::draw(&results).map_err(|error| Failure::Failed(error.to_string()))?;
            std::fs::write(path, drawn).map_err(|error| unwritable(path, &error))?;
        }
        self.print(&results)?;
        match failed.as_slice() {
            [] => Ok(()),
            all => Err(Failure::Failed(format!("not measured: {}", all.join(", ")))),
        }
    }

    fn print(&self, results: &Results) -> Result<(), Failure> {
        match self.format() {
            Format::Json => print_json(results),
            Format::Md => print(&table::report(results)),
            Format::Csv => print(&table::csv(results).map_err(|error| Failure::Failed(error.to_string()))?),
        }
    }

    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    fn compare(&self, a: &Path, b: &Path) -> Result<(), Failure> {
        let read = |path: &Path| {
            let failed = |error: String| Failure::Failed(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            Results::parse(&text).map_err(|error| failed(error.to_string()))
        };
        let (a, b) = (read(a)?, read(b)?);
        let comparison: Comparison = compare(&a, &b);
        match self.format() {
            Format::Json => print_json(&comparison),
            Format::Md => print(&comparison.markdown()),
            Format::Csv => print(&comparison.csv().map_err(|error| Failure::Failed(error.to_string()))?),
        }
    }

    /// What is to be measured.
    fn suite(&self) -> Result<Suite, Failure> {
        let some = |numbers: Vec<usize>| numbers.into_iter().filter(|n| *n > 0).collect::<Vec<_>>();
        let at_least_one = |flag: &str, numbers: Vec<usize>| match numbers.contains(&0) {
            true => Err(usage(format!("{flag} 0: at least 1 is needed"))),
            false => Ok(numbers),
        };
        let (keys, values) = (
            cache_types("-ctk", &self.cache_type_k)?,
            cache_types("-ctv", &self.cache_type_v)?,
        );
        let caches = keys.iter().flat_map(|k| values.iter().map(move |v| (*k, *v)));
        let mut caches: Vec<(KvType, KvType)> = caches.collect();
        if self.exact {
            if !self.cache_type_k.is_empty() || !self.cache_type_v.is_empty() {
                return Err(usage("--exact has a cache of f32; drop -ctk and -ctv, or --exact"));
            }
            caches.truncate(1);
        }
        let batches = at_least_one("-b", all(&self.batch_size, &[2048]))?;
        let chunks = at_least_one("-ub", all(&self.ubatch_size, &[512]))?;
        let suite = Suite {
            prompts: some(all(&self.n_prompt, &[512])),
            answers: some(all(&self.n_gen, &[128])),
            pairs: self.pg.clone(),
            rows: at_least_one("--rows", all(&self.rows, &[]))?,
            depths: all(&self.n_depth, &[0]),
            parallel: at_least_one("-npl", all(&self.parallel, &[1]))?,
            chunks: batches
                .iter()
                .flat_map(|b| chunks.iter().map(|ub| *ub.min(b)))
                .collect(),
            caches,
            repetitions: self.repetitions,
            delay: self.delay,
            warm_up: !self.no_warmup,
        };
        if suite.repetitions == 0 {
            return Err(usage("-r 0: at least one run of each test is needed"));
        }
        if suite.groups().is_empty() {
            return Err(usage(
                "there is nothing to measure; give -p, -n, -pg or --rows a number above 0",
            ));
        }
        Ok(suite)
    }

    fn options(&self, notes: &mut Vec<String>) -> Result<EngineOptions, Failure> {
        let (device, layers) = self.others.placement(self.device, notes)?;
        self.others.check(device, notes)?;
        Ok(EngineOptions {
            model: self.model.clone(),
            exact: self.exact,
            device,
            layers,
            tuning: self.tuning.choice(),
            ..EngineOptions::default()
        })
    }
}

fn cache_types(flag: &str, given: &[String]) -> Result<Vec<KvType>, Failure> {
    if given.is_empty() {
        return Ok(vec![KvType::F16]);
    }
    let mut types = Vec::new();
    for name in given {
        let kind = cache_type(flag, name.trim())?;
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    Ok(types)
}

/// Shows what happens on stderr.
fn show(reporter: &Reporter, event: Event<'_>, failed: &mut Vec<String>) {
    match event {
        Event::Roofline(roofline) => reporter.line(&format!("roofline: {}", table::rate(roofline.bytes_per_second))),
        Event::Loading(progress) => reporter.plan(&progress),
        Event::Filling(done, total) => reporter.fill(done, total),
        Event::Testing(done, total, label) => reporter.test(done, total, label),
        Event::Measured(test) => {
            let cache = test.key.cache();
            let speed = &test.spread;
            reporter.line(&format!("{} ({cache} cache): {speed} tok/s", test.test));
        }
        Event::Refused(what, why) => {
            // the engine's message names the flags itself
            let why = why.strip_prefix(&format!("{what}: ")).unwrap_or(&why);
            eprintln!("tilekiln: {what} is left out: {why}");
        }
        Event::Failed(what, why) => {
            reporter.clear();
            eprintln!("tilekiln: {what} is not measured: {why}");
            failed.push(what);
        }
        Event::Stages => reporter.line("timing the launches of a step by kind"),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be written: {error}", path.display()))
}
