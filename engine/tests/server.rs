//! The HTTP server over a stand-in for the engine.

mod server_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use server_support::{BEGIN, Bytes, END, Listening, Scripted, application, logprob, server};
use tilekiln::schedule::Refusal;
use tilekiln::server::text::Language;
use tilekiln::server::{Server, Settings};
use tower::ServiceExt;

/// What came back.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Data of each event of a stream. The framing is checked.
    #[track_caller]
    fn events(&self) -> Vec<String> {
        assert!(self.body.ends_with("\n\n"), "{:?}", self.body);
        self.body
            .split_terminator("\n\n")
            .filter(|block| !block.starts_with(':'))
            .map(|block| {
                let data = block.strip_prefix("data: ").unwrap_or_else(|| panic!("{block:?}"));
                assert!(!data.contains('\n'), "one line per event: {data:?}");
                data.to_string()
            })
            .collect()
    }

    /// The chunks before `[DONE]`.
    #[track_caller]
    fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", self.body);
        let parse = |data: &String| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        events.iter().map(parse).collect()
    }
}

async fn send(server: &Arc<Server>, request: Request<Body>) -> Reply {
    let response = server.router().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).expect("UTF-8"),
    }
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a request")
}

async fn post(server: &Arc<Server>, path: &str, body: &Value) -> Reply {
    send(server, request(Method::POST, path, body.to_string())).await
}

async fn get(server: &Arc<Server>, path: &str) -> Reply {
    send(server, request(Method::GET, path, "")).await
}

fn stand_in() -> (Arc<Scripted>, Arc<Server>) {
    let service = Arc::new(Scripted::new());
    let server = server(&service, Settings::default());
    (service, server)
}

/// A chat whose answer is known.
fn saying(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": format!("say:{text}")}]})
}

fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("an object")
    };
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// Text, reasoning and finish reason of each choice of a stream.
fn gathered(chunks: &[Value], count: usize) -> Vec<(String, String, Option<String>)> {
    let mut choices = vec![(String::new(), String::new(), None); count];
    for chunk in chunks {
        for choice in chunk["choices"].as_array().expect("choices") {
            let (text, reasoning, reason) = &mut choices[choice["index"].as_u64().expect("an index") as usize];
            assert!(reason.is_none(), "nothing follows the end: {chunk}");
            *text += choice["delta"]["content"]
                .as_str()
                .or(choice["text"].as_str())
                .unwrap_or_default();
            *reasoning += choice["delta"]["reasoning_content"].as_str().unwrap_or_default();
            *reason = choice["finish_reason"].as_str().map(String::from);
        }
    }
    choices
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Path, fields beside a valid request, the field that the error names, and a part of its message.
#[tokio::test]
async fn bad_fields_are_named() {
    let table: &[(&str, Value, &str, &str)] = &[
        (CHAT, json!({"messages": null}), "messages", "is missing"),
        (CHAT, json!({"messages": "hi"}), "messages", "the string \"hi\""),
        (CHAT, json!({"messages": []}), "messages", "at least one message"),
        (CHAT, json!({"messages": ["hi"]}), "messages[0]", "`role` and `content`"),
        (
            CHAT,
            json!({"messages": [{"content": "x"}]}),
            "messages[0].role",
            "system",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
            "\"king\"",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
            "is missing",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": 7}]}),
            "messages[0].content",
            "is 7",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0]",
            "image_url",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text",
            "is missing",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [3]}]}),
            "messages[0].content[0]",
            "is 3",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "assistant", "tool_calls": 1}]}),
            "messages[0].tool_calls",
            "an array",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
            "JSON object",
        ),
        (CHAT, json!({"model": 3}), "model", "a string"),
        (CHAT, json!({"temperature": "hot"}), "temperature", "the string \"hot\""),
        (
            CHAT,
            json!({"temperature": -0.1}),
            "temperature",
            "is -0.1; it must be a number from 0",
        ),
        (CHAT, json!({"temperature": 1e300}), "temperature", "1e+300"),
        (CHAT, json!({"top_p": 1.5}), "top_p", "from 0 to 1"),
        (CHAT, json!({"top_p": [1]}), "top_p", "an array of 1"),
        (CHAT, json!({"min_p": -1}), "min_p", "is -1"),
        (CHAT, json!({"top_k": 1.5}), "top_k", "a whole number"),
        (CHAT, json!({"top_k": -2}), "top_k", "from -1"),
        (CHAT, json!({"seed": "x"}), "seed", "a whole number"),
        (CHAT, json!({"seed": 0.5}), "seed", "is 0.5"),
        (CHAT, json!({"max_tokens": -2}), "max_tokens", "is -2"),
        (
            CHAT,
            json!({"max_tokens": 3, "max_completion_tokens": "3"}),
            "max_completion_tokens",
            "\"3\"",
        ),
        (CHAT, json!({"n_predict": true}), "n_predict", "is true"),
        (CHAT, json!({"n": 0}), "n", "from 1 to 128"),
        (CHAT, json!({"n": 1000}), "n", "is 1000"),
        (CHAT, json!({"stop": 3}), "stop", "strings"),
        (CHAT, json!({"stop": [""]}), "stop", "not empty"),
        (CHAT, json!({"stop": ["a", null]}), "stop", "is null"),
        (CHAT, json!({"stop": vec!["x"; 65]}), "stop", "65 strings"),
        (
            CHAT,
            json!({"presence_penalty": 2.5}),
            "presence_penalty",
            "from -2 to 2",
        ),
        (CHAT, json!({"frequency_penalty": {}}), "frequency_penalty", "an object"),
        (CHAT, json!({"repeat_penalty": 0}), "repeat_penalty", "above 0"),
        (CHAT, json!({"repetition_penalty": -1}), "repetition_penalty", "is -1"),
        (CHAT, json!({"logit_bias": [1]}), "logit_bias", "by token id"),
        (CHAT, json!({"logit_bias": {"cat": 1}}), "logit_bias", "`cat`"),
        (CHAT, json!({"logit_bias": {"5": 101}}), "logit_bias.5", "is 101"),
        (CHAT, json!({"logit_bias": {"262": 1}}), "logit_bias", "262"),
        (CHAT, json!({"logprobs": 3}), "logprobs", "true or false"),
        (CHAT, json!({"top_logprobs": 3}), "top_logprobs", "`logprobs`"),
        (
            CHAT,
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
            "from 0 to 20",
        ),
        (CHAT, json!({"stream": "yes"}), "stream", "true or false"),
        (CHAT, json!({"stream_options": true}), "stream_options", "an object"),
        (
            CHAT,
            json!({"stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "is 1",
        ),
        (CHAT, json!({"tools": {}}), "tools", "an array"),
        (
            CHAT,
            json!({"tools": [{"type": "retrieval"}]}),
            "tools[0].type",
            "retrieval",
        ),
        (CHAT, json!({"tools": [7]}), "tools[0]", "\"function\""),
        (
            CHAT,
            json!({"tools": [{"type": "function", "function": {}}]}),
            "tools[0].function.name",
            "is missing",
        ),
        (
            CHAT,
            json!({"tool_choice": "required"}),
            "tool_choice",
            "cannot be forced",
        ),
        (
            CHAT,
            json!({"tool_choice": {"type": "function"}}),
            "tool_choice",
            "cannot be forced",
        ),
        (CHAT, json!({"tool_choice": "perhaps"}), "tool_choice", "\"perhaps\""),
        (
            CHAT,
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
            "`json_object`",
        ),
        (CHAT, json!({"response_format": "text"}), "response_format", "an object"),
        (
            CHAT,
            json!({"response_format": {}}),
            "response_format.type",
            "is missing",
        ),
        (CHAT, json!({"grammar": "root ::= x"}), "grammar", "grammar"),
        (CHAT, json!({"mirostat": 2}), "mirostat", "is 2"),
        (
            CHAT,
            json!({"modalities": ["text", "audio"]}),
            "modalities",
            "[\"text\"]",
        ),
        (
            CHAT,
            json!({"chat_template_kwargs": []}),
            "chat_template_kwargs",
            "an object",
        ),
        (CHAT, json!({"enable_thinking": 1}), "enable_thinking", "true or false"),
        (CHAT, json!({"ignore_eos": "no"}), "ignore_eos", "true or false"),
        (TEXT, json!({"prompt": null}), "prompt", "is missing"),
        (TEXT, json!({"prompt": 3}), "prompt", "array of token ids"),
        (TEXT, json!({"prompt": []}), "prompt", "an array of 0"),
        (TEXT, json!({"prompt": [1, "x"]}), "prompt[1]", "token id"),
        (TEXT, json!({"prompt": [1, -1]}), "prompt[1]", "is -1"),
        (TEXT, json!({"prompt": [[1], [2, 3.5]]}), "prompt[1][1]", "is 3.5"),
        (TEXT, json!({"prompt": ["x", {}]}), "prompt[1]", "an object"),
        (TEXT, json!({"prompt": [999]}), "prompt", "token 999"),
        (TEXT, json!({"prompt": [[]]}), "prompt", "empty"),
        (TEXT, json!({"logprobs": true}), "logprobs", "a whole number"),
        (TEXT, json!({"logprobs": 21}), "logprobs", "from 0 to 20"),
        (TEXT, json!({"echo": 1}), "echo", "true or false"),
        (
            TEXT,
            json!({"echo": true, "logprobs": 1}),
            "echo",
            "probabilities of the prompt",
        ),
        (TEXT, json!({"best_of": 3}), "best_of", "must equal `n`"),
        (TEXT, json!({"suffix": "x"}), "suffix", "fill in"),
        (TEXT, json!({"prompt": vec!["x"; 100], "n": 100}), "n", "10000"),
        ("/tokenize", json!({}), "content", "is missing"),
        ("/tokenize", json!({"content": 1}), "content", "a string"),
        (
            "/tokenize",
            json!({"content": "", "with_pieces": 0}),
            "with_pieces",
            "true or false",
        ),
        ("/detokenize", json!({}), "tokens", "is missing"),
        ("/detokenize", json!({"tokens": "1"}), "tokens", "an array"),
        ("/detokenize", json!({"tokens": [1, 262]}), "tokens[1]", "is 262"),
        ("/apply-template", json!({"messages": 1}), "messages", "is 1"),
    ];
    let (service, server) = stand_in();
    for (path, fields, param, fragment) in table {
        let valid = match *path {
            CHAT => saying("hi"),
            TEXT => json!({"prompt": "say:hi"}),
            _ => json!({}),
        };
        let reply = post(&server, path, &with(valid, fields.clone())).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path} {fields}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], *param, "{path} {fields}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        assert!(error["code"].is_string(), "{error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(fragment), "{path} {fields}: {message}");
    }
    assert_eq!(service.accepted(), 0, "nothing of it was submitted");
}

