//! Request bodies: JSON to checked values. Pure: no model, no clock, no I/O.
//!
//! Unknown fields are ignored. A known field of a wrong type or out of range is an error that names the field, what was
//! given and what is wanted. So is a known field whose meaning cannot be honoured.

use serde_json::{Map, Value};

use crate::sample;

/// Choices per prompt at most.
pub const MAX_CHOICES: usize = 128;
/// Prompts of one request at most.
pub const MAX_PROMPTS: usize = 1024;
/// Alternatives reported per token at most.
pub const MAX_TOP_LOGPROBS: usize = 20;
/// Stop strings at most.
pub const MAX_STOPS: usize = 64;
/// Length of what is quoted from a request in an error.
const QUOTE: usize = 80;

/// A body that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// What is wrong, and what is wanted.
    pub message: String,
    /// The field.
    pub param: Option<String>,
    /// A word for programs.
    pub code: &'static str,
}

impl Invalid {
    fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.into()),
            code: "invalid_value",
        }
    }

    fn wanted(param: impl Into<String>, given: &Value, wanted: &str) -> Self {
        let param = param.into();
        Self::field(
            param.clone(),
            format!("`{param}` is {}; it must be {wanted}", quote(given)),
        )
    }

    fn missing(param: &str, wanted: &str) -> Self {
        Self {
            message: format!("`{param}` is missing; it must be {wanted}"),
            param: Some(param.to_string()),
            code: "missing_required_parameter",
        }
    }

    fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.into()),
            code: "unsupported_value",
        }
    }
}

/// A value as it stands in an error: its JSON, cut.
fn quote(value: &Value) -> String {
    let kind = match value {
        Value::Array(list) => return format!("an array of {}", list.len()),
        Value::Object(_) => return "an object".into(),
        Value::String(_) => "the string ",
        _ => "",
    };
    let text = value.to_string();
    match text.char_indices().nth(QUOTE) {
        Some((end, _)) => format!("{kind}{}…", &text[..end]),
        None => format!("{kind}{text}"),
    }
}

/// What a request says about choosing tokens; the rest is as the server is set up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// See [`sample::Settings::temperature`].
    pub temperature: Option<f32>,
    /// See [`sample::Settings::top_k`].
    pub top_k: Option<usize>,
    /// See [`sample::Settings::top_p`].
    pub top_p: Option<f32>,
    /// See [`sample::Settings::min_p`].
    pub min_p: Option<f32>,
    /// See [`sample::Settings::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`sample::Settings::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// See [`sample::Settings::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// See [`sample::Settings::penalty_window`].
    pub penalty_window: Option<usize>,
    /// Added to what the server is set up with.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the first choice; the following choices count up from it.
    pub seed: Option<u64>,
}

impl Sampling {
    /// Settings with these in place of the defaults.
    #[must_use]
    pub fn over(&self, defaults: &sample::Settings) -> sample::Settings {
        let mut settings = defaults.clone();
        let replace = |target: &mut f32, value: Option<f32>| *target = value.unwrap_or(*target);
        replace(&mut settings.temperature, self.temperature);
        replace(&mut settings.top_p, self.top_p);
        replace(&mut settings.min_p, self.min_p);
        replace(&mut settings.repetition_penalty, self.repetition_penalty);
        replace(&mut settings.presence_penalty, self.presence_penalty);
        replace(&mut settings.frequency_penalty, self.frequency_penalty);
        settings.top_k = self.top_k.unwrap_or(settings.top_k);
        settings.penalty_window = self.penalty_window.unwrap_or(settings.penalty_window);
        settings.logit_bias.extend(&self.logit_bias);
        settings.seed = self.seed.or(settings.seed);
        settings
    }
}

