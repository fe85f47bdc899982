//! What is known of a value without running the kernel: numbers made of literals, constants and the variables of
//! unrolled loops.

use std::collections::{BTreeMap, HashMap};

use super::{Path, each_statement};
use crate::ir::*;

/// More combinations of loop variables than this are not tried out.
const MOST_ROUNDS: usize = 4096;

/// Static facts of one body.
pub struct Statics<'a> {
    kernel: &'a Kernel,
    body: &'a Body,
    /// Variables of unrolled loops and the values they take, where these can be enumerated.
    unrolled: BTreeMap<VariableId, Option<Vec<i128>>>,
    /// For each value: the loop variables it is made of, or nothing if the vendor compiler cannot know it either.
    made_of: Vec<Option<Vec<VariableId>>>,
}

type Environment = HashMap<VariableId, i128>;

impl<'a> Statics<'a> {
    pub fn new(kernel: &'a Kernel, body: &'a Body) -> Self {
        let mut statics = Self {
            kernel,
            body,
            unrolled: BTreeMap::new(),
            made_of: Vec::with_capacity(body.values.len()),
        };
        each_statement(&body.block, &mut Path::new(), &mut |stmt, _| {
            if let StmtKind::For {
                variable,
                unroll: Unroll::Full,
                ..
            } = &stmt.kind
            {
                statics.unrolled.insert(*variable, None);
            }
        });
        for index in 0..body.values.len() {
            let made_of = statics.ingredients(&body.values[index], index);
            statics.made_of.push(made_of);
        }
        each_statement(&body.block, &mut Path::new(), &mut |stmt, _| {
            if let StmtKind::For {
                variable,
                start,
                end,
                step,
                unroll: Unroll::Full,
                body,
            } = &stmt.kind
            {
                // which rounds are left early is not followed
                let rounds = (!leaves_early(body))
                    .then(|| statics.rounds(*start, *end, *step))
                    .flatten();
                statics.unrolled.insert(*variable, rounds);
            }
        });
        statics
    }

    /// Known to the vendor compiler.
    pub fn is_static(&self, value: ValueId) -> bool {
        matches!(self.made_of.get(value.index()), Some(Some(_)))
    }

    /// The number, if it is the same in every round of every loop.
    pub fn number(&self, value: ValueId) -> Option<i128> {
        match self.made_of.get(value.index()) {
            Some(Some(variables)) if variables.is_empty() => self.evaluate(value, &Environment::new()),
            _ => None,
        }
    }

    /// All numbers a value takes on a path, if they can be enumerated.
    pub fn numbers(&self, value: ValueId, path: &Path) -> Option<Vec<i128>> {
        let mut variables = self.made_of.get(value.index())?.clone()?;
        let conditions: Vec<_> = path.iter().filter(|(c, _)| self.is_static(*c)).collect();
        for (condition, _) in &conditions {
            if let Some(Some(more)) = self.made_of.get(condition.index()) {
                variables.extend(more);
            }
        }
        variables.sort();
        variables.dedup();
        let mut environments = vec![Environment::new()];
        for variable in variables {
            let rounds = self.unrolled.get(&variable)?.as_ref()?;
            if environments.len() * rounds.len() > MOST_ROUNDS {
                return None;
            }
            environments = environments
                .iter()
                .flat_map(|known| {
                    rounds.iter().map(|round| {
                        let mut known = known.clone();
                        known.insert(variable, *round);
                        known
                    })
                })
                .collect();
        }
        let mut numbers = Vec::new();
        for environment in &environments {
            let reached = conditions.iter().all(|(condition, way)| {
                self.evaluate(*condition, environment)
                    .is_none_or(|holds| (holds != 0) == *way)
            });
            if reached {
                numbers.push(self.evaluate(value, environment)?);
            }
        }
        Some(numbers)
    }

