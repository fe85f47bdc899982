//! `/v1/chat/completions` and `/v1/completions`, whole or as a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event as Line, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};

use super::answer::{Answer, Cost, Delta, End, Reading, rate};
use super::error::ApiError;
use super::request::{self, Common, Prompt};
use super::text::{Language, StopFilter, decode};
use super::{Application, Server, now};
use crate::schedule::{self, Choice};

/// Which of the two paths was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Chat,
    Text,
}

impl Form {
    fn prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Text => "cmpl",
        }
    }

    fn object(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
            (Self::Text, _) => "text_completion",
        }
    }
}

/// `POST /v1/chat/completions`
///
/// # Errors
/// Requests that are refused.
pub async fn chat(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = server.body(&headers, body)?;
    let application = server.application()?.clone();
    let (chat, tokens) = blocking(move || {
        let chat = request::chat(&body)?;
        let tokens = application.language.prompt(&chat)?;
        Ok((chat, tokens))
    })
    .await?;
    Task::new(&server, Form::Chat, chat.common.clone(), vec![tokens], Vec::new())?
        .respond()
        .await
}

/// `POST /v1/completions`
///
/// # Errors
/// Requests that are refused.
pub async fn completions(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = server.body(&headers, body)?;
    let application = server.application()?.clone();
    let (completion, prompts, echoes) = blocking(move || {
        let completion = request::completion(&body)?;
        let language = &*application.language;
        let prompts: Vec<Vec<u32>> = completion
            .prompts
            .iter()
            .map(|prompt| with_begin(language, prompt))
            .collect();
        let echo = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => decode(language, tokens),
        };
        let echoes: Vec<String> = if completion.echo {
            completion.prompts.iter().map(echo).collect()
        } else {
            Vec::new()
        };
        Ok((completion, prompts, echoes))
    })
    .await?;
    Task::new(&server, Form::Text, completion.common, prompts, echoes)?
        .respond()
        .await
}

/// Runs what may take long (tokenising megabytes) beside the requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ApiError::Failed(error.to_string())))
}

/// Tokens of a prompt. Text gets the model's first token, unless it begins with it already.
fn with_begin(language: &dyn Language, prompt: &Prompt) -> Vec<u32> {
    match prompt {
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Text(text) => begun(language, language.encode(text, true)),
    }
}

/// The tokens with the model's first token before them, unless it is there.
pub(crate) fn begun(language: &dyn Language, mut tokens: Vec<u32>) -> Vec<u32> {
    if let Some(begin) = language.begin()
        && tokens.first() != Some(&begin)
    {
        tokens.insert(0, begin);
    }
    tokens
}

/// The request to the service behind one choice.
fn submission(application: &Application, common: &Common, prompt: &[u32], choice: usize) -> schedule::Request {
    let mut sampling = common.sampling.over(&application.defaults);
    sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
    let mut end_tokens = application.language.end_tokens();
    if common.ignore_eos {
        let never = end_tokens.drain(..).map(|token| (token, f32::NEG_INFINITY));
        sampling.logit_bias.extend(never);
    }
    let room = application.service.status().context;
    schedule::Request {
        prompt: prompt.to_vec(),
        max_tokens: common.max_tokens.or(application.max_tokens).unwrap_or(room),
        sampling,
        end_tokens,
        top_logprobs: common.top_logprobs,
    }
}

/// A request on its way: its answers and how they are shown.
struct Task {
    form: Form,
    id: String,
    created: u64,
    model: String,
    common: Common,
    language: Arc<dyn Language>,
    keep_alive: KeepAlive,
    echoes: Vec<String>,
    /// Tokens of each prompt.
    prompt_tokens: Vec<usize>,
    answers: Vec<Answer>,
}

