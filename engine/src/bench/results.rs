//! What was measured, as data. The keys of a test and of its rates are those of llama-bench where it has the same thing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::roofline::Roofline;

/// Names this layout in a file.
pub const FORMAT: &str = "tilekiln bench 1";

/// Everything of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`]
    pub format: String,
    /// Version of the program.
    pub version: String,
    /// The model.
    pub model: ModelFacts,
    /// Where it ran.
    pub device: DeviceFacts,
    /// f32 activations and dequantised weights.
    pub exact: bool,
    /// What is divided as `tilekiln tune` measured it, if something is.
    #[serde(default)]
    pub tuning: Option<String>,
    /// Timed runs of each test.
    pub repetitions: usize,
    /// What the memory gives.
    pub roofline: Roofline,
    /// What starting takes.
    pub start: StartFigures,
    /// The tests, in the order in which they were done.
    pub tests: Vec<Measured>,
    /// The launches of one step by kind, where they were timed.
    pub stages: Option<StageFigures>,
}

/// The model of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `general.name`
    pub name: String,
    /// Name of its file, without the folder.
    pub file: String,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Weights.
    pub parameters: u64,
}

/// The device of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// As its driver says.
    pub name: String,
    /// The target whose kernels it runs.
    pub target: String,
    /// Multiprocessors, compute units or threads.
    pub units: usize,
}

/// How long it takes until a model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartFigures {
    /// Opening the device: libraries, driver, context.
    pub open_ms: f64,
    /// Reading the file's head and writing all launches.
    pub plan_ms: f64,
    /// Kernels of all tests.
    pub kernels: usize,
    /// Recording, compiling and loading them with an empty cache.
    pub compile_cold_ms: f64,
    /// The same again, with what that left in the cache.
    pub compile_warm_ms: f64,
    /// Kernels that came from the cache then.
    pub from_cache: usize,
    /// Bytes of weights copied to the device.
    pub weight_bytes: u64,
    /// Memory, and copying the weights.
    pub weights_ms: f64,
    /// The first step.
    pub first_step_ms: f64,
}

impl StartFigures {
    /// From nothing to the first token, with an empty cache of kernels.
    pub fn cold_ms(&self) -> f64 {
        self.open_ms + self.plan_ms + self.compile_cold_ms + self.weights_ms + self.first_step_ms
    }

    /// The same with all kernels in the cache.
    pub fn warm_ms(&self) -> f64 {
        self.open_ms + self.plan_ms + self.compile_warm_ms + self.weights_ms + self.first_step_ms
    }
}

/// What identifies a test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TestKey {
    /// Tokens of a prompt.
    pub n_prompt: usize,
    /// Tokens of an answer.
    pub n_gen: usize,
    /// Rows of a single step.
    pub n_rows: usize,
    /// Positions in the cache before.
    pub n_depth: usize,
    /// Sequences.
    pub n_parallel: usize,
    /// Prompt tokens per evaluation.
    pub n_ubatch: usize,
    /// Type of cached keys.
    pub type_k: String,
    /// Type of cached values.
    pub type_v: String,
}

impl TestKey {
    /// As llama-bench would call it: `pp512`, `tg128 @ d4096`; `tg128 x4` for four sequences, `4 rows` for a step.
    pub fn label(&self) -> String {
        let mut label = match (self.n_prompt, self.n_gen, self.n_rows) {
            (0, 0, 1) => "1 row".to_owned(),
            (0, 0, rows) => format!("{rows} rows"),
            (prompt, 0, _) => format!("pp{prompt}"),
            (0, answer, _) => format!("tg{answer}"),
            (prompt, answer, _) => format!("pp{prompt}+tg{answer}"),
        };
        if self.n_parallel > 1 {
            label += &format!(" x{}", self.n_parallel);
        }
        if self.n_depth > 0 {
            label += &format!(" @ d{}", self.n_depth);
        }
        label
    }

    /// The types of keys and values, once where they are the same.
    pub fn cache(&self) -> String {
        if self.type_k == self.type_v {
            self.type_k.clone()
        } else {
            format!("{}/{}", self.type_k, self.type_v)
        }
    }

    /// Whether the same is tested: the chunks of a prompt do not matter where there is none.
    pub fn is_same(&self, other: &Self) -> bool {
        let without_chunk = |key: &Self| Self {
            n_ubatch: if key.n_prompt > 0 { key.n_ubatch } else { 0 },
            ..key.clone()
        };
        without_chunk(self) == without_chunk(other)
    }

    /// Whether a single step was timed.
    pub fn is_step(&self) -> bool {
        self.n_rows > 0
    }
}

/// One test and what it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Which.
    #[serde(flatten)]
    pub key: TestKey,
    /// `pp512`
    pub test: String,
    /// Nanoseconds of each repetition; of steps, the mean of one.
    pub samples_ns: Vec<u64>,
    /// Tokens a second of each repetition.
    pub samples_ts: Vec<f64>,
    /// Mean of them.
    pub avg_ts: f64,
    /// Standard deviation.
    pub stddev_ts: f64,
    /// Median, slowest, fastest, and how far these are apart.
    #[serde(flatten)]
    pub spread: Spread,
    /// Bytes that have to be moved for a token: weights once a step, and the cache.
    pub bytes_per_token: f64,
    /// Bytes a second, by the median.
    pub bytes_per_second: f64,
    /// Of the bandwidth that a plain read reached in this run.
    pub percent_of_roofline: f64,
    /// Multiply-adds a second, by the median.
    pub operations_per_second: f64,
    /// Median time of the step against that of a step of one row at the same depth.
    pub ratio_to_one_row: Option<f64>,
}

