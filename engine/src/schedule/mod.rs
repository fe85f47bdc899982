//! Many requests over one model: slots, batches, events.
//!
//! Requests and events are tokens; text is the business of who asks ([`crate::server`], the command line).

mod request;

pub use request::{Choice, Event, Finish, Refusal, Request, Service, ServiceStatus, Statistics, Ticket};
