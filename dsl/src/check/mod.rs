//! Checks of a kernel as a whole, after it has been recorded.
use crate::ir::Kernel;
use crate::record::Diagnostic;
/// All mistakes.
pub fn check(_kernel: &Kernel) -> Vec<Diagnostic> {
    Vec::new()
}
