//! Launches of attention: which kernels and shapes of blocks serve a layer, and the buffers they need.

use std::collections::BTreeMap;

use tilekiln_dsl::target::Target;
use tilekiln_kernels::attention::combine::CombineShape;
use tilekiln_kernels::attention::pages::PAGE;
use tilekiln_kernels::attention::partition::{self, NO_WINDOW};
use tilekiln_kernels::attention::shapes::{self, Chosen};
use tilekiln_kernels::matmul::packed::TILE_COLS;

use super::{CacheBuffers, FLOAT, Planner, Projected, Rows, norm_rope_bytes};
use crate::kv::{CacheTypes, Geometry, KvTypes, UnsupportedPair};
use crate::model::config::{Layer, Shape};
use crate::model::target::Precision;
use crate::model::weights::{LayerWeights, Takes};
use crate::plan::{BufferId, BufferKind, BufferTable, Cost, Count, Machine, Operand, Plan, PlanError, Unit};

/// Rows of a sequence that plans for decoding are made for.
const DECODE_ROWS: [usize; 4] = [1, 2, 4, 8];
/// … and the most that one of their groups has.
const MOST_ROWS: usize = DECODE_ROWS[DECODE_ROWS.len() - 1];
/// Values that one block of the combination takes.
const SLICE: usize = 128;

/// What the rows of a step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Tokens of prompts: many rows of a sequence, of which most are wanted only for their keys and values.
    Prompt,
    /// The newest token of each sequence and its drafts.
    Decode,
}

/// How rows are shared among the blocks of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// A block takes as many rows of a sequence as fit, and all their keys.
    Prompt,
    /// Keys are split over blocks; the plan is the one of that number for steps that decode.
    Decode(usize),
}

/// Rows of a step that follow each other in one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// Whose.
    pub slot: u32,
}

impl Run {
    /// The runs of rows, each given as slot and position.
    pub fn of(rows: impl Iterator<Item = (u32, u32)>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        let mut next = None;
        for (first, (slot, position)) in rows.enumerate() {
            match runs.last_mut() {
                Some(run) if next == Some((slot, position)) => run.rows += 1,
                _ => runs.push(Self { first, rows: 1, slot }),
            }
            next = Some((slot, position + 1));
        }
        runs
    }
}

/// How a layer's attention is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// Row by row in f32.
    Exact,
    /// On matrix units.
    Flash {
        /// For steps that decode, one for each of [`Attention::decode_rows`].
        decode: Vec<Chosen>,
        /// For prompts.
        prefill: Chosen,
    },
}

/// What decides how a layer's attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    head_dim: usize,
    gqa: usize,
    types: CacheTypes,
}

impl Class {
    fn of(layer: &Layer, heads: usize, types: CacheTypes) -> Self {
        Self {
            head_dim: layer.head_dim,
            gqa: heads / layer.kv_heads.max(1),
            types,
        }
    }
}

/// Which steps a network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Sequences in a step at most.
    pub sequences: usize,
    /// Rows of each when it decodes, at most.
    pub run: usize,
    /// Rows of a step of prompts at most; 0 if there are no such steps.
    pub prompt_rows: usize,
    /// Positions of a sequence.
    pub context: usize,
}

impl Steps {
    /// Those of a target.
    pub fn of_target(geometry: &Geometry) -> Self {
        Self {
            sequences: geometry.slots,
            run: geometry.run,
            prompt_rows: geometry.max_rows,
            context: geometry.context,
        }
    }

    /// Those of an assistant: one row for each sequence.
    pub fn of_assistant(geometry: &Geometry) -> Self {
        Self {
            run: 1,
            prompt_rows: 0,
            ..Self::of_target(geometry)
        }
    }
}

/// How attention of a network is computed, and its buffers.
#[derive(Clone)]
pub struct Attention {
    steps: Steps,
    types: KvTypes,
    methods: BTreeMap<Class, Method>,
    /// For each size of groups, (first row, rows, slot) of every group.
    groups: BTreeMap<u32, BufferId>,
    /// Prepared queries.
    queries: BufferId,
    /// Weighted sums of chunks, and what they are worth.
    partial: BufferId,
    worth: BufferId,
}

