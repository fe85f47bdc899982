//! Options of commands that load a model, under the names that llama.cpp's programs use.
//!
//! Nothing here changes its meaning silently. A value that changes neither results nor memory is accepted with a note
//! where it has no effect; a value that would change them and cannot be honoured is a usage error that says what works.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::cache_args::CacheArgs;
use super::tuning_args::TuningArgs;
use crate::sample;
use crate::schedule::{DEFAULT_CHUNK, DEFAULT_DRAFTS, DEFAULT_QUEUE, DeviceChoice, EngineOptions, LayerLimit};

/// Commands whose arguments [`rewrite`] touches.
const ENGINE_COMMANDS: &[&str] = &["run", "serve", "logits", "bench", "plan", "tune"];

/// Flags of one dash and several letters, and what clap knows them as.
const LONG_FORM: &[(&str, &str)] = &[
    ("-md", "--mtp-head"),
    ("-ngl", "--n-gpu-layers"),
    ("-ngld", "--n-gpu-layers-draft"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ctk-swa", "--cache-type-k-swa"),
    ("-ctv-swa", "--cache-type-v-swa"),
    ("-ctkd", "--cache-type-k-draft"),
    ("-ctvd", "--cache-type-v-draft"),
    ("-fa", "--flash-attn"),
    ("-np", "--parallel"),
    ("-ub", "--ubatch-size"),
    ("-tb", "--threads-batch"),
    ("-cb", "--cont-batching"),
    ("-nocb", "--no-cont-batching"),
    ("-sys", "--system"),
    ("-pg", "--pg"),
    ("-npl", "--parallel"),
    ("-mmp", "--mmap"),
    ("-nkvo", "--no-kv-offload"),
    ("-sm", "--split-mode"),
    ("-mg", "--main-gpu"),
    ("-embd", "--embeddings"),
    ("-dev", "--device"),
];

/// Largest block: the chosen token and 31 drafts.
const LARGEST_BLOCK: usize = 32;

/// Rewrites flags such as `-ngl` to the long form that clap understands. Other commands' arguments stay as they are.
pub fn rewrite(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_engine_command = arguments
        .get(1)
        .and_then(|command| command.to_str())
        .is_some_and(|command| ENGINE_COMMANDS.contains(&command));
    if is_engine_command {
        for argument in arguments.iter_mut().skip(2).take_while(|argument| *argument != "--") {
            if let Some(long) = long_form(argument) {
                *argument = long;
            }
        }
    }
    arguments
}

fn long_form(argument: &OsStr) -> Option<OsString> {
    let text = argument.to_str()?;
    let (flag, value) = match text.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (text, None),
    };
    let (_, long) = LONG_FORM.iter().find(|(short, _)| *short == flag)?;
    Some(match value {
        Some(value) => format!("{long}={value}").into(),
        None => (*long).into(),
    })
}

