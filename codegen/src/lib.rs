//! From kernel IR to source text a CUDA or HIP engineer reviews.
//!
//! One front (naming, inlining, expression and statement printing) and one folder per target language
//! with the same files. `codegen` knows nothing of any particular kernel.

use tilekiln_dsl::ir::{Kernel, Location};
use tilekiln_dsl::target::Target;

/// A generated source file. It compiles from the text alone.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Symbol of the kernel in the compiled module.
    pub symbol: String,
    /// `rms_norm_f16_t256.cu` or `.hip`.
    pub file_name: String,
    /// The text.
    pub text: String,
    /// For every line of the text (0-based), where in the DSL it comes from.
    pub lines: Vec<Option<Location>>,
    /// What it was generated for.
    pub target: Target,
    /// Threads per block.
    pub threads: usize,
    /// Bytes of dynamic shared memory a launch must ask for (0 when all of it is static).
    pub dynamic_shared_bytes: usize,
}

/// Why a kernel has no text for its target.
#[derive(Debug)]
pub struct CodegenError {
    /// What was asked, what exists, the nearest that works.
    pub message: String,
    /// The author's line.
    pub at: Location,
}

/// Writes the source text of a recorded kernel for the target it was recorded for.
pub fn generate(_kernel: &Kernel) -> Result<Generated, CodegenError> {
    todo!()
}
