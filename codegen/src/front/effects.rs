//! What calls and stores can change.

use tilekiln_dsl::ir::{
    Access, Block, Body, FunctionId, FunctionParameterKind, Kernel, Memory, Op, ParameterKind, StmtKind,
};

/// What calling a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CallEffect {
    /// Depends on its arguments only.
    Pure,
    /// Reads memory.
    Reads,
    /// Writes memory, synchronizes or needs all lanes.
    Full,
}

/// The memories of a kernel or function, as far as aliasing goes.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'k> {
    Kernel(&'k Kernel),
    Function(&'k Kernel, FunctionId),
}

impl Owner<'_> {
    /// Whether a store to `written` can change what `read` gives.
    pub fn may_alias(self, read: Memory, written: Memory) -> bool {
        if read == written {
            return true;
        }
        let (Self::Function(kernel, function), Memory::Parameter(a), Memory::Parameter(b)) = (self, read, written)
        else {
            return false;
        };
        let is_shared = |index: u32| {
            kernel
                .functions
                .get(function.index())
                .and_then(|f| f.parameters.get(index as usize))
                .is_some_and(|p| matches!(p.kind, FunctionParameterKind::Shared(_)))
        };
        is_shared(a) == is_shared(b)
    }
}

/// Effects of all functions of a kernel, callees first.
pub(crate) fn call_effects(kernel: &Kernel) -> Vec<CallEffect> {
    let mut effects = Vec::new();
    for function in &kernel.functions {
        let effect = block_effect(&function.body, &function.body.block, &effects);
        effects.push(effect);
    }
    effects
}

fn block_effect(body: &Body, block: &Block, known: &[CallEffect]) -> CallEffect {
    let of_call = |id: &FunctionId| known.get(id.index()).copied().unwrap_or(CallEffect::Full);
    let mut effect = CallEffect::Pure;
    for stmt in block {
        let own = match &stmt.kind {
            StmtKind::Eval(value) => match &body.value(*value).op {
                Op::Load(_) => CallEffect::Reads,
                Op::Shuffle { .. } | Op::WarpReduce { .. } | Op::Ballot(_) => CallEffect::Full,
                Op::Call { function, .. } => of_call(function),
                _ => CallEffect::Pure,
            },
            StmtKind::Store { .. }
            | StmtKind::Barrier
            | StmtKind::GroupBarrier { .. }
            | StmtKind::WarpBarrier
            | StmtKind::AsyncCopy { .. }
            | StmtKind::AsyncCommit
            | StmtKind::AsyncWait { .. }
            | StmtKind::InitCopyBarriers { .. }
            | StmtKind::BulkCopy { .. }
            | StmtKind::WaitForCopy { .. }
            | StmtKind::TriggerDependents
            | StmtKind::WaitForPrerequisites
            | StmtKind::LoadMatrix { .. }
            | StmtKind::Mma { .. } => CallEffect::Full,
            StmtKind::Call { function, .. } => of_call(function),
            _ => CallEffect::Pure,
        };
        effect = effect.max(own);
        for inner in stmt.kind.blocks() {
            effect = effect.max(block_effect(body, inner, known));
        }
    }
    effect
}

/// Whether a memory parameter of a kernel is only read.
pub(crate) fn is_read_only(kind: &ParameterKind) -> bool {
    matches!(
        kind,
        ParameterKind::Memory {
            access: Access::Read,
            ..
        }
    )
}
