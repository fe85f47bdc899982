//! Bars on stderr, and logs.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::EnvFilter;

use crate::plan;
use crate::schedule::{Progress, Stage};

/// Environment variable that says in detail what is logged.
pub const LOG_VARIABLE: &str = "TILEKILN_LOG";

/// Logs to stderr: warnings, with `-v` what happens, with `-vv` everything of this program.
pub fn init_logs(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "warn,tilekiln=info",
        _ => "info,tilekiln=trace",
    };
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|error| {
        if std::env::var_os(LOG_VARIABLE).is_some_and(|value| !value.is_empty()) {
            eprintln!("tilekiln: {LOG_VARIABLE} is not used: {error}");
        }
        EnvFilter::new(level)
    });
    // Fails when there is one already, as in tests that run several commands.
    let _ = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_env_filter(filter)
        .try_init();
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Bars that move.
    Bars,
    /// A line when a stage ends.
    Lines,
    Nothing,
}

/// Shows how far loading and prompts are.
pub struct Reporter {
    style: Style,
    current: Mutex<Option<(Work, ProgressBar)>>,
}

/// What a bar stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Stage(Stage),
    Prompt,
    /// Caches are filled before a test.
    Fill,
    /// Tests of a benchmark.
    Tests,
    /// Divisions of products.
    Divisions,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Stage(Stage::Load) => "load",
            Self::Stage(Stage::Compile) => "compile",
            Self::Stage(Stage::Warmup) => "warm up",
            Self::Prompt => "prompt",
            Self::Fill => "fill",
            Self::Tests => "bench",
            Self::Divisions => "tune",
        }
    }

    fn amount(self, count: u64) -> String {
        match self {
            Self::Stage(Stage::Load) => format!("{:.1} MiB", count as f64 / f64::from(1 << 20)),
            Self::Stage(Stage::Compile) => format!("{count} kernels"),
            Self::Stage(Stage::Warmup) => format!("{count} steps"),
            Self::Prompt | Self::Fill => format!("{count} tokens"),
            Self::Tests => format!("{count} tests"),
            Self::Divisions => format!("{count} divisions"),
        }
    }

    fn style(self) -> ProgressStyle {
        let counts = match self {
            Self::Stage(Stage::Load) => "{bytes}/{total_bytes} {bytes_per_sec}",
            _ => "{pos}/{len} {per_sec}",
        };
        let counts = match self {
            Self::Tests | Self::Divisions => "{pos}/{len} {msg}",
            _ => counts,
        };
        ProgressStyle::with_template(&format!("{{prefix:8}} {{bar:30}} {counts} {{elapsed}}"))
            .unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Reporter {
    /// Bars on a terminal, lines elsewhere, nothing when quiet.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let style = match (quiet, stderr().is_terminal()) {
            (true, _) => Style::Nothing,
            (false, true) => Style::Bars,
            (false, false) => Style::Lines,
        };
        Self {
            style,
            current: Mutex::new(None),
        }
    }

    /// A stage of loading has come so far.
    pub fn stage(&self, progress: Progress) {
        self.show(Work::Stage(progress.stage), progress.done, progress.total);
    }

    /// Loading has come so far.
    pub fn plan(&self, progress: &plan::Progress) {
        self.stage(progress.into());
    }

    /// So many tokens of a prompt are evaluated. Short prompts get no line of their own.
    pub fn prompt(&self, done: usize, total: usize) {
        if self.style == Style::Bars {
            self.show(Work::Prompt, done as u64, total as u64);
        }
    }

    /// So many positions of caches are filled. Nothing but bars shows it.
    pub fn fill(&self, done: usize, total: usize) {
        if self.style == Style::Bars {
            self.show(Work::Fill, done as u64, total as u64);
        }
    }

    /// So many tests are done, and what comes next. Nothing but bars shows it.
    pub fn test(&self, done: usize, total: usize, next: &str) {
        if self.style == Style::Bars {
            self.show_named(Work::Tests, (done, total), next);
        }
    }

    /// So many divisions are measured, and of which product the next one is.
    pub fn division(&self, done: usize, total: usize, next: &str) {
        self.show_named(Work::Divisions, (done, total), next);
    }

    fn show_named(&self, work: Work, (done, total): (usize, usize), next: &str) {
        self.show(work, done as u64, total as u64);
        if let Ok(current) = self.current.lock()
            && let Some((shown, bar)) = current.as_ref()
            && *shown == work
        {
            bar.set_message(next.to_owned());
        }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        if self.style != Style::Nothing {
            self.clear();
            eprintln!("{text}");
        }
    }

    /// Removes what is shown, before something else is printed.
    pub fn clear(&self) {
        if let Ok(mut current) = self.current.lock()
            && let Some((_, bar)) = current.take()
        {
            bar.finish_and_clear();
        }
    }

    fn show(&self, work: Work, done: u64, total: u64) {
        if self.style == Style::Nothing {
            return;
        }
        let Ok(mut current) = self.current.lock() else { return };
        if current.as_ref().is_none_or(|(shown, _)| *shown != work) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            let target = match self.style {
                Style::Bars => ProgressDrawTarget::stderr(),
                _ => ProgressDrawTarget::hidden(),
            };
            let bar = ProgressBar::with_draw_target(Some(total), target).with_style(work.style());
            *current = Some((work, bar.with_prefix(work.name())));
        }
        let Some((_, bar)) = current.as_ref() else { return };
        bar.set_length(total);
        bar.set_position(done);
        if done >= total {
            let elapsed = bar.elapsed();
            let (_, bar) = current.take().unzip();
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            if matches!(work, Work::Stage(_) | Work::Divisions) {
                eprintln!(
                    "{}: {} in {:.1} s",
                    work.name(),
                    work.amount(total),
                    elapsed.as_secs_f64()
                );
            }
        }
    }
}
