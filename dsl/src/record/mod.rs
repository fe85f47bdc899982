//! Recording: the author's Rust function runs once, and every device operation it performs is appended here.
//!
//! One kernel is recorded per thread at a time. The `Recorder` keeps a stack of frames (the kernel, and the
//! device functions being recorded inside it), each with a stack of open blocks. Handles such as
//! [`Val`](crate::value::Val) are small ids into the innermost frame; a frame number in each of them catches a
//! value that leaks from one function into another.
//!
//! Mistakes never stop recording: they are collected with [`error`] and the operation yields a placeholder,
//! so that an author sees all of them at once.

mod diagnostic;
mod function;
mod scope;

use std::cell::RefCell;
use std::collections::HashMap;

pub use diagnostic::{Diagnostic, Rejected};
pub use function::{DeviceFunction, FunctionArgument, FunctionResult};
pub use scope::{
    ComptimeIf, DeviceLoop, If, LoopMark, Merge, OtherBlock, WhileCondition, WhileScope, depth, enter_loop,
    leave_function, leave_inlined, leave_loop, leave_with, logical, test_round,
};

use crate::comptime::KernelDef;
use crate::ir::*;
use crate::target::Target;

/// An open block and what opened it.
pub(crate) struct OpenBlock {
    pub statements: Block,
}

/// A body under construction.
pub(crate) struct Frame {
    pub id: u32,
    /// Which device function this is, to notice one that calls itself.
    pub function: Option<String>,
    pub body: Body,
    pub blocks: Vec<OpenBlock>,
    /// Variables made by the recorder for a branch that yields a value; the next `let` names them.
    pub unnamed: Vec<VariableId>,
    pub loops: Vec<scope::LoopKind>,
}

impl Frame {
    fn new(id: u32) -> Self {
        Self {
            id,
            function: None,
            body: Body::default(),
            blocks: vec![OpenBlock { statements: Vec::new() }],
            unnamed: Vec::new(),
            loops: Vec::new(),
        }
    }
}

