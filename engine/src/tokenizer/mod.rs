//! Text to tokens and back: BPE with SentencePiece conventions, as Gemma 4 files describe it.
//!
//! Encoding goes in three steps. Special tokens are cut out of the raw text (the longest at each place). In what
//! remains a space is U+2581, and characters merge in the order of the merge list. A character that no token stands for
//! becomes the byte tokens of its UTF-8. Nothing else is normalised.
//!
//! Decoding keeps bytes until they are characters, see [`Detokenizer`].

mod detokenizer;
mod file;
mod merge;
mod special;

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

pub use detokenizer::Detokenizer;
use merge::{Merger, Run};
use special::{Finder, Pattern};

use crate::gguf;

/// What stands for a space in the vocabulary.
const SPACE: &str = "\u{2581}";
const SPACE_CHARACTER: char = '\u{2581}';

/// Texts of tokens with which an answer ends, besides those a file names. A tool response ends it because the tool has
/// the word next.
const ENDS: [&str; 3] = ["<eos>", "<turn|>", "<|tool_response>"];
/// Never ends an answer: in this vocabulary it is a piece of HTML.
const NO_END: &str = "</s>";

/// Control tokens that structure an answer, see [`Control::Markup`].
const MARKUP: [&str; 7] = [
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 1: a piece of text.
    Normal,
    /// 2: stands for what no token stands for.
    Unknown,
    /// 3: structure, no text.
    Control,
    /// 4: cut out of text like control tokens, but always, and shown.
    UserDefined,
    /// 5: reserved.
    Unused,
    /// 6: one byte, `<0x00>` to `<0xFF>`.
    Byte,
}

impl Kind {
    /// The kind of that number.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Whether the texts of control tokens become those tokens. User-defined tokens are always recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<bos>` in the text is the token `<bos>`.
    Parse,
    /// `<bos>` in the text is five letters.
    Literal,
}

/// What becomes of control tokens in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// They have no text.
    Hide,
    /// They show as they are spelled.
    Show,
    /// Those that structure an answer (channels, tool calls, quotes of their arguments) show, for
    /// [`crate::chat::AnswerParser`]; the others have no text. In most files these tokens are user-defined, so that they
    /// show in any case.
    Markup,
}

/// The parts a tokenizer is made of.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Text of each token: U+2581 for space; not necessarily UTF-8.
    pub tokens: Vec<Vec<u8>>,
    /// What each token is.
    pub kinds: Vec<Kind>,
    /// Lines `left right`, the first merges first.
    pub merges: Vec<Vec<u8>>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Other tokens that the file names as ends (of a turn, of a message).
    pub ends: Vec<u32>,
    /// Stands for what has no token; looked up as `<unk>` when absent.
    pub unknown: Option<u32>,
    /// Never generated.
    pub suppressed: Vec<u32>,
}

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing or of another type than it must have.
    #[error("the tokenizer of the file cannot be read: {0}")]
    Metadata(#[from] gguf::Error),
    /// Another kind of tokenizer.
    #[error("`tokenizer.ggml.model` is `{found}`; only `gemma4` tokenizers are supported")]
    Model {
        /// What the file names.
        found: String,
    },
    /// No tokens.
    #[error("the vocabulary is empty: `tokenizer.ggml.tokens` has no entries")]
    Empty,
    /// More tokens or merges than ids can tell apart.
    #[error("`{key}` has {count} entries; at most {limit} are supported")]
    TooMany {
        /// The key.
        key: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two arrays that belong together do not fit.
    #[error(
        "`tokenizer.ggml.tokens` has {tokens} entries and `tokenizer.ggml.token_type` has {kinds}; one type a token"
    )]
    Lengths {
        /// Tokens.
        tokens: usize,
        /// Types.
        kinds: usize,
    },
    /// A number that is no kind of token.
    #[error("token {token} has type {found} in `tokenizer.ggml.token_type`; types are 1 to 6")]
    Kind {
        /// The token.
        token: usize,
        /// Its number.
        found: i64,
    },
    /// A token that is named but does not exist.
    #[error("`{key}` names token {token}; the vocabulary has {len} tokens")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The id.
        token: i64,
        /// Tokens in the vocabulary.
        len: usize,
    },
    /// No token to begin texts with.
    #[error("`tokenizer.ggml.bos_token_id` is missing and no token is spelled `<bos>`")]
    NoBos,
}

