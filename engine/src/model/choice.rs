//! Tokens chosen on the device: buffers and launches of the sampler chain ([`tilekiln_kernels::sample`]).
//!
//! A slot is told once how its sampler chooses ([`Choice::set`]), when its request begins. From then on a step brings
//! nothing but which of its rows choose: random numbers follow from positions, and the tokens that penalties count are
//! kept by position, written by the rows that are evaluated. A draft sees the drafts before it, and a token that comes in
//! place of a rejected one replaces it.
//!
//! The chosen token is the one that [`Sampler::sample`] would choose, always.

use tilekiln_kernels::sample::candidates::PLAN;
use tilekiln_kernels::sample::histogram::BINS;
use tilekiln_kernels::sample::settings::{SlotSettings, WORDS};

use super::planner::push_stage;
use super::target::{Row, Want};
use crate::plan::{BufferId, BufferKind, BufferTable, Cost, Count, KernelSpec, Machine, Operand, Plan, PlanError};
use crate::sample::Sampler;

/// Biases that a slot has room for. Longer lists are the CPU's business.
const BIASES: usize = 4096;
/// Tokens that penalties can count. Longer windows are the CPU's business once the sequence is longer.
const WINDOW: usize = 8192;
/// Threads of blocks that look at one chunk of a row.
const CHUNK_THREADS: usize = 128;
/// Threads of the block that draws from a row.
const DRAW_THREADS: usize = 256;
/// Threads of blocks that adjust a row.
const ADJUST_THREADS: usize = 256;
/// Threads of the block that finds where a row is cut.
const CUT_THREADS: usize = 128;
/// Rows of a block that notes tokens.
const NOTE_THREADS: u32 = 32;

/// What happens to logits before a token is chosen. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Adjusting {
    /// Nothing.
    #[default]
    Nothing,
    /// Biases are added.
    Biases,
    /// Tokens that occurred are penalised.
    Penalties,
}

/// What has to be done for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choosing {
    /// What happens to its logits.
    pub adjusting: Adjusting,
    /// A token is drawn; else the largest logit is taken.
    pub draws: bool,
}

impl Choosing {
    /// All there is, by [`Choosing::index`].
    pub const ALL: [Self; 6] = [
        Self::new(Adjusting::Nothing, false),
        Self::new(Adjusting::Nothing, true),
        Self::new(Adjusting::Biases, false),
        Self::new(Adjusting::Biases, true),
        Self::new(Adjusting::Penalties, false),
        Self::new(Adjusting::Penalties, true),
    ];

    const fn new(adjusting: Adjusting, draws: bool) -> Self {
        Self { adjusting, draws }
    }

    /// What a sampler needs.
    pub fn of(sampler: &Sampler) -> Self {
        let adjusting = match sampler {
            _ if sampler.penalty_window() > 0 => Adjusting::Penalties,
            _ if !sampler.biases().is_empty() => Adjusting::Biases,
            _ => Adjusting::Nothing,
        };
        Self::new(adjusting, sampler.draws())
    }

    /// What rows with different needs take together.
    pub fn and(self, other: Self) -> Self {
        Self::new(self.adjusting.max(other.adjusting), self.draws || other.draws)
    }

    /// Its place in [`Choosing::ALL`].
    pub fn index(self) -> usize {
        2 * self.adjusting as usize + usize::from(self.draws)
    }

    /// In titles of plans.
    pub fn name(self) -> &'static str {
        [
            "best tokens",
            "drawn tokens",
            "best tokens of biased logits",
            "drawn tokens of biased logits",
            "best tokens of penalised logits",
            "drawn tokens of penalised logits",
        ][self.index()]
    }
}

/// How rows of logits are split among blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunks {
    vocabulary: usize,
    /// Tokens of a chunk.
    chunk: usize,
    /// Tokens per load.
    vector: usize,
}

impl Chunks {
    fn of(vocabulary: usize) -> Self {
        Self {
            vocabulary,
            // enough blocks for many multiprocessors, and enough work for each
            chunk: if vocabulary >= 1 << 16 { 4096 } else { 1024 },
            vector: if vocabulary.is_multiple_of(4) { 4 } else { 1 },
        }
    }

    /// Chunks of a row.
    fn count(self) -> usize {
        self.vocabulary.div_ceil(self.chunk)
    }

    fn settings(self, threads: usize) -> [String; 3] {
        let Self { chunk, vector, .. } = self;
        [
            format!("chunk={chunk}"),
            format!("vector={vector}"),
            format!("threads={threads}"),
        ]
    }

    /// One block for each.
    fn grid(self) -> [Count; 3] {
        [Count::Fixed(self.count() as u32), Count::ROWS, Count::Fixed(1)]
    }