/// What both kinds of completion have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// The model's name, echoed.
    pub model: Option<String>,
    /// Tokens to generate at most.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Texts that end an answer and are no part of it.
    pub stop: Vec<String>,
    /// Answers per prompt.
    pub choices: usize,
    /// Answer piece by piece.
    pub stream: bool,
    /// Report usage at the end of a stream.
    pub include_usage: bool,
    /// Go on after an end token.
    pub ignore_eos: bool,
    /// Report logarithms of probabilities, with so many alternatives.
    pub top_logprobs: Option<usize>,
}

/// `/v1/chat/completions`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// What all completions have.
    pub common: Common,
    /// The conversation, each message an object with a known role and text.
    pub messages: Vec<Value>,
    /// Functions the model may call, as the template wants them. Empty where `tool_choice` is `none`.
    pub tools: Vec<Value>,
    /// Further variables of the template.
    pub template_arguments: Map<String, Value>,
}

/// A prompt of `/v1/completions`.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, to be tokenised.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
}

/// `/v1/completions`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// What all completions have.
    pub common: Common,
    /// One or more prompts.
    pub prompts: Vec<Prompt>,
    /// Repeat the prompt before the answer.
    pub echo: bool,
}

/// `/tokenize`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenize {
    /// The text.
    pub content: String,
    /// Put `<bos>` before it.
    pub add_special: bool,
    /// Recognise control tokens in it.
    pub parse_special: bool,
    /// Return the tokens' texts too.
    pub with_pieces: bool,
}

/// Parses the body of `/v1/chat/completions`.
///
/// # Errors
/// Whatever is no such request.
pub fn chat(body: &[u8]) -> Result<Chat, Invalid> {
    let fields = Fields::parse(body)?;
    let messages = messages(&fields)?;
    let tools = fields.tools()?;
    let mut common = fields.common()?;
    common.top_logprobs = fields.chat_logprobs()?;
    Ok(Chat {
        common,
        messages,
        tools,
        template_arguments: fields.template_arguments()?,
    })
}

/// Parses the body of `/apply-template`: the messages, tools and template arguments of a chat.
///
/// # Errors
/// Whatever is no such request.
pub fn template(body: &[u8]) -> Result<Chat, Invalid> {
    let fields = Fields::parse(body)?;
    Ok(Chat {
        messages: messages(&fields)?,
        tools: fields.tools()?,
        template_arguments: fields.template_arguments()?,
        common: Common::default(),
    })
}

/// Parses the body of `/v1/completions`.
///
/// # Errors
/// Whatever is no such request.
pub fn completion(body: &[u8]) -> Result<Completion, Invalid> {
    let fields = Fields::parse(body)?;
    let prompts = fields.prompts()?;
    let mut common = fields.common()?;
    common.top_logprobs = fields.completion_logprobs()?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    if echo && common.top_logprobs.is_some() {
        return Err(Invalid::unsupported(
            "echo",
            "`echo` together with `logprobs` asks for probabilities of the prompt, which are not computed; drop one of them",
        ));
    }
    if let Some(best_of) = fields.integer("best_of", 1, MAX_CHOICES as i64)?
        && usize::try_from(best_of) != Ok(common.choices)
    {
        return Err(Invalid::unsupported(
            "best_of",
            format!("`best_of` is {best_of}; answers are not ranked, so it must equal `n`"),
        ));
    }
    if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(Invalid::unsupported(
            "suffix",
            "`suffix` asks to fill in text before it, which this model is not made for; leave it out",
        ));
    }
    if let Some(choices) = common.choices.checked_mul(prompts.len())
        && choices > MAX_PROMPTS
    {
        return Err(Invalid::field(
            "n",
            format!("`n` times the number of prompts is {choices}; it must be at most {MAX_PROMPTS}"),
        ));
    }
    Ok(Completion { common, prompts, echo })
}

/// Parses the body of `/tokenize`.
///
/// # Errors
/// Whatever is no such request.
pub fn tokenize(body: &[u8]) -> Result<Tokenize, Invalid> {
    let fields = Fields::parse(body)?;
    Ok(Tokenize {
        content: fields
            .string("content")?
            .ok_or_else(|| Invalid::missing("content", "a string"))?,
        add_special: fields.boolean("add_special")?.unwrap_or(false),
        parse_special: fields.boolean("parse_special")?.unwrap_or(true),
        with_pieces: fields.boolean("with_pieces")?.unwrap_or(false),
    })
}

