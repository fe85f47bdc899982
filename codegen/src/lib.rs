//! From kernel IR to source text a CUDA or HIP engineer reviews.
//!
//! One front (naming, inlining, expression and statement printing) and one folder per target language
//! with the same files: `mod` (the language's answers), `writer` (types, conversions, operators),
//! `intrinsics` (helpers that a file defines when it uses them) and `keywords`.
//! `codegen` knows nothing of any particular kernel.

mod cuda;
mod front;
mod hip;

use tilekiln_dsl::ir::{Kernel, Location};
use tilekiln_dsl::target::{Target, Vendor};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodegenError {
    /// What was asked, what exists, the nearest that works.
    pub message: String,
    /// The author's line.
    pub at: Location,
}

impl std::fmt::Display for CodegenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

impl std::error::Error for CodegenError {}

/// Writes the source text of a recorded kernel for the target it was recorded for.
///
/// # Errors
/// The target has no source language, lacks an instruction the kernel asks for, or gives a block less shared
/// memory than the kernel declares. The error names what exists and points at the author's line.
pub fn generate(kernel: &Kernel) -> Result<Generated, CodegenError> {
    match kernel.target.vendor {
        Vendor::Nvidia => front::file::write(kernel, &cuda::Cuda),
        Vendor::Amd => front::file::write(kernel, &hip::Hip),
        Vendor::Host => Err(CodegenError {
            message: format!(
                "`{}` has no source text: the host device executes the recorded kernel itself; targets with text: {}",
                kernel.target.name,
                Target::names().join(", ")
            ),
            at: kernel.at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use crate::front::language::Language;

    #[test]
    fn helpers_stand_behind_what_they_need() {
        for language in [&crate::cuda::Cuda as &dyn Language, &crate::hip::Hip] {
            let helpers = language.helpers();
            for (position, helper) in helpers.iter().enumerate() {
                for need in helper.needs {
                    assert!(
                        helpers[..position].iter().any(|h| h.key == *need),
                        "{}: {need}",
                        helper.key
                    );
                }
                assert!(helper.text.contains(helper.name), "{}", helper.key);
                assert!(
                    !helpers[..position].iter().any(|h| h.key == helper.key),
                    "{} twice",
                    helper.key
                );
            }
        }
    }
}