    /// A launch that reads the row's logits once, and so many words for each chunk of them.
    fn cost(self, words_per_chunk: usize) -> Cost {
        Cost::activations(4 * (self.vocabulary + words_per_chunk * self.count()))
    }

    fn cols(self) -> Operand {
        Operand::Number(self.vocabulary as u32)
    }
}

/// One block per row.
const PER_ROW: [Count; 3] = [Count::ROWS, Count::Fixed(1), Count::Fixed(1)];

/// The best of each chunk of a row.
#[derive(Clone, Copy, Debug)]
pub struct ChunkBests {
    keys: BufferId,
    tokens: BufferId,
}

impl ChunkBests {
    /// Adds the buffers for rows of logits of so many tokens to a table.
    pub fn add(table: &mut BufferTable, name: &str, rows: usize, vocabulary: usize) -> Self {
        let bytes = rows * Chunks::of(vocabulary).count() * 4;
        let mut add = |part: &str| table.add(&format!("{name}.{part}"), BufferKind::Scratch, bytes);
        Self {
            keys: add("best_keys"),
            tokens: add("best_tokens"),
        }
    }

    /// Adds the launch that finds them.
    fn push_find(self, plan: &mut Plan, logits: BufferId, chunks: Chunks) {
        let spec = KernelSpec::new("chunk_best", &chunks.settings(CHUNK_THREADS));
        let mut operands = [logits, self.keys, self.tokens].map(Operand::Buffer).to_vec();
        operands.push(chunks.cols());
        push_stage(plan, "chunk_best", spec, chunks.grid(), operands, chunks.cost(2));
    }

    /// Adds the launches that find the largest logit of each row, the first one on ties.
    pub fn push(self, plan: &mut Plan, logits: BufferId, chosen: BufferId, vocabulary: usize) {
        let chunks = Chunks::of(vocabulary);
        self.push_find(plan, logits, chunks);
        let mut operands = [self.keys, self.tokens, chosen].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(chunks.count() as u32));
        let cost = Cost::activations(8 * chunks.count());
        let spec = KernelSpec::new("best_token", &[]);
        push_stage(plan, "best_token", spec, PER_ROW, operands, cost);
    }
}

/// What the stages read that others write.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceInputs {
    /// Logits of the outputs [rows, vocabulary]; adjusted in place.
    pub logits: BufferId,
    /// Which row of the step an output is.
    pub outputs: BufferId,
    /// Tokens of the step's rows.
    pub tokens: BufferId,
    /// Their positions.
    pub positions: BufferId,
}

/// Sizes of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChoiceSizes {
    /// Sequences at once.
    pub slots: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Rows that choose together.
    pub rows: usize,
    /// Tokens.
    pub vocabulary: usize,
}

/// Buffers of the chain.
#[derive(Clone, Copy, Debug)]
struct Buffers {
    /// Which slot chooses for an output; one more than there are is nobody.
    choosers: BufferId,
    settings: BufferId,
    biases: BufferId,
    /// Tokens by slot and position.
    history: BufferId,
    bests: ChunkBests,
    bin_counts: BufferId,
    bin_masses: BufferId,
    candidates: BufferId,
    plans: BufferId,
    cuts: BufferId,
    masses: BufferId,
    ties: BufferId,
    chosen: BufferId,
}

/// Chooses tokens on the device.
#[derive(Clone, Debug)]
pub struct Choice {
    sizes: ChoiceSizes,
    chunks: Chunks,
    biases_per_slot: usize,
    buffers: Buffers,
    /// What each slot's sampler needs.
    needs: Vec<Choosing>,
    /// The choosers that the device was told last: they rarely change from step to step.
    choosers: Vec<u32>,
}

impl Choice {
    /// Adds its buffers to a table.
    pub fn add(table: &mut BufferTable, sizes: ChoiceSizes) -> Self {
        let ChoiceSizes {
            slots,
            context,
            rows,
            vocabulary,
        } = sizes;
        let split = Chunks::of(vocabulary);
        let chunks = split.count();
        let biases_per_slot = BIASES.min(vocabulary);
        let bests = ChunkBests::add(table, "choice", rows, vocabulary);
        let mut add = |name: &str, kind, words: usize| table.add(&format!("choice.{name}"), kind, words * 4);
        let input = BufferKind::Input;
        let scratch = BufferKind::Scratch;
        let buffers = Buffers {
            choosers: add("choosers", input, rows),
            settings: add("settings", input, (slots + 1) * WORDS),
            biases: add("biases", input, slots * biases_per_slot * 2),
            history: add("history", BufferKind::Cache, slots * context),
            bests,
            bin_counts: add("bin_counts", scratch, rows * chunks * BINS),
            bin_masses: add("bin_masses", scratch, rows * chunks * BINS * 2),
            candidates: add("candidates", scratch, rows * vocabulary),
            plans: add("plans", scratch, rows * PLAN * 2),
            cuts: add("cuts", scratch, rows * 2),
            masses: add("masses", scratch, rows * chunks * 2),
            ties: add("ties", scratch, rows * chunks),
            chosen: add("chosen", scratch, rows),
        };
        Self {
            sizes,
            chunks: split,
            biases_per_slot,
            buffers,
            needs: vec![Choosing::default(); slots],
            choosers: Vec::new(),
        }
    }

