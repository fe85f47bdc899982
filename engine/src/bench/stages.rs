//! The launches of one step, timed by kind.
//!
//! All launches of a kind in a step (one per layer, each with its own weights) are recorded as a graph of their own and
//! replayed between two marks, behind a read of a large buffer that empties the caches. So a kind's time has its launches
//! back to back, with weights from memory and without what other kinds would do before it; activations are cold, too.
//! The sum over the kinds is therefore near the time of a whole step, and not the same.

use std::time::{Duration, Instant};

use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::Graph;

use super::results::{Spread, StageFigures, StageKind};
use super::roofline::Stream;
use super::session::phase;
use crate::model::{ModelError, Row, Target, Want};
use crate::plan::cards::Card;
use crate::plan::predict::{self, Forecast, Group};
use crate::plan::{Plan, PlanError, Size, Step};

/// Bytes that are read between two measurements: more than any cache holds.
const FLUSH_BYTES: usize = 256 << 20;

/// The launches of a step, with the predicted and perhaps the measured time of their kinds.
pub struct Stages {
    /// Each launch, predicted.
    pub launches: Vec<Forecast>,
    /// The kinds, predicted and perhaps measured.
    pub groups: Vec<Group>,
    /// Which kind each launch is of.
    pub members: Vec<usize>,
    /// Seconds of the whole step as requests are served: with graphs, and with the download of the tokens.
    pub step_seconds: Option<f64>,
}

/// Times a step whose caches are filled up to its depth. Every row wants a token.
///
/// What the caches and activations hold afterwards has no meaning.
///
/// # Errors
/// Those of the model.
pub fn measure(target: &mut Target, step: Step, card: &Card, repetitions: usize) -> Result<Stages, ModelError> {
    let step_seconds = whole(target, step, repetitions)?;
    let parts = target.step(step, step.total_rows());
    let mut stages = Stages::predicted(&parts, card);
    let device = target.machine().device();
    let flush = match device.properties().target.vendor {
        Vendor::Host => None,
        _ => Some(Stream::new(device, FLUSH_BYTES)?),
    };
    for (index, group) in stages.groups.iter_mut().enumerate() {
        let graphs = graphs(target, &parts, &stages.members, index)?;
        let mut samples = Vec::with_capacity(repetitions);
        for _ in 0..=repetitions {
            let mut time = Duration::ZERO;
            for graph in &graphs {
                time += replay(target, graph, flush.as_ref())?;
            }
            samples.push(time.as_secs_f64());
        }
        // the first run warms up
        group.measured_seconds = Some(Spread::of(&samples[1..]).median_ts);
    }
    stages.step_seconds = Some(step_seconds);
    Ok(stages)
}

/// Runs the step some times. The last run leaves the inputs that the launches work on.
fn whole(target: &mut Target, step: Step, repetitions: usize) -> Result<f64, ModelError> {
    let mut rows = Vec::with_capacity(step.total_rows());
    for slot in 0..step.sequences as u32 {
        for row in 0..step.rows {
            rows.push(Row {
                token: row as u32 % target.vocabulary().max(1) as u32,
                slot,
                position: (step.depth + row) as u32,
                want: Want::Token,
            });
        }
    }
    // plain, recorded, and then replayed
    let phase = phase(target, step.rows);
    for _ in 0..2 {
        target.forward(&rows, phase)?;
    }
    let mut samples = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let start = Instant::now();
        target.forward(&rows, phase)?;
        samples.push(start.elapsed().as_secs_f64());
    }
    Ok(Spread::of(&samples).median_ts)
}

/// The launches of one group, a graph for each part of the step that has some.
fn graphs(target: &Target, parts: &[(&Plan, Step)], members: &[usize], group: usize) -> Result<Vec<Graph>, PlanError> {
    let mut graphs = Vec::new();
    let mut first = 0;
    for (plan, step) in parts {
        let of_part = &members[first..first + plan.stages.len()];
        first += plan.stages.len();
        if of_part.contains(&group) {
            let stages = plan.stages.iter().zip(of_part);
            let stages = stages.filter(|(_, member)| **member == group).map(|(stage, _)| stage);
            graphs.push(target.machine().record(plan, stages, &Size::from(step))?);
        }
    }
    Ok(graphs)
}

fn replay(target: &Target, graph: &Graph, flush: Option<&Stream>) -> Result<Duration, PlanError> {
    let device = target.machine().device();
    if let Some(flush) = flush {
        flush.read()?;
    }
    let start = device.mark()?;
    device.replay(graph)?;
    let end = device.mark()?;
    Ok(device.elapsed(&start, &end)?)
}

impl Stages {
    /// Without a device: the plans of a step in order, each with the rows that it does.
    pub fn predicted(parts: &[(&Plan, Step)], card: &Card) -> Self {
        let launches = predict::step(parts, card);
        let (groups, members) = predict::grouped(&launches);
        Self {
            launches,
            groups,
            members,
            step_seconds: None,
        }
    }

    /// As part of results.
    pub fn figures(&self, step: Step, cache: String) -> StageFigures {
        let kinds: Vec<StageKind> = self
            .groups
            .iter()
            .map(|group| StageKind {
                kind: group.kind.clone(),
                kernel: group.kernel.clone(),
                count: group.count,
                bytes: group.bytes.all(),
                predicted_us: group.seconds * 1e6,
                measured_us: group.measured_seconds.unwrap_or_default() * 1e6,
                bound: group.bound.name().to_owned(),
            })
            .collect();
        StageFigures {
            n_parallel: step.sequences,
            n_rows: step.rows,
            n_depth: step.depth,
            cache,
            predicted_us: kinds.iter().map(|kind| kind.predicted_us).sum(),
            measured_us: kinds.iter().map(|kind| kind.measured_us).sum(),
            step_us: self.step_seconds.unwrap_or_default() * 1e6,
            kinds,
        }
    }
}
