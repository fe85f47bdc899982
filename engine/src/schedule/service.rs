//! The scheduler on a thread of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::scheduler::{Job, Scheduler};
use super::{Event, Refusal, Request, Service, ServiceStatus, SlotAction, SlotRefusal, SlotReport, Ticket};
use crate::model::Target;
use crate::sample::Sampler;
use crate::spec::Policy;

/// What the thread and the callers both see.
#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    busy: AtomicUsize,
    /// Why the thread has ended.
    stopped: Mutex<Option<String>>,
}

impl Shared {
    fn stop(&self, reason: &str) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert_with(|| reason.to_owned());
    }

    fn reason(&self) -> Option<String> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the thread is asked to do.
enum Order {
    /// Answer a request.
    Answer(Box<Job>),
    /// Do something with what a slot holds.
    Slot {
        slot: usize,
        action: SlotAction,
        reply: oneshot::Sender<Result<SlotReport, SlotRefusal>>,
    },
}

/// A model that answers requests.
pub struct ModelService {
    orders: Sender<Order>,
    shared: Arc<Shared>,
    slots: usize,
    context: usize,
    vocabulary: usize,
    queue: usize,
    suppressed: Vec<u32>,
}

impl ModelService {
    /// Starts to answer. At most `queue` requests wait; `suppressed` tokens are never chosen.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(target: Target, policy: Policy, queue: usize, suppressed: &[u32]) -> std::io::Result<Self> {
        let (orders, incoming) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let geometry = target.options().geometry;
        let vocabulary = target.vocabulary();
        let scheduler = Scheduler::new(target, policy);
        let seen = shared.clone();
        thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || work(scheduler, &incoming, &seen))?;
        Ok(Self {
            orders,
            shared,
            slots: geometry.slots,
            context: geometry.context,
            vocabulary,
            queue,
            suppressed: suppressed.to_vec(),
        })
    }
}

/// Answers until nobody can ask any more, or the device fails.
fn work(mut scheduler: Scheduler, incoming: &Receiver<Order>, shared: &Shared) {
    let mut waiting = VecDeque::new();
    loop {
        let mut first = None;
        if scheduler.busy() == 0 && waiting.is_empty() {
            let Ok(order) = incoming.recv() else { return };
            first = Some(order);
        }
        for order in first.into_iter().chain(incoming.try_iter()) {
            match order {
                Order::Answer(job) => waiting.push_back(*job),
                Order::Slot { slot, action, reply } => {
                    // who asked may have gone away
                    let _ = reply.send(scheduler.slot(slot, &action));
                }
            }
        }
        let before = waiting.len();
        scheduler.admit(&mut waiting);
        shared.waiting.fetch_sub(before - waiting.len(), Ordering::Relaxed);
        shared.busy.store(scheduler.busy(), Ordering::Relaxed);
        if let Err(error) = scheduler.step() {
            let reason = error.to_string();
            tracing::error!("{reason}");
            scheduler.fail(&reason);
        }
        shared.busy.store(scheduler.busy(), Ordering::Relaxed);
    }
}

impl Service for ModelService {
    fn submit(&self, request: Request) -> Result<Ticket, Refusal> {
        if request.prompt.is_empty() {
            return Err(Refusal::Empty);
        }
        if request.prompt.len() >= self.context {
            return Err(Refusal::TooLong {
                prompt: request.prompt.len(),
                context: self.context,
            });
        }
        if let Some(token) = request.prompt.iter().find(|token| **token as usize >= self.vocabulary) {
            return Err(Refusal::UnknownToken {
                token: *token,
                vocabulary: self.vocabulary,
            });
        }
        if let Some(reason) = self.shared.reason() {
            return Err(Refusal::Stopped(reason));
        }
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if waiting >= self.queue {
            return Err(Refusal::Busy { waiting });
        }
        let sampler = Sampler::new(&request.sampling, self.vocabulary, &self.suppressed)
            .map_err(|error| Refusal::Sampling(error.to_string()))?;
        let (sender, events) = tokio::sync::mpsc::unbounded_channel::<Event>();
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            request,
            sampler,
            events: sender,
        };
        if self.orders.send(Order::Answer(Box::new(job))).is_err() {
            self.shared.stop("its thread has ended");
            return Err(Refusal::Stopped("its thread has ended".to_owned()));
        }
        Ok(Ticket { events })
    }

    fn slot(&self, slot: usize, action: SlotAction) -> oneshot::Receiver<Result<SlotReport, SlotRefusal>> {
        let (reply, receiver) = oneshot::channel();
        if let Err(mpsc::SendError(Order::Slot { reply, .. })) = self.orders.send(Order::Slot { slot, action, reply }) {
            let reason = self
                .shared
                .reason()
                .unwrap_or_else(|| "its thread has ended".to_owned());
            let _ = reply.send(Err(SlotRefusal::Stopped(reason)));
        }
        receiver
    }

    fn status(&self) -> ServiceStatus {
        ServiceStatus {
            slots: self.slots,
            busy: self.shared.busy.load(Ordering::Relaxed),
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            context: self.context,
        }
    }
}