/// What is no valid HTTP request for a path: method, path, content type, body; status, code, and a part of the message.
#[tokio::test]
async fn bad_requests_are_named() {
    type Case = (
        Method,
        &'static str,
        &'static str,
        String,
        u16,
        &'static str,
        &'static str,
    );
    let json_type = "application/json";
    let long = json!({"prompt": "x".repeat(5000)}).to_string();
    let table: Vec<Case> = vec![
        (
            Method::POST,
            CHAT,
            json_type,
            "{\"messages\": [}".into(),
            400,
            "malformed_json",
            "line 1 column 15",
        ),
        (
            Method::POST,
            CHAT,
            json_type,
            "{\n  nope".into(),
            400,
            "malformed_json",
            "line 2",
        ),
        (
            Method::POST,
            CHAT,
            json_type,
            String::new(),
            400,
            "malformed_json",
            "EOF",
        ),
        (
            Method::POST,
            CHAT,
            json_type,
            "[1]".into(),
            400,
            "malformed_json",
            "an array of 1",
        ),
        (
            Method::POST,
            CHAT,
            json_type,
            "[".repeat(10_000),
            400,
            "malformed_json",
            "recursion",
        ),
        (
            Method::POST,
            TEXT,
            json_type,
            "{\"temperature\": 1e999}".into(),
            400,
            "malformed_json",
            "out of range",
        ),
        (
            Method::POST,
            CHAT,
            "text/plain",
            "{}".into(),
            415,
            "unsupported_content_type",
            "text/plain",
        ),
        (
            Method::POST,
            TEXT,
            "application/x-www-form-urlencoded",
            "{}".into(),
            415,
            "unsupported_content_type",
            "application/json",
        ),
        (
            Method::POST,
            TEXT,
            json_type,
            "x".repeat(20_000),
            413,
            "body_too_large",
            "16384 bytes",
        ),
        (
            Method::POST,
            "/tokenize",
            json_type,
            "x".repeat(20_000),
            413,
            "body_too_large",
            "16384 bytes",
        ),
        (
            Method::GET,
            CHAT,
            json_type,
            String::new(),
            405,
            "method_not_allowed",
            "GET",
        ),
        (
            Method::POST,
            "/v1/models",
            json_type,
            "{}".into(),
            405,
            "method_not_allowed",
            "POST",
        ),
        (
            Method::DELETE,
            "/health",
            json_type,
            String::new(),
            405,
            "method_not_allowed",
            "DELETE",
        ),
        (
            Method::GET,
            "/v1/nothing",
            json_type,
            String::new(),
            404,
            "unknown_path",
            "/v1/nothing",
        ),
        (
            Method::POST,
            "/v1/embeddings",
            json_type,
            "{}".into(),
            404,
            "unknown_path",
            "/v1/completions",
        ),
        (
            Method::GET,
            "/v1/models/other",
            json_type,
            String::new(),
            404,
            "model_not_found",
            "`tiny`",
        ),
        (
            Method::POST,
            TEXT,
            json_type,
            long,
            400,
            "context_length_exceeded",
            "5001 tokens",
        ),
        (
            Method::POST,
            CHAT,
            json_type,
            json!({"messages": [{"role": "tool", "content": "x"}]}).to_string(),
            400,
            "invalid_conversation",
            "without tools",
        ),
    ];
    let service = Arc::new(Scripted::new());
    let server = server(
        &service,
        Settings {
            body_limit: 16 << 10,
            ..Settings::default()
        },
    );
    for (method, path, content_type, body, status, code, fragment) in table {
        let start: String = body.chars().take(60).collect();
        let mut request = request(method.clone(), path, body);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.parse().expect("a header"));
        let reply = send(&server, request).await;
        assert_eq!(reply.status, status, "{method} {path} {start}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], code, "{method} {path} {start}: {error}");
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "no {key}: {error}");
        }
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(fragment), "{method} {path} {start}: {message}");
    }
    // a body without a declared type is taken for JSON
    let mut request = request(Method::POST, TEXT, json!({"prompt": "say:x"}).to_string());
    request.headers_mut().remove(header::CONTENT_TYPE);
    assert_eq!(send(&server, request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn refusals_of_the_service() {
    let table = [
        (Refusal::Busy { waiting: 9 }, 503, "queue_full", Some("1")),
        (Refusal::Stopped("it burnt".into()), 500, "engine_failed", None),
        (
            Refusal::TooLong { prompt: 9, context: 8 },
            400,
            "context_length_exceeded",
            None,
        ),
        (Refusal::Empty, 400, "empty_prompt", None),
    ];
    for (refusal, status, code, retry) in table {
        let message = refusal.to_string();
        let service = Arc::new(Scripted {
            refusal: Some(refusal),
            ..Scripted::new()
        });
        let server = server(&service, Settings::default());
        for stream in [false, true] {
            let reply = post(&server, CHAT, &with(saying("x"), json!({"stream": stream}))).await;
            assert_eq!(reply.status, status, "{}", reply.body);
            assert_eq!(reply.json()["error"]["code"], code);
            assert_eq!(reply.json()["error"]["message"], message);
            let header = reply
                .headers
                .get(header::RETRY_AFTER)
                .map(|value| value.to_str().expect("text"));
            assert_eq!(header, retry);
        }
    }
    // one of several choices is refused: the others are cancelled
    let service = Arc::new(Scripted {
        most: Some(2),
        prompt_delay: Duration::from_millis(20),
        ..Scripted::new()
    });
    let server = server(&service, Settings::default());
    let reply = post(&server, CHAT, &with(saying("x"), json!({"n": 3}))).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.body);
    until("both are cancelled", || service.cancelled.load(Ordering::SeqCst) == 2).await;
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_engine_that_fails() {
    let (_, server) = stand_in();
    for (prompt, message) in [("fail:x", "out of luck"), ("vanish:x", "went away")] {
        let body = json!({"prompt": prompt});
        let reply = post(&server, TEXT, &body).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("server_error"), &json!("engine_failed"))
        );
        assert!(
            error["message"].as_str().is_some_and(|text| text.contains(message)),
            "{error}"
        );

        let reply = post(&server, TEXT, &with(body, json!({"stream": true}))).await;
        assert_eq!(reply.status, StatusCode::OK, "the stream had begun");
        let events = reply.events();
        let last: Value = serde_json::from_str(events.last().expect("an event")).expect("JSON, and no [DONE]");
        assert_eq!(last["error"]["code"], "engine_failed", "{last}");
    }
}

