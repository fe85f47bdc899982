//! A Gemma 4 model on a device: steps over rows of several sequences.

mod design;
mod slots;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tilekiln_dsl::target::{self as dsl, FragmentLayout};
use tilekiln_kernels::sample::NOTHING_LEFT;
use tilekiln_runtime::device::Device;

use super::ModelError;
use super::assistant::Assistant;
use super::choice::{Choice, ChoiceInputs, Choosing};
use super::config::{LayerKind, TargetConfig};
use super::planner::{
    Attention, CacheBuffers, Chip, Forms, LayerContext, Method, Next, Norm, Phase, Planner, RowInputs, RowTiles, Rows,
    Run, Scratch, Sharing, Tuning, Widths,
};
use super::weights::{Contents, LayerExtent, LayerWeights, Loader, Weight};
use crate::gguf;
use crate::kv::{Geometry, KvTypes};
use crate::plan::{
    BufferId, BufferKind, BufferTable, Cost, Count, KernelSpec, Machine, Operand, Plan, PlanError, Progress, Size,
};
use crate::sample::{NoChoice, Sampler};

pub use design::{Design, Divisions, LayerPolicy};

/// How numbers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 activations against weights decoded to f32.
    Exact,
    /// int8 activations (one scale per 32) against quantised weights.
    Fast,
}

/// How to load a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Exact or fast.
    pub precision: Precision,
    /// Formats of cached keys and values.
    pub kv: KvTypes,
    /// Sequences, positions of each, rows of a step.
    pub geometry: Geometry,
    /// Rows of a step whose logits are computed together.
    pub outputs: usize,
}

impl LoadOptions {
    /// The order in which matrices are packed, if they are.
    pub(super) fn layout(&self, target: &dsl::Target) -> Option<FragmentLayout> {
        match self.precision {
            Precision::Exact => None,
            Precision::Fast => Some(target.fragments),
        }
    }
}

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: u32,
    /// Its sequence.
    pub slot: u32,
    /// Its position there. Positions before it are in the cache or in this step.
    pub position: u32,
    /// What is wanted of it.
    pub want: Want,
}

/// What a row is evaluated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// Its keys and values only.
    Nothing,
    /// The most likely next token.
    Token,
    /// The token that the sampler of its slot chooses: see [`Target::set_sampler`].
    Choice,
    /// All logits.
    Logits,
}

/// What was wanted of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The most likely next token, the smallest on ties; the chosen one for [`Want::Choice`].
    pub token: u32,
    /// Why no token could be chosen, for [`Want::Choice`].
    pub failure: Option<NoChoice>,
    /// One per token of the vocabulary, where wanted.
    pub logits: Option<Vec<f32>>,
}

/// Intermediate results of a step, for comparisons with references. Rows lie one after the other.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Scaled embeddings [rows, hidden].
    pub embed: Vec<f32>,
    /// Per-layer inputs [rows, layers, width].
    pub ple: Vec<f32>,
    /// The residual stream behind each layer [layers][rows, hidden].
    pub layers: Vec<Vec<f32>>,
    /// Hidden vectors behind the final norm [rows, hidden].
    pub hidden: Vec<f32>,
}

/// The target's part of a step's buffers that the assistant uses, too.
pub(super) struct Shared<'a> {
    pub chip: Chip<'a>,
    pub tiles: &'a RowTiles,
    pub config: &'a TargetConfig,
    pub embedding: &'a Weight,
    pub caches: &'a [Option<CacheBuffers>],
    pub options: &'a LoadOptions,
    pub carry: BufferId,
    pub vocabulary: usize,
}

/// The plans of a step, one per tile.
struct Plans {
    /// Everything up to the final norm, for steps that decode: by rows of a sequence ([`Attention::decode_plan`]).
    decode: Vec<Vec<Plan>>,
    /// The same for prompts.
    full: Vec<Plan>,
    /// Up to the last layer that owns keys and values: all that most rows of a prompt are evaluated for.
    prompt: Vec<Plan>,
    /// From there to the final norm, for the few rows of a prompt that are wanted. Empty where all layers own some.
    tail: Vec<Plan>,
    /// From hidden vectors to logits and tokens, by [`Choosing::index`].
    head: [Vec<Plan>; Choosing::ALL.len()],
    /// Copies a hidden vector to a slot's carry.
    keep: Vec<Plan>,
}

