//! Gemma 4 models and their assistants: configuration, weights, and the launches that compute them.
//!
//! [`config`] reads what a file says of itself, [`weights`] finds its tensors and copies them to a device, and
//! [`planner`] writes the launches of layers, [`repack`] makes packed matrices of a file's rows. [`target`] is a model
//! that answers, [`choice`] how it chooses tokens, [`assistant`] the drafter that reads the target's caches. The
//! description of both networks is in the Gemma 4 notes of their publisher's reference
//! implementation; docstrings name the formula where it is used.

pub mod assistant;
pub mod choice;
pub mod config;
mod error;
mod planner;
pub mod repack;
pub mod target;
mod weights;

pub use error::ModelError;
pub(crate) use planner::evenly;
pub use planner::{Chip, Division, Phase, Tuned, TunedTile, Tuning, Unfit, Work, column_tiles};
pub use target::{Design, Divisions, LayerPolicy, LoadOptions, Output, Precision, Row, Target, Want};