impl Task {
    /// Submits everything, or nothing.
    fn new(
        server: &Arc<Server>,
        form: Form,
        common: Common,
        prompts: Vec<Vec<u32>>,
        echoes: Vec<String>,
    ) -> Result<Self, ApiError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let application = server.application()?;
        let vocabulary_checked = |token: u32| application.language.piece(token).is_some();
        if let Some((token, _)) = common
            .sampling
            .logit_bias
            .iter()
            .find(|(token, _)| !vocabulary_checked(*token))
        {
            return Err(request::unknown_bias(*token).into());
        }
        let mut answers = Vec::with_capacity(prompts.len() * common.choices);
        for prompt in &prompts {
            for choice in 0..common.choices {
                let request = submission(application, &common, prompt, choice);
                let reading = Reading {
                    decoder: application.language.decoder(form == Form::Chat),
                    reader: (form == Form::Chat).then(|| application.language.reader(prompt)),
                    stop: StopFilter::new(&common.stop),
                    end_tokens: request.end_tokens.clone().into(),
                    logprobs: common.top_logprobs.is_some(),
                    prompt_tokens: prompt.len(),
                };
                // An error drops the answers so far, which cancels them.
                let ticket = application.service.submit(request)?;
                answers.push(Answer::new(
                    ticket,
                    reading,
                    server.metrics.clone(),
                    server.stopping.subscribe(),
                ));
            }
        }
        let created = now();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            form,
            id: format!("{}-{:x}{:08x}", form.prefix(), server.started, number),
            created,
            model: common.model.clone().unwrap_or_else(|| application.model.clone()),
            language: application.language.clone(),
            keep_alive: KeepAlive::new().interval(server.settings.keep_alive).text("waiting"),
            prompt_tokens: prompts.iter().map(Vec::len).collect(),
            common,
            echoes,
            answers,
        })
    }

    async fn respond(self) -> Result<Response, ApiError> {
        if self.common.stream {
            Ok(self.stream())
        } else {
            self.whole().await
        }
    }

    /// The head of every JSON that is sent.
    fn envelope(&self, stream: bool, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.form.object(stream),
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("tilekiln-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    fn usage(&self, costs: &[Cost]) -> Value {
        let prompt: usize = self.prompt_tokens.iter().sum();
        let completion: usize = costs.iter().map(|cost| cost.generated).sum();
        // Further choices of a prompt find the first one's cache; that is no saving of the client.
        let cached: usize = costs
            .iter()
            .step_by(self.common.choices.max(1))
            .map(|cost| cost.statistics.reused_tokens)
            .sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }

    /// The text before an answer, where the prompt is to be repeated.
    fn echo(&self, index: usize) -> &str {
        self.echoes
            .get(index / self.common.choices.max(1))
            .map_or("", String::as_str)
    }

    async fn whole(mut self) -> Result<Response, ApiError> {
        let answers = std::mem::take(&mut self.answers);
        let collected = futures_util::future::join_all(answers.into_iter().map(|mut answer| async move {
            let mut all = Delta::default();
            while let Some(delta) = answer.next().await {
                all.append(delta);
            }
            all
        }))
        .await;
        let mut choices = Vec::with_capacity(collected.len());
        let mut costs = Vec::with_capacity(collected.len());
        for (index, delta) in collected.into_iter().enumerate() {
            let (reason, stop, cost) = match &delta.end {
                Some(End::Finished { reason, stop, cost }) => (*reason, stop.clone(), cost.clone()),
                Some(End::Failed(reason)) => return Err(ApiError::Failed(reason.clone())),
                Some(End::Stopping) => return Err(ApiError::Stopping),
                None => return Err(ApiError::Failed("an answer did not end".into())),
            };
            costs.push(cost);
            let mut choice = match self.form {
                Form::Chat => json!({"index": index, "message": self.message(&delta)}),
                Form::Text => json!({"index": index, "text": format!("{}{}", self.echo(index), delta.text)}),
            };
            choice["logprobs"] = self.logprobs(&delta.choices, &mut 0);
            choice["finish_reason"] = reason.into();
            if let Some(stop) = stop {
                choice["stop_reason"] = stop.into();
            }
            choices.push(choice);
        }
        let mut body = self.envelope(false, choices);
        body["usage"] = self.usage(&costs);
        if let [cost] = costs.as_slice() {
            body["timings"] = timings(cost);
        }
        Ok(Json(body).into_response())
    }

    /// A whole answer of a chat.
    fn message(&self, delta: &Delta) -> Value {
        let mut message = json!({"role": "assistant", "content": delta.text});
        if delta.text.is_empty() && !delta.calls.is_empty() {
            message["content"] = Value::Null;
        }
        if !delta.reasoning.is_empty() {
            message["reasoning_content"] = delta.reasoning.clone().into();
        }
        if !delta.calls.is_empty() {
            message["tool_calls"] = self.calls(delta, 0, None);
        }
        message
    }

    /// Calls in OpenAI's form. Pieces of a stream say which call they belong to.
    fn calls(&self, delta: &Delta, choice: usize, first: Option<usize>) -> Value {
        let call = |(i, (name, arguments)): (usize, &(String, String))| {
            let number = first.unwrap_or(0) + i;
            let mut call = json!({
                "id": format!("call_{}_{choice}_{number}", self.id.rsplit('-').next().unwrap_or_default()),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            });
            if first.is_some() {
                call["index"] = number.into();
            }
            call
        };
        delta.calls.iter().enumerate().map(call).collect()
    }

    /// Probabilities in the form of the path. `offset` counts characters of the answer so far.
    fn logprobs(&self, choices: &[Choice], offset: &mut usize) -> Value {
        if self.common.top_logprobs.is_none() {
            return Value::Null;
        }
        let bytes = |token: u32| self.language.piece(token).unwrap_or_default();
        let text = |token: u32| String::from_utf8_lossy(&bytes(token)).into_owned();
        match self.form {
            Form::Chat => {
                let entry = |token: u32, logprob: Option<f32>| json!({"token": text(token), "logprob": finite(logprob), "bytes": bytes(token)});
                let content = choices.iter().map(|choice| {
                    let mut one = entry(choice.token, choice.logprob);
                    one["top_logprobs"] = choice
                        .top
                        .iter()
                        .map(|(token, logprob)| entry(*token, Some(*logprob)))
                        .collect();
                    one
                });
                json!({"content": content.collect::<Value>()})
            }
            Form::Text => {
                let top = |choice: &Choice| {
                    choice
                        .top
                        .iter()
                        .map(|(token, logprob)| (text(*token), finite(Some(*logprob))))
                        .collect::<Value>()
                };
                let mut offsets = Vec::with_capacity(choices.len());
                for choice in choices {
                    offsets.push(*offset);
                    *offset += text(choice.token).chars().count();
                }
                json!({
                    "tokens": choices.iter().map(|choice| text(choice.token)).collect::<Value>(),
                    "token_logprobs": choices.iter().map(|choice| finite(choice.logprob)).collect::<Value>(),
                    "top_logprobs": choices.iter().map(top).collect::<Value>(),
                    "text_offset": offsets,
                })
            }
        }
    }

    fn stream(mut self) -> Response {
        let answers = std::mem::take(&mut self.answers);
        let keep_alive = self.keep_alive.clone();
        let deltas = answers.into_iter().enumerate().map(|(index, answer)| {
            stream::unfold(answer, |mut answer| async move {
                let delta = answer.next().await?;
                Some((delta, answer))
            })
            .map(move |delta| (index, delta))
            .boxed()
        });
        let state = Streaming {
            deltas: stream::select_all(deltas),
            choices: vec![Progress::default(); self.prompt_tokens.len() * self.common.choices],
            task: self,
            is_over: false,
        };
        let lines = stream::unfold(state, |mut state| async move {
            let lines = state.next().await?;
            Some((stream::iter(lines), state))
        })
        .flatten()
        .map(|text| Ok::<_, Infallible>(Line::default().data(text)));
        let mut response = Sse::new(lines).keep_alive(keep_alive).into_response();
        // Proxies that gather responses would hold the stream back.
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// What a stream has sent of one choice.
#[derive(Clone, Debug, Default)]
struct Progress {
    begun: bool,
    calls: usize,
    /// Characters of text.
    offset: usize,
    cost: Cost,
}

type Deltas = stream::SelectAll<Pin<Box<dyn Stream<Item = (usize, Delta)> + Send>>>;

/// A stream of chunks over all choices of a request.
struct Streaming {
    task: Task,
    deltas: Deltas,
    choices: Vec<Progress>,
    is_over: bool,
}

impl Streaming {
    /// The next lines.
    async fn next(&mut self) -> Option<Vec<String>> {
        if self.is_over {
            return None;
        }
        let Some((index, delta)) = self.deltas.next().await else {
            self.is_over = true;
            let mut lines = Vec::new();
            if self.task.common.include_usage {
                let costs: Vec<Cost> = self.choices.iter().map(|choice| choice.cost.clone()).collect();
                let mut last = self.task.envelope(true, Vec::new());
                last["usage"] = self.task.usage(&costs);
                if let [cost] = costs.as_slice() {
                    last["timings"] = timings(cost);
                }
                lines.push(last.to_string());
            }
            lines.push("[DONE]".into());
            return Some(lines);
        };
        let error = match &delta.end {
            Some(End::Failed(reason)) => Some(ApiError::Failed(reason.clone())),
            Some(End::Stopping) => Some(ApiError::Stopping),
            _ => None,
        };
        let mut lines = self.chunks(index, &delta);
        if let Some(error) = error {
            // The status is out already. Clients take a chunk with an error for one.
            lines.push(error.body().to_string());
            self.is_over = true;
        }
        Some(lines)
    }

    fn chunks(&mut self, index: usize, delta: &Delta) -> Vec<String> {
        let mut chunks = Vec::new();
        let is_first = !std::mem::replace(&mut self.choices[index].begun, true);
        let mut progress = self.choices[index].clone();
        let task = &self.task;
        match task.form {
            Form::Chat => {
                if is_first {
                    chunks.push(json!({"index": index, "delta": {"role": "assistant", "content": ""}}));
                }
                let mut piece = json!({});
                if !delta.reasoning.is_empty() {
                    piece["reasoning_content"] = delta.reasoning.clone().into();
                }
                if !delta.text.is_empty() {
                    piece["content"] = delta.text.clone().into();
                }
                if !delta.calls.is_empty() {
                    piece["tool_calls"] = task.calls(delta, index, Some(progress.calls));
                    progress.calls += delta.calls.len();
                }
                if piece != json!({}) || !delta.choices.is_empty() {
                    chunks.push(json!({"index": index, "delta": piece}));
                }
            }
            Form::Text => {
                let echo = if is_first { task.echo(index) } else { "" };
                if !echo.is_empty() || !delta.text.is_empty() || !delta.choices.is_empty() {
                    chunks.push(json!({"index": index, "text": format!("{echo}{}", delta.text)}));
                }
            }
        }
        let mut chunks: Vec<Value> = chunks
            .into_iter()
            .map(|mut choice| {
                choice["finish_reason"] = Value::Null;
                choice["logprobs"] = Value::Null;
                choice
            })
            .collect();
        if let Some(last) = chunks.last_mut()
            && !delta.choices.is_empty()
        {
            last["logprobs"] = task.logprobs(&delta.choices, &mut progress.offset);
        }
        let mut chunks: Vec<Value> = chunks
            .into_iter()
            .map(|choice| task.envelope(true, vec![choice]))
            .collect();
        if let Some(End::Finished { reason, stop, cost }) = &delta.end {
            progress.cost = cost.clone();
            let mut choice = match task.form {
                Form::Chat => json!({"index": index, "delta": {}}),
                Form::Text => json!({"index": index, "text": ""}),
            };
            choice["logprobs"] = Value::Null;
            choice["finish_reason"] = (*reason).into();
            if let Some(stop) = stop {
                choice["stop_reason"] = stop.clone().into();
            }
            let mut chunk = task.envelope(true, vec![choice]);
            if self.choices.len() == 1 {
                chunk["timings"] = timings(cost);
            }
            chunks.push(chunk);
        }
        self.choices[index] = progress;
        chunks
            .into_iter()
            .map(|mut chunk| {
                if self.task.common.include_usage {
                    chunk["usage"] = Value::Null;
                }
                chunk.to_string()
            })
            .collect()
    }
}

/// Speeds as llama-server reports them.
fn timings(cost: &Cost) -> Value {
    let statistics = &cost.statistics;
    let evaluated = statistics.prompt_tokens.saturating_sub(statistics.reused_tokens);
    let per_token = |time: std::time::Duration, tokens: usize| time.as_secs_f64() * 1e3 / tokens.max(1) as f64;
    let mut timings = json!({
        "cache_n": statistics.reused_tokens,
        "prompt_n": evaluated,
        "prompt_ms": statistics.prompt_time.as_secs_f64() * 1e3,
        "prompt_per_token_ms": per_token(statistics.prompt_time, evaluated),
        "prompt_per_second": rate(evaluated, statistics.prompt_time),
        "predicted_n": cost.generated,
        "predicted_ms": statistics.decode_time.as_secs_f64() * 1e3,
        "predicted_per_token_ms": per_token(statistics.decode_time, cost.generated),
        "predicted_per_second": rate(cost.generated, statistics.decode_time),
    });
    if statistics.drafted > 0 {
        timings["draft_n"] = statistics.drafted.into();
        timings["draft_n_accepted"] = statistics.accepted.into();
    }
    timings
}

/// JSON has no infinity; -9999 is what OpenAI sends for "cannot happen".
fn finite(logprob: Option<f32>) -> Option<f32> {
    logprob.map(|logprob| if logprob.is_finite() { logprob } else { -9999.0 })
}
