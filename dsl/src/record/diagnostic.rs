//! Errors of a kernel under recording: collected, not thrown, each at its author's line.

use std::fmt;

use crate::ir::Location;

/// One mistake in a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The author's line.
    pub at: Location,
    /// What was asked and why it cannot be.
    pub problem: String,
    /// What is supported.
    pub supported: String,
    /// The nearest thing that works.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.problem)?;
        writeln!(f, "  --> {}", self.at)?;
        writeln!(f, "  = supported: {}", self.supported)?;
        write!(f, "  = try: {}", self.remedy)
    }
}

/// Every mistake of one kernel, in source order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The kernel's name.
    pub kernel: String,
    /// Its mistakes; never empty.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{diagnostic}\n")?;
        }
        let count = self.diagnostics.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "kernel `{}` is rejected: {count} error{plural}", self.kernel)
    }
}

impl std::error::Error for Rejected {}