/// The tokenizer of a file.
pub struct Tokenizer {
    text: Vec<u8>,
    /// Where the text of each token ends.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    ids: FxHashMap<Box<[u8]>, u32>,
    bytes: [Option<u32>; 256],
    merger: Merger,
    finder: Finder,
    bos: u32,
    eos: Option<u32>,
    unknown: Option<u32>,
    end_of_generation: Vec<u32>,
    suppressed: Vec<u32>,
    markup: Vec<u32>,
    /// Finds what structures a prompt; in every text what is no [`MARKUP`].
    structure: Finder,
}

/// The byte that a byte token stands for.
fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    match digits {
        [high, low] => {
            let digit = |digit: u8| (digit as char).to_digit(16);
            Some((digit(*high)? * 16 + digit(*low)?) as u8)
        }
        _ => None,
    }
}

impl Tokenizer {
    /// Checks and indexes a vocabulary. Merges that cannot be used are left out with a warning.
    ///
    /// # Errors
    /// When its parts do not fit together.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        const LIMIT: usize = 1 << 24;
        let Vocabulary {
            tokens,
            kinds,
            merges,
            bos,
            eos,
            ends: other_ends,
            unknown,
            suppressed,
        } = vocabulary;
        let len = tokens.len();
        if len == 0 {
            return Err(TokenizerError::Empty);
        }
        for (key, count) in [("tokenizer.ggml.tokens", len), ("tokenizer.ggml.merges", merges.len())] {
            if count > LIMIT {
                return Err(TokenizerError::TooMany {
                    key,
                    count,
                    limit: LIMIT,
                });
            }
        }
        if kinds.len() != len {
            return Err(TokenizerError::Lengths {
                tokens: len,
                kinds: kinds.len(),
            });
        }
        let named = bos.iter().map(|&id| ("tokenizer.ggml.bos_token_id", id));
        let named = named.chain(eos.iter().map(|&id| ("tokenizer.ggml.eos_token_id", id)));
        let named = named.chain(unknown.iter().map(|&id| ("tokenizer.ggml.unknown_token_id", id)));
        let named = named.chain(suppressed.iter().map(|&id| ("tokenizer.ggml.suppress_tokens", id)));
        let mut named = named.chain(other_ends.iter().map(|&id| ("tokenizer.ggml.eot_token_id", id)));
        if let Some((key, id)) = named.find(|&(_, id)| id as usize >= len) {
            return Err(TokenizerError::OutOfRange {
                key,
                token: id.into(),
                len,
            });
        }

        let mut ids: FxHashMap<Box<[u8]>, u32> = FxHashMap::with_capacity_and_hasher(len, Default::default());
        let mut text = Vec::with_capacity(tokens.iter().map(Vec::len).sum());
        let mut ends = Vec::with_capacity(len);
        for (id, token) in tokens.into_iter().enumerate() {
            text.extend_from_slice(&token);
            ends.push(text.len());
            ids.entry(token.into_boxed_slice()).or_insert(id as u32);
        }
        let by_text = |text: &str| ids.get(text.as_bytes()).copied();

        let texts: Vec<Option<&str>> = (0..len)
            .map(|id| {
                let start = id.checked_sub(1).map_or(0, |before| ends[before]);
                std::str::from_utf8(&text[start..ends[id]]).ok()
            })
            .collect();
        let mut bytes = [None; 256];
        let mut patterns = Vec::new();
        let mut odd = 0;
        for (id, (&kind, token)) in kinds.iter().zip(&texts).enumerate() {
            let id = id as u32;
            match (kind, token) {
                (Kind::Byte, token) => match token.and_then(|token| byte_of(token.as_bytes())) {
                    Some(byte) => bytes[usize::from(byte)] = bytes[usize::from(byte)].or(Some(id)),
                    None => odd += 1,
                },
                (Kind::Control | Kind::UserDefined | Kind::Unknown, Some(token)) if !token.is_empty() => {
                    patterns.push(Pattern {
                        text: token,
                        id,
                        always: kind == Kind::UserDefined,
                    });
                }
                (Kind::Normal | Kind::Unused, Some(_)) => {}
                _ => odd += 1,
            }
        }
        if odd > 0 {
            tracing::warn!(
                "{odd} special or byte tokens of the vocabulary are spelled as none and never found in text"
            );
        }
        let finder = Finder::new(patterns);