/// Buffers between plans.
struct Buffers {
    inputs: RowInputs,
    scratch: Scratch,
    ple: Option<BufferId>,
    hidden: BufferId,
    /// Which rows of `hidden` have logits.
    output_rows: BufferId,
    logits: BufferId,
    /// Which row of `hidden` a slot keeps.
    keep_rows: BufferId,
}

/// What the last layers of a prompt work on: the rows that are wanted, by themselves.
struct Tail {
    inputs: RowInputs,
    attention: Attention,
    /// Their places in the step.
    rows: BufferId,
    residual: BufferId,
    ple: Option<BufferId>,
    hidden: BufferId,
}

impl Tail {
    /// For up to so many rows of a prompt.
    fn add(config: &TargetConfig, attention: &Attention, rows: usize, table: &mut BufferTable) -> Self {
        let mut scratch = |name: &str, values: usize| table.add(name, BufferKind::Scratch, 4 * rows * values);
        let residual = scratch("tail.residual", config.shape.hidden);
        let hidden = scratch("tail.hidden", config.shape.hidden);
        let ple = (config.ple > 0).then(|| scratch("tail.ple", config.ple * config.shape.layers.len()));
        Self {
            inputs: RowInputs::add(table, "tail"),
            rows: table.input("tail.rows"),
            attention: attention.for_other_rows(table, "tail", rows),
            residual,
            ple,
            hidden,
        }
    }
}

/// A model on a device, with its assistant where it has one.
pub struct Target {
    config: TargetConfig,
    options: LoadOptions,
    vocabulary: usize,
    /// Tells models apart.
    fingerprint: String,
    pub(super) machine: Machine,
    buffers: Buffers,
    caches: Vec<Option<CacheBuffers>>,
    attention: Attention,
    tail: Tail,
    pub(super) tiles: RowTiles,
    plans: Plans,
    choice: Choice,
    pub(super) assistant: Option<Assistant>,
}

impl Target {
    /// Loads a model and, where given, its assistant, with products divided by rule.
    ///
    /// # Errors
    /// Files that are no such models or do not belong together, and those of the device.
    pub fn load(
        file: &gguf::File,
        assistant: Option<&gguf::File>,
        device: Arc<dyn Device>,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        Self::load_tuned(file, assistant, (device, None), options, progress)
    }