impl Attention {
    /// Chooses kernels for all layers of a network on a target, and plans their buffers.
    ///
    /// # Errors
    /// Formats that no kernel takes together.
    pub fn add(
        table: &mut BufferTable,
        prefix: &str,
        target: &Target,
        shape: &Shape,
        (types, precision): (KvTypes, Precision),
        steps: Steps,
    ) -> Result<Self, UnsupportedPair> {
        let mut methods = BTreeMap::new();
        let mut groups: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut query_words, mut partial, mut worth) = (1, 1, 1);
        for layer in &shape.layers {
            let types = types.of(layer.kind);
            let pair = types.pair()?;
            let class = Class::of(layer, shape.heads, types);
            let method = methods.entry(class).or_insert_with(|| {
                let flash = || {
                    let rows = decode_rows(steps.run)
                        .map(|rows| shapes::decode(target, pair, class.head_dim, class.gqa, rows));
                    Some(Method::Flash {
                        decode: rows.collect::<Option<_>>()?,
                        prefill: shapes::prefill(target, pair, class.head_dim, class.gqa)?,
                    })
                };
                match precision {
                    Precision::Fast => flash().unwrap_or(Method::Exact),
                    Precision::Exact => Method::Exact,
                }
            });
            let Method::Flash { decode, prefill } = method else {
                continue;
            };
            query_words = query_words.max(shape.heads * types.keys.query_words(layer.head_dim));
            let mut need = |rows: usize, count: usize| {
                let known = groups.entry(rows as u32).or_default();
                *known = count.max(*known);
            };
            if steps.prompt_rows > 0 {
                let rows = prefill.rows(class.gqa);
                need(rows, steps.prompt_rows.div_ceil(rows) + steps.sequences);
            }
            for chosen in decode {
                let rows = chosen.rows(class.gqa);
                let count = steps.sequences * steps.run.div_ceil(rows);
                need(rows, count);
                let chunks = partition::chunks(steps.context, window(layer), rows);
                let columns = count * layer.kv_heads * chunks * chosen.columns;
                partial = partial.max(columns * types.values.stored(layer.head_dim));
                worth = worth.max(2 * columns);
            }
        }
        let groups = groups.into_iter().map(|(rows, count)| {
            let name = format!("{prefix}.groups_of_{rows}");
            (rows, table.add(&name, BufferKind::Input, 12 * count))
        });
        let groups = groups.collect();
        let mut scratch =
            |name: &str, values: usize| table.add(&format!("{prefix}.{name}"), BufferKind::Scratch, FLOAT * values);
        Ok(Self {
            steps,
            types,
            methods,
            groups,
            partial: scratch("partial", partial),
            worth: scratch("worth", worth),
            queries: table.scratch(&format!("{prefix}.queries"), query_words),
        })
    }

    /// The same for other rows of a step, at most so many: they are grouped by themselves.
    #[must_use]
    pub fn for_other_rows(&self, table: &mut BufferTable, prefix: &str, rows: usize) -> Self {
        let groups = self.groups.keys().map(|size| {
            let name = format!("{prefix}.groups_of_{size}");
            (*size, table.add(&name, BufferKind::Input, 12 * rows))
        });
        Self {
            groups: groups.collect(),
            ..self.clone()
        }
    }

    /// Plans for steps that decode: rows of a sequence in each.
    pub fn decode_rows(&self) -> impl Iterator<Item = usize> + use<> {
        decode_rows(self.steps.run)
    }

    /// Which of these plans serves steps with so many rows of a sequence.
    pub fn decode_plan(&self, rows: usize) -> usize {
        let plans = self.decode_rows();
        let last = self.decode_rows().count().saturating_sub(1);
        plans.into_iter().position(|most| most >= rows).unwrap_or(last)
    }

    /// Rows of a sequence in a step that decodes, at most.
    pub fn longest_run(&self) -> usize {
        self.steps.run
    }

    /// The buffer that says which rows groups of that size have. Every size that a chosen shape has was given one.
    fn groups_of(&self, rows: u32) -> BufferId {
        self.groups.get(&rows).copied().unwrap_or(self.queries)
    }

    /// How a layer's attention is computed.
    pub fn method(&self, layer: &Layer, heads: usize) -> &Method {
        let class = Class::of(layer, heads, self.types.of(layer.kind));
        self.methods.get(&class).unwrap_or(&Method::Exact)
    }

    /// Tells the blocks of a plan which rows they take.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write_groups(&self, machine: &Machine, plan: &Plan, runs: &[Run]) -> Result<(), PlanError> {
        for count in plan.counts() {
            let Count::Groups(size) = count else { continue };
            let Some(buffer) = self.groups.get(size) else { continue };
            let mut words = Vec::new();
            for run in runs {
                for first in (0..run.rows).step_by(*size as usize) {
                    let rows = (run.rows - first).min(*size as usize);
                    words.extend([(run.first + first) as u32, rows as u32, run.slot]);
                }
            }
            machine.write(*buffer, &words)?;
        }
        Ok(())
    }
}

