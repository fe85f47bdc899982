//! Launches of products, taken out of a model's plans: the planner alone knows what a launch looks like.

use std::collections::{BTreeMap, BTreeSet};

use tilekiln_runtime::device::{Argument, Buffer, Launch};

use crate::gguf;
use crate::kv::{Geometry, KvType, KvTypes};
use crate::model::{Chip, Design, LoadOptions, ModelError, Precision, Tuning};
use crate::plan::{BufferKind, BufferTable, KernelSpec, Operand, Product, Size, Stage};

/// Rows of the largest step: as many as share a read of the weights on any target.
const ROWS: usize = 32;

/// A model of which the divisions of products are to be found. Its weights are not read.
pub struct Source {
    /// The model.
    pub target: gguf::File,
    /// Its assistant.
    pub assistant: Option<gguf::File>,
}

/// One launch with its kernel and what it works on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its kernel, divided.
    pub kernel: KernelSpec,
    /// What it computes, whatever the layer.
    pub kind: String,
    stage: Stage,
    /// For each operand that is a buffer, which one.
    buffers: Vec<Option<Memory>>,
}

/// A buffer that a launch works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    /// Unique in its model.
    pub name: String,
    /// Size.
    pub bytes: usize,
    /// Filled once, when a model is loaded.
    pub is_weights: bool,
}

/// Launches of products by their column tiles.
pub type Samples = BTreeMap<Product, BTreeMap<usize, Sample>>;

/// What a product is in a model: `ffn_down`.
pub type Kinds = BTreeMap<Product, BTreeSet<String>>;

/// The launches of every product of a model with packed weights, one for each number of column tiles.
///
/// # Errors
/// Files that are no models.
pub fn samples(source: &Source, chip: Chip<'_>, tuning: Option<&Tuning>) -> Result<(Samples, Kinds), ModelError> {
    let options = LoadOptions {
        precision: Precision::Fast,
        kv: KvTypes::uniform(KvType::F16),
        geometry: Geometry {
            // an assistant has a row of each sequence
            slots: ROWS,
            context: 4 * ROWS,
            max_rows: ROWS,
            run: 1,
        },
        outputs: ROWS,
    };
    let design = Design::read(&source.target, source.assistant.as_ref(), options, chip.tuned(tuning))?;
    let (plans, table) = design.all();
    let (mut samples, mut kinds) = (Samples::new(), Kinds::new());
    for plan in plans {
        for stage in &plan.stages {
            let Some(divided) = &stage.divided else { continue };
            kinds
                .entry(divided.product.clone())
                .or_default()
                .insert(stage.kind().to_owned());
            let of_product = samples.entry(divided.product.clone()).or_default();
            of_product
                .entry(divided.columns)
                .or_insert_with(|| Sample::new(&plan.kernels[stage.kernel], stage, table));
        }
    }
    Ok((samples, kinds))
}

impl Sample {
    fn new(kernel: &KernelSpec, stage: &Stage, table: &BufferTable) -> Self {
        let memory = |operand: &Operand| {
            let (Operand::Buffer(id) | Operand::Slice(id, _)) = operand else {
                return None;
            };
            let spec = table.spec(*id);
            Some(Memory {
                name: spec.name.clone(),
                bytes: spec.bytes,
                is_weights: spec.kind == BufferKind::Constant,
            })
        };
        Self {
            kernel: kernel.clone(),
            kind: stage.kind().to_owned(),
            buffers: stage.operands.iter().map(memory).collect(),
            stage: stage.clone(),
        }
    }

    /// What it works on.
    pub fn memory(&self) -> impl Iterator<Item = &Memory> {
        self.buffers.iter().flatten()
    }

    /// Bytes of weights that it reads.
    pub fn weight_bytes(&self) -> usize {
        let weights = self.memory().filter(|memory| memory.is_weights);
        weights.map(|memory| memory.bytes).sum()
    }

    /// The launch for so many rows, on the buffers that `of` gives it. None without one of them.
    pub fn launch<'b>(&self, rows: usize, of: impl Fn(&Memory) -> Option<&'b Buffer>) -> Option<Launch> {
        let size = Size::of_rows(rows);
        let argument = |(operand, memory): (&Operand, &Option<Memory>)| {
            Some(match (*operand, memory) {
                (Operand::Number(number), _) => Argument::U32(number),
                (Operand::Count(count), _) => Argument::U32(count.of(&size)),
                (Operand::Real(real), _) => Argument::F32(real),
                (Operand::Slice(_, offset), Some(memory)) => Argument::Buffer(of(memory)?.clone(), offset),
                (Operand::Buffer(_), Some(memory)) => Argument::Buffer(of(memory)?.clone(), 0),
                (Operand::Slice(..) | Operand::Buffer(_), None) => return None,
            })
        };
        let arguments = self.stage.operands.iter().zip(&self.buffers).map(argument);
        Some(Launch {
            grid: self.stage.grid.map(|count| count.of(&size)),
            arguments: arguments.collect::<Option<Vec<_>>>()?,
            dependent: self.stage.dependent,
        })
    }
}