#[tokio::test]
async fn a_chat() {
    let (service, server) = stand_in();
    let reply = post(
        &server,
        CHAT,
        &with(saying("Grüße, 世界!"), json!({"model": "anything"})),
    )
    .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "anything", "the name is echoed");
    assert!(
        body["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")),
        "{body}"
    );
    assert!(body["created"].as_u64() > Some(1_700_000_000), "{body}");
    let choice = &body["choices"][0];
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": "Grüße, 世界!"})
    );
    assert_eq!(
        (&choice["index"], &choice["finish_reason"]),
        (&json!(0), &json!("stop"))
    );
    assert_eq!(choice["logprobs"], Value::Null);
    let prompt = service.request(0).prompt;
    assert_eq!(prompt[0], BEGIN);
    let generated = "Grüße, 世界!".len() + 1;
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": prompt.len(),
            "completion_tokens": generated,
            "total_tokens": prompt.len() + generated,
            "prompt_tokens_details": {"cached_tokens": 1},
        })
    );
    let timings = &body["timings"];
    let expected = [
        ("cache_n", 1.0),
        ("prompt_n", prompt.len() as f64 - 1.0),
        ("prompt_ms", 10.0),
        ("prompt_per_second", (prompt.len() as f64 - 1.0) * 100.0),
        ("predicted_n", generated as f64),
        ("predicted_ms", 20.0),
        ("predicted_per_second", generated as f64 * 50.0),
        ("draft_n", 6.0),
        ("draft_n_accepted", 4.0),
    ];
    for (key, value) in expected {
        let found = timings[key].as_f64().unwrap_or(f64::NAN);
        assert!((found - value).abs() < 1e-6 * value, "{key}: {timings}");
    }
    let again = post(&server, CHAT, &saying("x")).await.json();
    assert_eq!(again["model"], "tiny");
    assert_ne!(again["id"], body["id"]);
}

#[tokio::test]
async fn a_stream_is_framed() {
    let (_, server) = stand_in();
    let body = with(
        saying("ab"),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let reply = post(&server, CHAT, &body).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-cache");
    let chunks = reply.chunks();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["created"], chunks[0]["created"]);
    }
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(
        deltas,
        [
            &json!({"role": "assistant", "content": ""}),
            &json!({"content": "a"}),
            &json!({"content": "b"}),
            &json!({}),
            &Value::Null
        ]
    );
    let (usage, others) = chunks.split_last().expect("chunks");
    assert!(
        others
            .iter()
            .all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
    );
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    assert_eq!(others[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(others[3]["timings"]["predicted_n"], 3);

    let without = post(&server, CHAT, &with(saying("ab"), json!({"stream": true})))
        .await
        .chunks();
    assert_eq!(without.len(), 4);
    assert!(
        without.iter().all(|chunk| chunk.get("usage").is_none()),
        "nobody asked for it"
    );
}

/// Path and body; text and finish reason. As a stream and whole.
#[tokio::test]
async fn streams_equal_whole_answers() {
    let table = [
        (CHAT, saying("Grüße, 世界 👋🏽!"), "Grüße, 世界 👋🏽!", "", "stop"),
        (CHAT, saying("<think>hm, so</think>yes"), "yes", "hm, so", "stop"),
        (
            CHAT,
            with(saying("abcdef"), json!({"max_tokens": 3})),
            "abc",
            "",
            "length",
        ),
        (
            CHAT,
            with(saying("abcdef"), json!({"max_completion_tokens": 0})),
            "",
            "",
            "length",
        ),
        (
            CHAT,
            with(saying("a, END b"), json!({"stop": "END"})),
            "a, ",
            "",
            "stop",
        ),
        (
            CHAT,
            with(saying("a, EN b"), json!({"stop": ["END", "x"]})),
            "a, EN b",
            "",
            "stop",
        ),
        (CHAT, with(saying("a, E"), json!({"stop": ["END"]})), "a, E", "", "stop"),
        (CHAT, with(saying("größer"), json!({"stop": ["ö"]})), "gr", "", "stop"),
        (
            CHAT,
            with(saying("<think>END</think>a END"), json!({"stop": "END"})),
            "a ",
            "END",
            "stop",
        ),
        (
            CHAT,
            with(saying("€€"), json!({"max_tokens": 4})),
            "€\u{fffd}",
            "",
            "length",
        ),
        (TEXT, json!({"prompt": "say:one\\ntwo"}), "one\ntwo", "", "stop"),
        (
            TEXT,
            json!({"prompt": "say:one\\ntwo", "stop": ["\n"]}),
            "one",
            "",
            "stop",
        ),
        (TEXT, json!({"prompt": "say:x", "echo": true}), "say:xx", "", "stop"),
        (
            TEXT,
            json!({"prompt": Bytes.encode("say:ö", true), "echo": true}),
            "say:öö",
            "",
            "stop",
        ),
        (TEXT, json!({"prompt": "say:abc", "n_predict": 2}), "ab", "", "length"),
        (TEXT, json!({"prompt": "say:a{end}b"}), "a", "", "stop"),
        (
            TEXT,
            json!({"prompt": "say:a{end}b", "ignore_eos": true, "max_tokens": 3}),
            "ab",
            "",
            "length",
        ),
    ];
    let (_, server) = stand_in();
    for (path, body, text, reasoning, reason) in table {
        let whole = post(&server, path, &body).await;
        assert_eq!(whole.status, StatusCode::OK, "{body}: {}", whole.body);
        let choice = &whole.json()["choices"][0];
        let found = choice["message"]["content"].as_str().or(choice["text"].as_str());
        assert_eq!(found, Some(text), "{body}: {choice}");
        assert_eq!(
            choice["message"]["reasoning_content"].as_str().unwrap_or_default(),
            reasoning,
            "{body}"
        );
        assert_eq!(choice["finish_reason"], reason, "{body}");
        let chunks = post(&server, path, &with(body.clone(), json!({"stream": true})))
            .await
            .chunks();
        let expected = (text.to_string(), reasoning.to_string(), Some(reason.to_string()));
        assert_eq!(gathered(&chunks, 1), [expected], "{body}");
    }
}

#[tokio::test]
async fn no_chunk_splits_a_character() {
    let (_, server) = stand_in();
    let chunks = post(&server, CHAT, &with(saying("aß€👋"), json!({"stream": true})))
        .await
        .chunks();
    let pieces: Vec<&str> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .filter(|piece| !piece.is_empty())
        .collect();
    assert_eq!(pieces, ["a", "ß", "€", "👋"]);
}

#[tokio::test]
async fn calls_of_functions() {
    let (service, server) = stand_in();
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]);
    let body = with(
        saying("let me see<call>add {\"a\":1}</call><call>now</call>"),
        json!({"tools": tools, "tool_choice": "auto"}),
    );
    let whole = post(&server, CHAT, &body).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(choice["message"]["content"], "let me see");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls[0]["function"], json!({"name": "add", "arguments": "{\"a\":1}"}));
    assert_eq!(calls[1]["function"], json!({"name": "now", "arguments": "{}"}));
    assert_eq!(calls[0]["type"], "function");
    assert_ne!(calls[0]["id"], calls[1]["id"]);

    let chunks = post(&server, CHAT, &with(body, json!({"stream": true}))).await.chunks();
    let streamed: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .collect();
    for (i, (call, whole)) in streamed.iter().zip(calls).enumerate() {
        assert_eq!(call["index"], i);
        assert_eq!(call["function"], whole["function"]);
    }
    assert_eq!(streamed.len(), 2);
    assert_eq!(gathered(&chunks, 1)[0].2.as_deref(), Some("tool_calls"));

    let only = post(&server, CHAT, &saying("<call>now</call>")).await.json();
    assert_eq!(only["choices"][0]["message"]["content"], Value::Null);

    // the template sees tools unless they are switched off, and its own arguments
    let prompt = |index: usize| {
        let bytes: Vec<u8> = service.request(index).prompt[1..]
            .iter()
            .map(|token| *token as u8)
            .collect();
        String::from_utf8(bytes).expect("text")
    };
    assert!(prompt(0).contains("[tools 1]"), "{}", prompt(0));
    let count = service.accepted();
    let body = with(
        saying("x"),
        json!({"tools": tools, "tool_choice": "none", "enable_thinking": true, "chat_template_kwargs": {"a": 1}}),
    );
    post(&server, CHAT, &body).await;
    assert!(!prompt(count).contains("tools"), "{}", prompt(count));
    assert!(
        prompt(count).contains("{\"a\":1,\"enable_thinking\":true}"),
        "{}",
        prompt(count)
    );
}

