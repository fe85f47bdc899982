//! `tilekiln run`

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::Args;
use futures_util::FutureExt;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::engine_args::{EngineArgs, SamplingArgs};
use super::progress::{self, Reporter};
use super::{Failure, load, print_json};
use crate::model::LayerPolicy;
use crate::sample;
use crate::schedule::{Event, Finish, Refusal, Request, Statistics};
use crate::server::Application;
use crate::server::answer::rate;
use crate::server::completions::begun;
use crate::server::request::Chat;
use crate::server::text::Part;

/// Generate text, once or in a conversation
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    text: TextArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Text")]
struct TextArgs {
    /// Prompt; without one: a conversation on a terminal, else what stdin says
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with_all = ["file", "tokens"])]
    prompt: Option<String>,
    /// File with the prompt
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "tokens")]
    file: Option<PathBuf>,
    /// Prompt as token ids, taken as they are, e.g. 2,17,4
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "interactive")]
    tokens: Option<Vec<u32>>,
    /// Go on as a conversation: /exit, /reset, /stats
    #[arg(short = 'i', long)]
    interactive: bool,
    /// System message [short: -sys]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long, conflicts_with_all = ["interactive", "system", "think"])]
    no_template: bool,
    /// Let the model reason before it answers, where its template knows how; the reasoning goes to stderr
    #[arg(long)]
    think: bool,
    /// Go on after the model ends its answer
    #[arg(long)]
    ignore_eos: bool,
    /// Print token ids in place of text
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Print one JSON object at the end
    #[arg(long, conflicts_with = "interactive")]
    json: bool,
}

impl Run {
    /// Loads the model and generates.
    pub fn run(self) -> Result<(), Failure> {
        progress::init_logs(self.engine.verbose);
        let resolved = self.engine.resolve()?;
        self.sampling.check()?;
        let text = self.text;
        let first = text.first_prompt()?;
        let interrupt = Interrupt::install()?;
        resolved.announce();
        let reporter = Reporter::new(self.engine.quiet);
        let application = load::load(&resolved.options, &|progress| reporter.stage(progress));
        reporter.clear();
        let application = application?;
        if !self.engine.quiet {
            eprintln!("{}", application.description);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let sampling = self.sampling.over(&application.defaults)?;
        let generator = Generator {
            max_tokens: self.sampling.limit()?,
            ignore_eos: text.ignore_eos,
            sampling,
            application,
        };
        let session = Session {
            generator,
            text,
            reporter,
            interrupt,
            runtime,
            quiet: self.engine.quiet,
        };
        match first {
            First::Prompt(prompt) => session.once(&prompt),
            First::Tokens(tokens) => session.once_from(&tokens, false),
            First::Conversation(prompt) => session.converse(prompt),
        }
    }
}

/// What there is to begin with.
enum First {
    Prompt(String),
    Tokens(Vec<u32>),
    Conversation(Option<String>),
}

impl TextArgs {
    fn first_prompt(&self) -> Result<First, Failure> {
        if let Some(tokens) = &self.tokens {
            return Ok(First::Tokens(tokens.clone()));
        }
        let given = match (&self.prompt, &self.file) {
            (Some(prompt), _) => Some(prompt.clone()),
            (None, Some(path)) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| Failure::Failed(format!("-f {}: {error}", path.display())))?,
            ),
            (None, None) => None,
        };
        match given {
            given if self.interactive => Ok(First::Conversation(given)),
            Some(prompt) => Ok(First::Prompt(prompt)),
            None if io::stdin().is_terminal() && !self.no_template && !self.json && !self.ids => {
                Ok(First::Conversation(None))
            }
            None if io::stdin().is_terminal() => Err(Failure::Usage(
                "there is no prompt; give one with -p TEXT or -f FILE".into(),
            )),
            None => {
                let mut prompt = String::new();
                io::stdin()
                    .read_to_string(&mut prompt)
                    .map_err(|error| Failure::Failed(format!("the prompt on stdin cannot be read: {error}")))?;
                let prompt = prompt.trim_end_matches(['\n', '\r']);
                if prompt.is_empty() {
                    return Err(Failure::Usage(
                        "the prompt on stdin is empty; give one with -p TEXT".into(),
                    ));
                }
                Ok(First::Prompt(prompt.to_string()))
            }
        }
    }

    fn chat(&self, messages: Vec<Value>) -> Chat {
        let mut template_arguments = Map::new();
        if self.think {
            template_arguments.insert("enable_thinking".into(), true.into());
        }
        Chat {
            messages,
            template_arguments,
            ..Chat::default()
        }
    }

    fn opening(&self) -> Vec<Value> {
        let system = self.system.iter();
        system.map(|text| json!({"role": "system", "content": text})).collect()
    }
}