/// All there is of a kernel while it is recorded.
pub(crate) struct Recorder {
    pub target: Target,
    pub parameters: Vec<Parameter>,
    pub constants: Vec<Constant>,
    pub functions: Vec<Function>,
    pub function_keys: HashMap<String, FunctionId>,
    pub frames: Vec<Frame>,
    pub next_frame: u32,
    pub diagnostics: Vec<Diagnostic>,
    /// Source names of the operands of the operation that is about to be recorded.
    pub operand_names: [Option<&'static str>; 2],
    /// A device loop has just handed out its variable.
    pub fresh_loop: bool,
    /// The jump that leaves open blocks behind has been reported.
    pub jump_reported: bool,
    /// Run-time shapes of memory parameters: one stride source per dimension after the first.
    pub shapes: HashMap<u32, Vec<crate::memory::Extent>>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

impl Recorder {
    pub fn frame(&mut self) -> &mut Frame {
        self.frames
            .last_mut()
            .expect("a frame is open while a kernel is recorded")
    }

    pub fn push(&mut self, kind: StmtKind, at: Location) {
        let frame = self.frame();
        let block = frame
            .blocks
            .last_mut()
            .expect("a block is open while a frame is recorded");
        block.statements.push(Stmt { kind, at });
    }

    pub fn value(&mut self, ty: Type, op: Op, at: Location) -> ValueId {
        let frame = self.frame();
        let id = ValueId(frame.body.values.len() as u32);
        frame.body.values.push(Value { ty, op, name: None, at });
        self.push(StmtKind::Eval(id), at);
        id
    }

    pub fn error(&mut self, diagnostic: Diagnostic) {
        // the same line is visited once per unrolled round: report it once
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }
}

/// Runs `f` on the kernel under recording. Outside of one there is nothing to record into: that is a mistake
/// of the calling Rust code, not of a kernel, hence the panic.
#[track_caller]
pub(crate) fn with<R>(f: impl FnOnce(&mut Recorder) -> R) -> R {
    RECORDER.with_borrow_mut(|slot| match slot {
        Some(recorder) => f(recorder),
        None => panic!("device operations can only be written inside a #[kernel], #[device_fn] or #[tile_fn] that is being recorded"),
    })
}

/// Collects a mistake and goes on.
pub fn error(at: Location, problem: impl Into<String>, supported: impl Into<String>, remedy: impl Into<String>) {
    let diagnostic = Diagnostic {
        at,
        problem: problem.into(),
        supported: supported.into(),
        remedy: remedy.into(),
    };
    with(|r| r.error(diagnostic));
}

/// The target of the kernel under recording: layouts and limits for comptime decisions.
#[track_caller]
pub fn target() -> Target {
    with(|r| r.target.clone())
}

/// Appends a statement written at the caller's line.
#[track_caller]
pub(crate) fn statement(kind: StmtKind) {
    let at = Location::caller();
    with(|r| r.push(kind, at));
}

/// Remembers (or forgets) the source name of an operand.
pub(crate) fn name_operand(side: usize, name: Option<&'static str>) {
    // comptime code outside of a recording passes here too
    RECORDER.with_borrow_mut(|slot| {
        if let Some(recorder) = slot {
            recorder.operand_names[side] = name;
        }
    });
}

/// A section comment of the author.
pub fn comment(text: &str, at: Location) {
    with(|r| r.push(StmtKind::Comment(text.to_string()), at));
}

/// Drops what follows a `return`, `break` or `continue` in its block: such a jump may be there for some comptime
/// arguments only, and what follows it for the others.
pub(crate) fn drop_unreachable(block: &mut Block) {
    let jump = block
        .iter()
        .position(|s| matches!(s.kind, StmtKind::Return(_) | StmtKind::Break | StmtKind::Continue));
    if let Some(jump) = jump {
        block.truncate(jump + 1);
    }
    for stmt in block {
        match &mut stmt.kind {
            StmtKind::If { then, otherwise, .. } => {
                drop_unreachable(then);
                drop_unreachable(otherwise);
            }
            StmtKind::For { body, .. } | StmtKind::While { body, .. } => drop_unreachable(body),
            _ => {}
        }
    }
}

/// Records a kernel for a target, then checks it as a whole.
pub(crate) fn record(def: &KernelDef, target: &Target) -> Result<Kernel, Rejected> {
    let recorder = Recorder {
        target: target.clone(),
        parameters: Vec::new(),
        constants: Vec::new(),
        functions: Vec::new(),
        function_keys: HashMap::new(),
        frames: vec![Frame::new(0)],
        next_frame: 1,
        diagnostics: Vec::new(),
        operand_names: [None, None],
        fresh_loop: false,
        jump_reported: false,
        shapes: HashMap::new(),
    };
    let outer = RECORDER.replace(Some(recorder));
    // a panic in comptime code must not leave a half-recorded kernel behind
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (def.body)()));
    let recorder = RECORDER.replace(outer).expect("the recorder outlives the recording");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    let mut diagnostics = recorder.diagnostics;
    let mut frames = recorder.frames;
    let mut frame = frames.pop().expect("the kernel's own frame");
    frame.body.block = frame.blocks.pop().map(|b| b.statements).unwrap_or_default();
    drop_unreachable(&mut frame.body.block);
    let kernel = Kernel {
        symbol: def.symbol(),
        family: def.family.to_string(),
        doc: def.doc.iter().map(ToString::to_string).collect(),
        at: def.at,
        settings: def.settings.clone(),
        target: target.clone(),
        threads: def.threads,
        blocks: def.blocks,
        parameters: recorder.parameters,
        constants: recorder.constants,
        functions: recorder.functions,
        body: frame.body,
    };
    diagnostics.extend(crate::check::check(&kernel));
    diagnostics.sort_by_key(|d| d.at);
    diagnostics.dedup();
    if diagnostics.is_empty() {
        Ok(kernel)
    } else {
        Err(Rejected {
            kernel: kernel.family,
            diagnostics,
        })
    }
}