#[tokio::test]
async fn several_choices_count_seeds_up() {
    let (service, server) = stand_in();
    let body = with(saying("{seed}"), json!({"n": 3, "seed": 41}));
    let whole = post(&server, CHAT, &body).await.json();
    let texts: Vec<&str> = whole["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .map(|choice| choice["message"]["content"].as_str().expect("text"))
        .collect();
    assert_eq!(texts, ["41", "42", "43"]);
    let prompt = service.request(0).prompt.len();
    assert_eq!(whole["usage"]["prompt_tokens"], prompt, "a prompt is counted once");
    assert_eq!(whole["usage"]["completion_tokens"], 9);
    assert!(
        whole.get("timings").is_none(),
        "there is no one speed of several answers"
    );

    let chunks = post(&server, CHAT, &with(body, json!({"stream": true}))).await.chunks();
    let texts: Vec<String> = gathered(&chunks, 3).into_iter().map(|(text, _, _)| text).collect();
    assert_eq!(texts, ["41", "42", "43"]);

    // every prompt with every choice, in order
    let body = json!({"prompt": ["say:a{seed}", "say:b{seed}"], "n": 2, "seed": 7, "echo": true});
    let whole = post(&server, TEXT, &body).await.json();
    let texts: Vec<&str> = whole["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .map(|choice| choice["text"].as_str().expect("text"))
        .collect();
    assert_eq!(
        texts,
        ["say:a{seed}a7", "say:a{seed}a8", "say:b{seed}b7", "say:b{seed}b8"]
    );
    let body = json!({"prompt": [Bytes.encode("say:a", true), Bytes.encode("say:b", true)]});
    let whole = post(&server, TEXT, &body).await.json();
    assert_eq!(whole["choices"][1]["text"], "b");
    assert_eq!(
        service.request(service.accepted() - 1).prompt,
        Bytes.encode("say:b", true),
        "ids are taken as they are"
    );
}

#[tokio::test]
async fn logarithms_of_probabilities() {
    let (_, server) = stand_in();
    let body = with(saying("aé"), json!({"logprobs": true, "top_logprobs": 2}));
    let whole = post(&server, CHAT, &body).await.json();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    let bytes = "aé".as_bytes();
    assert_eq!(content.len(), bytes.len(), "{whole}");
    for (entry, byte) in content.iter().zip(bytes) {
        assert_eq!(entry["bytes"], json!([byte]));
        assert_eq!(entry["logprob"].as_f64(), Some(f64::from(logprob(u32::from(*byte)))));
        assert_eq!(entry["top_logprobs"][0]["bytes"], json!([byte]));
        assert_eq!(entry["top_logprobs"][1]["logprob"], -9999.0, "JSON has no infinity");
    }
    let chunks = post(&server, CHAT, &with(body, json!({"stream": true}))).await.chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&streamed, content);

    // tokens of a stop string are no part of the answer, text that came before one is
    let body = with(saying("abEND"), json!({"logprobs": true, "stop": "END"}));
    let whole = post(&server, CHAT, &body).await.json();
    let tokens: Vec<&str> = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["token"].as_str().expect("text"))
        .collect();
    assert_eq!(tokens, ["a", "b"]);

    let whole = post(&server, TEXT, &json!({"prompt": "say:xyz", "logprobs": 1}))
        .await
        .json();
    let logprobs = &whole["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["x", "y", "z"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2]));
    assert_eq!(
        logprobs["token_logprobs"][1].as_f64(),
        Some(f64::from(logprob(u32::from(b'y'))))
    );
    assert_eq!(logprobs["top_logprobs"][2], json!({"z": logprob(u32::from(b'z'))}));
    let none = post(&server, TEXT, &json!({"prompt": "say:xyz", "n_probs": 0}))
        .await
        .json();
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

/// What a request says of sampling reaches the service; what it leaves out is as the server is set up.
#[tokio::test]
async fn settings_reach_the_service() {
    let (service, server) = stand_in();
    let body = with(
        saying("x"),
        json!({
            "temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "seed": -1, "presence_penalty": -1, "frequency_penalty": 2,
            "repeat_penalty": 1.25, "repeat_last_n": -1, "logit_bias": {"5": -100, "6": false}, "max_tokens": 7.0,
            "ignore_eos": true, "unknown": {"fields": ["are", "ignored"]}, "user": "me", "top_k": null,
        }),
    );
    assert_eq!(post(&server, CHAT, &body).await.status, StatusCode::OK);
    let request = service.request(0);
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.min_p), (0.5, 0.9, 0.1));
    assert_eq!(sampling.top_k, 64, "as the server is set up");
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (-1.0, 2.0));
    assert_eq!(
        (sampling.repetition_penalty, sampling.penalty_window),
        (1.25, usize::MAX)
    );
    assert_eq!(sampling.seed, None);
    let never = f32::NEG_INFINITY;
    assert_eq!(sampling.logit_bias, [(5, -100.0), (6, never), (END, never)]);
    assert_eq!((request.max_tokens, request.end_tokens.len()), (7, 0));
    assert_eq!(request.top_logprobs, None);

    post(&server, CHAT, &saying("x")).await;
    let request = service.request(1);
    assert_eq!((request.sampling.temperature, request.end_tokens), (1.0, vec![END]));
    assert_eq!(request.max_tokens, 4096, "the context is the limit");
    let mut limited = application(service.clone());
    limited.max_tokens = Some(5);
    let server = Server::new(Settings::default());
    server.ready(limited);
    post(&server, CHAT, &saying("x")).await;
    assert_eq!(service.request(2).max_tokens, 5);
}