    fn ingredients(&self, value: &Value, index: usize) -> Option<Vec<VariableId>> {
        let is_float = value.ty.scalar().is_float() || value.ty.components() > 1;
        match &value.op {
            _ if is_float => None,
            Op::Literal(_) | Op::Constant(_) => Some(Vec::new()),
            Op::ReadVariable(variable) => self.unrolled.contains_key(variable).then(|| vec![*variable]),
            Op::Unary(..) | Op::Binary(..) | Op::Compare(..) | Op::Select { .. } | Op::Convert(_) => {
                let mut out = Vec::new();
                for operand in value.op.operands() {
                    if operand.index() >= index {
                        return None;
                    }
                    out.extend(self.made_of[operand.index()].as_ref()?);
                }
                out.sort();
                out.dedup();
                Some(out)
            }
            _ => None,
        }
    }

    fn rounds(&self, start: ValueId, end: ValueId, step: ValueId) -> Option<Vec<i128>> {
        let (start, end, step) = (self.number(start)?, self.number(end)?, self.number(step)?);
        let step = usize::try_from(step).ok().filter(|step| *step > 0)?;
        let rounds: Vec<_> = (start..end).step_by(step).take(MOST_ROUNDS + 1).collect();
        (rounds.len() <= MOST_ROUNDS).then_some(rounds)
    }

    fn evaluate(&self, value: ValueId, known: &Environment) -> Option<i128> {
        let Value { ty, op, .. } = self.body.value(value);
        let get = |operand: &ValueId| self.evaluate(*operand, known);
        let result = match op {
            Op::Literal(literal) => number(*literal)?,
            Op::Constant(id) => number(self.kernel.constants.get(id.index())?.value)?,
            Op::ReadVariable(variable) => *known.get(variable)?,
            Op::Unary(UnaryOp::Neg, a) => -get(a)?,
            Op::Unary(UnaryOp::Not, a) if ty.scalar() == Scalar::Bool => 1 - get(a)?,
            Op::Unary(UnaryOp::Not, a) => !get(a)?,
            Op::Convert(a) if self.body.value(*a).ty.scalar().is_float() => return None,
            Op::Convert(a) => get(a)?,
            Op::Select { condition, yes, no } => get(if get(condition)? != 0 { yes } else { no })?,
            Op::Compare(op, a, b) => {
                let (a, b) = (get(a)?, get(b)?);
                let holds = match op {
                    CompareOp::Eq => a == b,
                    CompareOp::Ne => a != b,
                    CompareOp::Lt => a < b,
                    CompareOp::Le => a <= b,
                    CompareOp::Gt => a > b,
                    CompareOp::Ge => a >= b,
                };
                i128::from(holds)
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (get(a)?, get(b)?);
                match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a.checked_mul(b)?,
                    BinaryOp::Div => a.checked_div(b)?,
                    BinaryOp::Rem => a.checked_rem(b)?,
                    BinaryOp::And => a & b,
                    BinaryOp::Or => a | b,
                    BinaryOp::Xor => a ^ b,
                    BinaryOp::Shl => a.checked_shl(u32::try_from(b).ok().filter(|b| *b < 64)?)?,
                    BinaryOp::Shr => a.checked_shr(u32::try_from(b).ok().filter(|b| *b < 64)?)?,
                    BinaryOp::Min => a.min(b),
                    BinaryOp::Max => a.max(b),
                    BinaryOp::AddUnfused | BinaryOp::SubUnfused | BinaryOp::MulUnfused => return None,
                }
            }
            _ => return None,
        };
        Some(wrapped(result, ty.scalar()))
    }
}

fn leaves_early(block: &Block) -> bool {
    block.iter().any(|stmt| match &stmt.kind {
        StmtKind::Break | StmtKind::Continue | StmtKind::Return(_) => true,
        kind => kind.blocks().into_iter().any(leaves_early),
    })
}

fn number(literal: Literal) -> Option<i128> {
    match literal {
        Literal::Bool(value) => Some(value.into()),
        Literal::I32(value) => Some(value.into()),
        Literal::U32(value) => Some(value.into()),
        Literal::U64(value) => Some(value.into()),
        Literal::F32(_) | Literal::F16(_) => None,
    }
}

/// Integer arithmetic wraps.
fn wrapped(value: i128, scalar: Scalar) -> i128 {
    match scalar {
        Scalar::I32 => i128::from(value as i32),
        Scalar::U32 => i128::from(value as u32),
        Scalar::U64 => i128::from(value as u64),
        _ => value,
    }
}