/// The shortest list of numbers of rows that has one for each up to `run`, or ends with the most that a block takes.
fn decode_rows(run: usize) -> impl Iterator<Item = usize> {
    let covering = DECODE_ROWS.iter().position(|rows| *rows >= run);
    let last = covering.unwrap_or(DECODE_ROWS.len() - 1);
    DECODE_ROWS.into_iter().take(last + 1)
}

impl Planner<'_> {
    /// From projections to what attention gives: per-head norms, rotation, cache, attention.
    pub(super) fn attend_layer(
        &mut self,
        layer: &Layer,
        weights: &LayerWeights,
        cache: CacheBuffers,
        projected: Projected,
    ) -> Rows {
        let floats = Rows::floats(self.scratch.attended);
        match self.attention.method(layer, self.shape.heads).clone() {
            Method::Exact => {
                self.head_norm_rope(layer, weights, &projected);
                self.cache_write(layer, weights, cache, &projected);
                self.attend_exact(layer, weights, cache, &projected);
                floats
            }
            Method::Flash { decode, prefill } => {
                if weights.own.is_some() {
                    self.prepare_attention(layer, weights, cache, &projected);
                } else {
                    self.prepare_queries(layer, weights, cache, &projected);
                }
                let chosen = match self.sharing {
                    Sharing::Prompt => None,
                    Sharing::Decode(plan) => decode.get(plan).or(decode.last()),
                };
                match chosen {
                    Some(chosen) => self.flash_decode(layer, weights, cache, *chosen),
                    None => {
                        self.flash_prefill(layer, weights, cache, prefill);
                        floats
                    }
                }
            }
        }
    }

    fn pair_settings(layer: &Layer, cache: CacheBuffers) -> [String; 3] {
        [
            format!("k={}", cache.types.keys),
            format!("v={}", cache.types.values),
            format!("head_dim={}", layer.head_dim),
        ]
    }

    fn head_norm_rope(&mut self, layer: &Layer, weights: &LayerWeights, projected: &Projected) {
        let heads = self.shape.heads as u32;
        let operands = vec![
            projected.query,
            Operand::Buffer(weights.query_norm),
            Operand::Buffer(self.inputs.positions),
            Operand::Buffer(weights.inverse_frequency),
            Operand::Number(heads),
            Operand::Real(self.shape.epsilon),
        ];
        let settings = [format!("head_dim={}", layer.head_dim)];
        let grid = [Count::ROWS, Count::Fixed(heads)];
        let values = self.shape.heads * layer.head_dim;
        let cost = Cost {
            weight_bytes: norm_rope_bytes(layer),
            operations: 8 * values,
            ..Cost::activations(2 * FLOAT * values)
        };
        let label = format!("{}.attn_q_norm", weights.name);
        self.push(&label, "head_norm_rope", &settings, grid, operands, cost);
    }

    fn prepare_queries(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, projected: &Projected) {
        let heads = self.shape.heads as u32;
        let operands = vec![
            projected.query,
            Operand::Buffer(weights.query_norm),
            Operand::Buffer(self.inputs.positions),
            Operand::Buffer(weights.inverse_frequency),
            Operand::Buffer(self.attention.queries),
            Operand::Number(heads),
            Operand::Number(projected.query_stride as u32),
            Operand::Real(self.shape.epsilon),
        ];
        let settings = [
            format!("k={}", cache.types.keys),
            format!("head_dim={}", layer.head_dim),
        ];
        let grid = [Count::ROWS, Count::Fixed(heads)];
        let values = self.shape.heads * layer.head_dim;
        let cost = Cost {
            weight_bytes: norm_rope_bytes(layer),
            operations: 8 * values,
            ..Cost::activations((FLOAT + 2) * values)
        };
        let label = format!("{}.attn_q_norm", weights.name);
        self.push(&label, "prepare_queries", &settings, grid, operands, cost);
    }

    /// Prepares queries and stores keys and values, in one launch.
    fn prepare_attention(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, projected: &Projected) {
        let Some(own) = &weights.own else { return };
        let mut operands = vec![projected.query, projected.key, projected.value];
        let buffers = [
            weights.query_norm,
            own.key_norm,
            self.inputs.positions,
            self.inputs.slots,
            weights.inverse_frequency,
            cache.table,
            self.attention.queries,
            cache.keys,
            cache.values,
        ];
        operands.extend(buffers.map(Operand::Buffer));
        let heads = self.shape.heads;
        let sizes = [heads, layer.kv_heads, projected.query_stride, projected.key_stride];
        operands.extend(sizes.map(|size| Operand::Number(size as u32)));
        operands.push(Operand::Number(cache.slot_pages));
        operands.push(Operand::Real(self.shape.epsilon));
        let grid = [Count::ROWS, Count::Fixed((heads + 2 * layer.kv_heads) as u32)];
        let values = (heads + 2 * layer.kv_heads) * layer.head_dim;
        let cost = Cost {
            weight_bytes: 2 * norm_rope_bytes(layer),
            store_bytes: position_bytes(layer, cache.types),
            operations: 8 * values,
            ..Cost::activations((FLOAT + 2) * values)
        };
        let label = format!("{}.prepare_attention", weights.name);
        let settings = Self::pair_settings(layer, cache);
        self.push(&label, "prepare_attention", &settings, grid, operands, cost);
    }

    /// Stores keys and values, where the layer owns them.
    fn cache_write(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, projected: &Projected) {
        let Some(own) = &weights.own else { return };
        let operands = vec![
            projected.key,
            projected.value,
            Operand::Buffer(own.key_norm),
            Operand::Buffer(self.inputs.positions),
            Operand::Buffer(self.inputs.slots),
            Operand::Buffer(weights.inverse_frequency),
            Operand::Buffer(cache.table),
            Operand::Buffer(cache.keys),
            Operand::Buffer(cache.values),
            Operand::Number(layer.kv_heads as u32),
            Operand::Number(projected.key_stride as u32),
            Operand::Number(cache.slot_pages),
            Operand::Real(self.shape.epsilon),
        ];
        let settings = Self::pair_settings(layer, cache);
        let grid = [Count::ROWS, Count::Fixed(layer.kv_heads as u32)];
        let values = 2 * layer.kv_heads * layer.head_dim;
        let cost = Cost {
            weight_bytes: norm_rope_bytes(layer),
            store_bytes: position_bytes(layer, cache.types),
            operations: 8 * values,
            ..Cost::activations(FLOAT * values)
        };
        let label = format!("{}.cache_write", weights.name);
        self.push(&label, "cache_write", &settings, grid, operands, cost);
    }

    /// What attention to a layer's cache moves and computes.
    fn attention_cost(&self, layer: &Layer, types: CacheTypes, unit: Unit) -> Cost {
        let values = self.shape.heads * layer.head_dim;
        Cost {
            cache_bytes: position_bytes(layer, types),
            window: layer.window,
            operations_per_position: 2 * values,
            unit,
            ..Cost::activations(2 * FLOAT * values)
        }
    }

    fn attend_exact(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, projected: &Projected) {
        let heads = self.shape.heads;
        let mut operands = vec![
            projected.query,
            Operand::Buffer(cache.keys),
            Operand::Buffer(cache.values),
            Operand::Buffer(cache.table),
            Operand::Buffer(self.inputs.slots),
            Operand::Buffer(self.inputs.positions),
            Operand::Buffer(self.inputs.visible),
            Operand::Buffer(self.scratch.attended),
        ];
        operands.extend(self.attention_numbers(layer, cache));
        let grid = [Count::ROWS, Count::Fixed(heads as u32)];
        let cost = self.attention_cost(layer, cache.types, Unit::Vector);
        let settings = Self::pair_settings(layer, cache);
        let label = format!("{}.attend", weights.name);
        self.push(&label, "attend_exact", &settings, grid, operands, cost);
    }

    /// heads, gqa, slot_pages, window.
    fn attention_numbers(&self, layer: &Layer, cache: CacheBuffers) -> [Operand; 4] {
        let heads = self.shape.heads;
        [
            Operand::Number(heads as u32),
            Operand::Number((heads / layer.kv_heads) as u32),
            Operand::Number(cache.slot_pages),
            Operand::Number(window(layer)),
        ]
    }

    /// Prepared queries, caches, tables, and what rows see.
    fn flash_operands(&self, cache: CacheBuffers, groups: u32) -> Vec<Operand> {
        let buffers = [
            self.attention.queries,
            cache.keys,
            cache.values,
            cache.table,
            self.attention.groups_of(groups),
            self.inputs.positions,
            self.inputs.visible,
        ];
        buffers.map(Operand::Buffer).to_vec()
    }

    fn flash_settings(layer: &Layer, cache: CacheBuffers, chosen: Chosen) -> Vec<String> {
        let mut settings = Self::pair_settings(layer, cache).to_vec();
        settings.push(format!("tiles={}", chosen.shape.tiles));
        settings.push(format!("teams={}", chosen.shape.teams));
        settings.push(format!("pages={}", chosen.shape.pages));
        settings
    }

    fn flash_prefill(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, chosen: Chosen) {
        let rows = chosen.rows(self.shape.heads / layer.kv_heads) as u32;
        let mut operands = self.flash_operands(cache, rows);
        operands.push(Operand::Buffer(self.scratch.attended));
        operands.extend(self.attention_numbers(layer, cache));
        let grid = [
            Count::Fixed(1),
            Count::Fixed(layer.kv_heads as u32),
            Count::Groups(rows),
        ];
        let cost = self.attention_cost(layer, cache.types, Unit::Matrix);
        let settings = Self::flash_settings(layer, cache, chosen);
        let label = format!("{}.attend", weights.name);
        self.push_grid(&label, "flash_prefill", &settings, grid, operands, cost);
    }

    /// Attention split over blocks, and what puts its parts together. Results are int8 where the product behind it takes
    /// that and a row fills whole tiles.
    fn flash_decode(&mut self, layer: &Layer, weights: &LayerWeights, cache: CacheBuffers, chosen: Chosen) -> Rows {
        let gqa = self.shape.heads / layer.kv_heads;
        let rows = chosen.rows(gqa) as u32;
        let chunks = Count::Chunks {
            window: window(layer),
            rows,
            context: self.attention.steps.context as u32,
        };
        let sharers = match chosen.shape.goes_on() {
            true => Count::Sharers {
                window: window(layer),
                rows,
                context: self.attention.steps.context as u32,
                kv_heads: layer.kv_heads as u32,
                room: (self.chip.units * chosen.blocks) as u32,
            },
            false => chunks,
        };
        let (kv_heads, groups) = (Count::Fixed(layer.kv_heads as u32), Count::Groups(rows));
        let (partial, worth) = (self.attention.partial, self.attention.worth);
        let mut operands = self.flash_operands(cache, rows);
        operands.extend([partial, worth].map(Operand::Buffer));
        operands.extend(self.attention_numbers(layer, cache));
        operands.push(Operand::Count(chunks));
        let cost = self.attention_cost(layer, cache.types, Unit::Matrix);
        let settings = Self::flash_settings(layer, cache, chosen);
        let label = format!("{}.attend", weights.name);
        self.push_grid(
            &label,
            "flash_decode",
            &settings,
            [kv_heads, sharers, groups],
            operands,
            cost,
        );

        let stored = cache.types.values.stored(layer.head_dim);
        let slice = SLICE.min(stored);
        let is_rotated = cache.types.values.is_rotated();
        let of_rows = self.attention.groups_of(rows);
        let width = self.shape.heads * layer.head_dim;
        let is_int8 = weights.output.takes() == Takes::Int8 && width.is_multiple_of(TILE_COLS);
        let buffers = [partial, worth, of_rows, self.inputs.positions, self.inputs.visible];
        let mut operands = buffers.map(Operand::Buffer).to_vec();
        if is_int8 {
            operands.extend(self.scratch.prepared.operands());
        } else {
            operands.push(Operand::Buffer(self.scratch.attended));
        }
        operands.extend([self.shape.heads, gqa].map(|size| Operand::Number(size as u32)));
        operands.push(Operand::Number(window(layer)));
        operands.extend([layer.head_dim, stored, chosen.columns].map(|size| Operand::Number(size as u32)));
        operands.push(Operand::Count(chunks));
        if is_int8 {
            operands.push(Operand::Number(self.scratch.stride as u32));
        }
        // the same for all plans, because the order of additions depends on it
        let most = partition::chunks(self.attention.steps.context, window(layer), MOST_ROWS);
        let CombineShape { warps, ahead, .. } = CombineShape::of(slice, is_rotated, most);
        let settings = [
            format!("slice={slice}"),
            format!("rotated={is_rotated}"),
            format!("warps={warps}"),
            format!("ahead={ahead}"),
        ];
        let blocks = Count::Fixed((chosen.columns * stored / slice) as u32);
        let values = self.shape.heads * stored;
        let cost = Cost {
            operations: 2 * values,
            ..Cost::activations(2 * FLOAT * values)
        };
        let label = format!("{}.combine", weights.name);
        let kernel = if is_int8 { "flash_combine_int8" } else { "flash_combine" };
        self.push_grid(&label, kernel, &settings, [blocks, kv_heads, groups], operands, cost);
        Rows {
            floats: self.scratch.attended,
            is_prepared: is_int8,
        }
    }
}

