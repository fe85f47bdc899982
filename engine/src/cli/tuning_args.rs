//! Where commands that run a model take measured divisions from.

use clap::Args;

use crate::schedule::TuningChoice;

/// Which file of `tilekiln tune`.
#[derive(Args, Clone, Debug, Default)]
pub struct TuningArgs {
    /// Divisions of products that `tilekiln tune` measured on this device, or none for those by rule [default: what `tune`
    /// has kept for the device, if there is something]
    #[arg(long, value_name = "FILE|none")]
    tuning: Option<String>,
}

impl TuningArgs {
    /// What was asked for.
    pub fn choice(&self) -> TuningChoice {
        self.tuning.as_deref().map_or(TuningChoice::Cached, TuningChoice::from)
    }
}
