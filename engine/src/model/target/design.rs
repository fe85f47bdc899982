//! A model's buffers and launches before any device is involved, which of them make a step, and the state of a cache to
//! measure steps in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Buffers, LoadOptions, Network, Plans, Row, Shared, Tail, Target, Want, caches};
use crate::gguf;
use crate::model::ModelError;
use crate::model::assistant::Assistant;
use crate::model::choice::{Choice, ChoiceSizes, Choosing};
use crate::model::config::{AssistantConfig, LayerKind, Names, TargetConfig};
use crate::model::planner::{Attention, CacheBuffers, Chip, Method, Phase, RowTiles, Steps};
use crate::model::weights::{Contents, Loader};
use crate::plan::{BufferKind, BufferTable, KernelSpec, Plan, PlanError, Product, Step};

/// What a file comes to: every buffer and every launch, for whichever device. Weights stay in the file.
pub struct Design {
    pub(super) config: TargetConfig,
    pub(super) options: LoadOptions,
    pub(super) vocabulary: usize,
    pub(super) table: BufferTable,
    pub(super) buffers: Buffers,
    pub(super) caches: Vec<Option<CacheBuffers>>,
    pub(super) attention: Attention,
    pub(super) tail: Tail,
    pub(super) tiles: RowTiles,
    pub(super) plans: Plans,
    pub(super) choice: Choice,
    pub(super) contents: Contents,
    pub(super) assistant: Option<(Assistant, Contents)>,
}

impl Design {
    /// Plans a model and, where given, its assistant, for a chip.
    ///
    /// # Errors
    /// Files that are no such models or do not belong together, and formats of caches that no kernel takes together.
    pub fn read(
        file: &gguf::File,
        assistant: Option<&gguf::File>,
        options: LoadOptions,
        chip: Chip<'_>,
    ) -> Result<Self, ModelError> {
        let config = TargetConfig::read(file.metadata())?;
        let mut table = BufferTable::new(options.geometry.max_rows);
        let target = chip.target;
        let tiles = RowTiles::of(options.precision, target);
        let steps = Steps::of_target(&options.geometry);
        let how = (options.kv, options.precision);
        let attention = Attention::add(&mut table, "step", target, &config.shape, how, steps)?;
        let mut loader = Loader::new(file, Names::Current, options.layout(target));
        let network = Network::take(&config, &attention, &mut loader, &mut table)?;
        let buffers = network.buffers(&config, &options, loader.widest_halves(), &mut table);
        let caches = caches(&config, &options, &mut loader, &mut table)?;
        let tail = Tail::add(&config, &attention, options.outputs, &mut table);
        let carry = table.add(
            "carry",
            BufferKind::Cache,
            options.geometry.slots * config.shape.hidden * 4,
        );
        let assistant = match assistant {
            Some(file) => {
                let shared = Shared {
                    config: &config,
                    embedding: &network.embedding,
                    caches: &caches,
                    options: &options,
                    chip,
                    tiles: &tiles,
                    carry,
                    vocabulary: network.embedding.rows,
                };
                let config = AssistantConfig::read(file.metadata())?;
                Some(Assistant::take(file, config, &shared, &mut table)?)
            }
            None => None,
        };
        let sizes = ChoiceSizes {
            slots: options.geometry.slots,
            context: options.geometry.context,
            rows: options.outputs,
            vocabulary: network.head.rows,
        };
        let choice = Choice::add(&mut table, sizes);
        let plans = network.plans(
            &config,
            &options,
            (chip, &tiles),
            (&buffers, &attention, &tail),
            &caches,
            carry,
            &choice,
        );
        Ok(Self {
            vocabulary: network.embedding.rows,
            config,
            options,
            table,
            buffers,
            caches,
            attention,
            tail,
            tiles,
            plans,
            choice,
            contents: loader.finish(),
            assistant,
        })
    }

    /// What the file says of the network.
    pub fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// All plans, and what their operands are.
    pub fn all(&self) -> (impl Iterator<Item = &Plan>, &BufferTable) {
        let drafting = self.assistant.iter().flat_map(|(assistant, _)| assistant.plans());
        (self.plans.all().chain(drafting), &self.table)
    }

    /// All kernels that are compiled for it.
    pub fn kernels(&self) -> BTreeSet<&KernelSpec> {
        let (plans, _) = self.all();
        plans.flat_map(|plan| &plan.kernels).collect()
    }

    /// Bytes of what is filled once, when the model is loaded: its weights above all.
    pub fn constant_bytes(&self) -> usize {
        let constants = self
            .table
            .specs()
            .iter()
            .filter(|spec| spec.kind == BufferKind::Constant);
        constants.map(|spec| spec.bytes).sum()
    }

    /// Bytes of all buffers.
    pub fn memory_bytes(&self) -> usize {
        self.table.specs().iter().map(|spec| spec.bytes).sum()
    }

    /// The launches of a step, as [`Target::step`].
    pub fn step(&self, step: Step, outputs: usize) -> Vec<(&Plan, Step)> {
        self.plans
            .step(step, outputs, self.options.outputs, (&self.attention, &self.tiles))
    }
}

/// Where the divisions of products with packed weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Divisions {
    /// Products that differ in kernel, formats or size.
    pub products: usize,
    /// Of these, divided as they were measured; the others by rule.
    pub tuned: usize,
}