/// Where samples lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median_ts: f64,
    /// Smallest.
    pub min_ts: f64,
    /// Largest.
    pub max_ts: f64,
    /// From smallest to largest, in parts of the median.
    pub spread_percent: f64,
}

impl Spread {
    /// Of samples; nothing of none.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let count = sorted.len();
        let median = if count.is_multiple_of(2) {
            (at((count / 2).saturating_sub(1)) + at(count / 2)) / 2.0
        } else {
            at(count / 2)
        };
        let (min, max) = (at(0), at(count.saturating_sub(1)));
        Self {
            median_ts: median,
            min_ts: min,
            max_ts: max,
            spread_percent: if median > 0.0 {
                100.0 * (max - min) / median
            } else {
                0.0
            },
        }
    }
}

impl Measured {
    /// A test of `tokens` tokens that took these times, moved so many bytes and did so many multiply-adds each time.
    pub fn new(
        key: TestKey,
        tokens: usize,
        samples_ns: Vec<u64>,
        (bytes, operations): (u64, u64),
        roofline: f64,
    ) -> Self {
        let rate = |ns: &u64| tokens as f64 * 1e9 / (*ns).max(1) as f64;
        let samples_ts: Vec<f64> = samples_ns.iter().map(rate).collect();
        let count = samples_ts.len().max(1) as f64;
        let average = samples_ts.iter().sum::<f64>() / count;
        let squares: f64 = samples_ts.iter().map(|sample| (sample - average).powi(2)).sum();
        let spread = Spread::of(&samples_ts);
        let bytes_per_token = bytes as f64 / tokens.max(1) as f64;
        let bytes_per_second = bytes_per_token * spread.median_ts;
        Self {
            test: key.label(),
            key,
            samples_ns,
            samples_ts,
            avg_ts: average,
            stddev_ts: if count > 1.0 {
                (squares / (count - 1.0)).sqrt()
            } else {
                0.0
            },
            spread,
            bytes_per_token,
            bytes_per_second,
            percent_of_roofline: 100.0 * bytes_per_second / roofline,
            operations_per_second: operations as f64 / tokens.max(1) as f64 * spread.median_ts,
            ratio_to_one_row: None,
        }
    }

    /// Median microseconds of a step.
    pub fn step_us(&self) -> f64 {
        self.key.n_rows as f64 * 1e6 / self.spread.median_ts
    }
}

/// The launches of one step by kind: predicted for the device's measured bandwidth, and measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// The step: sequences, rows of each, depth.
    pub n_parallel: usize,
    /// Rows of each sequence.
    pub n_rows: usize,
    /// Positions in the cache.
    pub n_depth: usize,
    /// Types of keys and values.
    pub cache: String,
    /// Predicted, all launches together.
    pub predicted_us: f64,
    /// The kinds timed apart, together.
    pub measured_us: f64,
    /// The whole step as it is run.
    pub step_us: f64,
    /// The kinds.
    pub kinds: Vec<StageKind>,
}

/// One kind of launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageKind {
    /// `ffn_down`
    pub kind: String,
    /// Kernel with its settings.
    pub kernel: String,
    /// Launches in the step.
    pub count: usize,
    /// What they move.
    pub bytes: u64,
    /// Predicted, together.
    pub predicted_us: f64,
    /// Measured, together.
    pub measured_us: f64,
    /// What bounds the prediction.
    pub bound: String,
}

impl StageFigures {
    /// A name for each kind; where kinds share one, with the settings in which their kernels differ.
    pub fn names(&self) -> Vec<String> {
        let settings = |kind: &StageKind| -> Vec<String> {
            let settings = kind.kernel.split_once(' ').map_or("", |(_, settings)| settings);
            settings.split(',').map(str::to_owned).collect()
        };
        let name = |kind: &StageKind| {
            let namesakes = self.kinds.iter().filter(|other| other.kind == kind.kind);
            let others: Vec<Vec<String>> = namesakes.map(settings).collect();
            let own = settings(kind).into_iter();
            let differing: Vec<String> = own
                .filter(|own| others.iter().any(|other| !other.contains(own)))
                .collect();
            format!("{} {}", kind.kind, differing.join(",")).trim_end().to_owned()
        };
        self.kinds.iter().map(name).collect()
    }
}

/// A text that holds no results.
#[derive(Debug, thiserror::Error)]
pub enum NotResults {
    /// No JSON.
    #[error("it is no JSON: {0}; write results with `tilekiln bench -o json`")]
    Json(serde_json::Error),
    /// Something else.
    #[error("it has no results of `tilekiln bench`: {0}; write them with `tilekiln bench -o json`")]
    Other(String),
    /// Results of another version.
    #[error("its format is `{found}`, and this program reads `{FORMAT}`; measure again with this version")]
    Format {
        /// What it says.
        found: String,
    },
}