    /// The same with divisions of products that were measured on the device.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn load_tuned(
        file: &gguf::File,
        assistant: Option<&gguf::File>,
        (device, tuning): (Arc<dyn Device>, Option<&Tuning>),
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        let chip = Chip::of(device.properties()).tuned(tuning);
        let design = Design::read(file, assistant, options, chip)?;
        let (drafter, drafter_contents) = design.assistant.unzip();
        let contents = design.contents;
        let mut target = Self {
            vocabulary: design.vocabulary,
            fingerprint: slots::fingerprint(file)?,
            config: design.config,
            options: design.options,
            machine: Machine::new(device, design.table)?,
            buffers: design.buffers,
            caches: design.caches,
            attention: design.attention,
            tail: design.tail,
            tiles: design.tiles,
            plans: design.plans,
            choice: design.choice,
            assistant: drafter,
        };
        target.choice.reset(&target.machine)?;
        target.compile(progress)?;
        contents.copy(file, &mut target.machine, progress)?;
        if let (Some(file), Some(contents)) = (assistant, drafter_contents) {
            Contents::copy(&contents, file, &mut target.machine, progress)?;
        }
        Ok(target)
    }

    fn compile(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), PlanError> {
        let mut plans: Vec<&Plan> = self.plans.all().collect();
        plans.extend(self.assistant.iter().flat_map(Assistant::plans));
        let specs: std::collections::BTreeSet<_> = plans.iter().flat_map(|plan| &plan.kernels).collect();
        progress(Progress::Compiling { kernels: specs.len() });
        let (kernels, cached, time) = self.machine.load(plans)?;
        progress(Progress::Compiled { kernels, cached, time });
        Ok(())
    }

    /// What the file says of it.
    pub fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// How it was loaded.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Tokens that it knows.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Its memory and device.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether it can draft.
    pub fn has_assistant(&self) -> bool {
        self.assistant.is_some()
    }

    /// Positions per slot in the caches of sliding layers.
    pub fn ring(&self) -> (usize, usize) {
        let windows = self.config.shape.layers.iter().filter_map(|layer| layer.window);
        let window = windows.max().unwrap_or(self.options.geometry.context);
        (window, self.options.geometry.capacity(Some(window)))
    }

    /// Evaluates a step. Returns what was wanted, in the order of the rows that wanted something. Rows of a sequence follow
    /// each other.
    ///
    /// # Errors
    /// Too many rows, those of the device, and logits that are no numbers.
    pub fn forward(&mut self, rows: &[Row], phase: Phase) -> Result<Vec<Output>, ModelError> {
        let runs = self.write_rows(rows, phase)?;
        let tile = self.tiles.index(rows.len());
        let wanted = wanted(rows);
        let ends_early = wanted.is_empty() || (!self.plans.tail.is_empty() && wanted.len() <= self.options.outputs);
        let plan = match phase {
            Phase::Decode => {
                let longest = runs.iter().map(|run| run.rows).max().unwrap_or(1);
                &self.plans.decode[self.attention.decode_plan(longest)][tile]
            }
            Phase::Prompt if ends_early => &self.plans.prompt[tile],
            Phase::Prompt => &self.plans.full[tile],
        };
        self.attention.write_groups(&self.machine, plan, &runs)?;
        let size = size(rows, &runs);
        let mut parts = vec![(plan, &size)];
        let of_tail;
        if phase == Phase::Prompt && ends_early && !wanted.is_empty() {
            let plan = &self.plans.tail[self.tiles.index(wanted.len())];
            of_tail = self.write_tail(plan, &wanted)?;
            parts.push((plan, &of_tail));
        }
        let of_head;
        if let Some(group) = wanted.chunks(self.options.outputs).next() {
            let head = self
                .choice
                .write_outputs(&self.machine, self.buffers.output_rows, group)?;
            of_head = Size::of_rows(group.len());
            parts.push((&self.plans.head[head.index()][self.tiles.index(group.len())], &of_head));
        }
        self.machine.run(&parts)?;
        self.outputs(&wanted, true)
    }

    /// Evaluates a step of prompts and keeps what is computed on the way.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn trace(&mut self, rows: &[Row]) -> Result<(Vec<Output>, Trace), ModelError> {
        let runs = self.write_rows(rows, Phase::Prompt)?;
        let mut trace = Trace::default();
        let Buffers {
            scratch, ple, hidden, ..
        } = self.buffers;
        let width = rows.len() * self.config.shape.hidden;
        let ple_width = rows.len() * self.config.shape.layers.len() * self.config.ple;
        let plan = &self.plans.full[self.tiles.index(rows.len())];
        self.attention.write_groups(&self.machine, plan, &runs)?;
        self.machine.run_observed(plan, &size(rows, &runs), |machine, stage| {
            match (stage.label.as_str(), ple) {
                ("embed", _) => trace.embed = machine.read(scratch.residual, 0, width)?,
                ("ple", Some(ple)) => trace.ple = machine.read(ple, 0, ple_width)?,
                (label, _) if label.ends_with(".out") => {
                    trace.layers.push(machine.read(scratch.residual, 0, width)?);
                }
                _ => {}
            }
            Ok(())
        })?;
        trace.hidden = self.machine.read(hidden, 0, width)?;
        Ok((self.outputs(&wanted(rows), false)?, trace))
    }

    /// Tells the last layers of a prompt which rows they are for.
    fn write_tail(&self, plan: &Plan, wanted: &[(u32, &Row)]) -> Result<Size, PlanError> {
        let column = |value: fn(&(u32, &Row)) -> u32| wanted.iter().map(value).collect::<Vec<u32>>();
        let inputs = &self.tail.inputs;
        self.machine.write(self.tail.rows, &column(|(index, _)| *index))?;
        self.machine.write(inputs.slots, &column(|(_, row)| row.slot))?;
        self.machine.write(inputs.positions, &column(|(_, row)| row.position))?;
        self.machine
            .write(inputs.visible, &column(|(_, row)| row.position + 1))?;
        let rows: Vec<Row> = wanted.iter().map(|(_, row)| **row).collect();
        let runs = Run::of(rows.iter().map(|row| (row.slot, row.position)));
        self.tail.attention.write_groups(&self.machine, plan, &runs)?;
        Ok(size(&rows, &runs))
    }

    fn write_rows(&self, rows: &[Row], phase: Phase) -> Result<Vec<Run>, PlanError> {
        let too_many = |rows, limit| Err(PlanError::TooManyRows { rows, limit });
        let Geometry {
            slots, max_rows, run, ..
        } = self.options.geometry;
        if rows.is_empty() || rows.len() > max_rows {
            return too_many(rows.len(), max_rows);
        }
        let runs = Run::of(rows.iter().map(|row| (row.slot, row.position)));
        if runs.len() > slots {
            return too_many(runs.len(), slots);
        }
        let longest = runs.iter().map(|run| run.rows).max().unwrap_or(0);
        if phase == Phase::Decode && longest > run {
            return too_many(longest, run);
        }
        let column = |value: fn(&Row) -> u32| rows.iter().map(value).collect::<Vec<u32>>();
        let inputs = &self.buffers.inputs;
        self.machine.write(inputs.tokens, &column(|row| row.token))?;
        self.machine.write(inputs.slots, &column(|row| row.slot))?;
        self.machine.write(inputs.positions, &column(|row| row.position))?;
        self.machine.write(inputs.visible, &column(|row| row.position + 1))?;
        Ok(runs)
    }

    /// Results of the rows that are wanted; `first_done` says whether the head has been done for the first of them.
    fn outputs(&mut self, wanted: &[(u32, &Row)], first_done: bool) -> Result<Vec<Output>, ModelError> {
        let mut outputs = Vec::with_capacity(wanted.len());
        for (index, group) in wanted.chunks(self.options.outputs).enumerate() {
            if index > 0 || !first_done {
                let choosing = self
                    .choice
                    .write_outputs(&self.machine, self.buffers.output_rows, group)?;
                let head = &self.plans.head[choosing.index()][self.tiles.index(group.len())];
                self.machine.run(&[(head, &Size::of_rows(group.len()))])?;
            }
            let chosen = self.choice.chosen(&self.machine, group.len())?;
            for (place, ((_, row), token)) in group.iter().zip(chosen).enumerate() {
                let failure = (token == NOTHING_LEFT && row.want == Want::Choice).then_some(NoChoice::NothingLeft);
                if token as usize >= self.vocabulary && failure.is_none() {
                    return Err(ModelError::NotFinite { position: row.position });
                }
                let logits = if row.want == Want::Logits {
                    let first = place * self.vocabulary;
                    Some(self.machine.read(self.buffers.logits, first, self.vocabulary)?)
                } else {
                    None
                };
                outputs.push(Output { token, failure, logits });
            }
        }
        Ok(outputs)
    }

    /// Whether [`Want::Choice`] can stand for what a sampler chooses at a position; else the logits have to be asked for.
    pub fn can_choose(&self, sampler: &Sampler, position: usize) -> bool {
        self.choice.fits(sampler, position)
    }

    /// Tells a slot how to choose: as `sampler` does from the row at `position` on. `tokens` are the sequence's up to
    /// there; those at later positions are noted as rows that want a choice are evaluated.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_sampler(
        &mut self,
        slot: usize,
        sampler: &Sampler,
        position: usize,
        tokens: &[u32],
    ) -> Result<(), PlanError> {
        self.choice.set(&self.machine, slot, sampler, position, tokens)
    }

    /// Keeps the hidden vectors of rows of the last step, each for its slot: the next round of drafts starts from them.
    ///
    /// # Errors
    /// Those of the device.
    pub fn keep_hidden(&mut self, rows: &[(u32, usize)]) -> Result<(), PlanError> {
        let mut indices = vec![0u32; self.options.geometry.slots];
        for (slot, row) in rows {
            indices[*slot as usize] = *row as u32;
        }
        self.machine.write(self.buffers.keep_rows, &indices)?;
        for (slot, _) in rows {
            self.machine
                .run(&[(&self.plans.keep[*slot as usize], &Size::of_rows(1))])?;
        }
        Ok(())
    }

    /// Hidden vectors (behind the final norm) of the last step.
    ///
    /// # Errors
    /// Those of the device.
    pub fn hidden(&self, row: usize) -> Result<Vec<f32>, PlanError> {
        let width = self.config.shape.hidden;
        self.machine.read(self.buffers.hidden, row * width, width)
    }

    /// Cached keys and values [KV head, position, head dim] of positions below `count` in the last layer of a kind that
    /// owns some.
    ///
    /// # Errors
    /// Those of the device.
    pub fn cached(&mut self, kind: LayerKind, slot: usize, count: usize) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let owner = self.config.last_owner(kind);
        let cache = owner.and_then(|layer| Some((layer, self.caches[layer]?)));
        let Some((layer, cache)) = cache else {
            return Ok(Default::default());
        };
        let keys = self.read_cache(layer, (cache, "k"), slot, count)?;
        Ok((keys, self.read_cache(layer, (cache, "v"), slot, count)?))
    }

    /// One side of a layer's cache, as [`Self::cached`].
    fn read_cache(
        &mut self,
        layer: usize,
        (cache, side): (CacheBuffers, &str),
        slot: usize,
        count: usize,
    ) -> Result<Vec<f32>, PlanError> {
        let layer = &self.config.shape.layers[layer];
        let (heads, width) = (layer.kv_heads, layer.head_dim);
        let (buffer, format) = match side {
            "k" => (cache.keys, cache.types.keys),
            _ => (cache.values, cache.types.values),
        };
        // queries have as many values a row at least
        let out = self.buffers.scratch.query;
        let mut values = vec![0.0; heads * count * width];
        for first in (0..count).step_by(self.options.geometry.max_rows) {
            let here = self.options.geometry.max_rows.min(count - first);
            let mut plan = Plan::new(format!("cache {side} of {slot} from {first}"));
            let settings = [
                format!("format={format}"),
                format!("head_dim={width}"),
                format!("side={side}"),
            ];
            let numbers = [slot, first, heads, cache.slot_pages as usize];
            let buffers = [buffer, cache.table, out].map(Operand::Buffer);
            let operands = buffers
                .into_iter()
                .chain(numbers.map(|number| Operand::Number(number as u32)));
            plan.push(
                "cache_read",
                KernelSpec::new("cache_read", &settings),
                [Count::ROWS, Count::Fixed(heads as u32), Count::Fixed(1)],
                operands.collect(),
                Cost::default(),
            );
            self.machine.load([&plan])?;
            self.machine.run_observed(&plan, &Size::of_rows(here), |_, _| Ok(()))?;
            let read: Vec<f32> = self.machine.read(out, 0, here * heads * width)?;
            for (index, row) in read.chunks(width).enumerate() {
                let (position, head) = (first + index / heads, index % heads);
                let place = (head * count + position) * width;
                values[place..place + width].copy_from_slice(row);
            }
        }
        Ok(values)
    }
}