/// Bytes of a position's keys and values.
fn position_bytes(layer: &Layer, types: CacheTypes) -> usize {
    layer.kv_heads * types.page_bytes(layer.head_dim).iter().sum::<usize>() / PAGE
}

fn window(layer: &Layer) -> u32 {
    layer.window.map_or(NO_WINDOW, |window| window as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_follow_each_other_are_a_run() {
        let run = |first, rows, slot| Run { first, rows, slot };
        type Rows = &'static [(u32, u32)];
        let table: [(Rows, Vec<Run>); 4] = [
            (&[], vec![]),
            (&[(0, 5), (0, 6), (1, 7), (1, 8)], vec![run(0, 2, 0), run(2, 2, 1)]),
            (
                &[(3, 5), (3, 5), (3, 7)],
                vec![run(0, 1, 3), run(1, 1, 3), run(2, 1, 3)],
            ),
            (&[(2, 0), (2, 1), (2, 2)], vec![run(0, 3, 2)]),
        ];
        for (rows, expected) in table {
            assert_eq!(Run::of(rows.iter().copied()), expected);
        }
    }

    #[test]
    fn plans_cover_runs() {
        for (run, expected) in [
            (1, vec![1]),
            (2, vec![1, 2]),
            (3, vec![1, 2, 4]),
            (20, vec![1, 2, 4, 8]),
        ] {
            assert_eq!(decode_rows(run).collect::<Vec<_>>(), expected);
        }
    }
}
