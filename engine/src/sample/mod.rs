//! Choosing a token from logits: the sampler chain of a request.
//!
//! In this order, which is llama.cpp's:
//!
//! 1. logit bias, the sum of a token's entries; minus infinity for tokens that the file suppresses;
//! 2. penalties over the last tokens: repetition divides positive and multiplies negative logits, presence and frequency
//!    subtract;
//! 3. greedy (temperature 0): the largest logit, the first of several;
//! 4. top-k; top-p of what is left; min-p of what is left, each with the probabilities at temperature 1;
//! 5. temperature, softmax, and one draw, which goes through what is left in the order of tokens.
//!
//! Equal logits rank by token, and probabilities are whole numbers ([`tilekiln_kernels::sample::mass`]), so a seed gives
//! the same tokens everywhere: here, and on every device ([`crate::model::choice`]). Every drawn token takes exactly one
//! random number: a sampler that draws for the tokens of a speculative batch gives what it would give one by one.

mod candidates;
mod probabilities;
mod random;
mod settings;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use rustc_hash::FxHashMap;
use tilekiln_kernels::sample::settings::SlotSettings;

use candidates::Candidates;
pub use probabilities::{LogProbabilities, log_probabilities};
use random::Sequence;
pub use settings::{SamplerError, Settings};

/// Why no token was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// Not one logit is a number: the model or the device is broken.
    #[error("the model's output is no number for any token; the file or the device is damaged")]
    NotANumber,
    /// Bias and suppression leave no token.
    #[error("every token is ruled out; relax the logit bias of the request")]
    NothingLeft,
}

/// Chooses the tokens of one request. A copy goes on exactly as the original.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// What devices are told, too. The seed is that of no position: see [`Sampler::slot_settings`].
    settings: SlotSettings,
    penalty_window: usize,
    /// What is added to logits, each token once.
    biases: Vec<(u32, f32)>,
    sequence: Sequence,
    /// The last tokens, as far as penalties count them, and how often each occurs.
    recent: VecDeque<u32>,
    counts: FxHashMap<u32, u32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for logits of `vocabulary` tokens. `suppressed` are never chosen
    /// ([`crate::tokenizer::Tokenizer::suppressed`]).
    ///
    /// # Errors
    /// Settings out of range and tokens that do not exist.
    pub fn new(settings: &Settings, vocabulary: usize, suppressed: &[u32]) -> Result<Self, SamplerError> {
        settings.check(vocabulary)?;
        if let Some(&token) = suppressed.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(SamplerError::Token {
                name: "suppress_tokens",
                token,
                vocabulary,
            });
        }
        let biases = settings.biases(suppressed);
        Ok(Self {
            settings: settings.for_slot(biases.len()),
            penalty_window: settings.counted_window(),
            biases,
            // the standard library keys its hash maps at random
            sequence: Sequence::new(settings.seed.unwrap_or_else(|| RandomState::new().hash_one(()))),
            recent: VecDeque::new(),
            counts: FxHashMap::default(),
            candidates: Candidates::default(),
        })
    }

    /// Whether the choice is the largest logit as the model gives it, the first of several: then whoever has the logits
    /// may choose.
    pub fn is_plain_greedy(&self) -> bool {
        !self.draws() && self.biases.is_empty() && self.penalty_window == 0
    }

    /// Whether random numbers decide.
    pub fn draws(&self) -> bool {
        self.settings.scale > 0.0
    }

    /// What is added to logits, each token once.
    pub fn biases(&self) -> &[(u32, f32)] {
        &self.biases
    }

    /// How many of the last tokens count for the penalties; 0 where there are none.
    pub fn penalty_window(&self) -> usize {
        self.penalty_window
    }

    /// What a device has to know to choose as this sampler does, beside [`Sampler::biases`] and the tokens that are
    /// noted: the row at `position` takes the next choice, and each later position the one after it.
    pub fn slot_settings(&self, position: usize) -> SlotSettings {
        SlotSettings {
            seed: self.sequence.seed_at(position),
            ..self.settings
        }
    }

    /// Notes a token of the prompt or the answer. Penalties count it from now on.
    pub fn accept(&mut self, token: u32) {
        if self.penalty_window == 0 {
            return;
        }
        if self.recent.len() >= self.penalty_window
            && let Some(oldest) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_insert(0) += 1;
    }

    /// A device has made the next choice in place of this sampler: notes it, and goes on behind its random number.
    pub fn follow(&mut self, token: u32) {
        if self.draws() {
            self.sequence.next();
        }
        self.accept(token);
    }

    /// Chooses a token; the chosen one is not yet noted, see [`Sampler::accept`]. Bias and penalties are applied to
    /// `logits` in place. Logits that are no numbers are never chosen.
    ///
    /// # Errors
    /// When no token can be chosen.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, NoChoice> {
        self.adjust(logits);
        let number = self.draws().then(|| self.sequence.next());
        let best = largest(logits)?;
        let Some(number) = number else { return Ok(best) };
        let best = logits[best as usize];
        Ok(self.candidates.choose(logits, best, &self.settings, number))
    }

    /// Every operation rounds by itself, as on a device.
    fn adjust(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.biases {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        let SlotSettings {
            repetition,
            presence,
            frequency,
            ..
        } = self.settings;
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                match *logit > 0.0 {
                    true => *logit /= repetition,
                    false => *logit *= repetition,
                }
                *logit -= presence + frequency * count as f32;
            }
        }
    }
}

/// The token with the largest logit, the first of several.
fn largest(logits: &[f32]) -> Result<u32, NoChoice> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > largest {
            largest = logit;
            best = Some(token as u32);
        }
    }
    best.ok_or_else(|| match logits.iter().all(|logit| logit.is_nan()) {
        true => NoChoice::NotANumber,
        false => NoChoice::NothingLeft,
    })
}
