//! What a request asks for and what it gets back.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::sample;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt, `<bos>` included.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: sample::Settings,
    /// Tokens that end the answer. They are reported as the last [`Event::Token`] and are part of no text.
    pub end_tokens: Vec<u32>,
    /// Most likely tokens to report beside each chosen one; `None` reports no probabilities at all.
    pub top_logprobs: Option<usize>,
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Logarithm of its probability under the model (before the sampler's adjustments), where asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens with their logarithms of probabilities, best first.
    pub top: Vec<(u32, f32)>,
}

/// What happens to a request, in order: any number of `Prompt`, any number of `Token`, then one `Finished` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// So many tokens of the prompt are evaluated.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in all.
        total: usize,
    },
    /// The next token.
    Token(Choice),
    /// It is over.
    Finished(Finish, Statistics),
    /// The device failed; nothing follows.
    Failed(String),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the request's end tokens.
    EndToken,
    /// As many tokens as asked for.
    MaxTokens,
    /// No room in the context.
    ContextFull,
    /// Nobody wanted more.
    Cancelled,
}

/// What a request took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, already in the cache of the slot.
    pub reused_tokens: usize,
    /// Time from the first to the last token of the prompt.
    pub prompt_time: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Time from the end of the prompt to the last token.
    pub decode_time: Duration,
    /// Batched evaluations of the target after the prompt.
    pub rounds: usize,
    /// Tokens drafted.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Drafts offered at each depth (index 0: the first token of a round).
    pub drafted_at: Vec<usize>,
    /// Drafts accepted at each depth.
    pub accepted_at: Vec<usize>,
}

/// A request that cannot be taken on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens and a slot holds {context}; shorten the prompt or start with a larger context (-c)"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of a slot.
        context: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    Empty,
    /// A token that the model does not have.
    #[error("token {token} does not exist; the vocabulary has {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The sampler cannot be set up like this.
    #[error("{0}")]
    Sampling(String),
    /// Too many requests wait already.
    #[error("{waiting} requests are waiting already; try again later")]
    Busy {
        /// Requests in the queue.
        waiting: usize,
    },
    /// The service has stopped.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// An accepted request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Ticket {
    /// What happens.
    pub events: mpsc::UnboundedReceiver<Event>,
}

/// How busy a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Requests that can run at once.
    pub slots: usize,
    /// Requests that run.
    pub busy: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Positions of one slot.
    pub context: usize,
}

/// What to do with what a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// Save it to a file.
    Save(PathBuf),
    /// Replace it by what a file holds.
    Restore(PathBuf),
    /// Forget it.
    Erase,
}

/// What was done with a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotReport {
    /// Tokens that were saved, restored or forgotten.
    pub tokens: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
}

/// Why nothing was done with a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotRefusal {
    /// There are fewer.
    #[error("there is no slot {slot}; there are {slots}, counted from 0 (-np sets how many)")]
    Unknown {
        /// Asked for.
        slot: usize,
        /// There are.
        slots: usize,
    },
    /// An answer is being made in it.
    #[error("slot {0} is answering a request; try again when it is done")]
    Busy(usize),
    /// This service keeps nothing in slots.
    #[error("this service has no slots that could be saved")]
    Unsupported,
    /// The file or the device.
    #[error("{0}")]
    Failed(String),
    /// The service has stopped.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// Something that continues prompts: the scheduler over a model, or a stand-in in tests.
pub trait Service: Send + Sync {
    /// Queues a request.
    ///
    /// # Errors
    /// Requests that can never run, and overload.
    fn submit(&self, request: Request) -> Result<Ticket, Refusal>;

    /// Saves, restores or forgets what a slot holds, between two steps of the service. What is sent back comes when it is
    /// done.
    fn slot(&self, slot: usize, action: SlotAction) -> oneshot::Receiver<Result<SlotReport, SlotRefusal>> {
        let _ = (slot, action);
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Err(SlotRefusal::Unsupported));
        receiver
    }

    /// How busy it is.
    fn status(&self) -> ServiceStatus;
}
