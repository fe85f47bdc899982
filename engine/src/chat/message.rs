//! Messages in OpenAI form, brought into the one form that templates expect.

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::Value as Jinja;
use serde_json::{Map, Value};

use super::ChatError;

/// Values deeper than this are refused; templates walk them recursively.
const DEEPEST: usize = 64;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A conversation to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Messages in OpenAI form: `role` (system, developer, user, assistant, tool), `content` (a text, or a list of text
    /// parts), `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    pub messages: Vec<Value>,
    /// Tools in OpenAI form: `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Vec<Value>,
    /// Ends the prompt where the model's turn begins.
    pub add_generation_prompt: bool,
    /// Asks for reasoning before the answer, where the template knows how.
    pub enable_thinking: bool,
    /// Further variables of the template. They win over all others.
    pub extra: Map<String, Value>,
}

impl Conversation {
    /// Messages to be answered, without tools and thinking.
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: Vec::new(),
            add_generation_prompt: true,
            enable_thinking: false,
            extra: Map::new(),
        }
    }
}

/// What becomes of each text on its way into a template; the flag says whether it is an answer of the model, in which
/// templates look for markup.
pub(super) type Escape<'a> = dyn Fn(&str, bool) -> String + 'a;

/// A message list as a template gets it: roles checked, `developer` as `system`, content as one text, arguments of tool
/// calls as mappings, tool messages with the name of their tool.
pub(super) fn messages(messages: &[Value], escape: &Escape<'_>) -> Result<Jinja, ChatError> {
    let mut called: BTreeMap<&str, &str> = BTreeMap::new();
    let mut last_called = None;
    let mut done = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let wrong = |problem: String| ChatError::Message { index, problem };
        let Value::Object(message) = message else {
            return Err(wrong(format!("is {}, not an object", describe(message))));
        };
        let role = match message.get("role") {
            Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.as_str(),
            Some(Value::String(role)) => {
                let known = ROLES.join(", ");
                return Err(wrong(format!("has the role `{role}`; roles are {known}")));
            }
            Some(other) => return Err(wrong(format!("has {} as `role`, not a string", describe(other)))),
            None => return Err(wrong("has no `role`".to_owned())),
        };
        let answer = role == "assistant";
        let calls = match message.get("tool_calls") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(calls)) if answer || calls.is_empty() => calls.as_slice(),
            Some(Value::Array(_)) => return Err(wrong(format!("has `tool_calls`, but its role is {role}"))),
            Some(other) => return Err(wrong(format!("has {} as `tool_calls`, not a list", describe(other)))),
        };
        let content = match message.get("content") {
            None | Some(Value::Null) if answer => Jinja::from(""),
            None | Some(Value::Null) => return Err(wrong(format!("({role}) has no `content`"))),
            // A result of a tool may come as data.
            Some(data @ Value::Object(_)) if role == "tool" => {
                value(data, escape, 0).ok_or_else(|| wrong(too_deep("content")))?
            }
            Some(content) => Jinja::from(escape(&text(content).map_err(wrong)?, answer)),
        };

        let mut fields = BTreeMap::new();
        for (key, field) in message {
            if !matches!(key.as_str(), "role" | "content" | "tool_calls") && !field.is_null() {
                let field = value(field, escape, 0).ok_or_else(|| wrong(too_deep(key)))?;
                fields.insert(escape(key, false), field);
            }
        }
        if let Some(name) = message.get("name").filter(|name| !name.is_string() && !name.is_null()) {
            return Err(wrong(format!("has {} as `name`, not a string", describe(name))));
        }
        // Templates ask for one or the other.
        for (from, to) in [("reasoning_content", "reasoning"), ("reasoning", "reasoning_content")] {
            if let (Some(reasoning), false) = (fields.get(from).cloned(), fields.contains_key(to)) {
                fields.insert(to.to_owned(), reasoning);
            }
        }
        if role == "tool" && !fields.contains_key("name") {
            let id = message.get("tool_call_id").and_then(Value::as_str);
            let name = id.and_then(|id| called.get(id).copied()).or(last_called);
            if let Some(name) = name {
                fields.insert("name".to_owned(), Jinja::from(escape(name, false)));
            }
        }
        if !calls.is_empty() {
            let mut list = Vec::with_capacity(calls.len());
            for call in calls {
                let name = call.get("function").and_then(|function| function.get("name"));
                let Some(name) = name.and_then(Value::as_str) else {
                    return Err(wrong("has a tool call without `function.name`".to_owned()));
                };
                if let Some(id) = call.get("id").and_then(Value::as_str) {
                    called.insert(id, name);
                }
                last_called = Some(name);
                let call = with_parsed_arguments(call);
                list.push(value(&call, escape, 0).ok_or_else(|| wrong(too_deep("tool_calls")))?);
            }
            fields.insert("tool_calls".to_owned(), Jinja::from(list));
        }
        let role = if role == "developer" { "system" } else { role };
        fields.insert("role".to_owned(), Jinja::from(role));
        fields.insert("content".to_owned(), content);
        done.push(Jinja::from(fields));
    }
    Ok(Jinja::from(done))
}

