//! A model's buffers and launches before any device is involved, which of them make a step, and the state of a cache to
//! measure steps in.

use std::collections::BTreeSet;

use super::{Buffers, LoadOptions, Network, Plans, Row, Shared, Target, Want, caches, tile_for};
use crate::gguf;
use crate::model::ModelError;
use crate::model::assistant::Assistant;
use crate::model::choice::{Choice, ChoiceSizes, Choosing};
use crate::model::config::{AssistantConfig, Names, TargetConfig};
use crate::model::planner::CacheBuffers;
use crate::model::weights::{Contents, Loader};
use crate::plan::{BufferKind, BufferTable, KernelSpec, Plan, PlanError, Step};

/// What a file comes to: every buffer and every launch, for whichever device. Weights stay in the file.
pub struct Design {
    pub(super) config: TargetConfig,
    pub(super) options: LoadOptions,
    pub(super) vocabulary: usize,
    pub(super) table: BufferTable,
    pub(super) buffers: Buffers,
    pub(super) caches: Vec<Option<CacheBuffers>>,
    pub(super) plans: Plans,
    pub(super) choice: Choice,
    pub(super) contents: Contents,
    pub(super) assistant: Option<(Assistant, Contents)>,
}

impl Design {
    /// Plans a model and, where given, its assistant.
    ///
    /// # Errors
    /// Files that are no such models or do not belong together.
    pub fn read(file: &gguf::File, assistant: Option<&gguf::File>, options: LoadOptions) -> Result<Self, ModelError> {
        let config = TargetConfig::read(file.metadata())?;
        let mut table = BufferTable::new(options.geometry.max_rows);
        let mut loader = Loader::new(file, Names::Current);
        let network = Network::take(&config, &options, &mut loader, &mut table)?;
        let buffers = network.buffers(&config, &options, &mut table);
        let caches = caches(&config, &options, &mut table)?;
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
        let plans = network.plans(&config, &options, &buffers, &caches, carry, &choice);
        Ok(Self {
            vocabulary: network.embedding.rows,
            config,
            options,
            table,
            buffers,
            caches,
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

    /// All kernels that are compiled for it.
    pub fn kernels(&self) -> BTreeSet<&KernelSpec> {
        let drafting = self.assistant.iter().flat_map(|(assistant, _)| assistant.plans());
        let plans = self.plans.all().chain(drafting);
        plans.flat_map(|plan| &plan.kernels).collect()
    }

    /// Bytes of all buffers.
    pub fn memory_bytes(&self) -> usize {
        self.table.specs().iter().map(|spec| spec.bytes).sum()
    }

    /// The launches of a step, as [`Target::step`].
    pub fn step(&self, step: Step, outputs: usize) -> Vec<(&Plan, Step)> {
        self.plans.step(step, outputs, self.options.outputs)
    }
}

impl Plans {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Plan> {
        let Self {
            full,
            prompt,
            head,
            keep,
        } = self;
        [full, prompt, keep].into_iter().chain(head).flatten()
    }

    /// What [`Target::forward`] runs for a step of which `outputs` rows want a token, `at_once` of them together.
    fn step(&self, step: Step, outputs: usize, at_once: usize) -> Vec<(&Plan, Step)> {
        let body = if outputs == 0 { &self.prompt } else { &self.full };
        let mut parts = vec![(&body[tile_for(step.total_rows())], step)];
        for first in (0..outputs).step_by(at_once.max(1)) {
            let rows = at_once.min(outputs - first);
            let part = Step {
                sequences: 1,
                rows,
                depth: 0,
            };
            parts.push((&self.head[Choosing::default().index()][tile_for(rows)], part));
        }
        parts
    }
}

impl Target {
    /// The launches of a step of which `outputs` rows want a token: plans in order, each with the rows that it does.
    pub fn step(&self, step: Step, outputs: usize) -> Vec<(&Plan, Step)> {
        self.plans.step(step, outputs, self.options.outputs)
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
            self.forward(&rows)?;
            progress(end);
        }
        self.machine.device().synchronize().map_err(PlanError::from)?;
        Ok(())
    }
}