/// Which model, where, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model and device")]
pub struct EngineArgs {
    /// Model (GGUF); the demo model when left out
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Assistant of the model (GGUF) that drafts tokens [short: -md]
    #[arg(long, visible_aliases = ["model-draft", "spec-draft-model"], value_name = "FILE")]
    mtp_head: Option<PathBuf>,
    /// How to draft: none, or mtp (also nextn, draft-mtp) with the assistant
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    spec_type: Vec<String>,
    /// Tokens of a drafted block, the chosen one included: 2 to 32
    #[arg(long, value_name = "B")]
    draft_block_size: Option<usize>,
    /// Drafts per round at most
    #[arg(long, visible_aliases = ["draft", "draft-n"], value_name = "N")]
    draft_max: Option<usize>,
    /// Rounds with fewer drafts than this are plain steps [default: 0]
    #[arg(long, visible_alias = "draft-n-min", value_name = "N")]
    draft_min: Option<usize>,
    /// Drafts per round [default: 3]
    #[arg(long, value_name = "N")]
    spec_draft_n_max: Option<usize>,
    /// The same as --draft-min
    #[arg(long, value_name = "N")]
    spec_draft_n_min: Option<usize>,
    /// Stop drafting at a token less likely than this [default: 0]
    #[arg(long, visible_alias = "spec-draft-p-min", value_name = "P")]
    draft_p_min: Option<f32>,
    /// Where to run: host, cuda, hip, auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// f32 activations and dequantised weights, for comparisons
    #[arg(long)]
    exact: bool,
    /// Layers on the GPU: all (99) or none (0) [short: -ngl]
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", allow_hyphen_values = true)]
    n_gpu_layers: Option<String>,
    /// Layers of the assistant on the GPU; it goes where the model goes [short: -ngld]
    #[arg(long, visible_aliases = ["gpu-layers-draft", "spec-draft-ngl"], value_name = "N", allow_hyphen_values = true)]
    n_gpu_layers_draft: Option<String>,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Type of the assistant's keys; it reads the model's [short: -ctkd]
    #[arg(long, visible_alias = "spec-draft-type-k", value_name = "TYPE")]
    cache_type_k_draft: Option<String>,
    /// Type of the assistant's values; it reads the model's [short: -ctvd]
    #[arg(long, visible_alias = "spec-draft-type-v", value_name = "TYPE")]
    cache_type_v_draft: Option<String>,
    /// Flash attention: on, off, auto; it is always on [short: -fa]
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "on")]
    flash_attn: Option<String>,
    /// Tokens of context over all slots; 0 is what the model was made for
    #[arg(short = 'c', long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Requests that run at once [short: -np]
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: usize,
    /// Most prompt tokens per evaluation
    #[arg(short = 'b', long, value_name = "N")]
    batch_size: Option<usize>,
    /// Prompt tokens per evaluation [default: 512] [short: -ub]
    #[arg(long, value_name = "N")]
    ubatch_size: Option<usize>,
    /// Threads of the host device
    #[arg(short = 't', long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Threads for prompts; one pool serves both [short: -tb]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads_batch: Option<i64>,
    /// Accepted: chat templates are always rendered
    #[arg(long)]
    jinja: bool,
    /// Chat template (Jinja) to use in place of the file's
    #[arg(long, value_name = "JINJA")]
    chat_template: Option<String>,
    /// File with the chat template to use in place of the model's
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    /// Accepted: weights are copied to the device either way
    #[arg(long)]
    no_mmap: bool,
    /// Accepted: pages are not locked
    #[arg(long)]
    mlock: bool,
    /// Accepted: continuous batching is always on [short: -cb]
    #[arg(long)]
    cont_batching: bool,
    /// Accepted: continuous batching is always on [short: -nocb]
    #[arg(long)]
    no_cont_batching: bool,
    /// Do not compile and run once before the first request
    #[arg(long)]
    no_warmup: bool,
    /// Log more (twice: everything); TILEKILN_LOG says it in detail
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No progress on stderr
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// What the arguments come to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// How to set up the engine.
    pub options: EngineOptions,
    /// What has no effect, one line each.
    pub notes: Vec<String>,
    /// Threads of the host device, where given.
    pub threads: Option<usize>,
}

