//! Conversations as prompts: the chat template of a file.
//!
//! Templates come with files and are programs: they run with a budget of work and memory, see [`Template::render`].
//!
//! What people write must not pass for structure. [`Template::encode`] puts a mark into every control token (and into
//! user-defined ones that look like markup) that a message or a tool spells out, renders, and leaves the mark out when
//! it encodes. A user who writes `<turn|>` gets letters, while the template's own `<turn|>` is the token. The mark is a
//! private-use character that occurs nowhere in the conversation. Only the model's own markup in *assistant* messages
//! (channels and tool calls) stays, because templates look for it there.

mod answer;
mod functions;
mod message;

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use rustc_hash::FxHashSet;

pub use answer::{AnswerParser, AnswerPart};
pub use message::Conversation;

use crate::gguf::{self, Metadata};
use crate::tokenizer::Tokenizer;

const NAME: &str = "tokenizer.chat_template";
const FALLBACK: &str = include_str!("gemma.jinja");

/// Longest template that is compiled; real ones have some ten thousand bytes.
const LONGEST: usize = 1 << 20;
/// Work that every rendering may do: instructions, or 64 bytes of memory each.
const BASE_FUEL: u64 = 4_000_000;
/// More of it for long conversations.
const FUEL_PER_MESSAGE: u64 = 2_000;
const FUEL_PER_BYTE: u64 = 2;
const RECURSION_LIMIT: usize = 200;

/// Why a conversation is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The key is there but holds no text.
    #[error("the chat template cannot be read: {0}")]
    Metadata(#[from] gguf::Error),
    /// The template is no Jinja.
    #[error("the chat template of the file does not compile: {0}")]
    Compile(String),
    /// The template refuses the conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template went wrong.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// The template works without end.
    #[error("the chat template takes more work than a conversation of this length may; it is damaged or malicious")]
    Endless,
    /// A message is not in OpenAI form.
    #[error("message {} {problem}", .index + 1)]
    Message {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Another part of the conversation is not what it should be.
    #[error("{0}")]
    Conversation(String),
}

impl ChatError {
    /// Whether the conversation is to blame and not the file.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Message { .. } | Self::Conversation(_))
    }
}

/// A compiled chat template.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    builtin: bool,
}