/// The rows of which something is wanted, with their places in the step.
fn wanted(rows: &[Row]) -> Vec<(u32, &Row)> {
    (0..).zip(rows).filter(|(_, row)| row.want > Want::Nothing).collect()
}

/// What launches of a step depend on.
fn size(rows: &[Row], runs: &[Run]) -> Size {
    Size {
        rows: rows.len(),
        runs: runs.iter().map(|run| run.rows).collect(),
        end: rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0),
    }
}

/// The cache buffers of layers that own keys and values, and the tables of their pages.
fn caches(
    config: &TargetConfig,
    options: &LoadOptions,
    loader: &mut Loader<'_>,
    table: &mut BufferTable,
) -> Result<Vec<Option<CacheBuffers>>, ModelError> {
    let geometry = &options.geometry;
    let mut caches = Vec::new();
    let mut tables: Vec<(usize, BufferId)> = Vec::new();
    for (index, layer) in config.shape.layers[..config.own_layers].iter().enumerate() {
        let slot_pages = geometry.slot_pages(layer.window);
        // kernels number the pages of all KV heads
        let pages = geometry.slots.checked_mul(slot_pages).filter(|pages| {
            let of_all_heads = pages.checked_mul(layer.kv_heads);
            of_all_heads.is_some_and(|pages| u32::try_from(pages).is_ok())
        });
        let types = options.kv.of(layer.kind);
        let size = |bytes: usize| (layer.kv_heads * bytes).checked_mul(pages?);
        let [keys, values] = types.page_bytes(layer.head_dim).map(size);
        let (Some(pages), Some(keys), Some(values)) = (pages, keys, values) else {
            return Err(ModelError::CacheTooLarge {
                layer: index,
                slots: geometry.slots,
                context: geometry.capacity(layer.window),
            });
        };
        // each slot has pages of its own; layers with as many share a table
        let known = tables.iter().find(|(known, _)| *known == slot_pages).map(|(_, id)| *id);
        let page_table = known.unwrap_or_else(|| {
            let id = loader.counting(table, &format!("page_table_{slot_pages}"), pages as u32);
            tables.push((slot_pages, id));
            id
        });
        let mut add = |what: &str, bytes| table.add(&format!("blk.{index}.cache_{what}"), BufferKind::Cache, bytes);
        caches.push(Some(CacheBuffers {
            keys: add("k", keys),
            values: add("v", values),
            table: page_table,
            slot_pages: slot_pages as u32,
            types,
        }));
    }
    caches.resize(config.shape.layers.len(), None);
    Ok(caches)
}

