//! One model, several slots: builds the batch of each step and hands out what it gives.
//!
//! A step evaluates the newest token and the drafts of every sequence that is being answered, then as much of the waiting
//! prompts as fits (continuous batching). Because rows do not depend on each other, an answer does not depend on what
//! else is being answered.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::{Choice, Event, Finish, Request, SlotAction, SlotRefusal, SlotReport, Statistics};
use crate::kv::Sequence;
use crate::model::assistant::DraftStart;
use crate::model::{self, ModelError, Output, Row, Target, Want};
use crate::sample::{LogProbabilities, NoChoice, Sampler, log_probabilities};
use crate::spec::{Policy, verify};

/// A request with the way back to who asked.
pub(super) struct Job {
    pub request: Request,
    pub sampler: Sampler,
    pub events: UnboundedSender<Event>,
}

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Tokens of the prompt are still to be evaluated.
    Prompt,
    /// This token was chosen and is not evaluated yet.
    Decode(u32),
}

/// A request being answered.
struct Answer {
    job: Job,
    phase: Phase,
    statistics: Statistics,
    started: Instant,
    decode_started: Instant,
    /// The target knows how to choose for it.
    is_known: bool,
}

impl Answer {
    /// Nobody listens any more.
    fn is_cancelled(&self) -> bool {
        self.job.events.is_closed()
    }

    /// Whether the target has to be told how tokens are chosen: not where the largest logit is all, nor where the logits
    /// are reported, too.
    fn has_sampler(&self) -> bool {
        !self.job.sampler.is_plain_greedy() && self.job.request.top_logprobs.is_none()
    }

    /// What is wanted of the row at a position. Wherever tokens are chosen, they are the same.
    fn want(&self, target: &Target, position: usize) -> Want {
        match &self.job.sampler {
            _ if self.job.request.top_logprobs.is_some() => Want::Logits,
            sampler if sampler.is_plain_greedy() => Want::Token,
            sampler if self.is_known && target.can_choose(sampler, position) => Want::Choice,
            _ => Want::Logits,
        }
    }

    /// Chooses from one row of logits, or takes what the target chose, and tells who asked.
    fn choose(&mut self, output: Output) -> Result<u32, NoChoice> {
        let (logprobs, token);
        match (output.logits, output.failure) {
            (Some(mut logits), _) => {
                let raw = self.job.request.top_logprobs.map(|top| (top, logits.clone()));
                token = self.job.sampler.sample(&mut logits)?;
                self.job.sampler.accept(token);
                logprobs = raw.map(|(top, raw)| log_probabilities(&raw, token, top));
            }
            (None, Some(failure)) => return Err(failure),
            (None, None) => {
                token = output.token;
                self.job.sampler.follow(token);
                logprobs = None;
            }
        }
        self.statistics.generated_tokens += 1;
        let (logprob, top) = match logprobs {
            Some(LogProbabilities { logprob, top }) => (Some(logprob), top),
            None => (None, Vec::new()),
        };
        self.send(Event::Token(Choice { token, logprob, top }));
        Ok(token)
    }

    /// A listener that went away is noticed before the next step.
    fn send(&self, event: Event) {
        let _ = self.job.events.send(event);
    }

    fn count_round(&mut self, drafted: usize, accepted: usize) {
        let statistics = &mut self.statistics;
        statistics.rounds += 1;
        statistics.drafted += drafted;
        statistics.accepted += accepted;
        let depths = statistics.drafted_at.len().max(drafted);
        statistics.drafted_at.resize(depths, 0);
        statistics.accepted_at.resize(depths, 0);
        statistics.drafted_at[..drafted]
            .iter_mut()
            .for_each(|count| *count += 1);
        statistics.accepted_at[..accepted]
            .iter_mut()
            .for_each(|count| *count += 1);
    }
}

/// One sequence's place in the caches.
#[derive(Default)]
struct Slot {
    sequence: Sequence,
    answer: Option<Answer>,
    /// When it was last used: the oldest free slot is taken first.
    used: u64,
}

/// What a step holds of one slot: rows `first..first + 1 + drafts.len()`.
struct Share {
    slot: usize,
    first: usize,
    kind: ShareKind,
}

enum ShareKind {
    Prompt(usize),
    Decode { newest: u32, drafts: Vec<u32> },
}

