//! Finds the divisions of a model's products on a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use tilekiln_runtime::device::{Device, Graph};
use tilekiln_runtime::error::DeviceError;

use super::file::{Entry, Tile, TuningError};
use super::measure::{Bed, Bench};
use super::search::{Effort, NOISE, Shape, Timed, Trials, pick, relative};
use super::stages::{Kinds, Sample, Source, samples};
use crate::gguf;
use crate::model::{Chip, ModelError, Tuning, Unfit};
use crate::plan::{PlanError, Product};
use crate::synth;

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which divisions.
    pub effort: Effort,
    /// Replays of each.
    pub repetitions: usize,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TuneError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    File(#[from] gguf::Error),
    #[error(transparent)]
    Synth(#[from] synth::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Tuning(#[from] TuningError),
    #[error("{product} has no kernel that runs as it is divided by rule")]
    NoRule { product: String },
    #[error("no product of the model has packed weights, so there is nothing to tune")]
    Nothing,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// Kernels are compiled: done, of how many.
    Compiling(usize, usize),
    /// Divisions are measured: done, of how many, and of which product the next one is.
    Measuring(usize, usize, &'a str),
}

/// What was found for a product.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The product with its best division, which may be the one by rule.
    #[serde(flatten)]
    pub entry: Entry,
    /// Whether that differs from the rule.
    pub better: bool,
}

/// Every division of every product with packed weights, one sample for each.
struct Field {
    samples: BTreeMap<Product, BTreeMap<(usize, Shape), Sample>>,
    trials: BTreeMap<Product, Trials>,
    kinds: Kinds,
}

impl Field {
    /// Plans the models once for each round of divisions, with all products divided otherwise at the same time.
    fn plan(sources: &[Source], chip: Chip<'_>, effort: Effort) -> Result<Self, TuneError> {
        let mut field = Self {
            samples: BTreeMap::new(),
            trials: BTreeMap::new(),
            kinds: Kinds::new(),
        };
        for source in sources {
            let (by_rule, kinds) = samples(source, chip, None)?;
            let mut rounds = BTreeMap::new();
            for (product, tiles) in by_rule {
                let Some(trials) = Trials::of(&product, chip, effort) else {
                    continue;
                };
                rounds.insert(product.clone(), trials.rounds());
                let of_product = field.samples.entry(product.clone()).or_default();
                for (columns, sample) in tiles {
                    let shape = trials.tiles.get(&columns).and_then(|shapes| shapes.first());
                    if let Some(shape) = shape {
                        of_product.entry((columns, *shape)).or_insert(sample);
                    }
                }
                field.trials.insert(product, trials);
            }
            let most = rounds.values().map(Vec::len).max().unwrap_or(0);
            for round in 0..most {
                let divided: Vec<_> = rounds
                    .iter()
                    .filter_map(|(product, rounds)| Some((product.clone(), rounds.get(round)?.clone())))
                    .collect();
                let tuning = Tuning::new(chip.target, divided.clone())?;
                let (mut planned, _) = samples(source, chip, Some(&tuning))?;
                for (product, tuned) in divided {
                    let Some(of_product) = field.samples.get_mut(&product) else {
                        continue;
                    };
                    for (columns, sample) in planned.remove(&product).unwrap_or_default() {
                        if let Some(tiling) = tuned.tiling(columns) {
                            of_product.entry((columns, tiling.into())).or_insert(sample);
                        }
                    }
                }
            }
            for (product, of_source) in kinds {
                field.kinds.entry(product).or_default().extend(of_source);
            }
        }
        Ok(field)
    }

    fn count(&self) -> usize {
        self.samples.values().map(BTreeMap::len).sum()
    }
}

/// Measures the products of models, in the order of what they are called.
///
/// # Errors
/// Files that are no models, and those of the device.
pub fn run(
    sources: &[Source],
    device: &Arc<dyn Device>,
    settings: Settings,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Found>, TuneError> {
    let chip = Chip::of(device.properties());
    let field = Field::plan(sources, chip, settings.effort)?;
    if field.samples.is_empty() {
        return Err(TuneError::Nothing);
    }
    let mut bench = Bench::new(device.clone());
    let kernels = field.samples.values().flatten().map(|(_, sample)| &sample.kernel);
    bench.load(kernels, &mut |done, all| report(Event::Compiling(done, all)))?;
    let total = field.count();
    let mut done = 0;
    let mut all = Vec::new();
    for (product, trials) in &field.trials {
        let Some(samples) = field.samples.get(product) else {
            continue;
        };
        let label = product.to_string();
        let bed = bench.bed(samples.values())?;
        let search = Search {
            bench: &bench,
            bed,
            samples,
            product,
            settings,
            column_width: chip.target.fragments.columns(),
        };
        let mut step = || {
            report(Event::Measuring(done, total, &label));
            done += 1;
        };
        let timed = search.time(trials, &mut step)?;
        let found = search.decide(&timed, field.kinds.get(product))?;
        all.push(found);
    }
    report(Event::Measuring(total, total, ""));
    all.sort_by(|a, b| a.entry.stages.cmp(&b.entry.stages));
    Ok(all)
}

/// One product at work.
struct Search<'a> {
    bench: &'a Bench,
    bed: Bed,
    samples: &'a BTreeMap<(usize, Shape), Sample>,
    product: &'a Product,
    settings: Settings,
    /// Rows of a column tile.
    column_width: usize,
}

/// The median seconds of the shape by rule and of another, and how far samples of one are apart.
#[derive(Clone, Copy)]
struct Pair {
    by_rule: f64,
    now: f64,
    spread: f64,
}

impl Search<'_> {
    /// Rows to time with so many column tiles: decoding by itself, or as many as they hold.
    fn rows(&self, columns: usize) -> usize {
        match columns {
            1 => 1,
            more => more * self.column_width,
        }
    }

    fn graph(&self, columns: usize, shape: Shape) -> Result<Option<Graph>, TuneError> {
        let Some(sample) = self.samples.get(&(columns, shape)) else {
            return Ok(None);
        };
        Ok(self.bench.record(sample, self.rows(columns), &self.bed)?)
    }

    fn no_rule(&self) -> TuneError {
        TuneError::NoRule {
            product: self.product.to_string(),
        }
    }

    /// Times every shape of every number of column tiles. The shape by rule has to be among them.
    fn time(&self, trials: &Trials, step: &mut dyn FnMut()) -> Result<Vec<Timed>, TuneError> {
        let mut all = Vec::new();
        for (columns, shapes) in &trials.tiles {
            let mut timed = Vec::new();
            for (index, shape) in shapes.iter().enumerate() {
                step();
                match self.graph(*columns, *shape)? {
                    Some(graph) => {
                        let times = self.bench.times(&graph, self.settings.repetitions)?;
                        timed.push((*shape, times.median()));
                    }
                    None if index == 0 => return Err(self.no_rule()),
                    None => {}
                }
            }
            all.push(Timed {
                columns: *columns,
                shapes: timed,
            });
        }
        Ok(all)
    }

    /// Times the shape by rule against another, in turns: what was best of many by chance is not so again.
    fn compare(&self, columns: usize, by_rule: Shape, shape: Shape) -> Result<Pair, TuneError> {
        let (Some(a), Some(b)) = (self.graph(columns, by_rule)?, self.graph(columns, shape)?) else {
            return Err(self.no_rule());
        };
        let [a, b] = self.bench.compare([&a, &b], 2 * self.settings.repetitions)?;
        Ok(Pair {
            by_rule: a.median(),
            now: b.median(),
            spread: a.spread().max(b.spread()),
        })
    }

    fn compare_all(&self, timed: &[Timed], shapes: &[Shape]) -> Result<Vec<Pair>, TuneError> {
        let pairs = timed.iter().zip(shapes).map(|(tile, shape)| {
            let (by_rule, time) = tile.shapes[0];
            if by_rule == *shape {
                return Ok(Pair {
                    by_rule: time,
                    now: time,
                    spread: 0.0,
                });
            }
            self.compare(tile.columns, by_rule, *shape)
        });
        pairs.collect()
    }

    /// Takes what is faster than the rule in a second measurement, too.
    fn decide(&self, timed: &[Timed], kinds: Option<&BTreeSet<String>>) -> Result<Found, TuneError> {
        let rule: Vec<Shape> = timed.iter().map(|tile| tile.shapes[0].0).collect();
        let usual = rule.first().ok_or_else(|| self.no_rule())?.warps;
        let mut shapes = pick(timed, None).ok_or_else(|| self.no_rule())?;
        let mut pairs = self.compare_all(timed, &shapes)?;
        if shapes.iter().any(|shape| shape.warps != usual) {
            let weighted = |number: fn(&Pair) -> f64| {
                relative(
                    timed
                        .iter()
                        .zip(&pairs)
                        .map(|(tile, pair)| (tile.weight(), 1.0, number(pair))),
                )
            };
            let noise = NOISE.max(weighted(|pair| pair.spread));
            if weighted(|pair| pair.now / pair.by_rule) >= 1.0 - noise {
                shapes = pick(timed, Some(usual)).ok_or_else(|| self.no_rule())?;
                pairs = self.compare_all(timed, &shapes)?;
            }
        }
        if shapes.iter().all(|shape| shape.warps == usual) {
            for ((shape, pair), by_rule) in shapes.iter_mut().zip(&mut pairs).zip(&rule) {
                if pair.now >= pair.by_rule * (1.0 - NOISE.max(pair.spread)) {
                    *shape = *by_rule;
                    pair.now = pair.by_rule;
                }
            }
        }
        let tiles = timed.iter().zip(&shapes).zip(rule.iter().zip(&pairs));
        let tiles = tiles.map(|((tile, shape), (by_rule, pair))| Tile {
            columns: tile.columns,
            rows: self.rows(tile.columns),
            slots: shape.slots,
            blocks: shape.blocks,
            us: pair.now * 1e6,
            default_slots: by_rule.slots,
            default_blocks: by_rule.blocks,
            default_us: pair.by_rule * 1e6,
        });
        Ok(Found {
            better: shapes != rule,
            entry: Entry {
                product: self.product.clone(),
                stages: kinds.into_iter().flatten().cloned().collect(),
                warps: shapes[0].warps,
                default_warps: usual,
                tiles: tiles.collect(),
            },
        })
    }
}
