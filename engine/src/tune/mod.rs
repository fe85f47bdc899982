//! Divisions of products with packed weights, measured on a device in place of those by rule.
//!
//! [`run`] tries divisions of every product of a model: [`search`] says which, and which of them is taken; [`stages`] takes
//! their launches out of plans; [`measure`] times them. [`file`] is what is kept, [`load`] what a model is loaded with.
//!
//! **What is tuned.** Warps of a block, tiles that each has under way, blocks. Warps change the order of additions, so a
//! product has the same for all numbers of column tiles, and results are the same bits whatever else is in a step, with
//! a tuning as without. They are not the same bits with a tuning and without.

pub mod file;
mod load;
pub mod measure;
pub mod run;
pub mod search;
pub mod stages;

pub use file::{Entry, FORMAT, Owner, Place, Tile, TuningError, TuningFile, usual_path};
pub use load::{Loaded, load, read};
pub use run::{Event, Found, Settings, TuneError, run};
pub use search::Effort;
pub use stages::Source;