impl Results {
    /// Reads results.
    ///
    /// # Errors
    /// Texts that are none.
    pub fn parse(text: &str) -> Result<Self, NotResults> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(NotResults::Json)?;
        let Some(format) = value.get("format") else {
            let kind = match &value {
                serde_json::Value::Array(_) => "it is a list (other programs write those)",
                serde_json::Value::Object(_) => "an object without `format`",
                _ => "a single value",
            };
            return Err(NotResults::Other(kind.to_owned()));
        };
        if format != FORMAT {
            let found = format.as_str().map_or_else(|| format.to_string(), str::to_owned);
            return Err(NotResults::Format { found });
        }
        serde_json::from_value(value).map_err(|error| NotResults::Other(error.to_string()))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ± {:.1} %", figures(self.median_ts), self.spread_percent / 2.0)
    }
}

/// A number with four figures, or three where it is below one.
pub fn figures(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        size if size >= 1.0 => format!("{value:.3}"),
        size if size > 0.0 => {
            let zeroes = (-size.log10()).ceil() as usize;
            format!("{value:.*}", zeroes + 2)
        }
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples, median, spread in percent.
    #[test]
    fn spreads() {
        let table: [(&[f64], f64, f64); 5] = [
            (&[], 0.0, 0.0),
            (&[5.0], 5.0, 0.0),
            (&[4.0, 2.0], 3.0, 200.0 / 3.0),
            (&[9.0, 10.0, 12.0], 10.0, 30.0),
            (&[12.0, 9.0, 10.0, 10.0], 10.0, 30.0),
        ];
        for (samples, median, percent) in table {
            let spread = Spread::of(samples);
            assert_eq!(spread.median_ts, median, "{samples:?}");
            assert!((spread.spread_percent - percent).abs() < 1e-9, "{spread:?}");
        }
    }

    #[test]
    fn rates_follow_from_times() {
        let key = TestKey {
            n_prompt: 0,
            n_gen: 10,
            n_rows: 0,
            n_depth: 64,
            n_parallel: 2,
            n_ubatch: 512,
            type_k: "f16".to_owned(),
            type_v: "f32".to_owned(),
        };
        assert_eq!(
            (key.label(), key.cache()),
            ("tg10 x2 @ d64".to_owned(), "f16/f32".to_owned())
        );
        let measured = Measured::new(key, 20, vec![1_000_000, 2_000_000, 4_000_000], (4000, 60), 1e8);
        assert_eq!(measured.samples_ts, [20_000.0, 10_000.0, 5000.0]);
        assert_eq!(measured.bytes_per_token, 200.0);
        assert_eq!((measured.bytes_per_second, measured.percent_of_roofline), (2e6, 2.0));
        assert_eq!(measured.operations_per_second, 3e4);
        assert!((measured.avg_ts - 35_000.0 / 3.0).abs() < 1e-6);
        assert!((measured.stddev_ts - 7637.626).abs() < 1e-3, "{}", measured.stddev_ts);
    }

    #[test]
    fn kinds_that_share_a_name() {
        let kind = |kind: &str, kernel: &str| StageKind {
            kind: kind.to_owned(),
            kernel: kernel.to_owned(),
            count: 1,
            bytes: 0,
            predicted_us: 1.0,
            measured_us: 1.0,
            bound: "memory".to_owned(),
        };
        let stages = StageFigures {
            n_parallel: 1,
            n_rows: 1,
            n_depth: 0,
            cache: "f16".to_owned(),
            predicted_us: 0.0,
            measured_us: 0.0,
            step_us: 0.0,
            kinds: vec![
                kind("down", "row_product weight=q4_k,tile=1"),
                kind("attend", "attend element=f16,head_dim=256"),
                kind("down", "row_product weight=q6_k,tile=1"),
                kind("norm", "rms_norm threads=256"),
                kind("norm", "rms_norm threads=256"),
            ],
        };
        let names = ["down weight=q4_k", "attend", "down weight=q6_k", "norm", "norm"];
        assert_eq!(stages.names(), names);
    }

    #[test]
    fn numbers_for_people() {
        let table = [
            (12345.6, "12346"),
            (212.345, "212.3"),
            (21.2345, "21.23"),
            (2.12345, "2.123"),
            (0.212345, "0.212"),
            (0.000_512_3, "0.000512"),
            (0.0, "0"),
        ];
        for (value, text) in table {
            assert_eq!(figures(value), text);
        }
    }

    #[test]
    fn what_is_no_result_is_said() {
        let table = [
            ("", "no JSON"),
            ("| model | size |", "no JSON"),
            ("[{\"n_prompt\": 512}]", "a list"),
            ("{\"a\": 1}", "without `format`"),
            ("3", "a single value"),
            ("{\"format\": \"tilekiln bench 0\"}", "`tilekiln bench 0`"),
            ("{\"format\": \"tilekiln bench 1\"}", "missing field"),
        ];
        for (text, said) in table {
            let error = Results::parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
