//! A server without a model: a language of bytes and a service that says what its prompt tells it to.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tilekiln::sample;
use tilekiln::schedule::{Choice, Event, Finish, Refusal, Request, Service, ServiceStatus, Statistics, Ticket};
use tilekiln::server::request::Chat;
use tilekiln::server::text::{Decoder, Language, NoPrompt, Part, Reader, decode};
use tilekiln::server::{Application, Server, Settings, serve};
use tokio::sync::{mpsc, oneshot};

/// Control tokens, in order from 256. All other tokens are bytes.
const CONTROL: &[&str] = &["<bos>", "<end>", "<think>", "</think>", "<call>", "</call>"];
pub const BEGIN: u32 = 256;
pub const END: u32 = 257;
const THINK: u32 = 258;
const CALLED: u32 = 261;
pub const VOCABULARY: u32 = 262;

/// A language whose tokens are bytes.
pub struct Bytes;

impl Language for Bytes {
    fn encode(&self, mut text: &str, control: bool) -> Vec<u32> {
        let mut tokens = Vec::new();
        while let Some(first) = text.as_bytes().first() {
            let found = CONTROL.iter().position(|name| control && text.starts_with(name));
            if let Some(found) = found {
                tokens.push(256 + found as u32);
                text = &text[CONTROL[found].len()..];
            } else {
                let length = text.chars().next().map_or(1, char::len_utf8);
                tokens.push(u32::from(*first));
                tokens.extend(text.as_bytes()[1..length].iter().map(|byte| u32::from(*byte)));
                text = &text[length..];
            }
        }
        tokens
    }

    fn begin(&self) -> Option<u32> {
        Some(BEGIN)
    }

    fn end_tokens(&self) -> Vec<u32> {
        vec![END]
    }

    fn piece(&self, token: u32) -> Option<Vec<u8>> {
        match token {
            0..256 => Some(vec![token as u8]),
            _ => Some(CONTROL.get(token as usize - 256)?.as_bytes().to_vec()),
        }
    }

    fn decoder(&self, markup: bool) -> Box<dyn Decoder> {
        Box::new(Whole {
            bytes: Vec::new(),
            markup,
        })
    }

    fn render(&self, chat: &Chat) -> Result<String, NoPrompt> {
        let mut text = String::from("<bos>");
        for (index, message) in chat.messages.iter().enumerate() {
            let role = message["role"].as_str().unwrap_or_default();
            if role == "tool" && chat.tools.is_empty() {
                return Err(NoPrompt::Conversation {
                    problem: "a tool's answer without tools".into(),
                    message: Some(index),
                });
            }
            text += &format!("[{role}] {}\n", message["content"].as_str().unwrap_or_default());
        }
        if !chat.tools.is_empty() {
            text += &format!("[tools {}]\n", chat.tools.len());
        }
        if !chat.template_arguments.is_empty() {
            text += &format!("{}\n", serde_json::Value::Object(chat.template_arguments.clone()));
        }
        Ok(text)
    }

    fn prompt(&self, chat: &Chat) -> Result<Vec<u32>, NoPrompt> {
        let text = self.render(chat)?;
        let text = text.strip_prefix("<bos>").unwrap_or(&text);
        Ok([vec![BEGIN], self.encode(text, false)].concat())
    }

    fn reader(&self, _: &[u32]) -> Box<dyn Reader> {
        Box::new(Marked::default())
    }

    fn template(&self) -> &str {
        "{{ messages }}"
    }
}

/// Whole characters out of bytes.
struct Whole {
    bytes: Vec<u8>,
    markup: bool,
}

impl Decoder for Whole {
    fn push(&mut self, token: u32) -> String {
        let Ok(byte) = u8::try_from(token) else {
            let shown = self.markup && (THINK..=CALLED).contains(&token);
            return if shown {
                CONTROL[token as usize - 256].into()
            } else {
                String::new()
            };
        };
        self.bytes.push(byte);
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => {
                let text = text.to_string();
                self.bytes.clear();
                text
            }
            Err(error) if error.error_len().is_none() => String::new(),
            Err(_) => {
                self.bytes.clear();
                "\u{fffd}".into()
            }
        }
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

/// Reasoning and calls between control tokens.
#[derive(Default)]
struct Marked {
    thinks: bool,
    call: Option<String>,
}

impl Reader for Marked {
    fn push(&mut self, text: &str) -> Vec<Part> {
        match text {
            "" => {}
            "<think>" => self.thinks = true,
            "</think>" => self.thinks = false,
            "<call>" => self.call = Some(String::new()),
            "</call>" => {
                let call = self.call.take().unwrap_or_default();
                let (name, arguments) = call.split_once(' ').unwrap_or((&call, "{}"));
                return vec![Part::Call {
                    name: name.into(),
                    arguments: arguments.into(),
                }];
            }
            _ => match &mut self.call {
                Some(call) => *call += text,
                None if self.thinks => return vec![Part::Reasoning(text.into())],
                None => return vec![Part::Text(text.into())],
            },
        }
        Vec::new()
    }