impl Divisions {
    /// Those of plans.
    pub fn of<'p>(plans: impl IntoIterator<Item = &'p Plan>) -> Self {
        let divided = plans
            .into_iter()
            .flat_map(|plan| &plan.stages)
            .filter_map(|stage| stage.divided.as_ref());
        let known: BTreeMap<&Product, bool> = divided.map(|divided| (&divided.product, divided.tuned)).collect();
        Self {
            products: known.len(),
            tuned: known.into_values().filter(|tuned| *tuned).count(),
        }
    }
}

impl fmt::Display for Divisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} products divided as measured", self.tuned, self.products)
    }
}

/// What was chosen for the attention of a layer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LayerPolicy {
    /// The layer.
    pub layer: usize,
    /// `full` or `sliding`.
    pub kind: &'static str,
    /// The layer whose keys and values it reads: itself or an earlier one.
    pub owner: usize,
    /// Format of keys.
    pub keys: &'static str,
    /// Format of values.
    pub values: &'static str,
    /// `flash` on matrix units, or `exact` in f32.
    pub attention: &'static str,
    /// Positions that the cache holds of a sequence.
    pub positions: usize,
    /// Bytes of the cache over all slots; 0 where another layer owns it.
    pub bytes: usize,
}

impl Plans {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Plan> {
        let Self {
            decode,
            full,
            prompt,
            tail,
            head,
            keep,
        } = self;
        [full, prompt, tail, keep]
            .into_iter()
            .chain(head)
            .chain(decode)
            .flatten()
    }

    /// What [`Target::forward`] runs for a step of which `outputs` rows want a token, `at_once` of them together. A step
    /// whose rows fit is one that decodes.
    fn step(
        &self,
        step: Step,
        outputs: usize,
        at_once: usize,
        (attention, tiles): (&Attention, &RowTiles),
    ) -> Vec<(&Plan, Step)> {
        let body = match outputs {
            0 => &self.prompt,
            _ if step.rows <= attention.longest_run() => &self.decode[attention.decode_plan(step.rows)],
            _ if outputs <= at_once && !self.tail.is_empty() => &self.prompt,
            _ => &self.full,
        };
        let mut parts = vec![(&body[tiles.index(step.total_rows())], step)];
        if outputs > 0 && std::ptr::eq(body, &self.prompt) {
            // the last row of each sequence, or several of one
            let sequences = step.sequences.min(outputs);
            let rows = outputs / sequences;
            let depth = step.depth + step.rows - rows;
            let part = Step { sequences, rows, depth };
            parts.push((&self.tail[tiles.index(part.total_rows())], part));
        }
        for first in (0..outputs).step_by(at_once.max(1)) {
            let rows = at_once.min(outputs - first);
            let part = Step {
                sequences: 1,
                rows,
                depth: 0,
            };
            parts.push((&self.head[Choosing::default().index()][tiles.index(rows)], part));
        }
        parts
    }
}

impl Target {
    /// The launches of a step of which `outputs` rows want a token: plans in order, each with the rows that it does.
    pub fn step(&self, step: Step, outputs: usize) -> Vec<(&Plan, Step)> {
        self.plans
            .step(step, outputs, self.options.outputs, (&self.attention, &self.tiles))
    }

    /// How many products with packed weights it has, and how many of them are divided as measured.
    pub fn divisions(&self) -> Divisions {
        let drafting = self.assistant.iter().flat_map(|assistant| assistant.plans());
        Divisions::of(self.plans.all().chain(drafting))
    }

    /// What was chosen for each layer.
    pub fn policy(&self) -> Vec<LayerPolicy> {
        let layers = self.config.shape.layers.iter().enumerate();
        let layers = layers.map(|(index, layer)| {
            let types = self.options.kv.of(layer.kind);
            let page: usize = types.page_bytes(layer.head_dim).iter().sum();
            let pages = self.options.geometry.slots * self.options.geometry.slot_pages(layer.window);
            LayerPolicy {
                layer: index,
                kind: match layer.kind {
                    LayerKind::Full => "full",
                    LayerKind::Sliding => "sliding",
                },
                owner: layer.kv_from,
                keys: types.keys.name(),
                values: types.values.name(),
                attention: match self.attention.method(layer, self.config.shape.heads) {
                    Method::Exact => "exact",
                    Method::Flash { .. } => "flash",
                },
                positions: self.options.geometry.capacity(layer.window),
                bytes: if layer.kv_from == index {
                    pages * layer.kv_heads * page
                } else {
                    0
                },
            }
        });
        layers.collect()
    }

    /// Makes the cache of a slot as full as after `depth` tokens, of which it holds `known` already: a state to measure
    /// steps at that depth in.
    ///
    /// The keys and values are those of made-up tokens, evaluated as a prompt would be: true numbers of no meaning.
    /// `progress` is told how many positions are filled.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn assume_depth(
        &mut self,
        slot: u32,
        known: usize,
        depth: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), ModelError> {
        let chunk = self.options.geometry.max_rows;
        let vocabulary = self.vocabulary.max(1) as u64;
        for first in (known..depth).step_by(chunk) {
            let end = depth.min(first + chunk);
            let rows: Vec<Row> = (first..end)
                .map(|position| Row {
                    // Knuth's multiplicative hash: neighbours get different tokens
                    token: ((position as u64 + 1).wrapping_mul(2_654_435_761) % vocabulary) as u32,
                    slot,
                    position: position as u32,
                    want: Want::Nothing,
                })
                .collect();
            self.forward(&rows, Phase::Prompt)?;
            progress(end);
        }
        self.machine.device().synchronize().map_err(PlanError::from)?;
        Ok(())
    }
}
