//! Two runs side by side.

use serde::Serialize;

use super::results::{Measured, Results, TestKey, figures};
use super::table::{Align, markdown};

/// Whether a difference says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All runs of A are faster than all of B.
    Faster,
    /// All runs of A are slower than all of B.
    Slower,
    /// The two ranges overlap.
    Noise,
    /// One run each has no range.
    Unknown,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Faster => "A faster",
            Self::Slower => "A slower",
            Self::Noise => "within noise",
            Self::Unknown => "one run only",
        }
    }
}

/// A test that both runs have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    #[serde(flatten)]
    pub key: TestKey,
    /// `tg128`
    pub test: String,
    /// Median tokens a second of A.
    pub a_ts: f64,
    /// Of B.
    pub b_ts: f64,
    /// A ÷ B: above 1, A is faster.
    pub ratio: f64,
    /// The least ratio of a run of A to a run of B.
    pub ratio_min: f64,
    /// The largest.
    pub ratio_max: f64,
    /// What the difference is worth.
    pub verdict: Verdict,
}

/// Two runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Tests of both, in the order of A.
    pub tests: Vec<Compared>,
    /// Tests that only A has.
    pub only_a: Vec<String>,
    /// Tests that only B has.
    pub only_b: Vec<String>,
    /// What differs between the runs beside their figures.
    pub differences: Vec<String>,
}

impl Compared {
    fn new(a: &Measured, b: &Measured) -> Self {
        let has_range = a.samples_ts.len() > 1 && b.samples_ts.len() > 1;
        let verdict = match (&a.spread, &b.spread) {
            _ if !has_range => Verdict::Unknown,
            (a, b) if a.min_ts > b.max_ts => Verdict::Faster,
            (a, b) if a.max_ts < b.min_ts => Verdict::Slower,
            _ => Verdict::Noise,
        };
        Self {
            key: a.key.clone(),
            test: a.test.clone(),
            a_ts: a.spread.median_ts,
            b_ts: b.spread.median_ts,
            ratio: a.spread.median_ts / b.spread.median_ts,
            ratio_min: a.spread.min_ts / b.spread.max_ts,
            ratio_max: a.spread.max_ts / b.spread.min_ts,
            verdict,
        }
    }
}

/// Puts the tests of two runs side by side.
pub fn compare(a: &Results, b: &Results) -> Comparison {
    let partner = |test: &Measured, of: &Results| of.tests.iter().find(|other| other.key.is_same(&test.key)).cloned();
    let mut tests = Vec::new();
    let mut only_a = Vec::new();
    for test in &a.tests {
        match partner(test, b) {
            Some(other) => tests.push(Compared::new(test, &other)),
            None => only_a.push(name(test)),
        }
    }
    let only_b = b.tests.iter().filter(|test| partner(test, a).is_none()).map(name);
    let facts = |results: &Results| {
        [
            ("model", results.model.name.clone()),
            ("model bytes", results.model.bytes.to_string()),
            ("device", results.device.name.clone()),
            ("exact", results.exact.to_string()),
            (
                "divisions",
                results.tuning.clone().unwrap_or_else(|| "by rule".to_owned()),
            ),
            ("version", results.version.clone()),
        ]
    };
    let pairs = facts(a).into_iter().zip(facts(b)).filter(|(a, b)| a != b);
    Comparison {
        only_b: only_b.collect(),
        tests,
        only_a,
        differences: pairs
            .map(|((what, a), (_, b))| format!("{what}: A {a}, B {b}"))
            .collect(),
    }
}

fn name(test: &Measured) -> String {
    let chunk = match test.key.n_prompt {
        0 => String::new(),
        _ => format!(", ub {}", test.key.n_ubatch),
    };
    format!("{} ({} cache{chunk})", test.test, test.key.cache())
}

impl Comparison {
    /// For people.
    pub fn markdown(&self) -> String {
        let head = [
            ("kv", Align::Left),
            ("test", Align::Left),
            ("A tok/s", Align::Right),
            ("B tok/s", Align::Right),
            ("A/B", Align::Right),
            ("from", Align::Right),
            ("to", Align::Right),
            ("", Align::Left),
        ];
        let row = |test: &Compared| {
            vec![
                test.key.cache(),
                test.test.clone(),
                figures(test.a_ts),
                figures(test.b_ts),
                format!("{:.3}", test.ratio),
                format!("{:.3}", test.ratio_min),
                format!("{:.3}", test.ratio_max),
                test.verdict.text().to_owned(),
            ]
        };
        let mut text = markdown(&head, &self.tests.iter().map(row).collect::<Vec<_>>());
        for (title, lines) in [
            ("differs", &self.differences),
            ("only in A", &self.only_a),
            ("only in B", &self.only_b),
        ] {
            text.extend(lines.iter().map(|line| format!("{title}: {line}\n")));
        }
        text
    }

    /// For spreadsheets.
    ///
    /// # Errors
    /// None that can occur while writing to memory.
    pub fn csv(&self) -> Result<String, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "type_k",
            "type_v",
            "test",
            "n_ubatch",
            "a_ts",
            "b_ts",
            "ratio",
            "ratio_min",
            "ratio_max",
            "verdict",
        ])?;
        for test in &self.tests {
            writer.write_record([
                test.key.type_k.clone(),
                test.key.type_v.clone(),
                test.test.clone(),
                test.key.n_ubatch.to_string(),
                test.a_ts.to_string(),
                test.b_ts.to_string(),
                test.ratio.to_string(),
                test.ratio_min.to_string(),
                test.ratio_max.to_string(),
                test.verdict.text().to_owned(),
            ])?;
        }
        let bytes = writer.into_inner().map_err(|error| error.into_error())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(answer: usize, rates: &[u64]) -> Measured {
        let key = TestKey {
            n_prompt: 0,
            n_gen: answer,
            n_rows: 0,
            n_depth: 0,
            n_parallel: 1,
            n_ubatch: 512,
            type_k: "f16".to_owned(),
            type_v: "f16".to_owned(),
        };
        // a token each: nanoseconds from tokens a second
        let samples = rates.iter().map(|rate| 1_000_000_000 / rate).collect();
        Measured::new(key, 1, samples, (1, 1), 1.0)
    }

    #[test]
    fn chunks_matter_to_prompts_only() {
        let with = |prompt: usize, chunk: usize| TestKey {
            n_prompt: prompt,
            n_ubatch: chunk,
            ..measured(8, &[1]).key
        };
        assert!(with(0, 512).is_same(&with(0, 64)) && !with(9, 512).is_same(&with(9, 64)));
        assert!(!with(0, 512).is_same(&with(9, 512)));
    }

    /// Rates of A and B, ratio, verdict.
    #[test]
    fn ranges_that_overlap_are_noise() {
        let table: [(&[u64], &[u64], f64, Verdict); 5] = [
            (&[100, 125, 200], &[50, 40, 80], 2.5, Verdict::Faster),
            (&[50, 40, 80], &[100, 125, 200], 0.4, Verdict::Slower),
            (&[100, 125, 200], &[80, 100, 125], 1.25, Verdict::Noise),
            (&[100], &[50], 2.0, Verdict::Unknown),
            (&[100, 100], &[100, 100], 1.0, Verdict::Noise),
        ];
        for (a, b, ratio, verdict) in table {
            let compared = Compared::new(&measured(8, a), &measured(8, b));
            assert!((compared.ratio - ratio).abs() < 1e-6, "{compared:?}");
            assert_eq!(compared.verdict, verdict, "{compared:?}");
            assert!(compared.ratio_min <= compared.ratio && compared.ratio <= compared.ratio_max);
        }
    }
}
