//! Choosing a token from logits: the sampler chain of a request.
//!
//! In this order, which is llama.cpp's:
//!
//! 1. logit bias; tokens that the file suppresses are out of the question;
//! 2. penalties over the last tokens: repetition divides positive and multiplies negative logits, presence and frequency
//!    subtract;
//! 3. greedy (temperature 0): the largest logit, the first of several;
//! 4. top-k; top-p of what is left; min-p of what is left, each with the probabilities at temperature 1;
//! 5. temperature, softmax, and one draw.
//!
//! Equal logits rank by token, so a seed gives the same tokens everywhere. Every drawn token takes exactly one random
//! number: a sampler that draws for the tokens of a speculative batch gives what it would give one by one.

mod candidates;
mod probabilities;
mod random;
mod settings;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use rustc_hash::FxHashMap;

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
    settings: Settings,
    suppressed: Vec<u32>,
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
        Ok(Self {
            settings: settings.clone(),
            suppressed: suppressed.to_vec(),
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
        self.settings.temperature == 0.0
            && self.settings.logit_bias.iter().all(|&(_, bias)| bias == 0.0)
            && self.suppressed.is_empty()
            && !self.settings.penalises()
    }

    /// Notes a token of the prompt or the answer. Penalties count it from now on.
    pub fn accept(&mut self, token: u32) {
        if !self.settings.penalises() {
            return;
        }
        if self.recent.len() >= self.settings.penalty_window
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

    /// Chooses a token; the chosen one is not yet noted, see [`Sampler::accept`]. Bias and penalties are applied to
    /// `logits` in place. Logits that are no numbers are never chosen.
    ///
    /// # Errors
    /// When no token can be chosen.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, NoChoice> {
        self.adjust(logits);
        let number = (self.settings.temperature > 0.0).then(|| self.sequence.next());
        let best = largest(logits)?;
        let Some(number) = number else { return Ok(best) };
        let best = logits[best as usize];
        Ok(self.candidates.choose(logits, best, &self.settings, number))
    }

    fn adjust(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.settings.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for &token in &self.suppressed {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let Settings {
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            ..
        } = self.settings;
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                match *logit > 0.0 {
                    true => *logit /= repetition_penalty,
                    false => *logit *= repetition_penalty,
                }
                *logit -= presence_penalty + frequency_penalty * count as f32;
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
