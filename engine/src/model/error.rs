//! Why a file is not a model that can be run.

use super::repack::RepackError;
use crate::gguf;
use crate::plan::PlanError;

/// Why a file is not a model that can be run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// A slot that cannot be saved or restored.
    #[error(transparent)]
    Slot(#[from] crate::kv::saved::SaveError),
    /// Formats of the cache that no kernel takes together.
    #[error(transparent)]
    Cache(#[from] crate::kv::UnsupportedPair),
    /// Another kind of model.
    #[error("architecture `{found}` is not supported here; {wanted}")]
    Architecture {
        /// `general.architecture`
        found: String,
        /// What is.
        wanted: &'static str,
    },
    /// A key has to be there.
    #[error("the file has no `{key}`, which a {model} needs: {what}")]
    MissingKey {
        /// The key.
        key: String,
        /// Kind of model.
        model: &'static str,
        /// What it says.
        what: &'static str,
    },
    /// A key's value is impossible.
    #[error("`{key}` is {found}; {wanted}")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it has to be.
        wanted: String,
    },
    /// Mixture of experts.
    #[error(
        "this is a mixture-of-experts model ({experts} experts); Tilekiln cannot run these yet. The dense sizes E2B, E4B, \
         12B and 31B work"
    )]
    Experts {
        /// `expert_count`
        experts: u64,
    },
    /// A tensor has to be there.
    #[error("the file has no tensor `{name}` (dims {dims:?}); it is incomplete, or its names are of an unknown layout")]
    MissingTensor {
        /// Its name.
        name: String,
        /// Its dimensions, innermost first.
        dims: Vec<usize>,
    },
    /// A tensor does not fit the metadata.
    #[error("tensor `{name}` has dims {found:?}; the metadata asks for {wanted:?} (innermost first)")]
    WrongShape {
        /// Its name.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// What they should be.
        wanted: Vec<usize>,
    },
    /// A tensor's type has no kernel.
    #[error(
        "tensor `{name}` is of type {kind}, which cannot be computed with; requantise the file to F32, F16, BF16, Q8_0, \
         Q4_0, Q5_0, Q4_K, Q5_K or Q6_K"
    )]
    UnsupportedType {
        /// Its name.
        name: String,
        /// Its type.
        kind: String,
    },
    /// Rows have to be whole groups.
    #[error("tensor `{name}` has rows of {cols} values; rows have to be a multiple of 32")]
    UnalignedRows {
        /// Its name.
        name: String,
        /// Values of a row.
        cols: usize,
    },
    /// Kernels address 4 GiB.
    #[error("tensor `{name}` is larger than 4 GiB; use a file in which it is quantised")]
    TooLarge {
        /// Its name.
        name: String,
    },
    /// A matrix could not be brought into the order of matrix instructions.
    #[error("tensor `{name}` cannot be packed: {error}; the file is damaged")]
    Repacking {
        /// Its name.
        name: String,
        /// Why.
        error: RepackError,
    },
    /// Kernels number the pages of a cache with 32 bits.
    #[error(
        "the cache of layer {layer} would have {slots} slots of {context} positions, more than a kernel can address; use a \
         smaller context (-c) or fewer slots (-np)"
    )]
    CacheTooLarge {
        /// The layer.
        layer: usize,
        /// Sequences.
        slots: usize,
        /// Positions of each.
        context: usize,
    },
    /// The two files do not belong together.
    #[error("the assistant does not belong to this model: its {what} is {assistant}, the model's is {target}")]
    Mismatch {
        /// Property.
        what: String,
        /// In the assistant's file.
        assistant: String,
        /// In the model's file.
        target: String,
    },
    /// The assistant's file is damaged.
    #[error("the assistant's file is damaged: {0}")]
    DamagedAssistant(String),
    /// The device or a kernel.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A step computed no number.
    #[error("the model computed no finite logits at position {position}; its weights are damaged, or a kernel is")]
    NotFinite {
        /// Position of the row.
        position: u32,
    },
}
