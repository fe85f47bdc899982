//! How fast a model runs: prompts, answers and steps at any depth of the cache, beside what the memory would allow.
//!
//! [`Suite`] says what to measure, [`run`] measures it and gives [`Results`]: data that [`table`] prints, [`plot`] draws and
//! [`compare`] puts beside another run's. [`roofline`] reads memory as fast as it goes, in the same run: every rate of the
//! results is also given as a part of that. [`stages`] times the launches of one step by kind, beside their prediction.
//!
//! **What is timed.** Wall time around the same calls that serve requests, from the first row's upload to the last token's
//! download. Tokens are picked greedily and fed back. A cache is filled to a depth by evaluating made-up tokens
//! ([`Target::assume_depth`](crate::model::Target::assume_depth)), which is not timed, nor is the first run of each test.
//! Each repetition starts from the same depth and overwrites what the one before wrote.

pub mod compare;
pub mod plot;
pub mod report;
mod results;
pub mod roofline;
mod run;
mod session;
pub mod stages;
mod start;
mod suite;
pub mod table;

pub use results::{
    DeviceFacts, FORMAT, Measured, ModelFacts, NotResults, Results, Spread, StageFigures, StageKind, StartFigures,
    TestKey, figures,
};
pub use run::{BenchError, Event, run};
pub use session::room;
pub use suite::{Suite, Test};
