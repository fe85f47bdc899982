//! Tokens back to text, piece by piece.

use std::ops::Deref;

use super::{Control, Kind, Tokenizer};

/// What bytes become that are no UTF-8: one for each byte.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Turns tokens into text as they come. Bytes of an unfinished character wait for the next token, so that the text of
/// every [`Detokenizer::push`] is whole characters; all of them together are what [`Tokenizer::decode`] gives.
#[derive(Clone)]
pub struct Detokenizer<T> {
    tokenizer: T,
    control: Control,
    /// Bytes of a character that is not complete: at most three.
    pending: Vec<u8>,
    text: String,
}

impl<T: Deref<Target = Tokenizer>> Detokenizer<T> {
    pub(super) fn new(tokenizer: T, control: Control) -> Self {
        Self {
            tokenizer,
            control,
            pending: Vec::new(),
            text: String::new(),
        }
    }

    /// The text that this token completes; often its own, sometimes none. A token that does not exist is one U+FFFD.
    pub fn push(&mut self, token: u32) -> &str {
        self.text.clear();
        self.append(token);
        &self.text
    }

    /// What is left when no token follows: an unfinished character as one U+FFFD for each byte.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.flush();
        &self.text
    }

    pub(super) fn decode(mut self, tokens: &[u32]) -> String {
        for &token in tokens {
            self.append(token);
        }
        self.flush();
        self.text
    }

    fn append(&mut self, token: u32) {
        let Some(bytes) = self.tokenizer.token_bytes(token) else {
            self.flush();
            self.text.push(REPLACEMENT);
            return;
        };
        match self.tokenizer.kinds[token as usize] {
            Kind::Control | Kind::Unknown => {
                let shown = match self.control {
                    Control::Hide => false,
                    Control::Show => true,
                    Control::Markup => self.tokenizer.markup.contains(&token),
                };
                if shown {
                    self.pending.extend_from_slice(bytes);
                }
            }
            Kind::Byte => match super::byte_of(bytes) {
                Some(byte) => self.pending.push(byte),
                None => self.pending.extend_from_slice(bytes),
            },
            Kind::Normal | Kind::UserDefined | Kind::Unused => {
                const SPACE: &[u8] = super::SPACE.as_bytes();
                let mut rest = bytes;
                while let Some((&first, tail)) = rest.split_first() {
                    if let Some(after) = rest.strip_prefix(SPACE) {
                        self.pending.push(b' ');
                        rest = after;
                    } else {
                        self.pending.push(first);
                        rest = tail;
                    }
                }
            }
        }
        self.complete();
    }

    /// Moves what is certain from `pending` to `text`.
    fn complete(&mut self) {
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            self.text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if done + invalid.len() == self.pending.len() && is_unfinished(invalid) {
                break;
            }
            self.text.extend(invalid.iter().map(|_| REPLACEMENT));
            done += invalid.len();
        }
        self.pending.drain(..done);
    }

    fn flush(&mut self) {
        self.text.extend(self.pending.drain(..).map(|_| REPLACEMENT));
    }
}

/// Whether more bytes could make a character of it.
fn is_unfinished(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}
