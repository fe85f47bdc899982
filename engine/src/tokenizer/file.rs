//! The tokenizer of a GGUF file.

use super::{Kind, Tokenizer, TokenizerError, Vocabulary};
use crate::gguf::Metadata;

/// What every key of a tokenizer begins with.
const PREFIX: &str = "tokenizer.ggml.";
const MODEL: &str = "gemma4";

impl Vocabulary {
    /// The vocabulary in the metadata of a file.
    ///
    /// # Errors
    /// When it is missing, of another kind than Gemma 4's, or not what its keys promise.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let key = |name: &str| format!("{PREFIX}{name}");
        let model = metadata.need(&key("model"))?.str()?;
        if model != MODEL {
            return Err(TokenizerError::Model {
                found: model.to_owned(),
            });
        }
        let pre = metadata.str(&key("pre"))?;
        if let Some(pre) = pre.filter(|pre| *pre != MODEL) {
            tracing::warn!("`tokenizer.ggml.pre` is `{pre}`; text is split as for `{MODEL}`");
        }
        let tokens = metadata.need(&key("tokens"))?.strings()?;
        let kinds = metadata.need(&key("token_type"))?.i32s()?;
        let merges = metadata.need(&key("merges"))?.strings()?;
        let kinds = kinds.iter().enumerate().map(|(token, &found)| {
            let found = i64::from(found);
            Kind::from_number(found).ok_or(TokenizerError::Kind { token, found })
        });
        // Some writers say "none" with the largest or a negative number.
        let id = |name: &str| -> Result<Option<u32>, TokenizerError> {
            let Some(field) = metadata.get(&key(name)) else {
                return Ok(None);
            };
            match field.value().integer() {
                Some(-1) => Ok(None),
                Some(none) if none == i128::from(u32::MAX) => Ok(None),
                _ => Ok(Some(field.u32()?)),
            }
        };
        let mut ends = Vec::new();
        for name in ["eot_token_id", "eom_token_id"] {
            ends.extend(id(name)?);
        }
        let suppressed = match metadata.get(&key("suppress_tokens")) {
            Some(field) => field.u32s()?,
            None => Vec::new(),
        };
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            tokens: tokens.iter().map(<[u8]>::to_vec).collect(),
            merges: merges.iter().map(<[u8]>::to_vec).collect(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            unknown: id("unknown_token_id")?,
            ends,
            suppressed,
        })
    }
}

impl Tokenizer {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// As [`Vocabulary::from_gguf`] and [`Tokenizer::new`].
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        Self::new(Vocabulary::from_gguf(metadata)?)
    }
}
