//! Checks of a kernel as a whole, after it has been recorded.
//!
//! Recording sees one operation at a time; what needs the whole kernel is checked here: barriers that some threads
//! miss, values that outlive the block they were computed in, indices that only the vendor compiler would resolve,
//! and the limits of the target. All mistakes are reported at once, each at the author's line; one inside of a
//! device function at that function's line.

mod fragments;
mod limits;
mod memory;
mod registers;
mod scope;
mod statics;
mod uniform;

use crate::ir::*;
use crate::record::Diagnostic;

use statics::Statics;

/// Every mistake of a recorded kernel, in no particular order.
pub fn check(kernel: &Kernel) -> Vec<Diagnostic> {
    let mut report = Report::default();
    limits::check(kernel, &mut report);
    for scope in scopes(kernel) {
        let statics = Statics::new(kernel, scope.body);
        scope::check(&scope, &mut report);
        registers::check(&scope, &statics, &mut report);
        memory::check(&scope, &statics, &mut report);
        fragments::check(kernel, &scope, &mut report);
        limits::check_loops(&scope, &statics, &mut report);
    }
    uniform::check(kernel, &mut report);
    report.diagnostics
}

/// The kernel, or one of its functions.
struct Scope<'a> {
    body: &'a Body,
    kernel: &'a Kernel,
    function: Option<&'a Function>,
}

impl Scope<'_> {
    /// Element type of a memory, if it exists.
    fn element(&self, memory: Memory) -> Option<Scalar> {
        match memory {
            Memory::Shared(id) => self.body.shared.get(id.index()).map(|s| s.element),
            Memory::Parameter(index) => match self.function {
                Some(function) => match function.parameters.get(index as usize)?.kind {
                    FunctionParameterKind::GlobalRead(element)
                    | FunctionParameterKind::GlobalWrite(element)
                    | FunctionParameterKind::Shared(element) => Some(element),
                    FunctionParameterKind::Value(_) => None,
                },
                None => match self.kernel.parameters.get(index as usize)?.kind {
                    ParameterKind::Memory { element, .. } => Some(element),
                    ParameterKind::Scalar(_) => None,
                },
            },
        }
    }

    /// The author's name of a memory.
    fn memory_name(&self, memory: Memory) -> &str {
        let name = match memory {
            Memory::Shared(id) => self.body.shared.get(id.index()).map(|s| s.name.as_str()),
            Memory::Parameter(index) => match self.function {
                Some(function) => function.parameters.get(index as usize).map(|p| p.name.as_str()),
                None => self.kernel.parameters.get(index as usize).map(|p| p.name.as_str()),
            },
        };
        name.unwrap_or("memory")
    }
}

fn scopes(kernel: &Kernel) -> Vec<Scope<'_>> {
    let functions = kernel.functions.iter().map(|function| Scope {
        body: &function.body,
        kernel,
        function: Some(function),
    });
    let own = Scope {
        body: &kernel.body,
        kernel,
        function: None,
    };
    functions.chain([own]).collect()
}

/// Collects mistakes; one that several rounds or calls repeat is kept once.
#[derive(Default)]
struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    fn add(
        &mut self,
        at: Location,
        problem: impl Into<String>,
        supported: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let diagnostic = Diagnostic {
            at,
            problem: problem.into(),
            supported: supported.into(),
            remedy: remedy.into(),
        };
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }
}

/// Conditions that hold where a statement is: a value, and which way it went.
type Path = Vec<(ValueId, bool)>;

/// Every statement with the conditions it is under.
fn each_statement<'a>(block: &'a Block, path: &mut Path, visit: &mut impl FnMut(&'a Stmt, &Path)) {
    for stmt in block {
        visit(stmt, path);
        match &stmt.kind {
            StmtKind::If {
                condition,
                then,
                otherwise,
            } => {
                for (block, way) in [(then, true), (otherwise, false)] {
                    path.push((*condition, way));
                    each_statement(block, path, visit);
                    path.pop();
                }
            }
            kind => {
                for block in kind.blocks() {
                    each_statement(block, path, visit);
                }
            }
        }
    }
}
