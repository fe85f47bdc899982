//! From options to a loaded model: the one place where the command line meets the engine.

use super::Failure;
use crate::schedule::{EngineOptions, Progress};
use crate::server::Application;

/// Loads the model that the options name, or the demo model.
///
/// # Errors
/// Files that cannot be used, devices that are not there, options the model does not allow.
pub fn load(options: &EngineOptions, report: &(dyn Fn(Progress) + Sync)) -> Result<Application, Failure> {
    let _ = report;
    let model = options
        .model
        .as_ref()
        .map_or("the demo model".into(), |path| path.display().to_string());
    Err(Failure::Failed(format!(
        "{model} cannot be loaded: this build has no engine for it"
    )))
}
