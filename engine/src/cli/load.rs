//! From options to a loaded model: the one place where the command line meets the engine.

use std::sync::Arc;

use super::Failure;
use crate::schedule::{Engine, EngineError, EngineOptions, Progress};
use crate::server::Application;
use crate::server::language::FileLanguage;

/// Loads the model that the options name, or the demo model.
///
/// # Errors
/// Files that cannot be used, devices that are not there, options the model does not allow.
pub fn load(options: &EngineOptions, report: &(dyn Fn(Progress) + Sync)) -> Result<Application, Failure> {
    let engine = Engine::load(options, report)?;
    Ok(engine.into())
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Layers(_) | EngineError::Cache(_) | EngineError::SmallContext { .. } => {
                Self::Usage(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<Engine> for Application {
    fn from(engine: Engine) -> Self {
        Self {
            service: engine.service,
            language: Arc::new(FileLanguage::new(engine.tokenizer, (*engine.template).clone())),
            defaults: engine.recommended,
            max_tokens: None,
            model: engine.name,
            path: engine.path.display().to_string(),
            description: engine.description,
            policy: engine.policy,
            trained_context: engine.trained_context,
            parameters: engine.parameters,
            bytes: engine.bytes,
        }
    }
}
