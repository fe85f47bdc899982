//! What a model writes, taken apart while it is written: reasoning, tool calls, answer.

use serde_json::{Map, Number, Value};

const CHANNEL: &str = "<|channel>";
const CHANNEL_END: &str = "<channel|>";
const CALL: &str = "<|tool_call>";
const CALL_END: &str = "<tool_call|>";
/// The name of the channel for reasoning.
const THOUGHT: &str = "thought";
const QUOTE: &str = "<|\"|>";
/// Names of channels are short; something longer is text.
const LONGEST_NAME: usize = 32;
/// Deepest nesting of arguments.
const DEEPEST: usize = 64;

/// A part of an answer. Several of the same sort in a row belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerPart {
    /// More of the answer itself.
    Text(String),
    /// More of what the model thinks before it answers.
    Reasoning(String),
    /// A complete call of a tool.
    ToolCall {
        /// Name of the tool.
        name: String,
        /// Its arguments.
        arguments: Map<String, Value>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Answer,
    /// After `<|channel>`: the name, up to a newline.
    Name,
    Thought,
    Call,
}

/// Separates `<|channel>thought` … `<channel|>` and `<|tool_call>call:NAME{…}<tool_call|>` from the answer. Feed it
/// the text of a detokenizer that shows markup ([`crate::tokenizer::Control::Markup`]); text comes out as soon as it
/// can be no markup any more. What looks like a tool call and is none comes out as text.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    state: State,
    /// Text that is not decided.
    held: String,
    /// Of the held call: how far it has been searched for its end, and whether that is within a quoted text.
    searched: usize,
    quoted: bool,
}

impl Default for AnswerParser {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerParser {
    /// At the start of a model's turn.
    pub fn new() -> Self {
        Self {
            state: State::Answer,
            held: String::new(),
            searched: 0,
            quoted: false,
        }
    }

    /// For the answer to a prompt, which may end within a thought that the answer goes on with.
    pub fn after(prompt: &str) -> Self {
        let mut parser = Self::new();
        let turn = prompt.rfind("<|turn>").unwrap_or(0);
        let opened = prompt[turn..]
            .rfind(CHANNEL)
            .map(|at| &prompt[turn + at + CHANNEL.len()..]);
        if let Some(open) = opened.filter(|open| !open.contains(CHANNEL_END)) {
            parser.state = State::Name;
            parser.held.push_str(open);
            // The name is complete or there is none, and what the prompt says of the thought is no part of the answer.
            if open.contains('\n') || open.len() > LONGEST_NAME + CHANNEL_END.len() {
                parser.state = State::Thought;
                parser.held.clear();
            }
        }
        parser
    }

    /// More text; the parts that it decides.
    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// The end: what was held back.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Answer => text(&mut parts, &held),
            State::Name => {}
            State::Thought => reasoning(&mut parts, held.trim_end()),
            // Cut short, by a limit of tokens for example.
            State::Call => match parse_call(&held) {
                Some(call) => parts.push(call),
                None => {
                    text(&mut parts, CALL);
                    text(&mut parts, &held);
                }
            },
        }
        *self = Self::new();
        parts
    }

    /// Decides some of the held text. Whether there may be more to decide.
    fn step(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        match self.state {
            State::Answer => {
                let markup = [CHANNEL, CALL, CHANNEL_END];
                let first = markup.iter().filter_map(|m| self.held.find(m).map(|at| (at, *m))).min();
                let Some((at, found)) = first else {
                    let free = self.held.len() - undecided(&self.held, &markup);
                    text(parts, &self.held[..free]);
                    self.held.drain(..free);
                    return false;
                };
                text(parts, &self.held[..at]);
                self.held.drain(..at + found.len());
                self.searched = 0;
                self.quoted = false;
                self.state = match found {
                    CHANNEL => State::Name,
                    CALL => State::Call,
                    // The end of a thought that was none.
                    _ => State::Answer,
                };
                true
            }
            State::Name => {
                if let Some(rest) = self.held.strip_prefix(CHANNEL_END) {
                    self.held = rest.to_owned();
                    self.state = State::Answer;
                    return true;
                }
                let line = self.held.find('\n');
                let end = self.held.find(CHANNEL_END);
                match (line, end) {
                    (Some(line), end) if line <= LONGEST_NAME && end.is_none_or(|end| line < end) => {
                        self.held.drain(..=line);
                        self.state = State::Thought;
                        true
                    }
                    // No name at all, or nothing but the name.
                    (_, Some(end)) => {
                        if self.held[..end].trim() == THOUGHT {
                            self.held.drain(..end);
                        }
                        self.state = State::Thought;
                        true
                    }
                    _ if self.held.len() > LONGEST_NAME + CHANNEL_END.len() => {
                        self.state = State::Thought;
                        true
                    }
                    _ => false,
                }
            }
            State::Thought => match self.held.find(CHANNEL_END) {
                Some(at) => {
                    reasoning(parts, self.held[..at].trim_end());
                    self.held.drain(..at + CHANNEL_END.len());
                    self.state = State::Answer;
                    true
                }
                None => {
                    let free = self.held.len() - undecided(&self.held, &[CHANNEL_END]);
                    // The whitespace before the end of a thought is no part of it.
                    let free = self.held[..free].trim_end().len();
                    reasoning(parts, &self.held[..free]);
                    self.held.drain(..free);
                    false
                }
            },
            State::Call => {
                let Some(end) = self.end_of_call() else { return false };
                let call = &self.held[..end];
                match parse_call(call) {
                    Some(call) => parts.push(call),
                    None => text(parts, &format!("{CALL}{call}{CALL_END}")),
                }
                self.held.drain(..end + CALL_END.len());
                self.state = State::Answer;
                true
            }
        }
    }

    /// Where the held call ends: not within a quoted text.
    fn end_of_call(&mut self) -> Option<usize> {
        loop {
            let rest = &self.held[self.searched..];
            let quote = rest.find(QUOTE);
            let end = rest.find(CALL_END).filter(|_| !self.quoted);
            match (quote, end) {
                (quote, Some(end)) if quote.is_none_or(|quote| end < quote) => return Some(self.searched + end),
                (Some(quote), _) => {
                    self.searched += quote + QUOTE.len();
                    self.quoted = !self.quoted;
                }
                (None, _) => {
                    self.searched += rest.len() - undecided(rest, &[QUOTE, CALL_END]);
                    return None;
                }
            }
        }
    }
}

