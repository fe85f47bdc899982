//! One answer: events of the service become text, reasoning, calls and an end.
//!
//! Streams send what [`Answer::next`] gives; other responses collect it. So both are the same text.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::metrics::{Metrics, Outcome};
use super::text::{Decoder, Part, Reader, StopFilter};
use crate::schedule::{Choice, Event, Finish, Statistics, Ticket};

/// What one step of an answer adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Text of the answer.
    pub text: String,
    /// Text of the reasoning before it.
    pub reasoning: String,
    /// Calls: name, arguments.
    pub calls: Vec<(String, String)>,
    /// Tokens behind it, where probabilities are reported.
    pub choices: Vec<Choice>,
    /// The answer is over.
    pub end: Option<End>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what comes next.
    pub fn append(&mut self, next: Self) {
        self.text += &next.text;
        self.reasoning += &next.reasoning;
        self.calls.extend(next.calls);
        self.choices.extend(next.choices);
        self.end = next.end.or(self.end.take());
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.text += &text,
            Part::Reasoning(text) => self.reasoning += &text,
            Part::Call { name, arguments } => self.calls.push((name, arguments)),
        }
    }
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// It is complete.
    Finished {
        /// OpenAI's word for why.
        reason: &'static str,
        /// The stop string that ended it.
        stop: Option<String>,
        /// What it took.
        cost: Cost,
    },
    /// The engine failed.
    Failed(String),
    /// The server shuts down.
    Stopping,
}

/// What an answer took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// Tokens generated, the end token included.
    pub generated: usize,
    /// What the service measured. Where a stop string ended the answer: what was seen from outside.
    pub statistics: Statistics,
}

/// How an answer is read.
pub struct Reading {
    /// Tokens to text.
    pub decoder: Box<dyn Decoder>,
    /// Text to parts; nothing where all of it is text.
    pub reader: Option<Box<dyn Reader>>,
    /// Stop strings.
    pub stop: StopFilter,
    /// Tokens that end the answer and are no text.
    pub end_tokens: Arc<[u32]>,
    /// Probabilities are reported.
    pub logprobs: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// An answer in the making. Dropping it cancels the request.
pub struct Answer {
    ticket: Option<Ticket>,
    reading: Reading,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
    submitted: Instant,
    first: Option<Instant>,
    last: Instant,
    generated: usize,
    called: bool,
    /// Tokens whose text is not out yet, with its length.
    pending: VecDeque<(Choice, usize)>,
}

impl Answer {
    /// Follows a request that was just submitted.
    #[must_use]
    pub fn new(ticket: Ticket, reading: Reading, metrics: Arc<Metrics>, stopping: watch::Receiver<bool>) -> Self {
        let now = Instant::now();
        Self {
            ticket: Some(ticket),
            reading,
            metrics,
            stopping,
            submitted: now,
            first: None,
            last: now,
            generated: 0,
            called: false,
            pending: VecDeque::new(),
        }
    }

    /// What comes next; nothing after the end.
    pub async fn next(&mut self) -> Option<Delta> {
        loop {
            let ticket = self.ticket.as_mut()?;
            let event = tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return Some(self.end(Delta::default(), End::Stopping)),
                event = ticket.events.recv() => event,
            };
            let delta = match event {
                Some(Event::Prompt { .. }) => continue,
                Some(Event::Token(choice)) => self.token(choice),
                Some(Event::Finished(finish, statistics)) => self.finished(finish, statistics),
                Some(Event::Failed(reason)) => self.end(Delta::default(), End::Failed(reason)),
                None => self.end(
                    Delta::default(),
                    End::Failed("it went away without finishing the answer".into()),
                ),
            };
            if !delta.is_empty() {
                return Some(delta);
            }
        }
    }

    fn token(&mut self, choice: Choice) -> Delta {
        self.measure();
        let mut delta = Delta::default();
        if self.reading.end_tokens.contains(&choice.token) {
            return delta;
        }
        let text = self.reading.decoder.push(choice.token);
        let parts = match &mut self.reading.reader {
            Some(reader) => reader.push(&text),
            None => vec![Part::Text(text.clone())],
        };
        if self.reading.logprobs {
            self.pending.push_back((choice, text.len()));
        }
        match self.pass(&mut delta, parts) {
            Some((stop, dropped)) => self.stopped_by(delta, stop, dropped),
            None => {
                self.release(&mut delta);
                delta
            }
        }
    }

