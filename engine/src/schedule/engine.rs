//! From options to a model that answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::hip::HipDevice;
use tilekiln_runtime::host::HostDevice;

use super::{DeviceChoice, EngineOptions, ModelService, Progress, Service, Stage, TooFewLayers};
use crate::chat::{ChatError, Template};
use crate::gguf;
use crate::kv::{Geometry, UnsupportedPair};
use crate::model::config::TargetConfig;
use crate::model::{LayerPolicy, LoadOptions, ModelError, Phase, Precision, Row, Target, Want};
use crate::plan;
use crate::sample;
use crate::spec::Policy;
use crate::synth;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::tune::{self, TuningError};

/// Rows whose logits are computed together: at least what one read of the weights serves, at most what memory is for.
/// More are done in several turns.
pub const OUTPUTS: std::ops::RangeInclusive<usize> = 8..=64;

/// Why an engine cannot be set up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EngineError {
    #[error("{path}: {error}", path = path.display())]
    Model { path: PathBuf, error: ModelError },
    #[error(transparent)]
    File(#[from] gguf::Error),
    #[error("{path}: {error}", path = path.display())]
    Tokenizer { path: PathBuf, error: TokenizerError },
    #[error("the chat template: {0}")]
    Chat(#[from] ChatError),
    #[error("the demo model cannot be written: {0}")]
    Demo(#[from] synth::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Tuning(#[from] TuningError),
    #[error(transparent)]
    Layers(#[from] TooFewLayers),
    #[error(transparent)]
    Cache(#[from] UnsupportedPair),
    #[error(
        "a context of {context} tokens for {slots} slots leaves {each} for each; at least {least} are needed: use a larger -c \
         or a smaller -np"
    )]
    SmallContext {
        context: usize,
        slots: usize,
        each: usize,
        least: usize,
    },
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A model that answers, with its language.
pub struct Engine {
    /// Continues prompts.
    pub service: Arc<dyn Service>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Conversations to prompts.
    pub template: Arc<Template>,
    /// How the file wants tokens to be chosen.
    pub recommended: sample::Settings,
    /// `general.name`
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// One line about what runs where.
    pub description: String,
    /// What was chosen for the attention of each layer.
    pub policy: Vec<LayerPolicy>,
    /// Positions the model was made for.
    pub trained_context: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Opens the device that is asked for; with [`DeviceChoice::Auto`] the first GPU that works, else the CPU.
///
/// # Errors
/// The device that was asked for by name is not there.
pub fn open_device(choice: DeviceChoice) -> Result<Arc<dyn Device>, DeviceError> {
    Ok(match choice {
        DeviceChoice::Host => Arc::new(HostDevice::new()),
        DeviceChoice::Cuda => Arc::new(CudaDevice::open(0)?),
        DeviceChoice::Hip => Arc::new(HipDevice::open(0)?),
        DeviceChoice::Auto => match CudaDevice::open(0) {
            Ok(cuda) => Arc::new(cuda),
            Err(no_cuda) => match HipDevice::open(0) {
                Ok(hip) => Arc::new(hip),
                Err(no_hip) => {
                    tracing::info!("no CUDA device ({no_cuda}), no HIP device ({no_hip}): the CPU is used");
                    Arc::new(HostDevice::new())
                }
            },
        },
    })
}

/// The files to load: those of the options, or the demo model's.
fn files(options: &EngineOptions) -> Result<(PathBuf, Option<PathBuf>), EngineError> {
    match &options.model {
        Some(model) => Ok((model.clone(), options.assistant.clone())),
        None => {
            let demo = synth::demo()?;
            let assistant = options.assistant.clone().or(Some(demo.assistant));
            Ok((demo.target, assistant))
        }
    }
}

impl Engine {
    /// Loads a model with its assistant and starts to answer.
    ///
    /// # Errors
    /// Files that are no such models, options they do not allow, and those of the device.
    pub fn load(options: &EngineOptions, report: &(dyn Fn(Progress) + Sync)) -> Result<Self, EngineError> {
        let (path, assistant) = files(options)?;
        let assistant = assistant.filter(|_| options.drafts > 0);
        let file = gguf::File::open(&path)?;
        let tokenizer = Tokenizer::from_gguf(file.metadata()).map_err(|error| EngineError::Tokenizer {
            path: path.clone(),
            error,
        })?;
        let template = match &options.chat_template {
            Some(source) => Template::new(source, &tokenizer)?,
            None => Template::from_gguf(file.metadata(), &tokenizer)?,
        };
        let recommended = sample::Settings::recommended(file.metadata())?;
        let device = open_device(options.device)?;
        let target = load_target(&file, &path, assistant.as_deref(), &device, options, report)?;
        let config = target.config();
        let description = describe(&target, &device);
        tracing::info!("{description}");
        let layers = target.policy();
        let policy = Policy {
            max: options.drafts,
            min: options.draft_min,
            p_min: options.draft_p_min,
        };
        let mut engine = Self {
            name: config.name.clone(),
            description,
            policy: layers,
            trained_context: config.context,
            parameters: file.tensors().iter().map(|tensor| tensor.values() as u64).sum(),
            bytes: file.size() as u64,
            recommended,
            path,
            service: Arc::new(ModelService::start(
                target,
                policy,
                options.queue,
                tokenizer.suppressed(),
            )?),
            tokenizer: Arc::new(tokenizer),
            template: Arc::new(template),
        };
        if engine.name.is_empty() {
            engine.name = engine.path.display().to_string();
        }
        Ok(engine)
    }
}

/// Loads the networks alone, set up as the options say.
///
/// # Errors
/// Those of [`Engine::load`].
pub fn load_target(
    file: &gguf::File,
    path: &Path,
    assistant: Option<&Path>,
    device: &Arc<dyn Device>,
    options: &EngineOptions,
    report: &(dyn Fn(Progress) + Sync),
) -> Result<Target, EngineError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: ModelError| EngineError::Model { path, error }
    };
    let config = TargetConfig::read(file.metadata()).map_err(at(path))?;
    if device.properties().target.vendor != Vendor::Host {
        options.layers.allow(config.shape.layers.len())?;
    }
    let assistant_file = assistant.map(gguf::File::open).transpose()?;
    let warm_up = options.warmup;
    let tuning = tune::load(&options.tuning, device.properties())?;
    let tuning = tuning.as_ref().map(|loaded| &loaded.tuning);
    let options = load_options(options, &config, assistant.is_some())?;
    let mut progress = |progress: plan::Progress| report((&progress).into());
    let on = (device.clone(), tuning);
    let target = Target::load_tuned(file, assistant_file.as_ref(), on, options, &mut progress);
    let mut target = target.map_err(|error| match (&error, assistant) {
        (ModelError::Mismatch { .. } | ModelError::DamagedAssistant(_), Some(assistant)) => at(assistant)(error),
        _ => at(path)(error),
    })?;
    let warmup = Row {
        token: 0,
        slot: 0,
        position: 0,
        want: Want::Token,
    };
    if warm_up {
        report(step(Stage::Warmup, 0, 1));
        target.forward(&[warmup], Phase::Decode).map_err(at(path))?;
        report(step(Stage::Warmup, 1, 1));
    }
    Ok(target)
}

/// How the networks are loaded for the options; `drafts` says whether there is an assistant.
///
/// # Errors
/// Options that the model does not allow.
pub fn load_options(options: &EngineOptions, config: &TargetConfig, drafts: bool) -> Result<LoadOptions, EngineError> {
    let slots = options.slots.max(1);
    let context = options.context_per_slot(config.context);
    let drafts = if drafts { options.drafts } else { 0 };
    let least = drafts + 2;
    if context < least {
        return Err(EngineError::SmallContext {
            context: options.context.unwrap_or(config.context),
            slots,
            each: context,
            least,
        });
    }
    let kv = options.kv_types();
    kv.check()?;
    let round = slots * (drafts + 1);
    Ok(LoadOptions {
        precision: if options.exact {
            Precision::Exact
        } else {
            Precision::Fast
        },
        kv,
        geometry: Geometry {
            slots,
            context,
            max_rows: options.chunk.clamp(1, context).max(round),
            run: drafts + 1,
        },
        outputs: round.clamp(*OUTPUTS.start(), *OUTPUTS.end()),
    })
}

fn step(stage: Stage, done: usize, total: usize) -> Progress {
    Progress {
        stage,
        done: done as u64,
        total: total as u64,
    }
}

impl From<&plan::Progress> for Progress {
    fn from(progress: &plan::Progress) -> Self {
        match *progress {
            plan::Progress::Weights { done, total } => step(Stage::Load, done, total),
            plan::Progress::Compiling { kernels } => step(Stage::Compile, 0, kernels),
            plan::Progress::Compiled { kernels, cached, time } => {
                tracing::info!("{kernels} kernels ready after {time:.2?}, {cached} of them from the cache");
                step(Stage::Compile, kernels, kernels)
            }
        }
    }
}

/// What runs where, in one line.
fn describe(target: &Target, device: &Arc<dyn Device>) -> String {
    let options = target.options();
    let precision = match options.precision {
        Precision::Exact => "f32 activations",
        Precision::Fast => "int8 activations",
    };
    let drafter = if target.has_assistant() { ", with assistant" } else { "" };
    let divisions = target.divisions();
    let tuned = if divisions.tuned > 0 {
        format!(", {divisions}")
    } else {
        String::new()
    };
    format!(
        "{} on {}: {} slots of {} positions, {}, {precision}{drafter}{tuned}, {:.1} MiB of memory",
        target.config().name,
        device.properties().name,
        options.geometry.slots,
        options.geometry.context,
        describe_policy(&target.policy()),
        target.machine().memory_bytes() as f64 / f64::from(1 << 20)
    )
}

/// What was chosen for the caches, in few words: `35 sliding layers f16/f16 flash, 7 full layers turbo3/turbo3 flash`.
fn describe_policy(layers: &[LayerPolicy]) -> String {
    let mut kinds: Vec<(&LayerPolicy, usize, usize)> = Vec::new();
    let words = |layer: &LayerPolicy| (layer.kind, layer.keys, layer.values, layer.attention);
    for layer in layers {
        match kinds.iter_mut().find(|(known, ..)| words(known) == words(layer)) {
            Some((_, count, bytes)) => {
                *count += 1;
                *bytes += layer.bytes;
            }
            None => kinds.push((layer, 1, layer.bytes)),
        }
    }
    let parts = kinds.iter().map(|(layer, count, bytes)| {
        let (kind, keys, values, attention) = words(layer);
        let mib = *bytes as f64 / f64::from(1 << 20);
        format!("{count} {kind} layers {keys}/{values} {attention} ({mib:.1} MiB)")
    });
    format!("cache: {}", parts.collect::<Vec<_>>().join(", "))
}