    fn finish(&mut self) -> Vec<Part> {
        Vec::new()
    }
}

/// A service that answers what its prompt tells it to.
///
/// `say:TEXT` anywhere in the prompt's last line with it gives TEXT; `{seed}` in it stands for the
/// seed, `{end}` for the end token. Without it the
/// answer is `ok`. `loop:` never ends, `fail:` fails after a token, `vanish:` ends without a word.
pub struct Scripted {
    pub language: Arc<dyn Language>,
    pub slots: usize,
    pub context: usize,
    /// Time between tokens.
    pub delay: Duration,
    /// Time before the first token.
    pub prompt_delay: Duration,
    /// Refuses everything.
    pub refusal: Option<Refusal>,
    /// Refuses as busy from this many accepted requests on.
    pub most: Option<usize>,
    pub requests: Mutex<Vec<Request>>,
    pub running: Arc<AtomicUsize>,
    pub most_running: Arc<AtomicUsize>,
    pub cancelled: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new() -> Self {
        Self::speaking(Arc::new(Bytes))
    }

    /// One that speaks another language.
    pub fn speaking(language: Arc<dyn Language>) -> Self {
        Self {
            language,
            slots: 4,
            context: 4096,
            delay: Duration::ZERO,
            prompt_delay: Duration::ZERO,
            refusal: None,
            most: None,
            requests: Mutex::default(),
            running: Arc::default(),
            most_running: Arc::default(),
            cancelled: Arc::default(),
        }
    }

    pub fn accepted(&self) -> usize {
        self.requests.lock().expect("not poisoned").len()
    }

    pub fn request(&self, index: usize) -> Request {
        self.requests.lock().expect("not poisoned")[index].clone()
    }
}

enum Then {
    End,
    Loop,
    Fail,
    Vanish,
}

fn script(language: &dyn Language, request: &Request) -> (Vec<u32>, Then) {
    // Control tokens of the prompt have no text, so those that the answer is to have must be written as text.
    let prompt = decode(language, &request.prompt);
    let seed = request.sampling.seed.map_or("none".into(), |seed| seed.to_string());
    let after = |word: &str| {
        let (_, text) = prompt.rsplit_once(word)?;
        // A two-letter \n is a line break of the answer.
        let line = text.lines().next().unwrap_or_default().replace("\\n", "\n");
        let end = language.piece(language.end_tokens()[0]).unwrap_or_default();
        let line = line
            .replace("{seed}", &seed)
            .replace("{end}", &String::from_utf8_lossy(&end));
        Some(language.encode(&line, true))
    };
    if let Some(text) = after("loop:") {
        (text, Then::Loop)
    } else if let Some(text) = after("fail:") {
        (text, Then::Fail)
    } else if let Some(text) = after("vanish:") {
        (text, Then::Vanish)
    } else {
        (after("say:").unwrap_or_else(|| language.encode("ok", true)), Then::End)
    }
}

impl Service for Scripted {
    fn submit(&self, request: Request) -> Result<Ticket, Refusal> {
        let mut requests = self.requests.lock().expect("not poisoned");
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if self.most.is_some_and(|most| requests.len() >= most) {
            return Err(Refusal::Busy {
                waiting: requests.len(),
            });
        }
        let prompt = request.prompt.len();
        if prompt == 0 {
            return Err(Refusal::Empty);
        }
        if prompt >= self.context {
            return Err(Refusal::TooLong {
                prompt,
                context: self.context,
            });
        }
        let unknown = request
            .prompt
            .iter()
            .find(|token| self.language.piece(**token).is_none());
        if let Some(token) = unknown {
            return Err(Refusal::UnknownToken {
                token: *token,
                vocabulary: VOCABULARY as usize,
            });
        }
        requests.push(request.clone());
        let (send, events) = mpsc::unbounded_channel();
        let (mut tokens, then) = script(&*self.language, &request);
        if matches!(then, Then::End) {
            // What follows the end must never be seen.
            tokens.extend(self.language.end_tokens().first());
            tokens.extend(self.language.encode(" and more", false));
        }
        let (delay, prompt_delay, room) = (self.delay, self.prompt_delay, self.context - prompt);
        let (running, most_running, cancelled) =
            (self.running.clone(), self.most_running.clone(), self.cancelled.clone());
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        most_running.fetch_max(now, Ordering::SeqCst);
        let end = Counted {
            running,
            cancelled,
            is_done: false,
        };
        tokio::spawn(async move {
            // all of it, not a copy of the flag
            let mut end = end;
            end.is_done = play(&send, &request, tokens, then, delay, prompt_delay, room).await;
        });
        Ok(Ticket { events })
    }

