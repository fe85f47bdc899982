//! A loaded model at work: caches filled to a depth, prompts, answers and steps on top of that.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::suite::Test;
use crate::model::config::TargetConfig;
use crate::model::{LoadOptions, ModelError, Output, Phase, Row, Target, Want};
use crate::plan::{PlanError, Step, predict};
use crate::schedule::{EngineError, EngineOptions, OUTPUTS, load_options};

/// Steps of a kind before one is replayed: the first is plain, the second is recorded, the third is the first replay.
const UNTIL_REPLAY: usize = 3;
/// A single step is repeated until a sample takes this long, so that the clock's steps do not matter.
const SAMPLE: Duration = Duration::from_millis(50);
/// … but not more often.
const MOST_STEPS: u32 = 200;

/// Rows of a sequence that are still measured as a step of decoding; more are a prompt.
const LONGEST_RUN: usize = 32;

/// How a model is loaded for steps of up to `largest` rows with a token wanted of each, `run` of them of one sequence, in
/// `options.slots` sequences of `context` positions.
///
/// # Errors
/// Options that the model does not allow.
pub fn room(
    options: &EngineOptions,
    config: &TargetConfig,
    context: usize,
    [largest, run]: [usize; 2],
) -> Result<LoadOptions, EngineError> {
    let options = EngineOptions {
        drafts: 0,
        // a token of room behind the last one, as every request has
        context: Some(options.slots * (context + 2)),
        ..options.clone()
    };
    let mut load = load_options(&options, config, false)?;
    load.geometry.max_rows = load.geometry.max_rows.max(largest);
    load.geometry.run = if run <= LONGEST_RUN { run.max(1) } else { 1 };
    load.outputs = load.outputs.max(largest.min(*OUTPUTS.end()));
    Ok(load)
}

/// What a step of so many rows of each sequence is measured as.
pub fn phase(target: &Target, rows: usize) -> Phase {
    if rows <= target.options().geometry.run {
        Phase::Decode
    } else {
        Phase::Prompt
    }
}

/// A model with the state of its caches.
pub struct Session {
    /// The model.
    pub target: Target,
    /// Positions that are filled in each slot.
    filled: Vec<usize>,
    random: StdRng,
}

impl Session {
    /// With empty caches.
    pub fn new(target: Target) -> Self {
        Self {
            filled: vec![0; target.options().geometry.slots],
            random: StdRng::seed_from_u64(1),
            target,
        }
    }

    fn token(&mut self) -> u32 {
        let vocabulary = self.target.vocabulary().max(1) as u32;
        self.random.random_range(0..vocabulary)
    }

    /// Fills the caches of the first `sequences` slots up to `depth`. `progress` gets positions done and of how many.
    ///
    /// # Errors
    /// Those of the model.
    pub fn fill(
        &mut self,
        sequences: usize,
        depth: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), ModelError> {
        for slot in 0..sequences.min(self.filled.len()) {
            let known = self.filled[slot];
            if known < depth {
                let mut done = |position| progress(slot * depth + position, sequences * depth);
                self.target.assume_depth(slot as u32, known, depth, &mut done)?;
                self.filled[slot] = depth;
            }
        }
        Ok(())
    }

    /// Runs a test without a clock: everything is loaded, compiled and recorded afterwards.
    ///
    /// # Errors
    /// Those of the model.
    pub fn warm_up(&mut self, test: &Test) -> Result<(), ModelError> {
        if test.rows > 0 {
            self.steps(test, UNTIL_REPLAY as u32)?;
        }
        if test.prompt > 0 {
            // one chunk of which nothing is wanted, and one with the last token
            let short = Test {
                prompt: test.prompt.min(2 * test.chunk),
                ..*test
            };
            self.prompt(0, &short)?;
        }
        if test.answer > 0 {
            let short = Test {
                answer: UNTIL_REPLAY,
                ..*test
            };
            self.answer(&short)?;
        }
        Ok(())
    }