impl Resolved {
    /// Prints the notes and sizes the pool of threads.
    pub fn announce(&self) {
        for note in &self.notes {
            eprintln!("tilekiln: {note}");
        }
        if let Some(threads) = self.threads {
            // A pool that exists already keeps its size; only a second engine in one process sees that.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
    }
}

impl EngineArgs {
    /// What the arguments mean.
    ///
    /// # Errors
    /// Values that cannot be honoured.
    pub fn resolve(&self) -> Result<Resolved, Failure> {
        let mut notes = Vec::new();
        let (device, layers) = self.placement(&mut notes)?;
        let kv = self.cache.types()?;
        let assistant = self.assistant(&mut notes)?;
        let (drafts, draft_min, draft_p_min) = self.drafting(assistant.is_some(), &mut notes)?;
        self.flash_attention(&mut notes)?;
        self.harmless(&mut notes);
        if self.parallel == 0 {
            return Err(usage("-np 0: at least one request has to run; use -np 1"));
        }
        let context = self.ctx_size.filter(|total| *total != 0);
        if let Some(total) = context
            && total < self.parallel
        {
            return Err(usage(format!(
                "-c {total} over -np {} slots leaves less than one token each; use a larger -c",
                self.parallel
            )));
        }
        let options = EngineOptions {
            model: self.model.clone(),
            assistant,
            drafts,
            draft_min,
            draft_p_min,
            context,
            slots: self.parallel,
            queue: DEFAULT_QUEUE,
            chunk: self.chunk()?,
            exact: self.exact,
            device,
            layers,
            kv,
            tuning: self.tuning.choice(),
            chat_template: self.template()?,
            warmup: !self.no_warmup,
        };
        if options.assistant.is_some() {
            let used = options.kv_types().full;
            draft_cache_note("-ctkd", self.cache_type_k_draft.as_deref(), used.keys, &mut notes);
            draft_cache_note("-ctvd", self.cache_type_v_draft.as_deref(), used.values, &mut notes);
        }
        let threads = self.thread_count(&mut notes)?;
        Ok(Resolved {
            options,
            notes,
            threads,
        })
    }

    fn placement(&self, notes: &mut Vec<String>) -> Result<(DeviceChoice, LayerLimit), Failure> {
        if let Some(draft) = &self.n_gpu_layers_draft {
            // Only its form is checked: the assistant has no placement of its own.
            let limit = layer_limit("-ngld", draft)?;
            if limit == LayerLimit::AtMost(0) && self.mtp_head.is_some() {
                notes.push("-ngld 0: the assistant runs where the model runs; results are the same".into());
            }
        }
        let Some(given) = &self.n_gpu_layers else {
            return Ok((self.device, LayerLimit::All));
        };
        let limit = layer_limit("-ngl", given)?;
        match (limit, self.device) {
            (LayerLimit::AtMost(0), DeviceChoice::Auto) => {
                notes.push("-ngl 0: no layer on a GPU, so the host device runs the model".into());
                Ok((DeviceChoice::Host, LayerLimit::All))
            }
            (LayerLimit::AtMost(0), DeviceChoice::Cuda | DeviceChoice::Hip) => Err(usage(format!(
                "-ngl 0 keeps the model off the GPU and --device {} puts it there; drop one of them",
                self.device
            ))),
            (LayerLimit::AtMost(0), DeviceChoice::Host) => Ok((self.device, LayerLimit::All)),
            (_, DeviceChoice::Host) => {
                notes.push(format!(
                    "-ngl {given}: --device host runs all layers on this CPU, so it has no effect"
                ));
                Ok((self.device, LayerLimit::All))
            }
            _ => Ok((self.device, limit)),
        }
    }

    fn assistant(&self, notes: &mut Vec<String>) -> Result<Option<PathBuf>, Failure> {
        let mut wants_head = None;
        for kind in self.spec_type.iter().map(|kind| kind.trim()) {
            match kind {
                "none" => {}
                "mtp" | "nextn" | "draft-mtp" => wants_head = Some(kind),
                other => {
                    return Err(usage(format!(
                        "--spec-type {other}: drafting is by an assistant of the model only; use none or mtp"
                    )));
                }
            }
        }
        match (&self.mtp_head, wants_head) {
            (None, Some(kind)) => Err(usage(format!(
                "--spec-type {kind} drafts with an assistant file, and none is given; add --mtp-head FILE"
            ))),
            (Some(head), None) if self.spec_type.is_empty() => {
                notes.push(format!(
                    "--mtp-head {}: used for drafting (--spec-type mtp)",
                    head.display()
                ));
                Ok(Some(head.clone()))
            }
            (Some(head), None) => {
                notes.push(format!(
                    "--spec-type none: no drafting, so {} is not loaded",
                    head.display()
                ));
                Ok(None)
            }
            (head, _) => Ok(head.clone()),
        }
    }