/// Per-layer embeddings: what is computed of them before the first layer.
struct Embeddings {
    tokens: Weight,
    project: Weight,
    norm: BufferId,
    /// Scratch: the token's part, the context's part, both together.
    token_part: BufferId,
    context_part: BufferId,
    combined: BufferId,
}

/// All tensors of a target.
struct Network {
    embedding: Weight,
    head: Weight,
    output_norm: BufferId,
    embeddings: Option<Embeddings>,
    layers: Vec<LayerWeights>,
}

impl Network {
    fn take(
        config: &TargetConfig,
        attention: &Attention,
        loader: &mut Loader<'_>,
        table: &mut BufferTable,
    ) -> Result<Self, ModelError> {
        let shape = &config.shape;
        let vocabulary = loader.rows("token_embd.weight")?;
        let [embedding, head] = if loader.has("output.weight") {
            [
                loader.table(table, "token_embd.weight", vocabulary, shape.hidden)?,
                loader.matrix(table, "output.weight", vocabulary, shape.hidden)?,
            ]
        } else {
            let both = loader.matrix(table, "token_embd.weight", vocabulary, shape.hidden)?;
            [both.clone(), both]
        };
        let embeddings = if config.ple > 0 {
            let width = shape.layers.len() * config.ple;
            let mut scratch = |name: &str| table.scratch(name, width);
            let [token_part, context_part, combined] = ["ple.token", "ple.context", "ple"].map(&mut scratch);
            Some(Embeddings {
                tokens: loader.table(table, "per_layer_token_embd.weight", vocabulary, width)?,
                project: loader.matrix(table, "per_layer_model_proj.weight", width, shape.hidden)?,
                norm: loader.vector(table, "per_layer_proj_norm.weight", config.ple)?,
                token_part,
                context_part,
                combined,
            })
        } else {
            None
        };
        let frequencies = loader.frequencies(table, shape)?;
        let mut layers = Vec::new();
        for (index, layer) in shape.layers.iter().enumerate() {
            let extent = LayerExtent {
                owns_keys: index < config.own_layers,
                ple: config.ple,
                // row by row, attention takes rows of queries only
                joins: attention.method(layer, shape.heads) != &Method::Exact,
            };
            layers.push(loader.layer(table, shape, index, extent, frequencies.of(layer.kind))?);
        }
        Ok(Self {
            embedding,
            head,
            output_norm: loader.vector(table, "output_norm.weight", shape.hidden)?,
            embeddings,
            layers,
        })
    }