    /// Runs a test. Returns how long it took; of a single step the mean of some.
    ///
    /// # Errors
    /// Those of the model.
    pub fn run(&mut self, test: &Test) -> Result<Duration, ModelError> {
        self.target.machine().device().synchronize().map_err(PlanError::from)?;
        if test.rows > 0 {
            return self.sample_step(test);
        }
        let start = Instant::now();
        if test.prompt > 0 {
            for slot in 0..test.sequences {
                self.prompt(slot as u32, test)?;
            }
        }
        if test.answer > 0 {
            self.answer(test)?;
        }
        Ok(start.elapsed())
    }

    /// Evaluates a prompt of random tokens behind the test's depth. Its last token's logits are wanted.
    fn prompt(&mut self, slot: u32, test: &Test) -> Result<(), ModelError> {
        for first in (0..test.prompt).step_by(test.chunk.max(1)) {
            let end = test.prompt.min(first + test.chunk);
            let mut rows = Vec::with_capacity(end - first);
            for position in first..end {
                rows.push(Row {
                    token: self.token(),
                    slot,
                    position: (test.depth + position) as u32,
                    want: if position + 1 == test.prompt {
                        Want::Token
                    } else {
                        Want::Nothing
                    },
                });
            }
            self.target.forward(&rows, Phase::Prompt)?;
        }
        Ok(())
    }

    /// Continues all sequences greedily, together, behind depth and prompt.
    fn answer(&mut self, test: &Test) -> Result<(), ModelError> {
        let mut newest: Vec<u32> = (0..test.sequences).map(|_| self.token()).collect();
        for step in 0..test.answer {
            let position = (test.depth + test.prompt + step) as u32;
            let row = |(slot, token): (usize, &u32)| row(*token, slot as u32, position);
            let rows: Vec<Row> = newest.iter().enumerate().map(row).collect();
            newest = tokens(self.target.forward(&rows, Phase::Decode)?);
        }
        Ok(())
    }

    fn steps(&mut self, test: &Test, count: u32) -> Result<Duration, ModelError> {
        let first = test.depth as u32;
        let rows: Vec<Row> = (first..first + test.rows as u32)
            .map(|position| row(self.token(), 0, position))
            .collect();
        let phase = phase(&self.target, test.rows);
        let start = Instant::now();
        for _ in 0..count {
            self.target.forward(&rows, phase)?;
        }
        Ok(start.elapsed())
    }

    fn sample_step(&mut self, test: &Test) -> Result<Duration, ModelError> {
        let one = self.steps(test, 1)?.max(Duration::from_nanos(1));
        let count = (SAMPLE.as_secs_f64() / one.as_secs_f64()).ceil() as u32;
        let count = count.clamp(1, MOST_STEPS);
        Ok(self.steps(test, count)? / count)
    }

    /// Bytes that a test has to move, and its multiply-adds.
    pub fn work(&self, test: &Test) -> (u64, u64) {
        let mut bytes = 0;
        let mut operations = 0;
        let mut add = |step: Step, outputs: usize, times: u64| {
            let parts = self.target.step(step, outputs);
            bytes += times * predict::bytes(&parts).least();
            operations += times * predict::operations(&parts);
        };
        if test.rows > 0 {
            let step = Step {
                sequences: 1,
                rows: test.rows,
                depth: test.depth,
            };
            add(step, test.rows, 1);
        }
        for first in (0..test.prompt).step_by(test.chunk.max(1)) {
            let rows = test.chunk.min(test.prompt - first);
            let step = Step {
                sequences: 1,
                rows,
                depth: test.depth + first,
            };
            add(step, usize::from(first + rows == test.prompt), test.sequences as u64);
        }
        for token in 0..test.answer {
            let step = Step {
                sequences: test.sequences,
                rows: 1,
                depth: test.depth + test.prompt + token,
            };
            add(step, test.sequences, 1);
        }
        (bytes, operations)
    }
}

fn row(token: u32, slot: u32, position: u32) -> Row {
    Row {
        token,
        slot,
        position,
        want: Want::Token,
    }
}

fn tokens(outputs: Vec<Output>) -> Vec<u32> {
    outputs.into_iter().map(|output| output.token).collect()
}