    /// Drafts per round, the least number worth a round, and the least probability.
    fn drafting(&self, has_assistant: bool, notes: &mut Vec<String>) -> Result<(usize, usize, f32), Failure> {
        if let Some(block) = self.draft_block_size
            && !(2..=LARGEST_BLOCK).contains(&block)
        {
            return Err(usage(format!(
                "--draft-block-size {block}: a block has 2 to {LARGEST_BLOCK} tokens, the chosen one and the drafts"
            )));
        }
        for (flag, given) in [
            ("--draft-max", self.draft_max),
            ("--spec-draft-n-max", self.spec_draft_n_max),
        ] {
            // The old flag is an upper bound (presets say 16 and more); the new one is the number itself.
            if flag == "--spec-draft-n-max"
                && let Some(drafts) = given
                && drafts >= LARGEST_BLOCK
            {
                return Err(usage(format!(
                    "{flag} {drafts}: a round drafts at most {} tokens",
                    LARGEST_BLOCK - 1
                )));
            }
            if given == Some(0) && has_assistant {
                notes.push(format!("{flag} 0: the assistant is loaded and never asked"));
            }
        }
        let block = self.draft_block_size.map(|block| block - 1);
        let drafts = [block, self.spec_draft_n_max]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(DEFAULT_DRAFTS)
            .min(self.draft_max.unwrap_or(usize::MAX));
        let draft_min = match (self.draft_min, self.spec_draft_n_min) {
            (Some(old), Some(new)) if old != new => {
                return Err(usage(format!(
                    "--draft-min {old} and --spec-draft-n-min {new} are the same setting; give one"
                )));
            }
            (old, new) => old.or(new).unwrap_or(0),
        };
        if draft_min > drafts && drafts > 0 && has_assistant {
            return Err(usage(format!(
                "--draft-min {draft_min} is more than the {drafts} drafts of a round, so none would ever be used; lower it or raise --draft-block-size (drafts + 1), --draft-max or --spec-draft-n-max"
            )));
        }
        let draft_p_min = self.draft_p_min.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&draft_p_min) {
            return Err(usage(format!(
                "--draft-p-min {draft_p_min}: a probability is from 0 to 1"
            )));
        }
        Ok((drafts, draft_min, draft_p_min))
    }

    fn flash_attention(&self, notes: &mut Vec<String>) -> Result<(), Failure> {
        match self.flash_attn.as_deref() {
            None | Some("on" | "auto" | "1" | "true" | "enabled") => Ok(()),
            Some("off" | "0" | "false" | "disabled") => {
                notes.push(
                    "-fa off: --exact and the cache's formats decide how attention is computed; the result is the same"
                        .into(),
                );
                Ok(())
            }
            Some(other) => Err(usage(format!("-fa {other}: it is one of on, off, auto"))),
        }
    }

    /// Notes on settings that change neither results nor memory.
    fn harmless(&self, notes: &mut Vec<String>) {
        let table = [
            (
                self.no_mmap,
                "--no-mmap: weights are read through a map and copied to the device; nothing stays mapped that a copy would replace",
            ),
            (
                self.mlock,
                "--mlock: memory is not locked, the system may swap it; results are the same",
            ),
            (
                self.no_cont_batching,
                "--no-cont-batching: requests always share batches; each answer is the same",
            ),
        ];
        notes.extend(
            table
                .into_iter()
                .filter(|(given, _)| *given)
                .map(|(_, note)| note.to_string()),
        );
    }

    fn chunk(&self) -> Result<usize, Failure> {
        for (flag, given) in [("-b", self.batch_size), ("-ub", self.ubatch_size)] {
            if given == Some(0) {
                return Err(usage(format!("{flag} 0: at least one token has to be evaluated")));
            }
        }
        let chunk = self.ubatch_size.unwrap_or(DEFAULT_CHUNK);
        Ok(self.batch_size.map_or(chunk, |batch| chunk.min(batch)))
    }