    fn status(&self) -> ServiceStatus {
        ServiceStatus {
            slots: self.slots,
            busy: self.running.load(Ordering::SeqCst).min(self.slots),
            waiting: 0,
            context: self.context,
        }
    }
}

/// A request that runs. Also the end of the whole runtime ends it.
struct Counted {
    running: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
    is_done: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_done {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends the events of a script. False when nobody listens any more.
async fn play(
    send: &mpsc::UnboundedSender<Event>,
    request: &Request,
    mut tokens: Vec<u32>,
    then: Then,
    delay: Duration,
    prompt_delay: Duration,
    room: usize,
) -> bool {
    let total = request.prompt.len();
    tokio::time::sleep(prompt_delay).await;
    if send.send(Event::Prompt { done: total, total }).is_err() {
        return false;
    }
    if matches!(then, Then::Loop) {
        tokens = tokens.iter().copied().cycle().take(1_000_000).collect();
    }
    let mut generated = 0;
    let mut finish = Finish::MaxTokens;
    for token in tokens {
        if generated == request.max_tokens {
            break;
        }
        if generated == room {
            finish = Finish::ContextFull;
            break;
        }
        tokio::time::sleep(delay).await;
        let logprob = request.top_logprobs.map(|_| logprob(token));
        let top = [(token, logprob.unwrap_or_default()), (token ^ 1, f32::NEG_INFINITY)];
        let choice = Choice {
            token,
            logprob,
            top: top[..request.top_logprobs.unwrap_or(0).min(2)].to_vec(),
        };
        if send.send(Event::Token(choice)).is_err() {
            return false;
        }
        generated += 1;
        if request.end_tokens.contains(&token) {
            finish = Finish::EndToken;
            break;
        }
    }
    let statistics = Statistics {
        prompt_tokens: total,
        reused_tokens: 1,
        prompt_time: Duration::from_millis(10),
        generated_tokens: generated,
        decode_time: Duration::from_millis(20),
        rounds: generated,
        drafted: 6,
        accepted: 4,
        ..Statistics::default()
    };
    match then {
        Then::Vanish => true,
        Then::Fail => send.send(Event::Failed("out of luck".into())).is_ok(),
        _ => send.send(Event::Finished(finish, statistics)).is_ok(),
    }
}

/// The logarithm of a token's probability, as the stand-in has it.
pub fn logprob(token: u32) -> f32 {
    -(token as f32) / 64.0
}

/// An application over the stand-in.
pub fn application(service: Arc<Scripted>) -> Application {
    Application {
        language: service.language.clone(),
        service,
        defaults: sample::Settings {
            temperature: 1.0,
            top_k: 64,
            ..sample::Settings::default()
        },
        max_tokens: None,
        model: "tiny".into(),
        path: "tiny.gguf".into(),
        description: "a stand-in".into(),
        policy: Vec::new(),
        trained_context: 8192,
        parameters: 7,
        bytes: 28,
    }
}

/// A server over the stand-in.
pub fn server(service: &Arc<Scripted>, settings: Settings) -> Arc<Server> {
    let server = Server::new(settings);
    server.ready(application(service.clone()));
    server
}

/// A server on a port of its own, in threads of its own. Dropping it shuts it down.
pub struct Listening {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listening {
    pub fn new(server: Arc<Server>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send(listener.local_addr().expect("an address")).expect("heard");
                let shutdown = async {
                    let _ = stopped.await;
                };
                serve(listener, server, shutdown).await.expect("it serves");
            });
        });
        Self {
            address: told.recv().expect("the server starts"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits until it has ended.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic in the server");
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}