    /// Tells the slot nobody has, and so every slot, to take the largest logit.
    ///
    /// # Errors
    /// Those of the device.
    pub fn reset(&mut self, machine: &Machine) -> Result<(), PlanError> {
        self.needs.fill(Choosing::default());
        let words = SlotSettings::GREEDY.words();
        machine.write(self.buffers.settings, &words.repeat(self.sizes.slots + 1))
    }

    /// Whether a row at this position can be chosen for on the device.
    pub fn fits(&self, sampler: &Sampler, position: usize) -> bool {
        let counted = sampler.penalty_window().min(position + 1);
        sampler.biases().len() <= self.biases_per_slot && counted <= WINDOW
    }

    /// Tells a slot how a sampler chooses for the rows from `position` on. `tokens` are those at the positions before,
    /// and the one there if it is known.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set(
        &mut self,
        machine: &Machine,
        slot: usize,
        sampler: &Sampler,
        position: usize,
        tokens: &[u32],
    ) -> Result<(), PlanError> {
        self.needs[slot] = Choosing::of(sampler);
        let words = sampler.slot_settings(position).words();
        machine.write_at(self.buffers.settings, slot * WORDS, &words)?;
        let biases = sampler.biases().iter().take(self.biases_per_slot);
        let pairs: Vec<u32> = biases.flat_map(|(token, bias)| [*token, bias.to_bits()]).collect();
        if !pairs.is_empty() {
            machine.write_at(self.buffers.biases, slot * self.biases_per_slot * 2, &pairs)?;
        }
        let known = &tokens[..tokens.len().min(self.sizes.context)];
        let first = known.len().saturating_sub(sampler.penalty_window());
        if first < known.len() {
            let at = slot * self.sizes.context + first;
            machine.write_at(self.buffers.history, at, &known[first..])?;
        }
        Ok(())
    }

    /// Says who chooses for each output: a slot, or nobody (the largest logit as it is). Returns what that takes.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write_choosers(
        &mut self,
        machine: &Machine,
        choosers: impl Iterator<Item = Option<u32>>,
    ) -> Result<Choosing, PlanError> {
        let nobody = self.sizes.slots;
        let slots: Vec<u32> = choosers.map(|slot| slot.unwrap_or(nobody as u32)).collect();
        let needs = slots.iter().filter_map(|slot| self.needs.get(*slot as usize));
        let choosing = needs.fold(Choosing::default(), |all, needs| all.and(*needs));
        if choosing != Choosing::default() && !self.choosers.starts_with(&slots) {
            self.choosers.clear();
            machine.write(self.buffers.choosers, &slots)?;
            self.choosers = slots;
        }
        Ok(choosing)
    }

    /// Tells a step of which rows tokens are wanted, and who chooses them. Says which launches that takes.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write_outputs(
        &mut self,
        machine: &Machine,
        output_rows: BufferId,
        wanted: &[(u32, &Row)],
    ) -> Result<Choosing, PlanError> {
        let indices: Vec<u32> = wanted.iter().map(|(index, _)| *index).collect();
        machine.write(output_rows, &indices)?;
        let choosers = wanted
            .iter()
            .map(|(_, row)| (row.want == Want::Choice).then_some(row.slot));
        self.write_choosers(machine, choosers)
    }

    /// What was chosen for the first rows: tokens, or the codes of [`tilekiln_kernels::sample`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn chosen(&self, machine: &Machine, rows: usize) -> Result<Vec<u32>, PlanError> {
        machine.read(self.buffers.chosen, 0, rows)
    }

    /// Adds the launches that choose.
    pub fn push(&self, plan: &mut Plan, choosing: Choosing, inputs: &ChoiceInputs) {
        let mut stages = Stages {
            plan,
            choice: self,
            inputs,
        };
        if choosing.adjusting == Adjusting::Penalties {
            stages.note();
        }
        if choosing.adjusting > Adjusting::Nothing {
            stages.adjust();
        }
        if choosing.draws {
            stages.draw();
        } else {
            let Buffers { bests, chosen, .. } = self.buffers;
            bests.push(plan, inputs.logits, chosen, self.sizes.vocabulary);
        }
    }
}

