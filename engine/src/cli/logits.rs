//! `tilekiln logits`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use super::engine_args::EngineArgs;
use super::progress::{Reporter, init_logs};
use super::{Failure, print, print_json};
use crate::gguf;
use crate::model::config::LayerKind;
use crate::model::target::Trace;
use crate::model::{Phase, Row, Target, Want};
use crate::schedule::{EngineOptions, load_target, open_device};

/// Write the logits of every position of a prompt
///
/// The file is safetensors: `logits` [tokens, vocabulary], `input_ids`; with --greedy `greedy_tokens` [steps] and
/// `greedy_logits` [steps, vocabulary] (row s: logits after feeding greedy token s); with --intermediate `embed`, `ple`,
/// `layer_out` [layers, tokens, hidden], `final_norm`, and `kv_k.*`, `kv_v.*` [heads, tokens, head dim] of the last
/// sliding and full layers that own keys and values.
#[derive(Args)]
pub struct Logits {
    /// Token ids of the prompt
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// File to write (safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Continue greedily by so many tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    greedy: usize,
    /// Also write what is computed on the way, for the first step of the prompt (at most one chunk)
    #[arg(long)]
    intermediate: bool,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    device: String,
    exact: bool,
    tokens: usize,
    vocabulary: usize,
    /// The most likely token behind each position.
    argmax: Vec<u32>,
    greedy: Vec<u32>,
    out: PathBuf,
}