    fn template(&self) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.chat_template_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Failed(format!("--chat-template-file {}: {error}", path.display())))?;
            return Ok(Some(text));
        }
        match &self.chat_template {
            Some(text) if !text.contains('{') => Err(usage(format!(
                "--chat-template {text}: templates have no names here; give Jinja text or --chat-template-file FILE, or leave it out to use the model's own"
            ))),
            text => Ok(text.clone()),
        }
    }

    fn thread_count(&self, notes: &mut Vec<String>) -> Result<Option<usize>, Failure> {
        let count = |flag: &str, given: Option<i64>| match given {
            Some(0) => Err(usage(format!("{flag} 0: at least one thread is needed"))),
            // As in llama.cpp, a negative number leaves it to the program.
            given => Ok(given.and_then(|threads| usize::try_from(threads).ok())),
        };
        let threads = count("-t", self.threads)?;
        let batch = count("-tb", self.threads_batch)?;
        if let Some(batch) = batch
            && Some(batch) != threads
        {
            let used = threads.unwrap_or(batch);
            notes.push(format!(
                "-tb {batch}: one pool of {used} threads serves prompts and answers"
            ));
        }
        Ok(threads.or(batch))
    }
}

/// How tokens are chosen, where it differs from what the model recommends.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling (defaults: what the model recommends)")]
pub struct SamplingArgs {
    /// Temperature; 0 takes the most likely token
    #[arg(long, visible_alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// Keep the most likely tokens that have probability P together; 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalty on repeated tokens, a factor; 1 does nothing
    #[arg(
        long,
        visible_alias = "repetition-penalty",
        value_name = "X",
        allow_negative_numbers = true
    )]
    repeat_penalty: Option<f32>,
    /// Tokens that penalties look back on; 0 none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i64>,
    /// Penalty on tokens that occurred, once
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Penalty on tokens that occurred, each time
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Seed of the random choices; -1 draws one
    #[arg(short = 's', long, value_name = "SEED", allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Tokens to generate at most; -1 until the model ends or the context is full
    #[arg(
        short = 'n',
        long,
        visible_alias = "n-predict",
        value_name = "N",
        allow_negative_numbers = true
    )]
    predict: Option<i64>,
}

impl SamplingArgs {
    /// The model's settings with what was given in their place.
    ///
    /// # Errors
    /// Values out of range.
    pub fn over(&self, recommended: &sample::Settings) -> Result<sample::Settings, Failure> {
        let overrides = sample_overrides(self)?;
        Ok(overrides.over(recommended))
    }

    /// Whether the values are in range, before a model is loaded for them.
    ///
    /// # Errors
    /// Values out of range.
    pub fn check(&self) -> Result<(), Failure> {
        sample_overrides(self)?;
        self.limit()?;
        Ok(())
    }

    /// Tokens to generate at most, where there is a limit.
    ///
    /// # Errors
    /// Values out of range.
    pub fn limit(&self) -> Result<Option<usize>, Failure> {
        match self.predict {
            None | Some(-2 | -1) => Ok(None),
            Some(n) => usize::try_from(n).map(Some).map_err(|_| {
                usage(format!(
                    "-n {n}: a number of tokens, or -1 for as many as the model gives"
                ))
            }),
        }
    }
}

