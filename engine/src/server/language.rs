//! The language of a GGUF file: its tokenizer and its chat template.

use std::sync::Arc;

use serde_json::Value;

use super::request::Chat;
use super::text::{Decoder, Language, NoPrompt, Part, Reader};
use crate::chat::{AnswerParser, AnswerPart, ChatError, Conversation, Template};
use crate::tokenizer::{Control, Detokenizer, Kind, Special, Tokenizer};

/// Tokens at the end of a prompt that tell how the model's turn begins.
const TURN_START: usize = 64;

/// A tokenizer and a chat template.
#[derive(Clone)]
pub struct FileLanguage {
    tokenizer: Arc<Tokenizer>,
    template: Template,
}

impl FileLanguage {
    /// The language of these two.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, template: Template) -> Self {
        Self { tokenizer, template }
    }
}

fn conversation(chat: &Chat) -> Conversation {
    let mut extra = chat.template_arguments.clone();
    // Templates take it from the conversation; what is no yes or no is theirs to judge.
    let enable_thinking = match extra.get("enable_thinking") {
        Some(Value::Bool(thinks)) => *thinks,
        _ => false,
    };
    extra.retain(|name, value| !(name == "enable_thinking" && value.is_boolean()));
    Conversation {
        tools: chat.tools.clone(),
        enable_thinking,
        extra,
        ..Conversation::new(chat.messages.clone())
    }
}

impl From<ChatError> for NoPrompt {
    fn from(error: ChatError) -> Self {
        let message = match &error {
            ChatError::Message { index, .. } => Some(*index),
            _ => None,
        };
        if error.is_request() {
            Self::Conversation {
                problem: error.to_string(),
                message,
            }
        } else {
            Self::Template(error.to_string())
        }
    }
}

impl Language for FileLanguage {
    fn encode(&self, text: &str, control: bool) -> Vec<u32> {
        let special = if control { Special::Parse } else { Special::Literal };
        self.tokenizer.encode(text, special)
    }

    fn begin(&self) -> Option<u32> {
        Some(self.tokenizer.bos())
    }

    fn end_tokens(&self) -> Vec<u32> {
        self.tokenizer.end_of_generation().to_vec()
    }

    fn piece(&self, token: u32) -> Option<Vec<u8>> {
        let bytes = self.tokenizer.token_bytes(token)?;
        if self.tokenizer.is_control(token) {
            return Some(bytes.to_vec());
        }
        // A byte is no character by itself, so the decoder would not give it back.
        if self.tokenizer.kind(token) == Some(Kind::Byte)
            && let Some(byte) = std::str::from_utf8(bytes).ok().and_then(byte)
        {
            return Some(vec![byte]);
        }
        Some(self.tokenizer.decode(&[token], Control::Show).into_bytes())
    }

    fn decoder(&self, markup: bool) -> Box<dyn Decoder> {
        let control = if markup { Control::Markup } else { Control::Hide };
        Box::new(self.tokenizer.stream_shared(control))
    }

    fn render(&self, chat: &Chat) -> Result<String, NoPrompt> {
        Ok(self.template.render(&conversation(chat))?)
    }

    fn prompt(&self, chat: &Chat) -> Result<Vec<u32>, NoPrompt> {
        Ok(self.template.encode(&self.tokenizer, &conversation(chat))?)
    }

    fn reader(&self, prompt: &[u32]) -> Box<dyn Reader> {
        let end = &prompt[prompt.len().saturating_sub(TURN_START)..];
        Box::new(AnswerParser::after(&self.tokenizer.decode(end, Control::Show)))
    }

    fn template(&self) -> &str {
        self.template.source()
    }
}

/// The byte of `<0xHH>`.
fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

impl Decoder for Detokenizer<Arc<Tokenizer>> {
    fn push(&mut self, token: u32) -> String {
        Self::push(self, token).to_owned()
    }

    fn finish(&mut self) -> String {
        Self::finish(self).to_owned()
    }
}

impl Reader for AnswerParser {
    fn push(&mut self, text: &str) -> Vec<Part> {
        Self::push(self, text).into_iter().map(Part::from).collect()
    }

    fn finish(&mut self) -> Vec<Part> {
        Self::finish(self).into_iter().map(Part::from).collect()
    }
}

impl From<AnswerPart> for Part {
    fn from(part: AnswerPart) -> Self {
        match part {
            AnswerPart::Text(text) => Self::Text(text),
            AnswerPart::Reasoning(text) => Self::Reasoning(text),
            AnswerPart::ToolCall { name, arguments } => Self::Call {
                name,
                arguments: Value::Object(arguments).to_string(),
            },
        }
    }
}