/// Ctrl-C: ends the answer that is being generated, else the program.
#[derive(Clone, Default)]
struct Interrupt {
    state: Arc<InterruptState>,
}

#[derive(Default)]
struct InterruptState {
    /// An answer is being generated, and was not interrupted yet.
    generating: AtomicBool,
    pressed: Notify,
}

impl Interrupt {
    fn install() -> Result<Self, Failure> {
        static INSTALLED: OnceLock<Interrupt> = OnceLock::new();
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let interrupt = INSTALLED.get_or_init(Self::default).clone();
        let state = interrupt.state.clone();
        let handler = move || {
            if state.generating.swap(false, Ordering::SeqCst) {
                state.pressed.notify_one();
            } else {
                // The exit code that shells give for an interrupted program.
                process::exit(130);
            }
        };
        ctrlc::set_handler(handler).map_err(|error| Failure::Failed(format!("Ctrl-C cannot be caught: {error}")))?;
        Ok(interrupt)
    }
}

/// A model with settings.
pub struct Generator {
    /// The model.
    pub application: Application,
    /// How tokens are chosen.
    pub sampling: sample::Settings,
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// Go on after an end token.
    pub ignore_eos: bool,
}

/// What is seen while an answer is generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// So much of the prompt is evaluated.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in all.
        total: usize,
    },
    /// A token that is no end token.
    Token(u32),
    /// Text, reasoning or a call.
    Part(Part),
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generated {
    /// The answer.
    pub text: String,
    /// The reasoning before it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Its tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why it ended: `stop`, `length` or `cancelled`.
    pub finish: &'static str,
    /// What it took.
    pub statistics: Figures,
}

/// What `--json` prints: what was generated, and by what.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    generated: &'a Generated,
    /// The model's name.
    model: &'a str,
    /// What runs where.
    description: &'a str,
    /// What was chosen for the attention of each layer.
    layers: &'a [LayerPolicy],
}

/// Statistics with the figures that follow from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, already in the cache.
    pub reused_tokens: usize,
    /// Seconds for the rest of them.
    pub prompt_seconds: f64,
    /// And how many of them per second.
    pub prompt_tokens_per_second: f64,
    /// Tokens generated, the end token included.
    pub generated_tokens: usize,
    /// Seconds for them.
    pub decode_seconds: f64,
    /// And how many of them per second.
    pub decode_tokens_per_second: f64,
    /// Evaluations of the model after the prompt.
    pub rounds: usize,
    /// Tokens that one of them gave.
    pub tokens_per_round: f64,
    /// Tokens drafted.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Accepted over drafted; nothing without drafts.
    pub acceptance: Option<f64>,
    /// The same by depth, from the first draft of a round on.
    pub acceptance_at: Vec<Option<f64>>,
}

impl From<&Statistics> for Figures {
    fn from(statistics: &Statistics) -> Self {
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let evaluated = statistics.prompt_tokens.saturating_sub(statistics.reused_tokens);
        // The first token comes from the prompt's evaluation, not from a round.
        let from_rounds = statistics.generated_tokens.saturating_sub(1);
        Self {
            prompt_tokens: statistics.prompt_tokens,
            reused_tokens: statistics.reused_tokens,
            prompt_seconds: statistics.prompt_time.as_secs_f64(),
            prompt_tokens_per_second: rate(evaluated, statistics.prompt_time),
            generated_tokens: statistics.generated_tokens,
            decode_seconds: statistics.decode_time.as_secs_f64(),
            decode_tokens_per_second: rate(from_rounds, statistics.decode_time),
            rounds: statistics.rounds,
            tokens_per_round: share(from_rounds, statistics.rounds).unwrap_or(0.0),
            drafted: statistics.drafted,
            accepted: statistics.accepted,
            acceptance: share(statistics.accepted, statistics.drafted),
            acceptance_at: statistics
                .drafted_at
                .iter()
                .enumerate()
                .map(|(depth, drafted)| share(statistics.accepted_at.get(depth).copied().unwrap_or(0), *drafted))
                .collect(),
        }
    }
}