fn text(parts: &mut Vec<AnswerPart>, more: &str) {
    match parts.last_mut() {
        _ if more.is_empty() => {}
        Some(AnswerPart::Text(text)) => text.push_str(more),
        _ => parts.push(AnswerPart::Text(more.to_owned())),
    }
}

fn reasoning(parts: &mut Vec<AnswerPart>, more: &str) {
    match parts.last_mut() {
        _ if more.is_empty() => {}
        Some(AnswerPart::Reasoning(text)) => text.push_str(more),
        _ => parts.push(AnswerPart::Reasoning(more.to_owned())),
    }
}

/// Bytes at the end of `text` that may be the beginning of one of `markup` (all ASCII).
fn undecided(text: &str, markup: &[&str]) -> usize {
    let longest = markup.iter().map(|markup| markup.len() - 1).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    let starts = (from..text.len()).filter(|&at| text.is_char_boundary(at));
    let mut starts = starts.filter(|&at| markup.iter().any(|markup| markup.starts_with(&text[at..])));
    starts.next().map_or(0, |at| text.len() - at)
}

/// `call:NAME{key:value,…}`.
fn parse_call(call: &str) -> Option<AnswerPart> {
    let call = call.trim().strip_prefix("call:")?;
    let brace = call.find('{')?;
    let name = call[..brace].trim();
    let mut reader = Reader { rest: &call[brace..] };
    let arguments = reader.object(0)?;
    if name.is_empty() || !reader.rest.trim().is_empty() {
        return None;
    }
    Some(AnswerPart::ToolCall {
        name: name.to_owned(),
        arguments,
    })
}

/// Reads arguments: texts between `<|"|>`, bare keys, numbers, `true`, `false`, `null`, nested `{}` and `[]`. Lenient
/// where models are sloppy: texts in plain quotes, or bare.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn object(&mut self, depth: usize) -> Option<Map<String, Value>> {
        if depth > DEEPEST || !self.skip("{") {
            return None;
        }
        let mut fields = Map::new();
        while !self.skip("}") {
            let key = match self.quoted() {
                Some(key) => key,
                None => {
                    let end = self.rest.find([':', '{', '}', ','])?;
                    let (key, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    key.trim().to_owned()
                }
            };
            if !self.skip(":") {
                return None;
            }
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
            if !self.skip(",") {
                return self.skip("}").then_some(fields);
            }
        }
        Some(fields)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if let Some(text) = self.quoted() {
            return Some(Value::String(text));
        }
        if self.rest.starts_with('{') {
            return self.object(depth).map(Value::Object);
        }
        if self.skip("[") {
            let mut items = Vec::new();
            if depth > DEEPEST {
                return None;
            }
            while !self.skip("]") {
                items.push(self.value(depth + 1)?);
                if !self.skip(",") {
                    return self.skip("]").then_some(Value::Array(items));
                }
            }
            return Some(Value::Array(items));
        }
        let end = self.rest.find([',', '}', ']']).unwrap_or(self.rest.len());
        let (bare, rest) = self.rest.split_at(end);
        self.rest = rest;
        let bare = bare.trim();
        Some(match bare {
            "" => return None,
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            _ => match bare.parse::<Number>() {
                Ok(number) => Value::Number(number),
                Err(_) => Value::String(bare.to_owned()),
            },
        })
    }

    /// A text between quotes, if one is next.
    fn quoted(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix(QUOTE) {
            let (text, rest) = rest.split_once(QUOTE)?;
            self.rest = rest;
            return Some(text.to_owned());
        }
        if self.rest.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            let text = texts.next()?.ok()?;
            let end = texts.byte_offset();
            self.rest = &self.rest[end..];
            return Some(text);
        }
        None
    }
}
