//! A step's launches as `tilekiln plan` shows them: bytes, operations, predicted and measured time.

use std::path::PathBuf;

use serde::Serialize;

use super::figures;
use super::stages::Stages;
use super::table::{self, Align, markdown};
use crate::plan::Bytes;
use crate::plan::cards::Card;
use crate::plan::predict::{self, Forecast, Group};

/// A step on a card.
#[derive(Debug, Serialize)]
pub struct StepReport {
    model: String,
    target: &'static str,
    card: CardFacts,
    step: StepFacts,
    /// The file of measured divisions that the plan was made with.
    tuning: Option<PathBuf>,
    total: Total,
    groups: Vec<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    launches: Option<Vec<Launch>>,
}

#[derive(Debug, Serialize)]
struct CardFacts {
    name: String,
    summary: String,
    bytes_per_second: f64,
    units: usize,
    vector_operations_per_second: f64,
    dot4_operations_per_second: f64,
    matrix_operations_per_second: f64,
    launch_us: f64,
    dependent_launch_us: f64,
    sources: &'static [&'static str],
}

/// Which step.
#[derive(Debug, Serialize)]
pub struct StepFacts {
    /// Sequences in the step.
    pub sequences: usize,
    /// New tokens of each.
    pub rows: usize,
    /// Positions of each in the cache.
    pub depth: usize,
    /// Rows that want a token; none of a prompt's.
    pub outputs: usize,
    /// Type of cached keys.
    pub type_k: String,
    /// Type of cached values.
    pub type_v: String,
    /// f32 activations and dequantised weights.
    pub exact: bool,
}

/// The whole step.
#[derive(Debug, Serialize)]
struct Total {
    launches: usize,
    bytes: Bytes,
    operations: u64,
    predicted_seconds: f64,
    /// Of all rows of the step.
    predicted_tokens_per_second: f64,
    /// If nothing but the bytes that have to be moved counted.
    memory_limit_tokens_per_second: f64,
    /// The kinds, timed apart, together.
    measured_seconds: Option<f64>,
    /// The step as it is run.
    measured_step_seconds: Option<f64>,
    measured_tokens_per_second: Option<f64>,
}

/// One launch, with the measured time of its kind shared out.
#[derive(Debug, Serialize)]
struct Launch {
    #[serde(flatten)]
    forecast: Forecast,
    measured_seconds: Option<f64>,
}

impl StepReport {
    /// Of the launches of a step; with `all` each of them is listed.
    ///
    /// `tuning` is the file of measured divisions that it was planned with.
    pub fn new(
        model: String,
        step: StepFacts,
        (card, tuning): (Card, Option<PathBuf>),
        stages: Stages,
        all: bool,
    ) -> Self {
        let Stages {
            launches,
            groups,
            members,
            step_seconds,
        } = stages;
        let bytes: Bytes = launches.iter().map(|launch| launch.bytes).sum();
        let predicted: f64 = launches.iter().map(|launch| launch.seconds).sum();
        let rows = (step.sequences * step.rows) as f64;
        let measured = |group: &Group| group.measured_seconds;
        let total = Total {
            launches: launches.len(),
            bytes,
            operations: launches.iter().map(|launch| launch.operations).sum(),
            predicted_seconds: predicted,
            predicted_tokens_per_second: rows / predicted,
            memory_limit_tokens_per_second: rows * card.bandwidth / bytes.least() as f64,
            measured_seconds: groups.iter().map(measured).sum(),
            measured_step_seconds: step_seconds,
            measured_tokens_per_second: step_seconds.map(|seconds| rows / seconds),
        };
        let share = |group: &Group| Some(group.measured_seconds? / group.count as f64);
        let each = launches.into_iter().zip(&members).map(|(forecast, member)| Launch {
            forecast,
            measured_seconds: share(&groups[*member]),
        });
        let launches = all.then(|| each.collect());
        Self {
            model,
            target: card.target,
            step,
            tuning,
            total,
            groups,
            launches,
            card: CardFacts {
                name: card.name,
                summary: card.summary,
                bytes_per_second: card.bandwidth,
                units: card.units,
                vector_operations_per_second: card.vector,
                dot4_operations_per_second: card.dot4,
                matrix_operations_per_second: card.matrix,
                launch_us: card.launch * 1e6,
                dependent_launch_us: card.dependent_launch * 1e6,
                sources: card.sources,
            },
        }
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let table = match &self.launches {
            Some(launches) => launches_table(launches, self),
            None => groups_table(self),
        };
        let (step, card) = (&self.step, &self.card);
        let cache = if step.type_k == step.type_v {
            step.type_k.clone()
        } else {
            format!("{}/{}", step.type_k, step.type_v)
        };
        let kind = if step.outputs == 0 { "prompt rows" } else { "rows" };
        let mut text = format!(
            "{} on {} ({})\na step of {} x {} {kind} behind {} positions, {cache} cache{}\n\n{table}\n{}",
            self.model,
            card.summary,
            self.target,
            step.sequences,
            step.rows,
            step.depth,
            if step.exact { ", exact" } else { "" },
            total(self)
        );
        text += &divisions(self);
        text += &format!(
            "card: {}, {} units, {} µs a launch ({} µs dependent)\n",
            table::rate(card.bytes_per_second),
            card.units,
            figures(card.launch_us),
            figures(card.dependent_launch_us)
        );
        text.extend(card.sources.iter().map(|source| format!("  {source}\n")));
        text
    }
}