    fn buffers(
        &self,
        config: &TargetConfig,
        options: &LoadOptions,
        widest_halves: usize,
        table: &mut BufferTable,
    ) -> Buffers {
        let shape = &config.shape;
        let widths = Widths::of(shape, config.ple, options.precision, widest_halves);
        let word = |count: usize| count * 4;
        Buffers {
            inputs: RowInputs::add(table, "step"),
            scratch: Scratch::add(table, "step", shape, widths),
            ple: self.embeddings.as_ref().map(|embeddings| embeddings.combined),
            hidden: table.scratch("hidden", shape.hidden),
            output_rows: table.input("output_rows"),
            logits: table.add("logits", BufferKind::Scratch, word(options.outputs * self.head.rows)),
            keep_rows: table.add("keep_rows", BufferKind::Input, word(options.geometry.slots)),
        }
    }

    fn plans(
        &self,
        config: &TargetConfig,
        options: &LoadOptions,
        (chip, tiles): (Chip<'_>, &RowTiles),
        (buffers, attention, last): (&Buffers, &Attention, &Tail),
        caches: &[Option<CacheBuffers>],
        carry: BufferId,
        choice: &Choice,
    ) -> Plans {
        let planner = |what: &str, sharing: Sharing, tile: u32| {
            Planner::new(
                format!("{what}, {tile} rows per read"),
                &config.shape,
                &buffers.scratch,
                &buffers.inputs,
                options.precision,
                (attention, sharing),
                (chip, tile),
            )
        };
        let body = |what: &str, sharing: Sharing, layers: usize, end: Option<Next<'_>>| {
            tiles.plans(|tile| {
                let mut planner = planner(what, sharing, tile);
                self.begin(config, buffers, &mut planner);
                let work = (buffers.scratch.residual, buffers.ple);
                self.layers(config, work, caches, (0..layers, end), &mut planner);
                planner.finish()
            })
        };
        let hidden = config.shape.hidden;
        let output_norm = Norm {
            label: "output_norm",
            w: self.output_norm,
            to: buffers.hidden,
            forms: Forms {
                floats: true,
                int8: false,
            },
        };
        let all = config.shape.layers.len();
        // a norm that gives floats adds in another order by itself than behind a branch, and a row's bits must not depend on
        // where a step ends
        let has_one_order = self.layers.get(config.own_layers).is_some_and(|layer| {
            let forms = Forms::of(layer.projections.matrices());
            options.precision == Precision::Exact || (forms.int8 && !forms.floats)
        });
        let has_tail = config.own_layers < all && has_one_order;
        let decode = attention.decode_rows().enumerate().map(|(plan, rows)| {
            let what = format!("decode, {rows} rows of a sequence");
            body(&what, Sharing::Decode(plan), all, Some(Next::Norm(output_norm)))
        });
        Plans {
            decode: decode.collect(),
            full: body(
                "prompt with outputs",
                Sharing::Prompt,
                all,
                Some(Next::Norm(output_norm)),
            ),
            // what comes behind is the next layer's norm, so that the residual stream is the same bits as in a whole step
            prompt: body(
                "prompt",
                Sharing::Prompt,
                config.own_layers,
                if has_tail { None } else { Some(Next::End) },
            ),
            tail: match has_tail {
                true => {
                    tiles.plans(|tile| self.tail(config, (options, chip, tile), (buffers, last), caches, output_norm))
                }
                false => Vec::new(),
            },
            head: Choosing::ALL.map(|choosing| {
                tiles.plans(|tile| {
                    let mut planner = planner(&format!("head, {}", choosing.name()), Sharing::Prompt, tile);
                    let normed = buffers.scratch.normed;
                    planner.copy_rows(
                        "outputs",
                        buffers.hidden,
                        buffers.output_rows,
                        normed,
                        [hidden, hidden, 0],
                    );
                    let head = [("output", &self.head, buffers.logits)];
                    planner.products("head", Rows::floats(normed), &head);
                    if let Some(cap) = config.softcap {
                        planner.softcap(buffers.logits, self.head.rows, cap);
                    }
                    let inputs = ChoiceInputs {
                        logits: buffers.logits,
                        outputs: buffers.output_rows,
                        tokens: buffers.inputs.tokens,
                        positions: buffers.inputs.positions,
                    };
                    let mut plan = planner.finish();
                    choice.push(&mut plan, choosing, &inputs);
                    plan
                })
            }),
            keep: (0..options.geometry.slots)
                .map(|slot| keep_plan(slot, hidden, buffers, carry))
                .collect(),
        }
    }

