//! What a plan consists of.

use std::fmt;

use tilekiln_kernels::attention::partition;

use super::{Cost, Divided, Step};

/// A kernel of the library with comptime settings, spelled as on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelSpec {
    /// Name in the registry.
    pub name: &'static str,
    /// `key=value` pairs.
    pub settings: Vec<String>,
}

impl KernelSpec {
    /// A kernel with settings.
    pub fn new(name: &'static str, settings: &[String]) -> Self {
        Self {
            name,
            settings: settings.to_vec(),
        }
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.settings.join(","))
    }
}

/// A buffer of a [`BufferTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(usize);

impl BufferId {
    /// The buffer at a position of the table.
    pub(super) fn at(index: usize) -> Self {
        Self(index)
    }

    /// Position in the table.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferKind {
    /// Filled once, when the model is loaded.
    Constant,
    /// Keys or values of past positions.
    Cache,
    /// Written by the host before a step.
    Input,
    /// Holds intermediate results of a step.
    Scratch,
}

/// One buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferSpec {
    /// Unique in the table; a tensor's name for weights.
    pub name: String,
    /// What it is for.
    pub kind: BufferKind,
    /// Size in bytes.
    pub bytes: usize,
}

/// All buffers of a model (and of its assistant, which shares some).
#[derive(Clone, Debug)]
pub struct BufferTable {
    /// Rows of the largest step.
    pub max_rows: usize,
    specs: Vec<BufferSpec>,
}

impl BufferTable {
    /// An empty table for steps of at most `max_rows` rows.
    pub fn new(max_rows: usize) -> Self {
        Self {
            max_rows,
            specs: Vec::new(),
        }
    }

    /// Adds a buffer. A name that exists already is given a number.
    pub fn add(&mut self, name: &str, kind: BufferKind, bytes: usize) -> BufferId {
        let mut unique = name.to_owned();
        let mut number = 2;
        while self.find(&unique).is_some() {
            unique = format!("{name}.{number}");
            number += 1;
        }
        self.specs.push(BufferSpec {
            name: unique,
            kind,
            bytes,
        });
        BufferId(self.specs.len() - 1)
    }

    /// Adds scratch memory of that many 4-byte values per row.
    pub fn scratch(&mut self, name: &str, values_per_row: usize) -> BufferId {
        self.add(name, BufferKind::Scratch, self.max_rows * values_per_row * 4)
    }

    /// Adds memory the host writes before a step: one 4-byte value per row.
    pub fn input(&mut self, name: &str) -> BufferId {
        self.add(name, BufferKind::Input, self.max_rows * 4)
    }

    /// The buffer of that name.
    pub fn find(&self, name: &str) -> Option<BufferId> {
        self.specs.iter().position(|spec| spec.name == name).map(BufferId)
    }

    /// All buffers, in the order of their ids.
    pub fn specs(&self) -> &[BufferSpec] {
        &self.specs
    }

    /// What a buffer is.
    pub fn spec(&self, id: BufferId) -> &BufferSpec {
        &self.specs[id.0]
    }
}

/// What launches depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows of the step.
    pub rows: usize,
    /// Rows of each sequence, in their order, where rows are grouped by sequence.
    pub runs: Vec<usize>,
    /// No row sees a key at this position or behind it.
    pub end: usize,
}

impl Size {
    /// A step in which nothing but the number of rows matters.
    pub fn of_rows(rows: usize) -> Self {
        Self {
            rows,
            ..Self::default()
        }
    }

    /// The same with `end` rounded up, so that the launches of many steps in a row are equal: a sixteenth more keys at
    /// most, or a hundred. Launches may have more blocks than keys need.
    #[must_use]
    pub fn rounded(&self) -> Self {
        let step = (self.end.next_power_of_two() / 16).max(128);
        Self {
            end: self.end.next_multiple_of(step),
            ..self.clone()
        }
    }

    /// How many groups of up to `rows` rows the runs make.
    pub fn groups(&self, rows: usize) -> usize {
        self.runs.iter().map(|run| run.div_ceil(rows.max(1))).sum()
    }
}

impl From<&Step> for Size {
    fn from(step: &Step) -> Self {
        Self {
            rows: step.total_rows(),
            runs: vec![step.rows; step.sequences],
            end: step.depth + step.rows,
        }
    }
}