fn total(report: &StepReport) -> String {
    let total = &report.total;
    let mut text = format!(
        "{} launches, {} ({} weights, {} cache, {} activations{}), {} multiply-adds\n\
         predicted: {} µs, {} tok/s; the memory alone would allow {} tok/s\n",
        total.launches,
        size(total.bytes.all()),
        size(total.bytes.weights),
        size(total.bytes.cache),
        size(total.bytes.activations),
        match total.bytes.repeated {
            0 => String::new(),
            bytes => format!(", {} weights read again", size(bytes)),
        },
        count(total.operations),
        figures(total.predicted_seconds * 1e6),
        figures(total.predicted_tokens_per_second),
        figures(total.memory_limit_tokens_per_second),
    );
    if let (Some(kinds), Some(step), Some(speed)) = (
        total.measured_seconds,
        total.measured_step_seconds,
        total.measured_tokens_per_second,
    ) {
        text += &format!(
            "measured: {} µs by kind, {} µs a step, {} tok/s\n",
            figures(kinds * 1e6),
            figures(step * 1e6),
            figures(speed)
        );
    }
    text
}

/// Where the divisions of products come from. Nothing where there are none.
fn divisions(report: &StepReport) -> String {
    let kinds = |by: &str| -> Vec<&str> {
        let groups = report.groups.iter().filter(|group| group.division == Some(by));
        groups.map(|group| group.kind.as_str()).collect()
    };
    let (tuned, by_rule) = (kinds("tuned"), kinds("rule"));
    match &report.tuning {
        _ if tuned.is_empty() && by_rule.is_empty() => String::new(),
        None => "divisions of products: by rule\n".to_owned(),
        Some(file) if tuned.is_empty() => {
            format!("divisions of products: by rule; {} has none of them\n", file.display())
        }
        Some(file) => format!(
            "divisions of products: {} as measured, in {}; {}\n",
            tuned.join(", "),
            file.display(),
            match by_rule.as_slice() {
                [] => "none by rule".to_owned(),
                some => format!("{} by rule", some.join(", ")),
            }
        ),
    }
}

fn size(bytes: u64) -> String {
    table::bytes(bytes as f64)
}

/// A number of operations as people say it.
fn count(operations: u64) -> String {
    let operations = operations as f64;
    let units = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    let unit = units.into_iter().find(|(_, size)| operations >= *size);
    unit.map_or(format!("{operations}"), |(name, size)| {
        format!("{} {name}", figures(operations / size))
    })
}

fn grid([x, y, z]: [u32; 3]) -> String {
    match (y, z) {
        (1, 1) => x.to_string(),
        (_, 1) => format!("{x}x{y}"),
        _ => format!("{x}x{y}x{z}"),
    }
}

const LAUNCH_COLUMNS: &[(&str, Align)] = &[
    ("kernel", Align::Left),
    ("grid", Align::Right),
    ("weights", Align::Right),
    ("cache", Align::Right),
    ("activations", Align::Right),
    ("operations", Align::Right),
    ("predicted µs", Align::Right),
    ("%", Align::Right),
    ("bound", Align::Left),
    ("measured µs", Align::Right),
    ("TB/s", Align::Right),
];

/// The columns that launches and groups have in common; the measured ones where something was measured.
fn cells(
    (kernel, blocks): (&str, [u32; 3]),
    bytes: &Bytes,
    operations: u64,
    (seconds, bound): (f64, predict::Bound),
    measured: Option<f64>,
    report: &StepReport,
) -> Vec<String> {
    let mut cells = vec![
        kernel.trim_end().to_owned(),
        grid(blocks),
        size(bytes.weights + bytes.repeated),
        size(bytes.cache),
        size(bytes.activations),
        count(operations),
        figures(seconds * 1e6),
        format!("{:.1}", 100.0 * seconds / report.total.predicted_seconds),
        bound.name().to_owned(),
    ];
    if let Some(measured) = measured {
        cells.push(figures(measured * 1e6));
        cells.push(figures(bytes.all() as f64 / measured.max(1e-12) / 1e12));
    }
    cells
}

fn head<'a>(first: &[(&'a str, Align)], report: &StepReport) -> Vec<(&'a str, Align)> {
    let columns = match report.total.measured_seconds {
        Some(_) => LAUNCH_COLUMNS,
        None => &LAUNCH_COLUMNS[..LAUNCH_COLUMNS.len() - 2],
    };
    [first, columns].concat()
}

fn groups_table(report: &StepReport) -> String {
    let row = |group: &Group| {
        let mut row = vec![group.kind.clone(), group.count.to_string()];
        row.extend(cells(
            (&group.kernel, group.grid),
            &group.bytes,
            group.operations,
            (group.seconds, group.bound),
            group.measured_seconds,
            report,
        ));
        row
    };
    let first = [("stage", Align::Left), ("launches", Align::Right)];
    markdown(
        &head(&first, report),
        &report.groups.iter().map(row).collect::<Vec<_>>(),
    )
}

fn launches_table(launches: &[Launch], report: &StepReport) -> String {
    let row = |launch: &Launch| {
        let forecast = &launch.forecast;
        let mut row = vec![forecast.label.clone()];
        row.extend(cells(
            (&forecast.kernel, forecast.grid),
            &forecast.bytes,
            forecast.operations,
            (forecast.seconds, forecast.bound),
            launch.measured_seconds,
            report,
        ));
        row
    };
    let rows: Vec<_> = launches.iter().map(row).collect();
    markdown(&head(&[("stage", Align::Left)], report), &rows)
}