/// Writes the launches.
struct Stages<'a> {
    plan: &'a mut Plan,
    choice: &'a Choice,
    inputs: &'a ChoiceInputs,
}

impl Stages<'_> {
    fn push(
        &mut self,
        kernel: &'static str,
        settings: &[String],
        grid: [Count; 3],
        operands: Vec<Operand>,
        cost: Cost,
    ) {
        self.plan
            .push(kernel, KernelSpec::new(kernel, settings), grid, operands, cost);
    }

    fn note(&mut self) {
        let (buffers, inputs) = (self.choice.buffers, self.inputs);
        let mut operands = [
            buffers.choosers,
            inputs.outputs,
            inputs.tokens,
            inputs.positions,
            buffers.settings,
            buffers.history,
        ]
        .map(Operand::Buffer)
        .to_vec();
        operands.extend([Operand::Count(Count::ROWS), self.context()]);
        let blocks = Count::Rows {
            times: 1,
            per: NOTE_THREADS,
        };
        let settings = [format!("threads={NOTE_THREADS}")];
        let grid = [blocks, Count::Fixed(1), Count::Fixed(1)];
        self.push("note_tokens", &settings, grid, operands, Cost::activations(3 * 4));
    }

    fn adjust(&mut self) {
        let (buffers, inputs) = (self.choice.buffers, self.inputs);
        let mut operands = [
            inputs.logits,
            buffers.choosers,
            inputs.outputs,
            inputs.positions,
            buffers.settings,
            buffers.biases,
            buffers.history,
        ]
        .map(Operand::Buffer)
        .to_vec();
        let capacity = Operand::Number(self.choice.biases_per_slot as u32);
        operands.extend([self.choice.chunks.cols(), capacity, self.context()]);
        let settings = [format!("window={WINDOW}"), format!("threads={ADJUST_THREADS}")];
        // biases and counted tokens: as many as the request has
        self.push("adjust_logits", &settings, PER_ROW, operands, Cost::default());
    }

    fn context(&self) -> Operand {
        Operand::Number(self.choice.sizes.context as u32)
    }

    fn draw(&mut self) {
        let (buffers, inputs, chunks) = (self.choice.buffers, self.inputs, self.choice.chunks);
        buffers.bests.push_find(self.plan, inputs.logits, chunks);
        let row = [inputs.logits, buffers.choosers, buffers.settings, buffers.bests.keys];
        let bins = [buffers.bin_counts, buffers.bin_masses];
        let split = chunks.settings(CHUNK_THREADS);
        let count = Operand::Number(chunks.count() as u32);
        let with_cols = |buffers: &[BufferId]| -> Vec<Operand> {
            let mut operands: Vec<_> = buffers.iter().copied().map(Operand::Buffer).collect();
            operands.push(chunks.cols());
            operands
        };

        let operands = with_cols(&[row.as_slice(), &bins].concat());
        self.push(
            "chunk_histogram",
            &split,
            chunks.grid(),
            operands,
            chunks.cost(3 * BINS),
        );

        let found = [buffers.candidates, buffers.plans];
        let operands = with_cols(&[row.as_slice(), &bins, &found].concat());
        // each chunk adds up the bins of all: they stay in the cache of the chip
        self.push(
            "chunk_candidates",
            &split,
            chunks.grid(),
            operands,
            chunks.cost(3 * BINS),
        );

        let lists = [buffers.plans, buffers.candidates, buffers.cuts];
        let mut operands = with_cols(&[&row[1..], &lists].concat());
        operands.push(count);
        let settings = [format!("threads={CUT_THREADS}")];
        self.push("sampling_cut", &settings, PER_ROW, operands, Cost::default());

        let sums = [buffers.cuts, buffers.masses, buffers.ties];
        let operands = with_cols(&[row.as_slice(), &sums].concat());
        self.push("chunk_mass", &split, chunks.grid(), operands, chunks.cost(3));

        let mut operands = with_cols(&[
            inputs.logits,
            buffers.choosers,
            inputs.outputs,
            inputs.positions,
            buffers.settings,
            buffers.bests.keys,
            buffers.bests.tokens,
            buffers.cuts,
            buffers.masses,
            buffers.ties,
            buffers.chosen,
        ]);
        operands.push(count);
        let settings = chunks.settings(DRAW_THREADS);
        let cost = Cost::activations(4 * (3 * chunks.count() + chunks.chunk));
        self.push("draw_token", &settings, PER_ROW, operands, cost);
    }
}
