//! Many requests over one model: slots, batches, events.
//!
//! Requests and events are tokens; text is the business of who asks ([`crate::server`], the command line).

mod engine;
mod options;
mod request;
mod scheduler;
mod service;

pub use engine::{Engine, EngineError, OUTPUTS, load_options, load_target, open_device};
pub use options::{
    DEFAULT_CHUNK, DEFAULT_DRAFTS, DEFAULT_QUEUE, DeviceChoice, EngineOptions, LayerLimit, Progress, Stage,
    TooFewLayers, TuningChoice, UnknownChoice,
};
pub use request::{
    Choice, Event, Finish, Refusal, Request, Service, ServiceStatus, SlotAction, SlotRefusal, SlotReport, Statistics,
    Ticket,
};
pub use service::ModelService;