    /// Embeddings of the rows' tokens. Formula: Gemma 4, steps 1 and 2.
    fn begin(&self, config: &TargetConfig, buffers: &Buffers, planner: &mut Planner<'_>) {
        let hidden = config.shape.hidden;
        let (tokens, residual) = (buffers.inputs.tokens, buffers.scratch.residual);
        let root = |size: usize| (size as f64).sqrt() as f32;
        planner.embed("embed", &self.embedding, tokens, residual, hidden, root(hidden));
        let Some(embeddings) = &self.embeddings else { return };
        let Embeddings {
            token_part,
            context_part,
            combined,
            norm,
            ..
        } = *embeddings;
        let width = embeddings.tokens.cols;
        planner.embed(
            "ple.token",
            &embeddings.tokens,
            tokens,
            token_part,
            width,
            root(config.ple),
        );
        let project = [("model_proj", &embeddings.project, context_part)];
        planner.products("ple", Rows::floats(residual), &project);
        planner.combine_embeddings([context_part, token_part, norm, combined], config.ple);
    }

    /// The last layers of a prompt, for the rows that are wanted, and where their hidden vectors go.
    fn tail(
        &self,
        config: &TargetConfig,
        (options, chip, tile): (&LoadOptions, Chip<'_>, u32),
        (buffers, last): (&Buffers, &Tail),
        caches: &[Option<CacheBuffers>],
        output_norm: Norm<'_>,
    ) -> Plan {
        let (hidden, layers) = (config.shape.hidden, config.shape.layers.len());
        let scratch = Scratch {
            residual: last.residual,
            ..buffers.scratch
        };
        let mut planner = Planner::new(
            format!("end of a prompt, {tile} rows per read"),
            &config.shape,
            &scratch,
            &last.inputs,
            options.precision,
            (&last.attention, Sharing::Prompt),
            (chip, tile),
        );
        let source = buffers.scratch.residual;
        planner.copy_rows("wanted", source, last.rows, last.residual, [hidden, hidden, 0]);
        if let (Some(source), Some(ple)) = (buffers.ple, last.ple) {
            let width = config.ple * layers;
            planner.copy_rows("wanted.ple", source, last.rows, ple, [width, width, 0]);
        }
        let norm = Norm {
            to: last.hidden,
            ..output_norm
        };
        let work = (last.residual, last.ple);
        let rest = (config.own_layers..layers, Some(Next::Norm(norm)));
        self.layers(config, work, caches, rest, &mut planner);
        planner.scatter_rows("hidden", [last.hidden, last.rows, buffers.hidden], hidden);
        planner.finish()
    }

    /// Some layers, on a residual stream with its per-layer embeddings, and what comes behind them: none is the norm of the
    /// layer that follows.
    fn layers(
        &self,
        config: &TargetConfig,
        (residual, ple): (BufferId, Option<BufferId>),
        caches: &[Option<CacheBuffers>],
        (layers, end): (Range<usize>, Option<Next<'_>>),
        planner: &mut Planner<'_>,
    ) {
        let labels: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("{}.attn_norm", layer.name))
            .collect();
        let before = |index: usize, planner: &Planner<'_>| planner.norm_before(&self.layers[index], &labels[index]);
        let mut x = Rows::floats(residual);
        for index in layers.clone() {
            let layer = &config.shape.layers[index];
            let Some(cache) = caches[layer.kv_from] else { return };
            if index == layers.start {
                x = planner.norm(before(index, planner));
            }
            let next = match end {
                Some(end) if index + 1 == layers.end => end,
                _ => Next::Norm(before(index + 1, planner)),
            };
            let context = LayerContext {
                cache,
                embeddings: ple.map(|ple| (index, ple)),
            };
            x = planner.layer(layer, &self.layers[index], context, x, next);
        }
    }
}

/// Copies one row of the hidden vectors to the carry of a slot.
fn keep_plan(slot: usize, hidden: usize, buffers: &Buffers, carry: BufferId) -> Plan {
    let mut plan = Plan::new(format!("keep, slot {slot}"));
    let size = hidden as u32;
    plan.push(
        "keep",
        KernelSpec::new("copy_rows", &[]),
        [Count::ROWS, Count::Fixed(1), Count::Fixed(1)],
        vec![
            Operand::Buffer(buffers.hidden),
            Operand::Slice(buffers.keep_rows, slot * 4),
            Operand::Slice(carry, slot * hidden * 4),
            Operand::Number(size),
            Operand::Number(size),
            Operand::Number(0),
        ],
        Cost::activations(2 * 4 * hidden),
    );
    plan
}

/// Opens a model's file and checks that it is a model.
///
/// # Errors
/// Files that cannot be read or are something else.
pub fn open(path: &Path) -> Result<gguf::File, ModelError> {
    let file = gguf::File::open(path)?;
    TargetConfig::read(file.metadata())?;
    Ok(file)
}