        let is_piece = |id: u32| {
            let id = id as usize;
            matches!(kinds[id], Kind::Normal | Kind::UserDefined | Kind::Unused)
                && texts[id].is_some_and(|t| !t.is_empty())
        };
        let lines = merge_lines(&merges, &ids, is_piece);
        let pieces = (0..len as u32).filter(|&id| is_piece(id));
        let pieces = pieces.filter_map(|id| texts[id as usize].map(|text| (id, text)));
        let merger = Merger::new(pieces, &lines, &texts);

        let bos = bos.or_else(|| by_text("<bos>")).ok_or(TokenizerError::NoBos)?;
        let unknown = unknown.or_else(|| by_text("<unk>"));
        let mut end_of_generation: Vec<u32> = ENDS.iter().filter_map(|text| by_text(text)).collect();
        end_of_generation.extend(eos);
        end_of_generation.extend(other_ends);
        end_of_generation.retain(|&id| texts[id as usize] != Some(NO_END));
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        let markup = MARKUP.iter().filter_map(|text| by_text(text)).collect();
        let structure = (0..len as u32).filter_map(|id| {
            let text = texts[id as usize]?;
            let structures = match kinds[id as usize] {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => text.starts_with("<|") || text.ends_with("|>"),
                Kind::Normal | Kind::Unused | Kind::Byte => false,
            };
            structures.then_some(Pattern {
                text,
                id,
                always: !MARKUP.contains(&text),
            })
        });
        let structure = Finder::new(structure);
        Ok(Self {
            text,
            ends,
            kinds,
            ids,
            bytes,
            merger,
            finder,
            bos,
            eos,
            unknown,
            end_of_generation,
            suppressed,
            markup,
            structure,
        })
    }

    /// The tokens of a text, without `<bos>`.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 4 + 1);
        self.encode_into(text, special, &mut out);
        out
    }

    /// `<bos>` and the tokens of a text. A `<bos>` that the text itself begins with stays: two of them. For what a chat
    /// template wrote, use [`Tokenizer::encode_prompt`].
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        out.push(self.bos);
        self.encode_into(text, special, &mut out);
        out
    }

    /// The tokens of a prompt whose control tokens are spelled out. It begins with one `<bos>`, whether the text has one
    /// or not.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.with_one_bos(self.encode(text, Special::Parse))
    }

    /// As [`Tokenizer::encode_prompt`], for a text in which `mark` stands inside every special token that is meant
    /// literally: with the mark in it, it is not recognised; the mark itself is left out of what is encoded.
    pub(crate) fn encode_marked_prompt(&self, text: &str, mark: char) -> Vec<u32> {
        let found = self.finder.find(text, true);
        let mut fragments = Vec::with_capacity(found.len() + 1);
        let mut at = 0;
        for found in &found {
            fragments.push(unmarked(&text[at..found.start], mark));
            at = found.end;
        }
        fragments.push(unmarked(&text[at..], mark));
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        let mut run = Run::new(&self.merger);
        for (index, fragment) in fragments.iter().enumerate() {
            self.merge_into(&mut run, fragment, &mut out);
            out.extend(found.get(index).map(|found| found.id));
        }
        self.with_one_bos(out)
    }

    fn with_one_bos(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if tokens.first() != Some(&self.bos) {
            tokens.insert(0, self.bos);
        }
        tokens
    }

    fn encode_into(&self, text: &str, special: Special, out: &mut Vec<u32>) {
        let mut run = Run::new(&self.merger);
        let mut at = 0;
        for found in self.finder.find(text, special == Special::Parse) {
            self.merge_into(&mut run, &text[at..found.start], out);
            out.push(found.id);
            at = found.end;
        }
        self.merge_into(&mut run, &text[at..], out);
    }

    /// Encodes a fragment between special tokens.
    fn merge_into<'a>(&'a self, run: &mut Run<'a>, fragment: &'a str, out: &mut Vec<u32>) {
        // Length of `out` after the last unknown character: several in a row are one unknown token.
        let mut after_unknown = None;
        run.encode(fragment, out, |character, out| {
            let mut utf8 = [0; 4];
            let utf8 = character.encode_utf8(&mut utf8).as_bytes();
            if utf8.iter().all(|&byte| self.bytes[usize::from(byte)].is_some()) {
                out.extend(utf8.iter().filter_map(|&byte| self.bytes[usize::from(byte)]));
            } else {
                if after_unknown != Some(out.len()) {
                    out.extend(self.unknown);
                }
                after_unknown = Some(out.len());
            }
        });
    }

    /// The text of tokens. Bytes that are no UTF-8 become one U+FFFD each, and so does a token that does not exist.
    pub fn decode(&self, tokens: &[u32], control: Control) -> String {
        Detokenizer::new(self, control).decode(tokens)
    }

    /// Decoding token by token, with control tokens hidden.
    pub fn stream(&self) -> Detokenizer<&Self> {
        Detokenizer::new(self, Control::Hide)
    }

    /// Decoding token by token.
    pub fn stream_with(&self, control: Control) -> Detokenizer<&Self> {
        Detokenizer::new(self, control)
    }

    /// Decoding token by token, by someone who shares the tokenizer.
    pub fn stream_shared(self: &Arc<Self>, control: Control) -> Detokenizer<Arc<Self>> {
        Detokenizer::new(self.clone(), control)
    }

    /// How a token is spelled in the vocabulary (U+2581 for space, `<0x0A>` for a byte), for people to read. `None` when
    /// there is no such token.
    pub fn token_text(&self, token: u32) -> Option<Cow<'_, str>> {
        self.token_bytes(token).map(String::from_utf8_lossy)
    }

    /// The spelling of a token, byte by byte.
    pub fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        let id = token as usize;
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// What a token is.
    pub fn kind(&self, token: u32) -> Option<Kind> {
        self.kinds.get(token as usize).copied()
    }

    /// The token that is spelled like this in the vocabulary; of several the first.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text.as_bytes()).copied()
    }

    /// Tokens in the vocabulary.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token that begins every text.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that the file names as end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Tokens that end an answer, in order.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// Tokens that must never be generated.
    pub fn suppressed(&self) -> &[u32] {
        &self.suppressed
    }

    /// Whether a token is structure and no text.
    pub fn is_control(&self, token: u32) -> bool {
        matches!(self.kind(token), Some(Kind::Control | Kind::Unknown))
    }

    /// A text in which nothing structures a prompt: `mark` is put into all control tokens, and into user-defined ones
    /// that look like markup (`<|channel>`, `<tool_call|>`; not HTML tags or runs of newlines), so that they are no
    /// special tokens to [`Tokenizer::encode_marked_prompt`]. With `keep_markup`, what structures an answer stays.
    pub(crate) fn mark<'a>(&self, text: &'a str, mark: char, keep_markup: bool) -> Cow<'a, str> {
        let starts = self.structure.starts(text, !keep_markup);
        if starts.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut marked = String::with_capacity(text.len() + starts.len() * mark.len_utf8());
        let mut at = 0;
        for found in starts {
            let first = text[found.start..].chars().next().map_or(0, char::len_utf8);
            marked.push_str(&text[at..found.start + first]);
            marked.push(mark);
            at = found.start + first;
        }
        marked.push_str(&text[at..]);
        Cow::Owned(marked)
    }
}