/// A number of blocks, as a function of what a step consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Always so many.
    Fixed(u32),
    /// `ceil(rows · times / per)`.
    Rows {
        /// Blocks per `per` rows.
        times: u32,
        /// Rows (times `times`) of one block.
        per: u32,
    },
    /// Groups of up to so many rows of a sequence.
    Groups(u32),
    /// Chunks of keys that a group of rows sees, as kernels divide them.
    Chunks {
        /// Window of the layer; [`NO_WINDOW`](tilekiln_kernels::attention::partition::NO_WINDOW) for none.
        window: u32,
        /// Rows of a group.
        rows: u32,
        /// Positions there are at most.
        context: u32,
    },
    /// Blocks that share the chunks of a group of rows, as many as the device has room for.
    Sharers {
        /// As in [`Chunks`](Self::Chunks).
        window: u32,
        /// As in [`Chunks`](Self::Chunks).
        rows: u32,
        /// As in [`Chunks`](Self::Chunks).
        context: u32,
        /// KV heads, each of which has blocks of its own.
        kv_heads: u32,
        /// Blocks of the whole device at the same time.
        room: u32,
    },
}

impl Count {
    /// One per row.
    pub const ROWS: Self = Self::Rows { times: 1, per: 1 };

    /// How many in a step of that size.
    pub fn of(self, size: &Size) -> u32 {
        match self {
            Self::Fixed(count) => count,
            Self::Rows { times, per } => (size.rows as u32 * times).div_ceil(per.max(1)),
            Self::Groups(rows) => size.groups(rows as usize) as u32,
            Self::Chunks { window, rows, context } => {
                partition::chunks(size.end.min(context as usize), window, rows as usize) as u32
            }
            Self::Sharers {
                window,
                rows,
                context,
                kv_heads,
                room,
            } => {
                let chunks = Self::Chunks { window, rows, context }.of(size);
                let sequences = kv_heads * Self::Groups(rows).of(size);
                partition::blocks_to_share(chunks as usize, (room / sequences.max(1)) as usize) as u32
            }
        }
    }
}

/// A launch argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// A buffer from its beginning.
    Buffer(BufferId),
    /// A buffer from a byte on.
    Slice(BufferId, usize),
    /// A number.
    Number(u32),
    /// A number that depends on the size of the step.
    Count(Count),
    /// A real number.
    Real(f32),
}

/// One launch of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What it computes: `blk.3.attn_q`.
    pub label: String,
    /// Index into the plan's kernels.
    pub kernel: usize,
    /// Blocks along x, y, z.
    pub grid: [Count; 3],
    /// One per kernel parameter.
    pub operands: Vec<Operand>,
    /// May start before the launch in front of it has ended; the kernel waits itself for what that one writes.
    pub dependent: bool,
    /// What it moves and computes.
    pub cost: Cost,
    /// Where its division comes from, if it is a product with packed weights.
    pub divided: Option<Divided>,
}

impl Stage {
    /// What it computes, whatever the layer: `attn_q` of `blk.3.attn_q`.
    pub fn kind(&self) -> &str {
        let in_layer = self.label.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        match in_layer {
            Some((layer, kind)) if layer.bytes().all(|byte| byte.is_ascii_digit()) => kind,
            _ => &self.label,
        }
    }
}

/// The launches of one step, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What it does: `target, 4 rows per weight read`.
    pub title: String,
    /// Kernels that the stages use.
    pub kernels: Vec<KernelSpec>,
    /// The launches.
    pub stages: Vec<Stage>,
    counts: Vec<Count>,
}

impl Plan {
    /// The counts that decide what the launches of a step look like, each once.
    pub fn counts(&self) -> &[Count] {
        &self.counts
    }

    /// A plan with nothing but one of the stages.
    #[must_use]
    pub fn only(&self, stage: &Stage) -> Self {
        let mut plan = Self::new(stage.label.clone());
        let kernel = self.kernels[stage.kernel].clone();
        plan.push(
            stage.label.clone(),
            kernel,
            stage.grid,
            stage.operands.clone(),
            stage.cost,
        );
        if let Some(only) = plan.stages.last_mut() {
            only.dependent = stage.dependent;
            only.divided.clone_from(&stage.divided);
        }
        plan
    }

    /// An empty plan.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a launch.
    pub fn push(
        &mut self,
        label: impl Into<String>,
        kernel: KernelSpec,
        grid: [Count; 3],
        operands: Vec<Operand>,
        cost: Cost,
    ) {
        let index = self.kernels.iter().position(|known| *known == kernel);
        let kernel = index.unwrap_or_else(|| {
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        let of_operands = operands.iter().filter_map(|operand| match operand {
            Operand::Count(count) => Some(*count),
            _ => None,
        });
        for count in grid.into_iter().chain(of_operands) {
            if !matches!(count, Count::Fixed(_)) && !self.counts.contains(&count) {
                self.counts.push(count);
            }
        }
        self.stages.push(Stage {
            label: label.into(),
            kernel,
            grid,
            operands,
            dependent: false,
            cost,
            divided: None,
        });
    }
}