/// Parses the body of `/slots/{id}`: the name of a file in the server's folder.
///
/// # Errors
/// Whatever is no such request, and names that lead out of the folder.
pub fn file_name(body: &[u8]) -> Result<String, Invalid> {
    let fields = Fields::parse(body)?;
    let name = fields
        .string("filename")?
        .ok_or_else(|| Invalid::missing("filename", "a string"))?;
    let is_plain =
        !name.starts_with('.') && !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._- ".contains(c));
    if is_plain {
        Ok(name)
    } else {
        let wanted = "a name of letters, digits, dots, dashes and spaces, without folders";
        Err(Invalid::wanted("filename", &Value::String(name), wanted))
    }
}

/// `/slots/{id}` cannot do that.
pub fn unknown_action(action: &str) -> Invalid {
    Invalid::wanted("action", &Value::String(action.to_owned()), "save, restore or erase")
}

/// Parses the body of `/detokenize`.
///
/// # Errors
/// Whatever is no such request.
pub fn detokenize(body: &[u8]) -> Result<Vec<u32>, Invalid> {
    let fields = Fields::parse(body)?;
    match fields.get("tokens") {
        Some(Value::Array(list)) => tokens("tokens", list),
        Some(other) => Err(Invalid::wanted("tokens", other, "an array of token ids")),
        None => Err(Invalid::missing("tokens", "an array of token ids")),
    }
}

/// `top_k` as clients write it: nothing and below mean all tokens.
#[must_use]
pub fn top_k(given: i64) -> usize {
    usize::try_from(given).unwrap_or(0)
}

/// How far penalties look back, as clients write it: below 0 means the whole context.
#[must_use]
pub fn look_back(given: i64) -> usize {
    usize::try_from(given).unwrap_or(usize::MAX)
}

fn tokens(param: &str, list: &[Value]) -> Result<Vec<u32>, Invalid> {
    let token = |(i, value): (usize, &Value)| {
        value
            .as_u64()
            .and_then(|token| u32::try_from(token).ok())
            .ok_or_else(|| Invalid::wanted(format!("{param}[{i}]"), value, "a token id, a whole number from 0"))
    };
    list.iter().enumerate().map(token).collect()
}

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

fn messages(fields: &Fields) -> Result<Vec<Value>, Invalid> {
    let wanted = "an array of at least one message";
    let list = match fields.get("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(Invalid::wanted("messages", other, wanted)),
        None => return Err(Invalid::missing("messages", wanted)),
    };
    for (i, message) in list.iter().enumerate() {
        check_message(&format!("messages[{i}]"), message)?;
    }
    Ok(list.clone())
}

fn check_message(at: &str, message: &Value) -> Result<(), Invalid> {
    let Value::Object(fields) = message else {
        return Err(Invalid::wanted(at, message, "an object with `role` and `content`"));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role,
        Some(other) => {
            let wanted = format!("one of {}", ROLES.join(", "));
            return Err(Invalid::wanted(format!("{at}.role"), other, &wanted));
        }
        None => {
            return Err(Invalid::missing(
                &format!("{at}.role"),
                &format!("one of {}", ROLES.join(", ")),
            ));
        }
    };
    let calls = match fields.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => {
            for (i, call) in calls.iter().enumerate() {
                check_call(&format!("{at}.tool_calls[{i}]"), call)?;
            }
            !calls.is_empty()
        }
        Some(other) => return Err(Invalid::wanted(format!("{at}.tool_calls"), other, "an array")),
    };
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        // A result of a function may come as data.
        Some(Value::Object(_)) if role == "tool" => Ok(()),
        Some(Value::Array(parts)) => parts
            .iter()
            .enumerate()
            .try_for_each(|(i, part)| check_part(&format!("{at}.content[{i}]"), part)),
        None | Some(Value::Null) if calls || role == "assistant" => Ok(()),
        None | Some(Value::Null) => Err(Invalid::missing(
            &format!("{at}.content"),
            "a string or an array of text parts",
        )),
        Some(other) => Err(Invalid::wanted(
            format!("{at}.content"),
            other,
            "a string or an array of text parts",
        )),
    }
}