impl Template {
    /// The template of a file, or the built-in one for files without.
    ///
    /// # Errors
    /// When the file's template is no text or does not compile.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        match metadata.str(NAME)? {
            Some(source) => Self::new(source, tokenizer),
            None => {
                // The large models are not trained to answer at once: they see a thought that is over already. Only
                // the small ones have per-layer embeddings.
                let architecture = metadata.str("general.architecture")?.unwrap_or_default();
                let small = metadata.get(&format!("{architecture}.embedding_length_per_layer_input"));
                let small = small.and_then(|width| width.u32().ok()).is_some_and(|width| width > 0);
                Ok(Self::fallback(tokenizer, !small))
            }
        }
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// When it is no Jinja.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        Self::compile(source, tokenizer, false)
    }

    /// The built-in template for Gemma 4. `empty_thought` begins answers without thinking with a thought that is over.
    pub fn fallback(tokenizer: &Tokenizer, empty_thought: bool) -> Self {
        let mut template = match Self::compile(FALLBACK, tokenizer, true) {
            Ok(template) => template,
            Err(error) => unreachable!("the built-in template is part of the program: {error}"),
        };
        Arc::make_mut(&mut template.environment).add_global("empty_thought", empty_thought);
        template
    }

    fn compile(source: &str, tokenizer: &Tokenizer, builtin: bool) -> Result<Self, ChatError> {
        if source.len() > LONGEST {
            return Err(ChatError::Compile(format!(
                "it has {} bytes; at most {LONGEST} are supported",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| ChatError::Compile(error.to_string()))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_function("strftime_now", functions::strftime_now);
        environment.add_filter("tojson", functions::to_json);
        let tokens = [
            ("bos_token", Some(tokenizer.bos())),
            ("eos_token", tokenizer.eos()),
            ("unk_token", tokenizer.id_of("<unk>")),
            ("pad_token", tokenizer.id_of("<pad>")),
        ];
        for (name, token) in tokens {
            let text = token.and_then(|token| tokenizer.token_text(token)).unwrap_or_default();
            environment.add_global(name, text.into_owned());
        }
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| ChatError::Compile(error.to_string()))?;
        Ok(Self {
            environment: environment.into(),
            source: source.into(),
            builtin,
        })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is the built-in one.
    pub fn is_builtin(&self) -> bool {
        self.builtin
    }

    /// The prompt as text, with whatever control tokens messages spell out.
    ///
    /// Work and memory are limited in proportion to the conversation, nested calls to a fixed depth.
    ///
    /// # Errors
    /// Messages that are not in OpenAI form, conversations that the template refuses, templates that fail or take too
    /// much work.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        self.render_with(conversation, &|text, _| text.to_owned())
    }

    /// The prompt as tokens, beginning with one `<bos>`. Control tokens that messages spell out are letters, see the
    /// [module](self).
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn encode(&self, tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Vec<u32>, ChatError> {
        let mark = self.unused_character(conversation)?;
        let prompt = self.render_with(conversation, &|text, answer| {
            tokenizer.mark(text, mark, answer).into_owned()
        })?;
        Ok(tokenizer.encode_marked_prompt(&prompt, mark))
    }

    fn render_with(&self, conversation: &Conversation, escape: &message::Escape<'_>) -> Result<String, ChatError> {
        let messages = message::messages(&conversation.messages, escape)?;
        let json = |name: &str, json: &serde_json::Value| {
            message::value(json, escape, 0)
                .ok_or_else(|| ChatError::Conversation(format!("`{name}` is nested deeper than templates can go")))
        };
        let tools: Result<Vec<Value>, ChatError> = conversation.tools.iter().map(|tool| json("tools", tool)).collect();
        let tools = match &conversation.tools[..] {
            [] => Value::from(()),
            _ => Value::from(tools?),
        };
        let mut variables: BTreeMap<String, Value> = BTreeMap::from([
            ("messages".to_owned(), messages),
            ("tools".to_owned(), tools),
            (
                "add_generation_prompt".to_owned(),
                Value::from(conversation.add_generation_prompt),
            ),
            ("enable_thinking".to_owned(), Value::from(conversation.enable_thinking)),
        ]);
        for (name, value) in &conversation.extra {
            variables.insert(name.clone(), json(name, value)?);
        }

        let mut bytes = 0;
        each_text(conversation, &mut |text| bytes += text.len() as u64);
        let messages = conversation.messages.len() as u64;
        let mut environment = Environment::clone(&self.environment);
        environment.set_fuel(Some(BASE_FUEL + FUEL_PER_MESSAGE * messages + FUEL_PER_BYTE * bytes));
        let template = environment
            .get_template(NAME)
            .map_err(|error| ChatError::Render(error.to_string()))?;
        template.render(Value::from(variables)).map_err(|error| {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(cause) = source {
                if let Some(raised) = cause.downcast_ref::<functions::Raised>() {
                    return ChatError::Refused(raised.0.clone());
                }
                source = cause.source();
            }
            match error.kind() {
                ErrorKind::OutOfFuel => ChatError::Endless,
                _ => ChatError::Render(error.to_string()),
            }
        })
    }

    /// A private-use character that is nowhere in the conversation or the template.
    fn unused_character(&self, conversation: &Conversation) -> Result<char, ChatError> {
        let mut used: FxHashSet<char> = FxHashSet::default();
        let mut note = |text: &str| used.extend(text.chars().filter(|&character| character >= '\u{f0000}'));
        note(&self.source);
        each_text(conversation, &mut note);
        ('\u{f0000}'..='\u{10fffd}')
            .find(|character| !used.contains(character))
            .ok_or_else(|| ChatError::Conversation("the conversation has every private-use character".to_owned()))
    }
}

/// Calls `note` with every text and key of a conversation.
fn each_text(conversation: &Conversation, note: &mut dyn FnMut(&str)) {
    // Not recursive: this comes before the depth is checked.
    let mut open: Vec<&serde_json::Value> = conversation.messages.iter().chain(&conversation.tools).collect();
    for (key, value) in &conversation.extra {
        note(key);
        open.push(value);
    }
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::String(text) => note(text),
            serde_json::Value::Array(items) => open.extend(items),
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    note(key);
                    open.push(value);
                }
            }
            _ => {}
        }
    }
}