fn sample_overrides(given: &SamplingArgs) -> Result<crate::server::request::Sampling, Failure> {
    use crate::server::request::{Sampling, look_back, top_k};

    let in_range = |flag: &str, value: Option<f32>, low: f32, high: f32| match value {
        Some(value) if !(low..=high).contains(&value) => Err(usage(if high == f32::MAX {
            format!("{flag} {value}: a number from {low} up")
        } else {
            format!("{flag} {value}: a number from {low} to {high}")
        })),
        value => Ok(value),
    };
    let repeat_penalty = in_range("--repeat-penalty", given.repeat_penalty, 0.0, f32::MAX)?;
    if repeat_penalty == Some(0.0) {
        return Err(usage("--repeat-penalty 0: logits are divided by it; 1 does nothing"));
    }
    Ok(Sampling {
        temperature: in_range("--temp", given.temp, 0.0, f32::MAX)?,
        top_k: given.top_k.map(top_k),
        top_p: in_range("--top-p", given.top_p, 0.0, 1.0)?,
        min_p: in_range("--min-p", given.min_p, 0.0, 1.0)?,
        repetition_penalty: repeat_penalty,
        presence_penalty: in_range("--presence-penalty", given.presence_penalty, -f32::MAX, f32::MAX)?,
        frequency_penalty: in_range("--frequency-penalty", given.frequency_penalty, -f32::MAX, f32::MAX)?,
        penalty_window: given.repeat_last_n.map(look_back),
        logit_bias: Vec::new(),
        seed: given.seed.filter(|seed| *seed != -1).map(i64::cast_unsigned),
    })
}

fn usage(text: impl Into<String>) -> Failure {
    Failure::Usage(text.into())
}

/// How many layers may go to a GPU.
pub(super) fn layer_limit(flag: &str, given: &str) -> Result<LayerLimit, Failure> {
    if given.eq_ignore_ascii_case("all") || given.eq_ignore_ascii_case("auto") {
        return Ok(LayerLimit::All);
    }
    match given.parse::<i64>() {
        Ok(layers) => Ok(usize::try_from(layers).map_or(LayerLimit::All, LayerLimit::AtMost)),
        Err(_) => Err(usage(format!("{flag} {given}: a number of layers, or all"))),
    }
}