fn too_deep(key: &str) -> String {
    format!("has a `{key}` that is nested deeper than {DEEPEST} levels")
}

/// Arguments arrive as JSON in a string; templates write them one by one.
fn with_parsed_arguments(call: &Value) -> Cow<'_, Value> {
    let arguments = call.get("function").and_then(|function| function.get("arguments"));
    let parsed = match arguments {
        Some(Value::String(text)) if text.trim().is_empty() => Some(Value::Object(Map::new())),
        Some(Value::String(text)) => serde_json::from_str(text).ok().filter(Value::is_object),
        None | Some(Value::Null) => Some(Value::Object(Map::new())),
        Some(_) => None,
    };
    match parsed {
        Some(parsed) => {
            let mut call = call.clone();
            call["function"]["arguments"] = parsed;
            Cow::Owned(call)
        }
        None => Cow::Borrowed(call),
    }
}

/// Content as one text; parts are joined by newlines.
fn text(content: &Value) -> Result<String, String> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(format!(
                "has {} as `content`, not a text or a list of parts",
                describe(other)
            ));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str);
        match (part, kind) {
            (Value::String(text), _) => texts.push(text.as_str()),
            (_, Some("text" | "input_text" | "output_text") | None) => match part.get("text").and_then(Value::as_str) {
                Some(text) => texts.push(text),
                None => return Err("has a part of `content` without `text`".to_owned()),
            },
            (_, Some("refusal")) => texts.extend(part.get("refusal").and_then(Value::as_str)),
            (_, Some(kind)) => {
                return Err(format!("has a part of type `{kind}`; this engine reads text only"));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// JSON as a value of the template language. `None` when it is nested too deep.
pub(super) fn value(json: &Value, escape: &Escape<'_>, depth: usize) -> Option<Jinja> {
    if depth > DEEPEST {
        return None;
    }
    Some(match json {
        Value::Null => Jinja::from(()),
        Value::Bool(value) => Jinja::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Jinja::from(integer),
            (_, Some(integer), _) => Jinja::from(integer),
            (.., float) => Jinja::from(float.unwrap_or(f64::NAN)),
        },
        Value::String(text) => Jinja::from(escape(text, false)),
        Value::Array(items) => {
            let items: Option<Vec<Jinja>> = items.iter().map(|item| value(item, escape, depth + 1)).collect();
            Jinja::from(items?)
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, field)| Some((escape(key, false), value(field, escape, depth + 1)?)));
            let fields: Option<BTreeMap<String, Jinja>> = fields.collect();
            Jinja::from(fields?)
        }
    })
}

/// What a value is, for messages.
pub(super) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