impl Figures {
    /// The figures as lines.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut lines = format!(
            "prompt   {} tokens ({} in the cache), {:.2} s, {:.1} tok/s\nanswer   {} tokens, {:.2} s, {:.1} tok/s\n",
            self.prompt_tokens,
            self.reused_tokens,
            self.prompt_seconds,
            self.prompt_tokens_per_second,
            self.generated_tokens,
            self.decode_seconds,
            self.decode_tokens_per_second,
        );
        if let Some(acceptance) = self.acceptance {
            let percent = |share: &Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
            let depths: Vec<String> = self.acceptance_at.iter().map(percent).collect();
            lines += &format!(
                "drafts   {} rounds, {:.2} tokens per round, {} of {} accepted ({:.1} %), by depth {}\n",
                self.rounds,
                self.tokens_per_round,
                self.accepted,
                self.drafted,
                100.0 * acceptance,
                depths.join(", "),
            );
        }
        lines
    }
}

impl Generator {
    /// Continues a prompt until it ends or `cancelled` completes. `see` may end it too by returning false.
    ///
    /// # Errors
    /// Prompts that are refused, and engines that fail.
    pub async fn generate(
        &self,
        prompt: &[u32],
        reads_markup: bool,
        cancelled: impl Future<Output = ()>,
        mut see: impl FnMut(Seen) -> bool,
    ) -> Result<Generated, Failure> {
        let language = &self.application.language;
        let mut sampling = self.sampling.clone();
        let mut end_tokens = language.end_tokens();
        if self.ignore_eos {
            let never = end_tokens.drain(..).map(|token| (token, f32::NEG_INFINITY));
            sampling.logit_bias.extend(never);
        }
        let request = Request {
            prompt: prompt.to_vec(),
            max_tokens: self.max_tokens.unwrap_or(self.application.service.status().context),
            sampling,
            end_tokens: end_tokens.clone(),
            top_logprobs: None,
        };
        let mut ticket = self
            .application
            .service
            .submit(request)
            .map_err(|refusal| match refusal {
                Refusal::Stopped(_) | Refusal::Busy { .. } => Failure::Failed(refusal.to_string()),
                _ => Failure::Usage(refusal.to_string()),
            })?;
        let mut decoder = language.decoder(reads_markup);
        let mut reader = reads_markup.then(|| language.reader(prompt));
        let mut tokens = Vec::new();
        let mut parts = Vec::new();
        let mut watch = Watch::new(prompt.len());
        tokio::pin!(cancelled);
        let (finish, statistics) = loop {
            let event = tokio::select! {
                biased;
                () = &mut cancelled => break ("cancelled", watch.statistics()),
                event = ticket.events.recv() => event,
            };
            let goes_on = match event {
                Some(Event::Prompt { done, total }) => see(Seen::Prompt { done, total }),
                Some(Event::Token(choice)) => {
                    watch.token();
                    if end_tokens.contains(&choice.token) {
                        continue;
                    }
                    tokens.push(choice.token);
                    let text = decoder.push(choice.token);
                    let goes_on = see(Seen::Token(choice.token));
                    show(read(&mut reader, text), &mut parts, &mut see) && goes_on
                }
                Some(Event::Finished(finish, statistics)) => {
                    let finish = match finish {
                        Finish::EndToken => "stop",
                        Finish::MaxTokens | Finish::ContextFull => "length",
                        Finish::Cancelled => "cancelled",
                    };
                    break (finish, statistics);
                }
                Some(Event::Failed(reason)) => return Err(Failure::Failed(format!("the engine failed: {reason}"))),
                None => return Err(Failure::Failed("the engine went away".into())),
            };
            if !goes_on {
                break ("cancelled", watch.statistics());
            }
        };
        let mut last = read(&mut reader, decoder.finish());
        last.extend(reader.iter_mut().flat_map(|reader| reader.finish()));
        // Nobody can end it any more.
        show(last, &mut parts, &mut see);
        let mut text = String::new();
        let mut reasoning = String::new();
        for part in parts {
            match part {
                Part::Text(more) => text += &more,
                Part::Reasoning(more) => reasoning += &more,
                Part::Call { name, arguments } => text += &call_text(&name, &arguments),
            }
        }
        Ok(Generated {
            text,
            reasoning,
            tokens,
            finish,
            statistics: Figures::from(&statistics),
        })
    }
}