fn draft_cache_note(flag: &str, given: Option<&str>, used: crate::kv::KvType, notes: &mut Vec<String>) {
    if let Some(given) = given
        && given.parse() != Ok(used)
    {
        notes.push(format!(
            "{flag} {given}: the assistant has no cache of its own, it reads the model's ({used})"
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::kv::{CacheTypes, KvType, KvTypes};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        engine: EngineArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        let arguments = ["tilekiln", "serve"].into_iter().chain(line.split_whitespace());
        let mut arguments = rewrite(arguments.map(OsString::from));
        arguments.remove(1);
        Line::try_parse_from(arguments)
    }

    fn resolved(line: &str) -> Result<Resolved, Failure> {
        parse(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .engine
            .resolve()
    }

    #[test]
    fn the_command_line_of_the_notes() {
        let resolved = resolved(
            "-m T.gguf --mtp-head A.gguf --spec-type mtp --draft-block-size 3 --draft-max 8 --draft-min 0 -ngl 99 \
             -ngld 99 -ctk f16 -ctv f16 -fa on -c 16384",
        )
        .expect("as is");
        let expected = EngineOptions {
            model: Some("T.gguf".into()),
            assistant: Some("A.gguf".into()),
            drafts: 2,
            context: Some(16_384),
            layers: LayerLimit::AtMost(99),
            kv: Some(KvTypes::uniform(KvType::F16)),
            ..EngineOptions::default()
        };
        assert_eq!(resolved.options, expected);
        assert_eq!(resolved.notes, Vec::<String>::new(), "all of it is honoured");
    }

    #[test]
    fn only_engine_commands_are_rewritten() {
        let table = [
            (
                "tilekiln serve -ngl 99 -fa -c 3",
                "tilekiln serve --n-gpu-layers 99 --flash-attn -c 3",
            ),
            (
                "tilekiln run -np=4 -ctk=f32 -n 3 -ctvd",
                "tilekiln run --parallel=4 --cache-type-k=f32 -n 3 --cache-type-v-draft",
            ),
            (
                "tilekiln serve -- -ngl --n-gpu-layers",
                "tilekiln serve -- -ngl --n-gpu-layers",
            ),
            ("tilekiln emit -ngl", "tilekiln emit -ngl"),
            ("tilekiln", "tilekiln"),
        ];
        for (line, expected) in table {
            let rewritten = rewrite(line.split(' ').map(OsString::from));
            assert_eq!(rewritten, expected.split(' ').map(OsString::from).collect::<Vec<_>>());
        }
        for (short, long) in LONG_FORM {
            assert_eq!(long_form(OsStr::new(short)), Some(OsString::from(long)));
        }
    }

    /// Arguments, drafts per round, least number of drafts.
    #[test]
    fn drafts_of_both_generations() {
        let table = [
            ("", 3, 0),
            ("--draft-block-size 2", 1, 0),
            ("--draft-block-size 32", 31, 0),
            ("--draft-block-size 5 --draft-max 2", 2, 0),
            ("--draft-block-size 3 --draft 16", 2, 0),
            ("--draft-n 2", 2, 0),
            ("--draft-max 16", 3, 0),
            ("--draft-max 0", 0, 0),
            ("--spec-draft-n-max 8", 8, 0),
            ("--spec-draft-n-max 8 --spec-draft-n-min 2", 8, 2),
            ("--spec-draft-n-max 8 --draft-block-size 4", 3, 0),
            ("--draft-n-min 3", 3, 3),
        ];
        for (line, drafts, least) in table {
            let options = resolved(&format!("-md A --spec-type nextn,none {line}"))
                .unwrap_or_else(|error| panic!("{line}: {error}"))
                .options;
            assert_eq!((options.drafts, options.draft_min), (drafts, least), "{line}");
        }
    }

    /// Arguments and what the error names.
    #[test]
    fn what_cannot_be_honoured_is_an_error() {
        let table: &[(&str, &[&str])] = &[
            (
                "-ctk turbo5",
                &["-ctk", "`turbo5`", "f16, bf16, q8_0, q4_0, turbo2, turbo3, turbo4"],
            ),
            ("-ctv f32", &["keys as f16 and values as f32", "f32 for both, or f16"]),
            ("--spec-type mtp", &["--spec-type mtp", "--mtp-head FILE"]),
            ("--spec-type eagle3 -md A", &["eagle3", "none or mtp"]),
            ("-md A --draft-block-size 1", &["--draft-block-size 1", "2 to 32"]),
            ("-md A --draft-block-size 33", &["--draft-block-size 33", "2 to 32"]),
            ("-md A --spec-draft-n-max 32", &["--spec-draft-n-max 32", "31"]),
            ("-md A --draft-min 4", &["--draft-min 4", "3 drafts"]),
            ("-md A --draft-min 1 --spec-draft-n-min 2", &["give one"]),
            ("-md A --draft-p-min 1.5", &["--draft-p-min 1.5", "0 to 1"]),
            ("-md A --draft-p-min NaN", &["--draft-p-min NaN", "0 to 1"]),
            ("-ngl many", &["-ngl many", "a number of layers"]),
            ("-ngld x", &["-ngld x"]),
            ("-ngl 0 --device cuda", &["-ngl 0", "--device cuda"]),
            ("-fa maybe", &["-fa maybe", "on, off, auto"]),
            ("-np 0", &["-np 0"]),
            ("-np 8 -c 4", &["-c 4", "-np 8"]),
            ("-b 0", &["-b 0"]),
            ("-ub 0", &["-ub 0"]),
            ("-t 0", &["-t 0"]),
            ("--chat-template gemma", &["--chat-template gemma", "Jinja"]),
        ];
        for (line, named) in table {
            let Err(Failure::Usage(text)) = resolved(line) else {
                panic!("{line}: no usage error")
            };
            for part in *named {
                assert!(text.contains(part), "{line}: {text}");
            }
        }
        let Err(Failure::Failed(text)) = resolved("--chat-template-file no/such.jinja") else {
            panic!("no error")
        };
        assert!(text.contains("no/such.jinja"), "{text}");
        for line in [
            "--device metal",
            "-c many",
            "-ngl",
            "--temp hot",
            "--chat-template {{x}} --chat-template-file y",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    /// Arguments and the start of their note; nothing else is noted.
    #[test]
    fn what_has_no_effect_is_noted() {
        let table = [
            ("-fa off", "-fa off: "),
            ("--mlock", "--mlock: "),
            ("--no-mmap", "--no-mmap: "),
            ("-nocb", "--no-cont-batching: "),
            ("-ngl 0", "-ngl 0: no layer"),
            ("-ngl 99 --device host", "-ngl 99: --device host"),
            ("-md A", "--mtp-head A: used"),
            ("-md A --spec-type none", "--spec-type none: no drafting"),
            ("-md A --spec-type mtp -ngld 0", "-ngld 0: "),
            ("-md A --spec-type mtp -ctkd q8_0", "-ctkd q8_0: "),
            ("-md A --spec-type mtp -ctvd f32", "-ctvd f32: "),
            ("-md A --spec-type mtp --draft-max 0", "--draft-max 0: "),
            ("-t 4 -tb 8", "-tb 8: one pool of 4"),
        ];
        for (line, start) in table {
            let notes = resolved(line).unwrap_or_else(|error| panic!("{line}: {error}")).notes;
            assert!(
                notes.len() == 1 && notes[0].starts_with(start) && !notes[0].contains('\n'),
                "{line}: {notes:?}"
            );
        }
        for line in [
            "-cb",
            "--jinja",
            "--no-warmup",
            "-fa auto",
            "-fa",
            "-ub 64",
            "-b 32",
            "-c 0",
            "-t 2",
            "-t 2 -tb 2",
            "--exact",
            "-np 4",
            "-v -v",
            "-ngl all",
            "-ngl -1",
            "-ctkd q8_0",
            "--spec-type none",
        ] {
            let notes = resolved(line).unwrap_or_else(|error| panic!("{line}: {error}")).notes;
            assert_eq!(notes, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn sizes() {
        let resolved =
            resolved("-b 128 -ub 256 -c 0 -np 3 --device HOST -ctk bf16 -ctv q8_0 -t -1 --exact --no-warmup")
                .expect("all of it exists");
        let options = resolved.options;
        assert_eq!((options.chunk, options.context, options.slots), (128, None, 3));
        assert_eq!(
            (options.kv.map(|kv| kv.full), options.device),
            (
                Some(CacheTypes {
                    keys: KvType::BF16,
                    values: KvType::Q8_0
                }),
                DeviceChoice::Host
            )
        );
        assert!(options.exact && !options.warmup);
        assert_eq!(resolved.threads, None);
    }

    #[test]
    fn sampling_overrides_what_is_recommended() {
        let recommended = sample::Settings {
            temperature: 1.0,
            top_k: 64,
            top_p: 0.95,
            ..sample::Settings::default()
        };
        let over = |line: &str| parse(line).expect("parses").sampling.over(&recommended);
        assert_eq!(over("").expect("nothing given"), recommended);
        let settings = over("--temp 0 --top-k -1 --min-p 0.1 --seed 7 --repeat-penalty 1.1 --presence-penalty -1.5")
            .expect("in range");
        let expected = sample::Settings {
            temperature: 0.0,
            top_k: 0,
            min_p: 0.1,
            seed: Some(7),
            repetition_penalty: 1.1,
            presence_penalty: -1.5,
            ..recommended.clone()
        };
        assert_eq!(settings, expected);
        assert_eq!(over("-s -1").expect("random").seed, None);
        for line in [
            "--temp -1",
            "--temp NaN",
            "--temp inf",
            "--top-p 1.5",
            "--min-p -0.1",
            "--repeat-penalty 0",
            "-n -3",
        ] {
            let line = parse(line).expect("a number");
            assert!(matches!(line.sampling.check(), Err(Failure::Usage(_))));
        }
        for (line, limit) in [
            ("", None),
            ("-n 5", Some(5)),
            ("-n -1", None),
            ("--n-predict 0", Some(0)),
        ] {
            assert_eq!(
                parse(line).expect("a number").sampling.limit().expect("in range"),
                limit,
                "{line}"
            );
        }
    }
}
