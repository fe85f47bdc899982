//! Walking over statements and the values they use.

use super::*;

/// What a walk reports.
pub trait Visit {
    /// Every statement, before its nested blocks.
    fn stmt(&mut self, _stmt: &Stmt) {}
    /// Every use of a value by a statement or by an evaluated operation.
    fn value_use(&mut self, _value: ValueId) {}
}

/// Visits all statements of a block in order, nested blocks included.
pub fn walk_block(body: &Body, block: &Block, visit: &mut impl Visit) {
    for stmt in block {
        visit.stmt(stmt);
        for value in stmt.kind.operands(body) {
            visit.value_use(value);
        }
        for inner in stmt.kind.blocks() {
            walk_block(body, inner, visit);
        }
    }
}

impl StmtKind {
    /// Nested blocks in execution order.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Self::If { then, otherwise, .. } => vec![then, otherwise],
            Self::For { body, .. } => vec![body],
            Self::While { test, body, .. } => vec![test, body],
            _ => Vec::new(),
        }
    }

    /// Values this statement itself uses (for `Eval`: the operands of the evaluated value).
    pub fn operands(&self, body: &Body) -> Vec<ValueId> {
        match self {
            Self::Eval(value) => body.value(*value).op.operands(),
            Self::Declare { value, .. } | Self::Assign { value, .. } => vec![*value],
            Self::WriteRegister { target, value } => {
                let mut out = target.index.clone();
                out.push(*value);
                out
            }
            Self::Store { place, value } => vec![place.index, *value],
            Self::If { condition, .. } | Self::While { condition, .. } => vec![*condition],
            Self::For { start, end, step, .. } => vec![*start, *end, *step],
            Self::Return(value) => value.iter().copied().collect(),
            Self::AsyncCopy { to, from } => vec![to.index, from.index],
            Self::LoadMatrix { to, from, .. } => {
                let mut out = to.index.clone();
                out.push(from.index);
                out
            }
            Self::Mma { accumulator, a, b, .. } => [&accumulator.index[..], &a.index, &b.index].concat(),
            Self::BulkCopy {
                to,
                from,
                bytes,
                barrier,
            } => vec![to.index, from.index, *bytes, barrier.index],
            Self::WaitForCopy { barrier, parity } => vec![barrier.index, *parity],
            Self::Call { arguments, .. } => arguments.iter().filter_map(Argument::value).collect(),
            Self::Comment(_)
            | Self::DeclareRegisters { .. }
            | Self::Break
            | Self::Continue
            | Self::Barrier
            | Self::GroupBarrier { .. }
            | Self::WarpBarrier
            | Self::AsyncCommit
            | Self::AsyncWait { .. }
            | Self::InitCopyBarriers { .. }
            | Self::TriggerDependents
            | Self::WaitForPrerequisites => Vec::new(),
        }
    }
}

impl Argument {
    /// The value, unless it is a memory.
    pub fn value(&self) -> Option<ValueId> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Memory(_) => None,
        }
    }
}

impl Op {
    /// Values this operation reads.
    pub fn operands(&self) -> Vec<ValueId> {
        match self {
            Self::Literal(_) | Self::Constant(_) | Self::Parameter(_) | Self::Builtin(_) | Self::ReadVariable(_) => {
                Vec::new()
            }
            Self::ReadRegister(reference) => reference.index.clone(),
            Self::Load(place) => vec![place.index],
            Self::Lookup { index, .. } => vec![*index],
            Self::Unary(_, a)
            | Self::Convert(a)
            | Self::Bitcast(a)
            | Self::Component(a, _)
            | Self::Ballot(a)
            | Self::AssumeUniform(a)
            | Self::InRegister(a) => vec![*a],
            Self::Binary(_, a, b) | Self::Compare(_, a, b) => vec![*a, *b],
            Self::Select { condition, yes, no } => vec![*condition, *yes, *no],
            Self::Math(_, operands) | Self::Vector(operands) => operands.clone(),
            Self::Shuffle { kind, value } => match kind {
                ShuffleKind::Lane(lane) => vec![*value, *lane],
                _ => vec![*value],
            },
            Self::WarpReduce { value, .. } => vec![*value],
            Self::Dot4 { a, b, accumulator, .. } => vec![*a, *b, *accumulator],
            Self::BytePermute { low, high, selector } => vec![*low, *high, *selector],
            Self::Call { arguments, .. } => arguments.iter().filter_map(Argument::value).collect(),
        }
    }
}