/// A call as it is shown where nothing can be called.
fn call_text(name: &str, arguments: &str) -> String {
    format!("[call {name} {arguments}]")
}

fn read(reader: &mut Option<Box<dyn crate::server::text::Reader>>, text: String) -> Vec<Part> {
    match reader {
        Some(reader) => reader.push(&text),
        None if text.is_empty() => Vec::new(),
        None => vec![Part::Text(text)],
    }
}

fn show(new: Vec<Part>, parts: &mut Vec<Part>, see: &mut impl FnMut(Seen) -> bool) -> bool {
    let mut goes_on = true;
    for part in new {
        goes_on &= see(Seen::Part(part.clone()));
        parts.push(part);
    }
    goes_on
}

/// Measures from outside: an answer that is cut off comes without statistics.
struct Watch {
    prompt_tokens: usize,
    start: std::time::Instant,
    first: Option<std::time::Instant>,
    last: std::time::Instant,
    generated: usize,
}

impl Watch {
    fn new(prompt_tokens: usize) -> Self {
        let now = std::time::Instant::now();
        Self {
            prompt_tokens,
            start: now,
            first: None,
            last: now,
            generated: 0,
        }
    }

    fn token(&mut self) {
        self.last = std::time::Instant::now();
        self.first.get_or_insert(self.last);
        self.generated += 1;
    }

    fn statistics(&self) -> Statistics {
        let first = self.first.unwrap_or(self.last);
        Statistics {
            prompt_tokens: self.prompt_tokens,
            prompt_time: first - self.start,
            generated_tokens: self.generated,
            decode_time: self.last - first,
            ..Statistics::default()
        }
    }
}

/// A run of the program.
struct Session {
    generator: Generator,
    text: TextArgs,
    reporter: Reporter,
    interrupt: Interrupt,
    runtime: tokio::runtime::Runtime,
    quiet: bool,
}

impl Session {
    fn language(&self) -> &dyn crate::server::text::Language {
        &*self.generator.application.language
    }

    /// The prompt of a conversation.
    fn chat_prompt(&self, messages: Vec<Value>) -> Result<Vec<u32>, Failure> {
        self.language()
            .prompt(&self.text.chat(messages))
            .map_err(|error| Failure::Failed(format!("the conversation is no prompt: {error}")))
    }

    fn once(&self, prompt: &str) -> Result<(), Failure> {
        if self.text.no_template {
            let language = self.language();
            return self.once_from(&begun(language, language.encode(prompt, true)), false);
        }
        let mut messages = self.text.opening();
        messages.push(json!({"role": "user", "content": prompt}));
        self.once_from(&self.chat_prompt(messages)?, true)
    }

    fn once_from(&self, prompt: &[u32], reads_markup: bool) -> Result<(), Failure> {
        let generated = self.answer(prompt, reads_markup)?;
        if self.text.json {
            print_json(&Report {
                generated: &generated,
                model: &self.generator.application.model,
                description: &self.generator.application.description,
                layers: &self.generator.application.policy,
            })?;
        }
        if !self.quiet {
            eprint!("\n{}", generated.statistics.lines());
        }
        Ok(())
    }