/// A tensor to write.
struct Written {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Written {
    fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: bytemuck::cast_slice(values).to_vec(),
        }
    }

    fn tokens(tokens: &[u32]) -> Self {
        let signed: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        Self {
            dtype: Dtype::I32,
            shape: vec![tokens.len()],
            bytes: bytemuck::cast_slice(&signed).to_vec(),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

impl Logits {
    /// Runs the command.
    pub fn run(&self) -> Result<(), Failure> {
        init_logs(self.engine.verbose);
        let resolved = self.engine.resolve()?;
        resolved.announce();
        let path = resolved.options.model.clone();
        let path = path.ok_or_else(|| Failure::Usage("logits needs a model: give one with -m FILE".to_owned()))?;
        let options = EngineOptions {
            slots: 1,
            drafts: 0,
            context: Some(
                resolved
                    .options
                    .context
                    .unwrap_or(0)
                    .max(self.tokens.len() + self.greedy + 2),
            ),
            ..resolved.options
        };
        let file = gguf::File::open(&path).map_err(failed)?;
        let device = open_device(options.device).map_err(failed)?;
        let reporter = Reporter::new(self.engine.quiet);
        let target = load_target(&file, &path, None, &device, &options, &|progress| {
            reporter.stage(progress)
        });
        reporter.clear();
        let mut target = target.map_err(failed)?;
        let vocabulary = target.vocabulary();
        if let Some(token) = self.tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(Failure::Usage(format!(
                "token {token} does not exist; the vocabulary has {vocabulary} tokens"
            )));
        }
        let mut tensors = BTreeMap::new();
        let logits = self.prompt(&mut target, &mut tensors, &reporter)?;
        let argmax = logits.chunks_exact(vocabulary).map(largest).collect::<Vec<u32>>();
        let next = argmax.last().copied().unwrap_or_default();
        let shape = [self.tokens.len(), vocabulary];
        tensors.insert("input_ids".to_owned(), Written::tokens(&self.tokens));
        tensors.insert("logits".to_owned(), Written::f32(&shape, &logits));
        let greedy = self.follow(&mut target, &mut tensors, next)?;
        reporter.clear();
        self.write(&tensors)?;
        let summary = Summary {
            model: path.display().to_string(),
            device: device.properties().name.clone(),
            exact: options.exact,
            tokens: self.tokens.len(),
            vocabulary,
            argmax,
            greedy,
            out: self.out.clone(),
        };
        if self.json {
            return print_json(&summary);
        }
        print(&format!(
            "{}: logits of {} tokens ({} on {})\n",
            summary.out.display(),
            summary.tokens,
            if summary.exact { "exact" } else { "fast" },
            summary.device
        ))
    }

    /// Evaluates the prompt in chunks.
    fn prompt(
        &self,
        target: &mut Target,
        tensors: &mut BTreeMap<String, Written>,
        reporter: &Reporter,
    ) -> Result<Vec<f32>, Failure> {
        let mut logits = Vec::new();
        let chunk = target.options().geometry.max_rows;
        for (index, part) in self.tokens.chunks(chunk).enumerate() {
            let first = index * chunk;
            let rows: Vec<Row> = (first as u32..).zip(part).map(|(at, token)| row(*token, at)).collect();
            let outputs = if self.intermediate && index == 0 {
                let (outputs, trace) = target.trace(&rows).map_err(failed)?;
                add_trace(target, trace, rows.len(), tensors)?;
                outputs
            } else {
                target.forward(&rows, Phase::Prompt).map_err(failed)?
            };
            logits.extend(outputs.into_iter().filter_map(|output| output.logits).flatten());
            reporter.prompt(first + part.len(), self.tokens.len());
        }
        Ok(logits)
    }

    /// Continues greedily.
    fn follow(
        &self,
        target: &mut Target,
        tensors: &mut BTreeMap<String, Written>,
        mut next: u32,
    ) -> Result<Vec<u32>, Failure> {
        let mut tokens = Vec::new();
        let mut logits = Vec::new();
        for step in 0..self.greedy {
            tokens.push(next);
            let outputs = target
                .forward(&[row(next, (self.tokens.len() + step) as u32)], Phase::Decode)
                .map_err(failed)?;
            for output in outputs {
                next = output.token;
                logits.extend(output.logits.unwrap_or_default());
            }
        }
        if self.greedy > 0 {
            let shape = [tokens.len(), target.vocabulary()];
            tensors.insert("greedy_tokens".to_owned(), Written::tokens(&tokens));
            tensors.insert("greedy_logits".to_owned(), Written::f32(&shape, &logits));
        }
        Ok(tokens)
    }

    fn write(&self, tensors: &BTreeMap<String, Written>) -> Result<(), Failure> {
        let mut views = Vec::new();
        for (name, tensor) in tensors {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map_err(failed)?;
            views.push((name.as_str(), view));
        }
        safetensors::serialize_to_file(views, None, &self.out)
            .map_err(|error| Failure::Failed(format!("{} cannot be written: {error}", self.out.display())))
    }
}

fn row(token: u32, position: u32) -> Row {
    Row {
        token,
        slot: 0,
        position,
        want: Want::Logits,
    }
}

/// The position of the largest value, the first one on ties.
fn largest(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best as u32
}

/// Adds what a step computed on its way.
fn add_trace(
    target: &mut Target,
    trace: Trace,
    rows: usize,
    tensors: &mut BTreeMap<String, Written>,
) -> Result<(), Failure> {
    let config = target.config().clone();
    let (layers, hidden) = (config.shape.layers.len(), config.shape.hidden);
    let mut add = |name: &str, shape: &[usize], values: &[f32]| {
        tensors.insert(name.to_owned(), Written::f32(shape, values));
    };
    add("embed", &[rows, hidden], &trace.embed);
    add("layer_out", &[layers, rows, hidden], &trace.layers.concat());
    add("final_norm", &[rows, hidden], &trace.hidden);
    if config.ple > 0 {
        add("ple", &[rows, layers, config.ple], &trace.ple);
    }
    for (kind, name) in [(LayerKind::Sliding, "sliding"), (LayerKind::Full, "full")] {
        let Some(owner) = config.last_owner(kind) else { continue };
        let layer = &config.shape.layers[owner];
        let (keys, values) = target.cached(kind, 0, rows).map_err(failed)?;
        let shape = [layer.kv_heads, rows, layer.head_dim];
        add(&format!("kv_k.{name}"), &shape, &keys);
        add(&format!("kv_v.{name}"), &shape, &values);
    }
    Ok(())
}