fn check_part(at: &str, part: &Value) -> Result<(), Invalid> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") => match part.get("text") {
            Some(Value::String(_)) => Ok(()),
            Some(other) => Err(Invalid::wanted(format!("{at}.text"), other, "a string")),
            None => Err(Invalid::missing(&format!("{at}.text"), "a string")),
        },
        Some(kind) => Err(Invalid::unsupported(
            at,
            format!(
                "`{at}` is of type `{kind}`; only parts of type `text` are understood, this server reads no images or sound"
            ),
        )),
        None => Err(Invalid::wanted(at, part, "an object {\"type\": \"text\", \"text\": …}")),
    }
}

fn check_call(at: &str, call: &Value) -> Result<(), Invalid> {
    let function = call.get("function").unwrap_or(&Value::Null);
    if !function.get("name").is_some_and(Value::is_string) {
        return Err(Invalid::missing(&format!("{at}.function.name"), "a string"));
    }
    match function.get("arguments") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(Value::String(text)) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(_) => Ok(()),
            Err(_) if text.trim().is_empty() => Ok(()),
            Err(error) => Err(Invalid::field(
                format!("{at}.function.arguments"),
                format!("`{at}.function.arguments` must be a JSON object in a string: {error}"),
            )),
        },
        Some(other) => Err(Invalid::wanted(
            format!("{at}.function.arguments"),
            other,
            "a JSON object in a string",
        )),
    }
}

/// A body's fields. `null` is the same as a missing field.
struct Fields(Map<String, Value>);

/// Sampler fields of llama-server that do nothing at one value and cannot be honoured at others.
const NEUTRAL: &[(&str, f64)] = &[
    ("mirostat", 0.0),
    ("typical_p", 1.0),
    ("dry_multiplier", 0.0),
    ("xtc_probability", 0.0),
    ("dynatemp_range", 0.0),
    ("top_n_sigma", -1.0),
];