    /// Generates and shows it while it comes.
    fn answer(&self, prompt: &[u32], reads_markup: bool) -> Result<Generated, Failure> {
        let mut out = Out::new(&self.text);
        let state = &self.interrupt.state;
        // What was pressed when the last answer had just ended is not meant for this one.
        let _ = state.pressed.notified().now_or_never();
        state.generating.store(true, Ordering::SeqCst);
        let see = |seen: Seen| match seen {
            Seen::Prompt { done, total } => {
                self.reporter.prompt(done, total);
                true
            }
            seen => {
                self.reporter.clear();
                out.show(&seen)
            }
        };
        let generated =
            self.runtime.block_on(
                self.generator
                    .generate(prompt, reads_markup, state.pressed.notified(), see),
            );
        state.generating.store(false, Ordering::SeqCst);
        self.reporter.clear();
        out.end()?;
        generated
    }

    fn converse(&self, first: Option<String>) -> Result<(), Failure> {
        let mut editor = DefaultEditor::new().map_err(|error| Failure::Failed(format!("no input: {error}")))?;
        let prompt = if io::stdin().is_terminal() { "> " } else { "" };
        if !self.quiet && io::stdin().is_terminal() {
            eprintln!("/exit or Ctrl-D ends, /reset forgets the conversation, /stats shows figures");
        }
        let mut messages = self.text.opening();
        let mut last: Option<Figures> = None;
        let mut next = first;
        loop {
            let line = match next.take() {
                Some(line) => line,
                None => match editor.readline(prompt) {
                    Ok(line) => line,
                    Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                    Err(error) => return Err(Failure::Failed(format!("the input cannot be read: {error}"))),
                },
            };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            // A history that cannot take a line is no reason to stop.
            let _ = editor.add_history_entry(line);
            match line {
                "/exit" | "/quit" => return Ok(()),
                "/reset" => messages = self.text.opening(),
                "/stats" => match &last {
                    Some(figures) => eprint!("{}", figures.lines()),
                    None => eprintln!("nothing was generated yet"),
                },
                unknown if unknown.starts_with('/') && !unknown.contains(' ') => {
                    eprintln!("there is no {unknown}; there are /exit, /reset, /stats");
                }
                line => {
                    messages.push(json!({"role": "user", "content": line}));
                    match self
                        .chat_prompt(messages.clone())
                        .and_then(|prompt| self.answer(&prompt, true))
                    {
                        Ok(generated) => {
                            messages.push(json!({"role": "assistant", "content": generated.text}));
                            last = Some(generated.statistics);
                        }
                        // A prompt that is refused leaves the conversation as it was.
                        Err(Failure::Usage(reason)) => {
                            eprintln!("tilekiln: {reason}");
                            messages.pop();
                        }
                        Err(failed) => return Err(failed),
                    }
                }
            }
        }
    }
}

/// Where an answer is shown.
struct Out<'a> {
    text: &'a TextArgs,
    broken: Option<io::Error>,
    ends_line: bool,
    thinks: bool,
}

impl<'a> Out<'a> {
    fn new(text: &'a TextArgs) -> Self {
        Self {
            text,
            broken: None,
            ends_line: true,
            thinks: false,
        }
    }

    /// Shows it. False when nobody reads any more.
    fn show(&mut self, seen: &Seen) -> bool {
        if self.text.json || self.broken.is_some() {
            return self.broken.is_none();
        }
        match seen {
            Seen::Token(token) if self.text.ids => {
                let space = if self.ends_line { "" } else { " " };
                self.write(&format!("{space}{token}"));
            }
            Seen::Part(part) if !self.text.ids => {
                if let Part::Reasoning(text) = part {
                    eprint!("{text}");
                    self.thinks = true;
                    return true;
                }
                if std::mem::take(&mut self.thinks) {
                    eprintln!();
                }
                match part {
                    Part::Call { name, arguments } => self.write(&call_text(name, arguments)),
                    Part::Text(text) | Part::Reasoning(text) => self.write(text),
                }
            }
            _ => {}
        }
        self.broken.is_none()
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut out = io::stdout().lock();
        self.ends_line = text.ends_with('\n');
        self.broken = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
    }

    /// Ends the last line. A reader that went away (`| head`) is no failure.
    fn end(mut self) -> Result<(), Failure> {
        if !self.ends_line && self.broken.is_none() {
            self.write("\n");
        }
        match self.broken {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