#[tokio::test]
async fn paths_of_llama_server() {
    let (_, server) = stand_in();
    for path in ["/health", "/v1/health"] {
        assert_eq!(get(&server, path).await.json(), json!({"status": "ok"}));
    }
    for path in ["/models", "/v1/models"] {
        let body = get(&server, path).await.json();
        assert_eq!(
            (&body["object"], &body["data"][0]["id"]),
            (&json!("list"), &json!("tiny"))
        );
        assert_eq!(
            body["data"][0]["meta"],
            json!({"n_ctx": 4096, "n_ctx_train": 8192, "n_params": 7, "size": 28})
        );
    }
    assert_eq!(get(&server, "/v1/models/tiny").await.json()["object"], "model");
    assert_eq!(
        post(&server, "/chat/completions", &saying("x")).await.json()["choices"][0]["message"]["content"],
        "x"
    );
    assert!(get(&server, "/").await.body.contains("a stand-in"));
    let props = get(&server, "/props").await.json();
    assert_eq!(
        (&props["total_slots"], &props["chat_template"]),
        (&json!(4), &json!("{{ messages }}"))
    );
    assert_eq!(
        (&props["bos_token"], &props["eos_token"]),
        (&json!("<bos>"), &json!("<end>"))
    );
    assert_eq!(props["default_generation_settings"]["params"]["top_k"], 64);
    let slots = get(&server, "/slots").await.json();
    assert_eq!(slots[3], json!({"id": 3, "n_ctx": 4096, "is_processing": false}));

    let table = [
        (json!({"content": "a<end>"}), json!([97, 257])),
        (json!({"content": "a", "add_special": true}), json!([256, 97])),
        (json!({"content": "<bos>a", "add_special": true}), json!([256, 97])),
        (json!({"content": "<e", "parse_special": false}), json!([60, 101])),
        (json!({"content": ""}), json!([])),
        (
            json!({"content": "aé", "with_pieces": true}),
            json!([{"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]),
        ),
    ];
    for (body, tokens) in table {
        assert_eq!(
            post(&server, "/tokenize", &body).await.json(),
            json!({"tokens": tokens}),
            "{body}"
        );
    }
    let text = post(&server, "/detokenize", &json!({"tokens": [97, 195, 169]}))
        .await
        .json();
    assert_eq!(text, json!({"content": "aé"}));
    let prompt = post(&server, "/apply-template", &saying("x")).await.json();
    assert_eq!(prompt, json!({"prompt": "<bos>[user] say:x\n"}));
}

#[tokio::test]
async fn before_the_model_is_there() {
    let server = Server::new(Settings::default());
    for (path, body) in [
        (CHAT, saying("x")),
        (TEXT, json!({"prompt": "x"})),
        ("/tokenize", json!({"content": "x"})),
    ] {
        let reply = post(&server, path, &body).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {}", reply.body);
        assert_eq!(reply.json()["error"]["code"], "loading");
        assert!(reply.headers.contains_key(header::RETRY_AFTER));
    }
    for path in ["/health", "/v1/models", "/props", "/slots"] {
        assert_eq!(
            get(&server, path).await.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}"
        );
    }
    assert_eq!(get(&server, "/metrics").await.status, StatusCode::OK);
    server.ready(application(Arc::new(Scripted::new())));
    assert_eq!(get(&server, "/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn keys() {
    let settings = Settings {
        api_keys: vec!["sesame".into(), "other".into()],
        ..Settings::default()
    };
    let server = server(&Arc::new(Scripted::new()), settings);
    let table = [
        (None, 401),
        (Some(("authorization", "Bearer sesame")), 200),
        (Some(("authorization", "bearer other")), 200),
        (Some(("x-api-key", "sesame")), 200),
        (Some(("authorization", "Bearer sesam")), 401),
        (Some(("authorization", "Bearer sesamee")), 401),
        (Some(("authorization", "Bearer ")), 401),
        (Some(("authorization", "Basic sesame")), 401),
        (Some(("authorization", "")), 401),
        (Some(("x-api-key", "")), 401),
    ];
    for (key, status) in table {
        let mut request = request(Method::POST, CHAT, saying("x").to_string());
        if let Some((name, value)) = key {
            request.headers_mut().insert(name, value.parse().expect("a header"));
        }
        let reply = send(&server, request).await;
        assert_eq!(reply.status, status, "{key:?}: {}", reply.body);
        if status == 401 {
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
            assert!(!reply.body.contains("sesame"), "no key is told");
        }
    }
    for (path, status) in [
        ("/health", 200),
        ("/v1/models", 200),
        ("/", 200),
        ("/metrics", 401),
        ("/slots", 401),
        ("/nothing", 401),
    ] {
        assert_eq!(get(&server, path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn browsers_of_other_origins() {
    let allowed = header::ACCESS_CONTROL_ALLOW_ORIGIN;
    let (_, closed) = stand_in();
    assert!(!get(&closed, "/health").await.headers.contains_key(&allowed));
    assert_eq!(
        send(&closed, request(Method::OPTIONS, CHAT, "")).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let settings = Settings {
        cors: Some("*".into()),
        api_keys: vec!["sesame".into()],
        ..Settings::default()
    };
    let open = server(&Arc::new(Scripted::new()), settings);
    assert_eq!(get(&open, "/health").await.headers[&allowed], "*");
    let reply = send(&open, request(Method::OPTIONS, CHAT, "")).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "a browser asks without a key");
    assert!(
        reply.headers[header::ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .expect("text")
            .contains("Authorization")
    );
    let refused = post(&open, CHAT, &saying("x")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.headers[&allowed].to_str().ok()),
        (401, Some("*"))
    );
}

#[tokio::test]
async fn a_dashboard() {
    let (service, server) = stand_in();
    post(&server, CHAT, &saying("abc")).await;
    post(
        &server,
        CHAT,
        &with(saying("abc"), json!({"stream": true, "max_tokens": 2})),
    )
    .await;
    post(&server, CHAT, &with(saying("abc"), json!({"stop": "b"}))).await;
    post(&server, TEXT, &json!({"prompt": 3})).await;
    post(&server, TEXT, &json!({"prompt": "fail:x"})).await;
    get(&server, "/no/such/path").await;
    let prompts: usize = (0..3).map(|index| service.request(index).prompt.len()).sum();
    let text = get(&server, "/metrics").await.body;
    let lines = [
        // two of the prompts had one token in the cache; of the one that a stop string ended nothing is known
        format!("tilekiln_prompt_tokens_total {}", prompts - 2),
        "tilekiln_reused_tokens_total 2".into(),
        "tilekiln_generated_tokens_total 9".into(),
        "tilekiln_drafted_tokens_total 12".into(),
        "tilekiln_accepted_tokens_total 8".into(),
        "tilekiln_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 3".into(),
        "tilekiln_requests_total{path=\"/v1/completions\",status=\"400\"} 1".into(),
        "tilekiln_requests_total{path=\"/v1/completions\",status=\"500\"} 1".into(),
        "tilekiln_requests_total{path=\"other\",status=\"404\"} 1".into(),
        "tilekiln_answers_total{finish=\"stop\"} 2".into(),
        "tilekiln_answers_total{finish=\"length\"} 1".into(),
        "tilekiln_answers_total{finish=\"failed\"} 1".into(),
        "tilekiln_slots 4".into(),
        "tilekiln_slots_busy 0".into(),
        "tilekiln_requests_waiting 0".into(),
        "tilekiln_time_to_first_token_seconds_count 4".into(),
        "tilekiln_time_to_first_token_seconds_bucket{le=\"+Inf\"} 4".into(),
        "tilekiln_token_latency_seconds_count 5".into(),
    ];
    for line in lines {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
    assert!(
        text.contains("# TYPE tilekiln_time_to_first_token_seconds histogram"),
        "{text}"
    );
    assert!(text.contains("# HELP tilekiln_slots "), "{text}");
}

/// A raw HTTP request over a socket.
fn open(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("a connection");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let body = body.to_string();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    socket
}

/// Reads until the text is there.
fn read_until(socket: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(text) {
        let count = socket.read(&mut buffer).expect("more to read");
        assert!(
            count > 0,
            "the end came before {text:?}:\n{}",
            String::from_utf8_lossy(&all)
        );
        all.extend(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_goes_away_cancels() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(2),
        ..Scripted::new()
    });
    let listening = Listening::new(server(&service, Settings::default()));
    let endless = json!({"messages": [{"role": "user", "content": "loop:x"}], "max_tokens": 100_000});
    for (round, stream) in [true, false].into_iter().enumerate() {
        let mut socket = open(
            listening.address,
            CHAT,
            &with(endless.clone(), json!({"stream": stream, "n": 2})),
        );
        if stream {
            read_until(&mut socket, "\"content\":\"x\"");
        }
        wait_for("both choices run", || service.running.load(Ordering::SeqCst) == 2);
        drop(socket);
        wait_for("both are cancelled", || {
            service.cancelled.load(Ordering::SeqCst) == 2 * (round + 1)
        });
        wait_for("nothing runs", || service.running.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn a_stop_string_cancels_the_rest() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(1),
        ..Scripted::new()
    });
    let listening = Listening::new(server(&service, Settings::default()));
    let body = json!({"prompt": "loop:abc", "stop": "ca", "stream": true});
    read_until(&mut open(listening.address, TEXT, &body), "[DONE]");
    wait_for("the service stops", || service.cancelled.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_long_prompt_keeps_the_stream_alive() {
    let service = Arc::new(Scripted {
        prompt_delay: Duration::from_millis(300),
        ..Scripted::new()
    });
    let settings = Settings {
        keep_alive: Duration::from_millis(20),
        ..Settings::default()
    };
    let listening = Listening::new(server(&service, settings));
    let body = json!({"prompt": "say:x", "stream": true});
    let text = read_until(&mut open(listening.address, TEXT, &body), "[DONE]");
    let before = text.split("data:").next().unwrap_or_default();
    assert!(
        before.matches("\n:").count() + before.matches("\n: ").count() >= 2,
        "{text}"
    );
}

#[test]
fn many_clients_at_once() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(2),
        ..Scripted::new()
    });
    let listening = Listening::new(server(&service, Settings::default()));
    let address = listening.address;
    let clients: Vec<_> = (0..16)
        .map(|client| {
            std::thread::spawn(move || {
                let said = format!("this is client {client} with its own words");
                let stream = client % 2 == 0;
                let mut socket = open(address, CHAT, &with(saying(&said), json!({"stream": stream})));
                let end = if stream { "[DONE]" } else { "timings" };
                let text = read_until(&mut socket, end);
                let words: String = if stream {
                    text.split("\"content\":\"")
                        .skip(1)
                        .filter_map(|rest| rest.split('"').next())
                        .collect()
                } else {
                    text
                };
                assert!(words.contains(&said), "{words}");
            })
        })
        .collect();
    for client in clients {
        client.join().expect("its own answer");
    }
    assert!(service.most_running.load(Ordering::SeqCst) > 1, "they ran together");
}

#[test]
fn shutdown_lets_answers_end() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(20),
        ..Scripted::new()
    });
    let mut listening = Listening::new(server(&service, Settings::default()));
    let mut socket = open(
        listening.address,
        CHAT,
        &with(saying("slowly but surely"), json!({"stream": true})),
    );
    read_until(&mut socket, "\"content\":\"s\"");
    listening.stop();
    let rest = read_until(&mut socket, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    listening.join();
    assert!(
        TcpStream::connect(listening.address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn shutdown_cancels_what_does_not_end() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(2),
        context: 1 << 30,
        ..Scripted::new()
    });
    let settings = Settings {
        grace: Duration::from_millis(200),
        ..Settings::default()
    };
    let mut listening = Listening::new(server(&service, settings));
    let mut socket = open(listening.address, TEXT, &json!({"prompt": "loop:x", "stream": true}));
    read_until(&mut socket, "\"text\":\"x\"");
    let start = Instant::now();
    listening.stop();
    let rest = read_until(&mut socket, "shutting_down");
    assert!(!rest.contains("[DONE]"), "{rest}");
    listening.join();
    assert!(start.elapsed() < Duration::from_secs(10));
    wait_for("the service stops", || service.cancelled.load(Ordering::SeqCst) == 1);
}

/// JSON that looks like requests: known names with values of all kinds.
fn near_request() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-z0-9é]{0,6}".prop_map(Value::from),
        prop_oneof![
            Just("user"),
            Just("assistant"),
            Just("text"),
            Just("function"),
            Just("auto")
        ]
        .prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "messages",
            "prompt",
            "role",
            "content",
            "type",
            "text",
            "model",
            "stop",
            "n",
            "seed",
            "stream",
            "tools",
            "function",
            "name",
            "arguments",
            "tool_calls",
            "tool_choice",
            "temperature",
            "top_p",
            "top_k",
            "max_tokens",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "response_format",
            "stream_options",
            "include_usage",
            "tokens",
            "echo",
            "5",
        ])
        .prop_map(String::from),
        "[a-z]{1,4}",
    ];
    let value = leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    (value.clone(), value.clone(), value).prop_map(|(messages, prompt, rest)| {
        let mut fields = match rest {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        fields.insert("messages".into(), messages);
        fields.insert("prompt".into(), prompt);
        Value::Object(fields)
    })
}

/// Every parser takes these bytes without a panic, and what it accepts is in range.
fn parse_all(bytes: &[u8]) {
    use tilekiln::server::request::{MAX_CHOICES, MAX_PROMPTS, chat, completion, detokenize, template, tokenize};

    let commons = [
        chat(bytes).map(|chat| chat.common),
        completion(bytes).map(|completion| completion.common),
    ];
    for common in commons {
        match common {
            Ok(common) => {
                assert!((1..=MAX_CHOICES).contains(&common.choices));
                assert!(
                    common
                        .sampling
                        .temperature
                        .is_none_or(|value| value >= 0.0 && value.is_finite())
                );
                assert!(common.sampling.top_p.is_none_or(|value| (0.0..=1.0).contains(&value)));
                assert!(common.stop.iter().all(|stop| !stop.is_empty()));
            }
            Err(error) => assert!(
                !error.message.is_empty() && error.message.len() < 1000,
                "{}",
                error.message
            ),
        }
    }
    if let Ok(completion) = completion(bytes) {
        assert!((1..=MAX_PROMPTS).contains(&completion.prompts.len()));
    }
    let _ = (template(bytes), tokenize(bytes), detokenize(bytes));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse_all(&bytes);
    }

    #[test]
    fn near_requests_are_parsed_or_refused(value in near_request()) {
        parse_all(value.to_string().as_bytes());
    }

    #[test]
    fn damaged_requests_are_parsed_or_refused(value in near_request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = value.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        parse_all(&bytes);
        parse_all(&bytes[..at]);
    }
}
