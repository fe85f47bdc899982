//! How an engine is to be set up. Pure data: nothing here opens a file or a device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::kv::{KvType, KvTypes};

/// Drafts per round when nothing is said.
pub const DEFAULT_DRAFTS: usize = 3;
/// Prompt tokens per evaluation when nothing is said.
pub const DEFAULT_CHUNK: usize = 512;
/// Requests that may wait when nothing is said.
pub const DEFAULT_QUEUE: usize = 256;

/// What to load and how to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// The model's GGUF file; none is the demo model.
    pub model: Option<PathBuf>,
    /// The assistant's GGUF file; none means no drafting.
    pub assistant: Option<PathBuf>,
    /// Tokens drafted per round at most; 0 never drafts.
    pub drafts: usize,
    /// Rounds with fewer drafts than this are plain steps.
    pub draft_min: usize,
    /// Drafting stops at a token that the assistant gives less probability than this.
    pub draft_p_min: f32,
    /// Positions of the cache over all slots; none is what the model was made for.
    pub context: Option<usize>,
    /// Requests that run at once.
    pub slots: usize,
    /// Requests that may wait for a slot.
    pub queue: usize,
    /// Prompt tokens per evaluation.
    pub chunk: usize,
    /// f32 activations and dequantised weights.
    pub exact: bool,
    /// Where to run.
    pub device: DeviceChoice,
    /// How many layers may go to the device.
    pub layers: LayerLimit,
    /// Formats of cached keys and values; none is f16, or f32 where numbers are to be exact.
    pub kv: Option<KvTypes>,
    /// How products with packed weights are divided.
    pub tuning: TuningChoice,
    /// Chat template to use in place of the file's.
    pub chat_template: Option<String>,
    /// Compile and run once before the first request.
    pub warmup: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            model: None,
            assistant: None,
            drafts: DEFAULT_DRAFTS,
            draft_min: 0,
            draft_p_min: 0.0,
            context: None,
            slots: 1,
            queue: DEFAULT_QUEUE,
            chunk: DEFAULT_CHUNK,
            exact: false,
            device: DeviceChoice::Auto,
            layers: LayerLimit::All,
            kv: None,
            tuning: TuningChoice::Cached,
            chat_template: None,
            warmup: true,
        }
    }
}

impl EngineOptions {
    /// Formats of cached keys and values.
    #[must_use]
    pub fn kv_types(&self) -> KvTypes {
        let default = if self.exact { KvType::F32 } else { KvType::F16 };
        self.kv.unwrap_or(KvTypes::uniform(default))
    }

    /// Positions of one slot in a model made for `trained` positions. The slots share the context evenly.
    #[must_use]
    pub fn context_per_slot(&self, trained: usize) -> usize {
        self.context.map_or(trained, |total| total / self.slots.max(1))
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that works, else this CPU.
    #[default]
    Auto,
    /// This CPU.
    Host,
    /// An NVIDIA GPU.
    Cuda,
    /// An AMD GPU.
    Hip,
}

/// Where measured divisions of products come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TuningChoice {
    /// What `tilekiln tune` has kept for the device, if there is something.
    #[default]
    Cached,
    /// Nowhere: they follow the rule.
    None,
    /// A file.
    File(PathBuf),
}

impl From<&str> for TuningChoice {
    fn from(given: &str) -> Self {
        match given {
            "none" => Self::None,
            path => Self::File(path.into()),
        }
    }
}

/// How many layers may be put on a GPU. A model is never split, so a limit below its layers is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerLimit {
    /// As many as there are.
    #[default]
    All,
    /// Not more than this.
    AtMost(usize),
}

impl LayerLimit {
    /// Whether a model of so many layers may go to a GPU.
    ///
    /// # Errors
    /// A limit below the number of layers.
    pub fn allow(self, layers: usize) -> Result<(), TooFewLayers> {
        match self {
            Self::AtMost(limit) if limit < layers => Err(TooFewLayers { limit, layers }),
            _ => Ok(()),
        }
    }
}

/// A model would have to be split between the GPU and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "-ngl {limit} asks for a part of the model's {layers} layers on the GPU, and a model is not split; use -ngl 99 (all on the GPU) or --device host (none)"
)]
pub struct TooFewLayers {
    /// Layers allowed.
    pub limit: usize,
    /// Layers of the model.
    pub layers: usize,
}

/// A word that names no choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is none of {known}")]
pub struct UnknownChoice {
    /// The word.
    pub given: String,
    /// What exists.
    pub known: String,
}

/// Finds the choice of a name.
fn named<T: Copy>(table: &[(&str, T)], given: &str) -> Result<T, UnknownChoice> {
    table
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(given))
        .map(|(_, choice)| *choice)
        .ok_or_else(|| UnknownChoice {
            given: given.to_string(),
            known: table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        })
}

/// The name of a choice.
fn name<T: PartialEq>(table: &[(&'static str, T)], choice: &T) -> &'static str {
    table
        .iter()
        .find(|(_, known)| known == choice)
        .map_or("?", |(name, _)| *name)
}

const DEVICES: &[(&str, DeviceChoice)] = &[
    ("host", DeviceChoice::Host),
    ("cuda", DeviceChoice::Cuda),
    ("hip", DeviceChoice::Hip),
    ("auto", DeviceChoice::Auto),
];

impl FromStr for DeviceChoice {
    type Err = UnknownChoice;

    fn from_str(given: &str) -> Result<Self, UnknownChoice> {
        named(DEVICES, given)
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(DEVICES, self))
    }
}

/// What an engine does while it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Weights go to the device; counted in bytes.
    Load,
    /// Kernels are compiled; counted in kernels.
    Compile,
    /// The first evaluation; counted in launches or rounds.
    Warmup,
}

/// How far a stage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_names() {
        for (name, device) in DEVICES {
            assert_eq!(name.parse(), Ok(*device));
            assert_eq!(device.to_string(), *name);
        }
        let error = "metal".parse::<DeviceChoice>().expect_err("unknown");
        assert_eq!(error.to_string(), "`metal` is none of host, cuda, hip, auto");
    }

    #[test]
    fn a_model_is_not_split() {
        let table = [
            (LayerLimit::All, 1000, true),
            (LayerLimit::AtMost(99), 42, true),
            (LayerLimit::AtMost(42), 42, true),
            (LayerLimit::AtMost(41), 42, false),
            (LayerLimit::AtMost(0), 1, false),
        ];
        for (limit, layers, allowed) in table {
            assert_eq!(limit.allow(layers).is_ok(), allowed, "{limit:?} {layers}");
        }
    }

    #[test]
    fn slots_share_the_context() {
        let mut options = EngineOptions::default();
        assert_eq!(options.context_per_slot(131_072), 131_072);
        options.context = Some(16_384);
        assert_eq!(options.context_per_slot(131_072), 16_384);
        options.slots = 3;
        assert_eq!(options.context_per_slot(131_072), 5461);
    }
}
