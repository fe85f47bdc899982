//! What a request wants of its sampler.

use std::collections::BTreeMap;

use tilekiln_kernels::sample::mass::MOST_TOKENS;
use tilekiln_kernels::sample::settings::SlotSettings;

use crate::gguf::{self, Metadata};

/// What a request wants of its sampler. The default is greedy without adjustments.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted per occurrence.
    pub frequency_penalty: f32,
    /// How many of the last tokens (prompt included) count for the penalties; 0 switches them off.
    pub penalty_window: usize,
    /// Added to logits, by token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices; one is drawn when absent.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Settings {
    /// What the file recommends (`general.sampling.temp`, `.top_k`, `.top_p`); greedy when it recommends nothing.
    ///
    /// # Errors
    /// When a value is of another type than it must have.
    pub fn recommended(metadata: &Metadata) -> Result<Self, gguf::Error> {
        let mut settings = Self::default();
        let temperature = metadata.f32("general.sampling.temp")?;
        let top_k = match metadata.get("general.sampling.top_k") {
            // writers say "all" with 0 or a negative number
            Some(field) if field.value().integer().is_some_and(|k| k < 0) => Some(0),
            Some(field) => Some(field.usize()?),
            None => None,
        };
        let top_p = metadata.f32("general.sampling.top_p")?;
        if temperature.is_some() || top_k.is_some() || top_p.is_some() {
            settings.temperature = temperature.unwrap_or(1.0);
        }
        settings.top_k = top_k.unwrap_or(settings.top_k);
        settings.top_p = top_p.unwrap_or(settings.top_p);
        Ok(settings)
    }

    /// Whether every value can be used with a vocabulary of this size.
    ///
    /// # Errors
    /// The first value that cannot.
    pub fn check(&self, vocabulary: usize) -> Result<(), SamplerError> {
        if vocabulary > MOST_TOKENS as usize {
            return Err(SamplerError::Vocabulary { vocabulary });
        }
        let numbers = [
            (
                "temperature",
                self.temperature,
                0.0..=f32::MAX,
                "a number from 0 (greedy)",
            ),
            ("top_p", self.top_p, 0.0..=1.0, "a number from 0 to 1 (off)"),
            ("min_p", self.min_p, 0.0..=1.0, "a number from 0 (off) to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                f32::MIN_POSITIVE..=f32::MAX,
                "a number above 0 (1 is off)",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                f32::MIN..=f32::MAX,
                "a finite number (0 is off)",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                f32::MIN..=f32::MAX,
                "a finite number (0 is off)",
            ),
        ];
        for (name, value, range, wanted) in numbers {
            if !range.contains(&value) {
                return Err(SamplerError::Value { name, value, wanted });
            }
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocabulary {
                return Err(SamplerError::Token {
                    name: "logit_bias",
                    token,
                    vocabulary,
                });
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(SamplerError::Value {
                    name: "logit_bias",
                    value: bias,
                    wanted: "a finite number, or minus infinity for never",
                });
            }
        }
        Ok(())
    }

    /// How many of the last tokens count for the penalties; 0 where the penalties change nothing.
    pub(super) fn counted_window(&self) -> usize {
        let penalises = self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        if penalises { self.penalty_window } else { 0 }
    }

    /// What is added to logits, each token once: the sum of its entries, or minus infinity where it is suppressed.
    pub(super) fn biases(&self, suppressed: &[u32]) -> Vec<(u32, f32)> {
        let mut sums = BTreeMap::new();
        for &(token, bias) in &self.logit_bias {
            *sums.entry(token).or_insert(0.0) += bias;
        }
        sums.extend(suppressed.iter().map(|&token| (token, f32::NEG_INFINITY)));
        sums.into_iter().filter(|&(_, bias)| bias != 0.0).collect()
    }

    /// The numbers that a device works with, for a slot with so many biases. The seed is left open.
    pub(super) fn for_slot(&self, biases: usize) -> SlotSettings {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let adjusted = SlotSettings {
            repetition: self.repetition_penalty,
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
            window: number(self.counted_window()),
            biases: number(biases),
            ..SlotSettings::GREEDY
        };
        if self.temperature == 0.0 {
            return adjusted;
        }
        SlotSettings {
            scale: SlotSettings::scale_of(self.temperature),
            top_k: number(self.top_k),
            top_p: SlotSettings::top_p_of(self.top_p),
            min_p: f64::from(self.min_p).ln() as f32,
            ..adjusted
        }
    }
}

/// Why there is no sampler.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A number out of its range.
    #[error("`{name}` is {value}; it must be {wanted}")]
    Value {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        wanted: &'static str,
    },
    /// More tokens than can be weighed against each other.
    #[error("the vocabulary has {vocabulary} tokens; at most {MOST_TOKENS} can be chosen from")]
    Vocabulary {
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A token that the model does not have.
    #[error("`{name}` names token {token}; the vocabulary has {vocabulary} tokens")]
    Token {
        /// Name of the setting.
        name: &'static str,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
}