    fn measure(&mut self) {
        let now = Instant::now();
        match self.first {
            None => {
                self.first = Some(now);
                self.metrics.first_token(now - self.submitted);
            }
            Some(_) => self.metrics.token(now - self.last),
        }
        self.last = now;
        self.generated += 1;
    }

    /// Lets parts through the stop filter into the delta. Returns the stop string that came, with the bytes after it.
    fn pass(&mut self, delta: &mut Delta, parts: Vec<Part>) -> Option<(String, usize)> {
        let mut parts = parts.into_iter();
        while let Some(part) = parts.next() {
            match part {
                Part::Text(text) => {
                    let passed = self.reading.stop.push(&text);
                    delta.text += &passed.text;
                    if let Some((stop, dropped)) = passed.stopped {
                        let later = parts.map(|part| match part {
                            Part::Text(text) | Part::Reasoning(text) => text.len(),
                            Part::Call { .. } => 0,
                        });
                        return Some((stop, dropped + later.sum::<usize>()));
                    }
                }
                other => {
                    self.called |= matches!(other, Part::Call { .. });
                    delta.add(other);
                }
            }
        }
        None
    }

    /// Reports the tokens so far once something of them is out.
    fn release(&mut self, delta: &mut Delta) {
        if !delta.is_empty() {
            delta.choices.extend(self.pending.drain(..).map(|(choice, _)| choice));
        }
    }

    fn stopped_by(&mut self, mut delta: Delta, stop: String, dropped: usize) -> Delta {
        // Tokens that lie in what was dropped are no part of the answer.
        let mut rest = dropped;
        while let Some((_, length)) = self.pending.back()
            && *length <= rest
            && rest > 0
        {
            rest -= length;
            self.pending.pop_back();
        }
        delta.choices.extend(self.pending.drain(..).map(|(choice, _)| choice));
        let statistics = self.seen();
        self.metrics.statistics(&statistics);
        self.finish(delta, "stop", Some(stop), statistics)
    }

    /// What can be said of a request without the service.
    fn seen(&self) -> Statistics {
        let first = self.first.unwrap_or(self.last);
        Statistics {
            prompt_tokens: self.reading.prompt_tokens,
            prompt_time: first - self.submitted,
            generated_tokens: self.generated,
            decode_time: self.last - first,
            ..Statistics::default()
        }
    }

    fn finished(&mut self, finish: Finish, statistics: Statistics) -> Delta {
        self.metrics.statistics(&statistics);
        let mut delta = Delta::default();
        let text = self.reading.decoder.finish();
        let parts = match &mut self.reading.reader {
            Some(reader) => {
                let mut parts = reader.push(&text);
                parts.extend(reader.finish());
                parts
            }
            None => vec![Part::Text(text)],
        };
        if let Some((stop, dropped)) = self.pass(&mut delta, parts) {
            return self.stopped_by(delta, stop, dropped);
        }
        delta.text += &self.reading.stop.finish();
        delta.choices.extend(self.pending.drain(..).map(|(choice, _)| choice));
        let reason = match finish {
            Finish::EndToken if self.called => "tool_calls",
            Finish::EndToken => "stop",
            Finish::MaxTokens | Finish::ContextFull => "length",
            // Only who holds the ticket or the server itself cancels.
            Finish::Cancelled => return self.end(delta, End::Stopping),
        };
        self.finish(delta, reason, None, statistics)
    }

    fn finish(&mut self, delta: Delta, reason: &'static str, stop: Option<String>, statistics: Statistics) -> Delta {
        let cost = Cost {
            generated: self.generated,
            statistics,
        };
        self.end(delta, End::Finished { reason, stop, cost })
    }

    fn end(&mut self, mut delta: Delta, end: End) -> Delta {
        self.ticket = None;
        self.metrics.answer(match &end {
            End::Finished { reason: "length", .. } => Outcome::Length,
            End::Finished {
                reason: "tool_calls", ..
            } => Outcome::ToolCalls,
            End::Finished { .. } => Outcome::Stop,
            End::Failed(_) => Outcome::Failed,
            End::Stopping => Outcome::Cancelled,
        });
        if let End::Failed(reason) = &end {
            tracing::error!(%reason, "an answer failed");
        }
        delta.end = Some(end);
        delta
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            tracing::debug!(generated = self.generated, "the client went away");
            self.metrics.answer(Outcome::Cancelled);
        }
    }
}

/// Returns when the server is told to cancel everything.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        // The server is gone, and with it whoever could say so.
        std::future::pending::<()>().await;
    }
}

/// Tokens per second; zero where no time passed.
#[must_use]
pub fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        tokens as f64 / time.as_secs_f64()
    }
}