/// Fields that would shape the answer, and why they cannot.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("grammar", "answers are not constrained by a grammar"),
    ("json_schema", "answers are not constrained by a schema"),
    ("functions", "it has been replaced; use `tools`"),
    ("function_call", "it has been replaced; use `tool_choice`"),
    ("audio", "this server makes no sound"),
    ("prediction", "predicted output is not used"),
    ("web_search_options", "this server searches nothing"),
];

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let malformed = |message: String| Invalid {
            message,
            param: None,
            code: "malformed_json",
        };
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(malformed(format!(
                "the body is {}; it must be a JSON object",
                quote(&other)
            ))),
            Err(error) => Err(malformed(format!("the body is no JSON: {error}"))),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The first of several names that is there.
    fn first<'a>(&self, names: &[&'a str]) -> &'a str {
        let present = names.iter().find(|name| self.get(name).is_some());
        present.or(names.first()).copied().unwrap_or_default()
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(Invalid::wanted(name, other, "true or false")),
        }
    }

    fn string(&self, name: &str) -> Result<Option<String>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value.clone())),
            Some(other) => Err(Invalid::wanted(name, other, "a string")),
        }
    }

    fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => Err(Invalid::wanted(name, other, "an object")),
        }
    }

    fn integer(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, Invalid> {
        let Some(value) = self.get(name) else { return Ok(None) };
        whole(value)
            .filter(|number| (low..=high).contains(number))
            .map(Some)
            .ok_or_else(|| {
                let wanted = if high == i64::MAX {
                    format!("a whole number from {low}")
                } else {
                    format!("a whole number from {low} to {high}")
                };
                Invalid::wanted(name, value, &wanted)
            })
    }

    fn number(&self, name: &str, low: f64, high: f64) -> Result<Option<f32>, Invalid> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| (low..=high).contains(number))
            .map(|number| Some(number as f32))
            .ok_or_else(|| {
                let wanted = if high >= f64::from(f32::MAX) {
                    format!("a number from {low}")
                } else {
                    format!("a number from {low} to {high}")
                };
                Invalid::wanted(name, value, &wanted)
            })
    }

    fn common(&self) -> Result<Common, Invalid> {
        self.refuse_unsupported()?;
        // -1 is llama-server's word for no limit.
        let limit = self.first(&["max_completion_tokens", "max_tokens", "n_predict"]);
        let max_tokens = self.integer(limit, -1, i64::MAX)?;
        let include_usage = match self.object("stream_options")? {
            None => false,
            Some(options) => match options.get("include_usage") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(value)) => *value,
                Some(other) => {
                    return Err(Invalid::wanted("stream_options.include_usage", other, "true or false"));
                }
            },
        };
        self.string("user")?;
        Ok(Common {
            model: self.string("model")?,
            max_tokens: max_tokens.and_then(|limit| usize::try_from(limit).ok()),
            sampling: self.sampling()?,
            stop: self.stop()?,
            choices: self.integer("n", 1, MAX_CHOICES as i64)?.unwrap_or(1).unsigned_abs() as usize,
            stream: self.boolean("stream")?.unwrap_or(false),
            include_usage,
            ignore_eos: self.boolean("ignore_eos")?.unwrap_or(false),
            top_logprobs: None,
        })
    }

    fn sampling(&self) -> Result<Sampling, Invalid> {
        let most = f64::from(f32::MAX);
        let repetition = self.first(&["repetition_penalty", "repeat_penalty"]);
        let repetition_penalty = self.number(repetition, 0.0, most)?;
        if repetition_penalty == Some(0.0) {
            return Err(Invalid::field(
                repetition,
                format!("`{repetition}` is 0; it must be above 0, 1 does nothing"),
            ));
        }
        let seed = match self.get("seed") {
            None => None,
            Some(value) => match (value.as_u64(), whole(value)) {
                (Some(seed), _) => Some(seed),
                // llama-server's word for a random one
                (None, Some(-1)) => None,
                (None, Some(seed)) => Some(seed.cast_unsigned()),
                (None, None) => return Err(Invalid::wanted("seed", value, "a whole number")),
            },
        };
        Ok(Sampling {
            temperature: self.number("temperature", 0.0, most)?,
            top_k: self.integer("top_k", -1, i64::MAX)?.map(top_k),
            top_p: self.number("top_p", 0.0, 1.0)?,
            min_p: self.number("min_p", 0.0, 1.0)?,
            repetition_penalty,
            presence_penalty: self.number("presence_penalty", -2.0, 2.0)?,
            frequency_penalty: self.number("frequency_penalty", -2.0, 2.0)?,
            penalty_window: self.integer("repeat_last_n", -1, i64::MAX)?.map(look_back),
            logit_bias: self.logit_bias()?,
            seed,
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, Invalid> {
        let wanted = "an object of numbers from -100 to 100 by token id";
        match self.get("logit_bias") {
            None => Ok(Vec::new()),
            Some(Value::Object(biases)) => biases
                .iter()
                .map(|(token, bias)| {
                    let at = format!("logit_bias.{token}");
                    let token = token.parse::<u32>().map_err(|_| {
                        Invalid::field(
                            "logit_bias",
                            format!("`logit_bias` has the key `{token}`; keys must be token ids"),
                        )
                    })?;
                    let bias = match bias {
                        // llama-server's word for never
                        Value::Bool(false) => f64::NEG_INFINITY,
                        bias => bias
                            .as_f64()
                            .filter(|bias| (-100.0..=100.0).contains(bias))
                            .ok_or_else(|| Invalid::wanted(at, bias, "a number from -100 to 100"))?,
                    };
                    Ok((token, bias as f32))
                })
                .collect(),
            Some(other) => Err(Invalid::wanted("logit_bias", other, wanted)),
        }
    }

    fn stop(&self) -> Result<Vec<String>, Invalid> {
        let wanted = "a string or an array of strings that are not empty";
        let list = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() > MAX_STOPS => {
                return Err(Invalid::field(
                    "stop",
                    format!("`stop` has {} strings; it may have {MAX_STOPS}", list.len()),
                ));
            }
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        list.iter()
            .map(|stop| match stop {
                Value::String(text) if !text.is_empty() => Ok(text.clone()),
                other => Err(Invalid::wanted("stop", other, wanted)),
            })
            .collect()
    }

    fn chat_logprobs(&self) -> Result<Option<usize>, Invalid> {
        let top = self.integer("top_logprobs", 0, MAX_TOP_LOGPROBS as i64)?;
        match (self.boolean("logprobs")?.unwrap_or(false), top) {
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(Invalid::field(
                "top_logprobs",
                "`top_logprobs` needs `logprobs` to be true",
            )),
            (true, top) => Ok(Some(top.unwrap_or(0).unsigned_abs() as usize)),
        }
    }

    fn completion_logprobs(&self) -> Result<Option<usize>, Invalid> {
        let name = self.first(&["logprobs", "n_probs"]);
        let top = self.integer(name, 0, MAX_TOP_LOGPROBS as i64)?;
        // llama-server's `n_probs` is 0 for none, OpenAI's `logprobs` for the chosen tokens alone.
        Ok(top
            .filter(|top| *top > 0 || name == "logprobs")
            .map(|top| top.unsigned_abs() as usize))
    }

    fn prompts(&self) -> Result<Vec<Prompt>, Invalid> {
        let wanted = "a string, an array of strings, an array of token ids, or an array of arrays of token ids";
        let list = match self.get("prompt") {
            None => return Err(Invalid::missing("prompt", wanted)),
            Some(Value::String(text)) => return Ok(vec![Prompt::Text(text.clone())]),
            Some(Value::Array(list)) if !list.is_empty() => list,
            Some(other) => return Err(Invalid::wanted("prompt", other, wanted)),
        };
        if list[0].is_number() {
            return Ok(vec![Prompt::Tokens(tokens("prompt", list)?)]);
        }
        if list.len() > MAX_PROMPTS {
            return Err(Invalid::field(
                "prompt",
                format!("`prompt` has {} prompts; it may have {MAX_PROMPTS}", list.len()),
            ));
        }
        let prompt = |(i, value): (usize, &Value)| match value {
            Value::String(text) => Ok(Prompt::Text(text.clone())),
            Value::Array(list) => Ok(Prompt::Tokens(tokens(&format!("prompt[{i}]"), list)?)),
            other => Err(Invalid::wanted(format!("prompt[{i}]"), other, wanted)),
        };
        list.iter().enumerate().map(prompt).collect()
    }

    fn tools(&self) -> Result<Vec<Value>, Invalid> {
        let list = match self.get("tools") {
            None => &[],
            Some(Value::Array(list)) => list.as_slice(),
            Some(other) => return Err(Invalid::wanted("tools", other, "an array of functions")),
        };
        for (i, tool) in list.iter().enumerate() {
            let at = format!("tools[{i}]");
            match tool.get("type").and_then(Value::as_str) {
                Some("function") => {}
                Some(kind) => {
                    return Err(Invalid::unsupported(
                        format!("{at}.type"),
                        format!("`{at}.type` is `{kind}`; only `function` is supported"),
                    ));
                }
                None => {
                    return Err(Invalid::wanted(
                        at,
                        tool,
                        "an object {\"type\": \"function\", \"function\": {\"name\": …}}",
                    ));
                }
            }
            let function = tool.get("function").unwrap_or(&Value::Null);
            if !function.get("name").is_some_and(Value::is_string) {
                return Err(Invalid::missing(&format!("{at}.function.name"), "a string"));
            }
            match function.get("parameters") {
                None | Some(Value::Null | Value::Object(_)) => {}
                Some(other) => {
                    return Err(Invalid::wanted(
                        format!("{at}.function.parameters"),
                        other,
                        "a JSON schema object",
                    ));
                }
            }
        }
        match self.get("tool_choice") {
            None => Ok(list.to_vec()),
            Some(Value::String(choice)) if choice == "auto" => Ok(list.to_vec()),
            Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
            Some(Value::Object(_)) => Err(Invalid::unsupported(
                "tool_choice",
                "`tool_choice` names a function; a call cannot be forced, use \"auto\" or \"none\"",
            )),
            Some(Value::String(choice)) if choice == "required" => Err(Invalid::unsupported(
                "tool_choice",
                "`tool_choice` is \"required\"; a call cannot be forced, use \"auto\" or \"none\"",
            )),
            Some(other) => Err(Invalid::wanted("tool_choice", other, "\"auto\" or \"none\"")),
        }
    }

    fn template_arguments(&self) -> Result<Map<String, Value>, Invalid> {
        let mut arguments = self.object("chat_template_kwargs")?.cloned().unwrap_or_default();
        if let Some(thinking) = self.boolean("enable_thinking")? {
            arguments.insert("enable_thinking".into(), thinking.into());
        }
        Ok(arguments)
    }

    /// Fields whose meaning would be lost if they were ignored.
    fn refuse_unsupported(&self) -> Result<(), Invalid> {
        if let Some(format) = self.object("response_format")? {
            match format.get("type") {
                Some(Value::String(kind)) if kind == "text" => {}
                Some(Value::String(kind)) => {
                    return Err(Invalid::unsupported(
                        "response_format",
                        format!("`response_format.type` is `{kind}`; only `text` is supported"),
                    ));
                }
                Some(other) => return Err(Invalid::wanted("response_format.type", other, "\"text\"")),
                None => return Err(Invalid::missing("response_format.type", "\"text\"")),
            }
        }
        for (name, why) in UNSUPPORTED {
            let given = self.get(name);
            if given
                .is_some_and(|value| value.as_str() != Some("") && value.as_array().is_none_or(|list| !list.is_empty()))
            {
                return Err(Invalid::unsupported(
                    *name,
                    format!("`{name}` cannot be honoured: {why}; leave it out"),
                ));
            }
        }
        for (name, neutral) in NEUTRAL {
            let Some(value) = self.get(name) else { continue };
            let Some(number) = value.as_f64() else {
                return Err(Invalid::wanted(*name, value, "a number"));
            };
            if number != *neutral && !(*neutral < 0.0 && number <= 0.0) {
                return Err(Invalid::unsupported(
                    *name,
                    format!(
                        "`{name}` is {number}; this sampler does not exist here, leave it out or set it to {neutral}"
                    ),
                ));
            }
        }
        if let Some(modalities) = self.get("modalities") {
            let text_only = matches!(modalities, Value::Array(list) if list.iter().all(|kind| kind == "text"));
            if !text_only {
                return Err(Invalid::wanted("modalities", modalities, "[\"text\"]"));
            }
        }
        Ok(())
    }
}

/// A whole number, also where a client wrote it as `3.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}

/// A bias for a token that the model does not have.
pub(super) fn unknown_bias(token: u32) -> Invalid {
    Invalid::field(
        "logit_bias",
        format!("`logit_bias` has token {token}, which the model does not have"),
    )
}

/// A token to be turned into text that the model does not have.
pub(super) fn unknown_token(index: usize, token: u32) -> Invalid {
    let at = format!("tokens[{index}]");
    Invalid::field(at.clone(), format!("`{at}` is {token}, which the model does not have"))
}
