//! What a dashboard sees: counters and histograms in Prometheus' text form.
//!
//! Each server has a recorder of its own, so several servers in one process count apart.

use std::fmt;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::schedule::{ServiceStatus, Statistics};

const REQUESTS: &str = "tilekiln_requests_total";
const ANSWERS: &str = "tilekiln_answers_total";
const SLOTS: &str = "tilekiln_slots";
const BUSY: &str = "tilekiln_slots_busy";
const WAITING: &str = "tilekiln_requests_waiting";

/// Upper bounds of the buckets of times to the first token, in seconds.
const FIRST_TOKEN: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Upper bounds of the buckets of times between tokens, in seconds.
const TOKEN_LATENCY: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// How an answer ended, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model or a stop string ended it.
    Stop,
    /// It was long enough.
    Length,
    /// It ended with calls of functions.
    ToolCalls,
    /// Nobody listened any more, or the server ended.
    Cancelled,
    /// The engine failed.
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Counters of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    prompt_tokens: Counter,
    reused_tokens: Counter,
    generated_tokens: Counter,
    drafted_tokens: Counter,
    accepted_tokens: Counter,
    first_token: Histogram,
    token_latency: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let bucketed = [
            ("tilekiln_time_to_first_token_seconds", FIRST_TOKEN),
            ("tilekiln_token_latency_seconds", TOKEN_LATENCY),
        ];
        let builder = bucketed
            .into_iter()
            .fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
                // It refuses empty lists of bounds only.
                builder
                    .set_buckets_for_metric(Matcher::Full(name.into()), bounds)
                    .unwrap_or_default()
            });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!("tilekiln_prompt_tokens_total", "Tokens of prompts that were evaluated.");
            describe_counter!(
                "tilekiln_reused_tokens_total",
                "Tokens of prompts that were in the cache already."
            );
            describe_counter!("tilekiln_generated_tokens_total", "Tokens generated.");
            describe_counter!("tilekiln_drafted_tokens_total", "Tokens drafted by the assistant.");
            describe_counter!("tilekiln_accepted_tokens_total", "Drafted tokens that were accepted.");
            describe_counter!(REQUESTS, "HTTP requests by path and status.");
            describe_counter!(ANSWERS, "Answers by how they ended.");
            describe_gauge!(SLOTS, "Requests that can run at once.");
            describe_gauge!(BUSY, "Requests that run.");
            describe_gauge!(WAITING, "Requests that wait for a slot.");
            describe_histogram!(
                "tilekiln_time_to_first_token_seconds",
                "Time from a request to its first token."
            );
            describe_histogram!("tilekiln_token_latency_seconds", "Time from one token to the next.");
        });
        let counters = |name: &'static str| metrics::with_local_recorder(&recorder, || counter!(name));
        let histograms = |name: &'static str| metrics::with_local_recorder(&recorder, || histogram!(name));
        Self {
            prompt_tokens: counters("tilekiln_prompt_tokens_total"),
            reused_tokens: counters("tilekiln_reused_tokens_total"),
            generated_tokens: counters("tilekiln_generated_tokens_total"),
            drafted_tokens: counters("tilekiln_drafted_tokens_total"),
            accepted_tokens: counters("tilekiln_accepted_tokens_total"),
            first_token: histograms("tilekiln_time_to_first_token_seconds"),
            token_latency: histograms("tilekiln_token_latency_seconds"),
            handle,
            recorder,
        }
    }

    /// A request was answered with this status.
    pub fn request(&self, path: &str, status: u16) {
        let labels = [("path", path.to_string()), ("status", status.to_string())];
        metrics::with_local_recorder(&self.recorder, || counter!(REQUESTS, &labels).increment(1));
    }

    /// The first token came.
    pub fn first_token(&self, after: Duration) {
        self.first_token.record(after);
        self.generated_tokens.increment(1);
    }

    /// A further token came.
    pub fn token(&self, after: Duration) {
        self.token_latency.record(after);
        self.generated_tokens.increment(1);
    }

    /// An answer ended.
    pub fn answer(&self, outcome: Outcome) {
        metrics::with_local_recorder(&self.recorder, || {
            counter!(ANSWERS, "finish" => outcome.name()).increment(1)
        });
    }

    /// What the service says of a finished request.
    pub fn statistics(&self, statistics: &Statistics) {
        let evaluated = statistics.prompt_tokens.saturating_sub(statistics.reused_tokens);
        self.prompt_tokens.increment(evaluated as u64);
        self.reused_tokens.increment(statistics.reused_tokens as u64);
        self.drafted_tokens.increment(statistics.drafted as u64);
        self.accepted_tokens.increment(statistics.accepted as u64);
    }

    /// The text for Prometheus.
    #[must_use]
    pub fn render(&self, status: Option<ServiceStatus>) -> String {
        if let Some(status) = status {
            metrics::with_local_recorder(&self.recorder, || {
                gauge!(SLOTS).set(status.slots as f64);
                gauge!(BUSY).set(status.busy as f64);
                gauge!(WAITING).set(status.waiting as f64);
            });
        }
        self.handle.run_upkeep();
        self.handle.render()
    }
}