fn unmarked(text: &str, mark: char) -> Cow<'_, str> {
    match text.contains(mark) {
        true => Cow::Owned(text.replace(mark, "")),
        false => Cow::Borrowed(text),
    }
}

/// The merge list as ids. A line that is no pair, or that names or makes something that is no piece of text, is left
/// out: text is then encoded as if it were not there.
fn merge_lines(
    merges: &[Vec<u8>],
    ids: &FxHashMap<Box<[u8]>, u32>,
    is_piece: impl Fn(u32) -> bool + Sync,
) -> Vec<merge::Line> {
    let resolve = |buffer: &mut Vec<u8>, line: &Vec<u8>| -> merge::Line {
        // A piece may begin with a space, so the first byte is none that separates.
        let space = line.iter().skip(1).position(|&byte| byte == b' ')? + 1;
        let (left, right) = (&line[..space], &line[space + 1..]);
        buffer.clear();
        buffer.extend_from_slice(left);
        buffer.extend_from_slice(right);
        let piece = |text: &[u8]| ids.get(text).copied().filter(|&id| is_piece(id));
        Some((piece(left)?, piece(right)?, piece(buffer)?))
    };
    let lines: Vec<merge::Line> = merges.par_iter().map_init(Vec::new, resolve).collect();
    let unusable = lines.iter().filter(|line| line.is_none()).count();
    if let Some(first) = lines.iter().position(Option::is_none) {
        tracing::warn!(
            "{unusable} of {} lines of `tokenizer.ggml.merges` are no pairs of tokens that make a token and are ignored; \
             the first is line {first}: {:?}",
            lines.len(),
            String::from_utf8_lossy(&merges[first])
        );
    }
    lines
}