/// The model with its slots.
pub(super) struct Scheduler {
    target: Target,
    policy: Policy,
    slots: Vec<Slot>,
    clock: u64,
}

impl Scheduler {
    /// All slots of the model, empty.
    pub fn new(target: Target, policy: Policy) -> Self {
        let slots = target.options().geometry.slots;
        let policy = if target.has_assistant() { policy } else { Policy::NONE };
        Self {
            target,
            policy,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            clock: 0,
        }
    }

    /// Requests being answered.
    pub fn busy(&self) -> usize {
        self.slots.iter().filter(|slot| slot.answer.is_some()).count()
    }

    /// Gives waiting requests to free slots.
    pub fn admit(&mut self, waiting: &mut VecDeque<Job>) {
        while self.busy() < self.slots.len() {
            let Some(job) = waiting.pop_front() else { return };
            if !job.events.is_closed() {
                self.start(job);
            }
        }
    }

    /// Starts an answer in the slot that knows most of the prompt already.
    fn start(&mut self, mut job: Job) {
        let (window, capacity) = self.target.ring();
        let prompt = &job.request.prompt;
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.answer.is_none());
        let best = free
            .map(|(index, slot)| (slot.sequence.reusable(prompt, window, capacity), slot.used, index))
            .max_by_key(|(reusable, used, _)| (*reusable, std::cmp::Reverse(*used)));
        let Some((reused, _, index)) = best else { return };
        for token in prompt {
            job.sampler.accept(*token);
        }
        let statistics = Statistics {
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            ..Statistics::default()
        };
        let now = Instant::now();
        self.clock += 1;
        let slot = &mut self.slots[index];
        slot.sequence.truncate(reused);
        slot.used = self.clock;
        slot.answer = Some(Answer {
            job,
            phase: Phase::Prompt,
            statistics,
            started: now,
            decode_started: now,
            is_known: false,
        });
    }

    /// Saves, restores or forgets what a slot holds.
    ///
    /// # Errors
    /// Slots that do not exist or are answering, files that do not belong here, and those of the device.
    pub fn slot(&mut self, index: usize, action: &SlotAction) -> Result<SlotReport, SlotRefusal> {
        let started = Instant::now();
        let slots = self.slots.len();
        let slot = self.slots.get_mut(index);
        let slot = slot.ok_or(SlotRefusal::Unknown { slot: index, slots })?;
        if slot.answer.is_some() {
            return Err(SlotRefusal::Busy(index));
        }
        let failed = |error: ModelError| SlotRefusal::Failed(error.to_string());
        let bytes = match action {
            SlotAction::Save(path) => self.target.save_slot(index, &slot.sequence, path).map_err(failed)?,
            SlotAction::Restore(path) => match self.target.restore_slot(index, path) {
                Ok(sequence) => {
                    slot.sequence = sequence;
                    std::fs::metadata(path).map_or(0, |file| file.len())
                }
                Err(error) => {
                    // a refused file has changed nothing, a device that failed half way has
                    if !matches!(error, ModelError::Slot(_)) {
                        slot.sequence = Sequence::default();
                    }
                    return Err(failed(error));
                }
            },
            SlotAction::Erase => 0,
        };
        let tokens = slot.sequence.len();
        if *action == SlotAction::Erase {
            slot.sequence = Sequence::default();
        }
        Ok(SlotReport {
            tokens,
            bytes,
            time: started.elapsed(),
        })
    }

    /// Ends everything with an error.
    pub fn fail(&mut self, reason: &str) {
        for slot in &mut self.slots {
            if let Some(answer) = slot.answer.take() {
                answer.send(Event::Failed(reason.to_owned()));
            }
            // what the caches hold is not known any more
            slot.sequence = Sequence::default();
        }
    }

    /// Evaluates the newest tokens and drafts of all answers, then as much of the waiting prompts as fits. Which kernels
    /// compute a row depends on which of the two it is, so they are two steps.
    ///
    /// # Errors
    /// Those of the model. Nothing of the step is kept then; call [`Self::fail`].
    pub fn step(&mut self) -> Result<(), ModelError> {
        self.drop_cancelled();
        self.tell_samplers()?;
        let (rows, shares) = self.decode_batch()?;
        self.evaluate(&rows, shares, model::Phase::Decode)?;
        let (rows, shares) = self.prompt_batch();
        self.evaluate(&rows, shares, model::Phase::Prompt)
    }

    fn evaluate(&mut self, rows: &[Row], shares: Vec<Share>, phase: model::Phase) -> Result<(), ModelError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut outputs = self.target.forward(rows, phase)?.into_iter();
        let mut keep = Vec::new();
        for share in shares {
            let index = share.slot;
            let row = match share.kind {
                ShareKind::Prompt(count) => self.finish_prompt(index, count, &mut outputs),
                ShareKind::Decode { newest, drafts } => self.finish_round(index, newest, &drafts, &mut outputs),
            };
            match row {
                Ok(Some(row)) => keep.push((index as u32, share.first + row)),
                Ok(None) => {}
                // the fault of one request: the others go on
                Err(error) => self.refuse(index, &error.to_string()),
            }
        }
        if self.policy.max > 0 && !keep.is_empty() {
            self.target.keep_hidden(&keep)?;
        }
        Ok(())
    }

    fn drop_cancelled(&mut self) {
        for index in 0..self.slots.len() {
            if self.slots[index].answer.as_ref().is_some_and(Answer::is_cancelled) {
                self.finish(index, Finish::Cancelled);
            }
        }
    }

    /// Tells the target how tokens of new requests are chosen.
    fn tell_samplers(&mut self) -> Result<(), ModelError> {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(answer) = &mut slot.answer else { continue };
            if answer.is_known || !answer.has_sampler() {
                continue;
            }
            let prompt = &answer.job.request.prompt;
            let last = prompt.len().saturating_sub(1);
            self.target.set_sampler(index, &answer.job.sampler, last, prompt)?;
            answer.is_known = true;
        }
        Ok(())
    }

    fn finish(&mut self, index: usize, reason: Finish) {
        if let Some(mut answer) = self.slots[index].answer.take() {
            if answer.phase != Phase::Prompt {
                answer.statistics.decode_time = answer.decode_started.elapsed();
            }
            let statistics = answer.statistics.clone();
            answer.send(Event::Finished(reason, statistics));
        }
    }

    /// Ends one answer with an error.
    fn refuse(&mut self, index: usize, reason: &str) {
        if let Some(answer) = self.slots[index].answer.take() {
            answer.send(Event::Failed(reason.to_owned()));
        }
    }

    /// The newest tokens and their drafts, and whose they are.
    fn decode_batch(&mut self) -> Result<(Vec<Row>, Vec<Share>), ModelError> {
        let drafts = self.draft()?;
        let mut rows = Vec::new();
        let mut shares = Vec::new();
        for ((index, slot), drafts) in self.slots.iter().enumerate().zip(drafts) {
            let Some(answer) = &slot.answer else { continue };
            let Phase::Decode(newest) = answer.phase else { continue };
            let first = rows.len();
            for (position, token) in (slot.sequence.len()..).zip(std::iter::once(&newest).chain(&drafts)) {
                rows.push(Row {
                    token: *token,
                    slot: index as u32,
                    position: position as u32,
                    want: answer.want(&self.target, position),
                });
            }
            let kind = ShareKind::Decode { newest, drafts };
            shares.push(Share {
                slot: index,
                first,
                kind,
            });
        }
        Ok((rows, shares))
    }

    /// Tokens of prompts, and whose they are.
    fn prompt_batch(&self) -> (Vec<Row>, Vec<Share>) {
        let (mut rows, mut shares) = (Vec::new(), Vec::new());
        let limit = self.target.options().geometry.max_rows;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(answer) = &slot.answer else { continue };
            if answer.phase != Phase::Prompt || rows.len() >= limit {
                continue;
            }
            let first = rows.len();
            let done = slot.sequence.len();
            let prompt = &answer.job.request.prompt;
            let count = (prompt.len() - done).min(limit - first);
            for (position, token) in prompt.iter().enumerate().skip(done).take(count) {
                let want = if position + 1 == prompt.len() {
                    answer.want(&self.target, position)
                } else {
                    Want::Nothing
                };
                rows.push(Row {
                    token: *token,
                    slot: index as u32,
                    position: position as u32,
                    want,
                });
            }
            shares.push(Share {
                slot: index,
                first,
                kind: ShareKind::Prompt(count),
            });
        }
        (rows, shares)
    }

    /// Drafts for each slot; none where nothing is drafted.
    fn draft(&mut self) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut drafts = vec![Vec::new(); self.slots.len()];
        let context = self.target.options().geometry.context;
        let mut starts = Vec::new();
        let mut limits = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(answer) = &slot.answer else { continue };
            let Phase::Decode(token) = answer.phase else { continue };
            let remaining = answer.job.request.max_tokens - answer.statistics.generated_tokens;
            let limit = self.policy.limit(slot.sequence.len(), context, remaining);
            if limit > 0 {
                limits.push(limit);
                starts.push(DraftStart {
                    slot: index as u32,
                    token,
                    position: slot.sequence.len() as u32,
                });
            }
        }
        let Some(steps) = limits.iter().copied().max() else {
            return Ok(drafts);
        };
        let chains = self.target.draft(&starts, steps)?;
        for ((start, chain), limit) in starts.iter().zip(chains).zip(limits) {
            drafts[start.slot as usize] = self.policy.cut(&chain, limit);
        }
        Ok(drafts)
    }

    /// So many tokens of a prompt are evaluated. Returns the row to go on from when the prompt is done.
    fn finish_prompt(
        &mut self,
        index: usize,
        count: usize,
        outputs: &mut impl Iterator<Item = Output>,
    ) -> Result<Option<usize>, NoChoice> {
        let slot = &mut self.slots[index];
        let Some(answer) = &mut slot.answer else {
            return Ok(None);
        };
        let done = slot.sequence.len();
        let prompt = &answer.job.request.prompt;
        slot.sequence.extend(&prompt[done..done + count]);
        let (done, total) = (done + count, prompt.len());
        answer.send(Event::Prompt { done, total });
        if done < total {
            return Ok(None);
        }
        let now = Instant::now();
        answer.statistics.prompt_time = now - answer.started;
        answer.decode_started = now;
        let Some(output) = outputs.next() else { return Ok(None) };
        if answer.job.request.max_tokens == 0 {
            self.finish(index, Finish::MaxTokens);
            return Ok(None);
        }
        let token = answer.choose(output)?;
        answer.phase = Phase::Decode(token);
        Ok(self.go_on(index, token).then_some(count - 1))
    }

    /// The newest token and its drafts are evaluated. Returns the row to go on from, unless the answer is over.
    fn finish_round(
        &mut self,
        index: usize,
        newest: u32,
        drafts: &[u32],
        outputs: &mut impl Iterator<Item = Output>,
    ) -> Result<Option<usize>, NoChoice> {
        let slot = &mut self.slots[index];
        let Some(answer) = &mut slot.answer else {
            return Ok(None);
        };
        let before = slot.sequence.len();
        // the step wrote all of them, whatever becomes of them
        slot.sequence.extend(&[newest]);
        slot.sequence.extend(drafts);
        slot.sequence.truncate(before);
        let mut mine: Vec<Option<Output>> = outputs.take(drafts.len() + 1).map(Some).collect();
        let ends = answer.job.request.end_tokens.clone();
        let verdict = verify(
            drafts,
            |row| match mine.get_mut(row).and_then(Option::take) {
                Some(output) => answer.choose(output),
                None => Err(NoChoice::NotANumber),
            },
            |token| ends.contains(&token),
        )?;
        answer.count_round(drafts.len(), verdict.accepted);
        slot.sequence.extend(&[newest]);
        slot.sequence.extend(&drafts[..verdict.accepted]);
        let last = verdict.emitted.last().copied().unwrap_or(newest);
        answer.phase = Phase::Decode(last);
        Ok(self.go_on(index, last).then_some(verdict.accepted))
    }

    /// Whether the answer goes on behind `token`; ends it if not.
    fn go_on(&mut self, index: usize, token: u32) -> bool {
        let context = self.target.options().geometry.context;
        let slot = &self.slots[index];
        let Some(answer) = &slot.answer else { return false };
        let request = &answer.job.request;
        let reason = if request.end_tokens.contains(&token) {
            Finish::EndToken
        } else if answer.statistics.generated_tokens >= request.max_tokens {
            Finish::MaxTokens
        } else if slot.sequence.len() >= context {
            Finish::ContextFull
        } else {
            return true;
        };
        self.finish(index, reason);
        false
    }
}
