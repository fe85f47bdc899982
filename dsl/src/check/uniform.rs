//! Barriers must be reached by all threads of a block or by none.
//!
//! A value is *uniform* when all threads that compute it get the same. The analysis starts from "everything is
//! uniform", lets thread coordinates, loads from writable memory and exchanges within a warp take that away, and
//! repeats until nothing changes; a variable stays uniform while everything assigned to it is, in code that all
//! threads run. A second walk then follows which threads are still there: under a condition that is not uniform, and
//! after a `return`, `break` or `continue` of some threads, a barrier is a mistake.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::Report;
use crate::ir::*;

pub fn check(kernel: &Kernel, report: &mut Report) {
    let mut shared = Program {
        kernel,
        results: HashMap::new(),
        reported: HashSet::new(),
        visited: HashSet::new(),
    };
    let mut analysis = Analysis::new(&kernel.body, None, Vec::new());
    analysis.settle(&mut shared);
    analysis.walk(&mut shared, None, Some(report));
}

/// Why some threads are not there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Cause {
    text: String,
    remedy: &'static str,
}

type Missing = Option<Rc<Cause>>;

const MOVE_OUT: &str =
    "move the barrier out of it, or compute the condition from `assume_uniform(…)` values if all threads do agree";
const SAME_ROUNDS: &str = "let all threads take every round, as in `for first in stepped(0, n, threads)` with an `if` around the work of this thread";
const GUARD: &str = "guard the work with an `if` that ends before the barrier instead of leaving early";

/// What all analyses of one kernel share.
struct Program<'a> {
    kernel: &'a Kernel,
    /// Whether a function's result is uniform, by the uniformity of its arguments.
    results: HashMap<(FunctionId, Vec<bool>), bool>,
    /// Barriers already reported.
    reported: HashSet<Location>,
    /// Calls already followed for reporting.
    visited: HashSet<(FunctionId, Vec<bool>, Missing)>,
}

impl Program<'_> {
    /// In a block of one warp, what is the same for the warp is the same for the block.
    fn one_warp(&self) -> bool {
        self.kernel.threads <= self.kernel.target.wave
    }
}

/// Threads that have left, by what they have left.
#[derive(Clone, Default)]
struct Left {
    function: Missing,
    innermost_loop: Missing,
    round: Missing,
}

impl Left {
    fn any(&self) -> &Missing {
        if self.function.is_some() {
            &self.function
        } else if self.innermost_loop.is_some() {
            &self.innermost_loop
        } else {
            &self.round
        }
    }

    fn join(self, other: Self) -> Self {
        Self {
            function: self.function.or(other.function),
            innermost_loop: self.innermost_loop.or(other.innermost_loop),
            round: self.round.or(other.round),
        }
    }
}

/// One body with known arguments.
struct Analysis<'a> {
    body: &'a Body,
    function: Option<&'a Function>,
    arguments: Vec<bool>,
    values: Vec<bool>,
    variables: Vec<bool>,
    registers: Vec<bool>,
    result: bool,
    changed: bool,
}

impl<'a> Analysis<'a> {
    fn new(body: &'a Body, function: Option<&'a Function>, arguments: Vec<bool>) -> Self {
        Self {
            body,
            function,
            arguments,
            values: vec![true; body.values.len()],
            variables: vec![true; body.variables.len()],
            registers: vec![true; body.registers.len()],
            result: true,
            changed: false,
        }
    }

    /// Repeats until nothing changes. Each round only takes uniformity away, so it ends.
    fn settle(&mut self, program: &mut Program<'a>) {
        loop {
            self.changed = false;
            self.walk(program, None, None);
            if !self.changed {
                return;
            }
        }
    }

    fn walk(&mut self, program: &mut Program<'a>, missing: Missing, report: Option<&mut Report>) {
        let mut walk = Walk {
            analysis: self,
            program,
            report,
        };
        let body = walk.analysis.body;
        walk.block(&body.block, &missing, &mut Left::default());
    }

    /// Takes uniformity away.
    fn lower(flags: &mut [bool], changed: &mut bool, index: usize, uniform: bool) {
        if let Some(known) = flags.get_mut(index)
            && *known
            && !uniform
        {
            *known = false;
            *changed = true;
        }
    }

    fn lower_values(&mut self, index: usize, uniform: bool) {
        Self::lower(&mut self.values, &mut self.changed, index, uniform);
    }

    fn lower_variables(&mut self, index: usize, uniform: bool) {
        Self::lower(&mut self.variables, &mut self.changed, index, uniform);
    }

    fn lower_registers(&mut self, index: usize, uniform: bool) {
        Self::lower(&mut self.registers, &mut self.changed, index, uniform);
    }

    fn is_uniform(&self, value: ValueId) -> bool {
        self.values.get(value.index()).copied().unwrap_or(false)
    }

    /// Memory that gives all threads the same at the same index.
    fn is_steady(&self, program: &Program, memory: Memory) -> bool {
        match (memory, self.function) {
            (Memory::Shared(_), _) => true,
            (Memory::Parameter(index), Some(function)) => function
                .parameters
                .get(index as usize)
                .is_some_and(|p| !matches!(p.kind, FunctionParameterKind::GlobalWrite(_))),
            (Memory::Parameter(index), None) => program.kernel.parameters.get(index as usize).is_some_and(|p| {
                matches!(
                    p.kind,
                    ParameterKind::Memory {
                        access: Access::Read,
                        ..
                    }
                )
            }),
        }
    }

    /// What first made a value differ, for messages.
    fn origin(&self, program: &Program, value: ValueId) -> String {
        let mut todo = vec![value];
        let mut seen = HashSet::new();
        while let Some(value) = todo.pop() {
            if self.is_uniform(value) || !seen.insert(value) {
                continue;
            }
            let found = match &self.body.value(value).op {
                Op::Builtin(Builtin::ThreadIndex) => "`thread_index()`".to_string(),
                Op::Builtin(Builtin::Lane) => "`lane_index()`".to_string(),
                Op::Builtin(Builtin::Warp) => "`warp_index()`".to_string(),
                Op::ReadVariable(variable) => match self.body.variables.get(variable.index()) {
                    Some(variable) => format!("`{}`", variable.name),
                    None => continue,
                },
                Op::ReadRegister(reference) => match self.body.registers.get(reference.registers.index()) {
                    Some(array) => format!("`{}`", array.name),
                    None => continue,
                },
                Op::Load(place) if !self.is_steady(program, place.memory) => "memory the kernel writes".to_string(),
                Op::Parameter(index) => match self.function.and_then(|f| f.parameters.get(*index as usize)) {
                    Some(parameter) => format!("argument `{}`", parameter.name),
                    None => continue,
                },
                Op::Call { function, .. } => match program.kernel.functions.get(function.index()) {
                    Some(function) => format!("the result of `{}`", function.name),
                    None => continue,
                },
                Op::Ballot(_) | Op::WarpReduce { .. } | Op::Shuffle { .. } => {
                    "a result that each warp has for itself".to_string()
                }
                op => {
                    todo.extend(op.operands());
                    continue;
                }
            };
            return format!(" (it depends on {found})");
        }
        String::new()
    }
}

struct Walk<'w, 'a, 'r> {
    analysis: &'w mut Analysis<'a>,
    program: &'w mut Program<'a>,
    /// Nothing while uniformity is still being found out.
    report: Option<&'r mut Report>,
}

impl<'a> Walk<'_, 'a, '_> {
    fn block(&mut self, block: &'a Block, around: &Missing, left: &mut Left) {
        for stmt in block {
            let missing = around.clone().or_else(|| left.any().clone());
            self.statement(stmt, &missing, left);
        }
    }

    fn statement(&mut self, stmt: &'a Stmt, missing: &Missing, left: &mut Left) {
        let all_here = missing.is_none();
        match &stmt.kind {
            StmtKind::Eval(value) => {
                let uniform = self.evaluated(*value, missing, stmt.at);
                self.analysis.lower_values(value.index(), uniform);
            }
            StmtKind::Declare { variable, value } | StmtKind::Assign { variable, value } => {
                let uniform = all_here && self.analysis.is_uniform(*value);
                self.analysis.lower_variables(variable.index(), uniform);
            }
            StmtKind::WriteRegister { target, value } => {
                let uniform = all_here
                    && self.analysis.is_uniform(*value)
                    && target.index.iter().all(|i| self.analysis.is_uniform(*i));
                self.analysis.lower_registers(target.registers.index(), uniform);
            }
            StmtKind::LoadMatrix { to, .. } => self.analysis.lower_registers(to.registers.index(), false),
            StmtKind::Mma { accumulator, .. } => {
                self.analysis.lower_registers(accumulator.registers.index(), false);
            }
            StmtKind::If {
                condition,
                then,
                otherwise,
            } => {
                let inside = self.under(missing, &[*condition], MOVE_OUT, |origin| {
                    format!("the `if` at {} differs between threads{origin}", stmt.at)
                });
                let mut other = left.clone();
                self.block(then, &inside, left);
                self.block(otherwise, &inside, &mut other);
                *left = std::mem::take(left).join(other);
            }
            StmtKind::For {
                variable,
                start,
                end,
                step,
                body,
                ..
            } => {
                let uniform = [start, end, step].iter().all(|v| self.analysis.is_uniform(**v));
                self.analysis.lower_variables(variable.index(), uniform);
                let inside = self.under(missing, &[*start, *end, *step], SAME_ROUNDS, |origin| {
                    format!(
                        "the `for` at {} runs different rounds in different threads{origin}",
                        stmt.at
                    )
                });
                self.rounds(&[body], &inside, left);
            }
            StmtKind::While { test, condition, body } => {
                let inside = self.under(missing, &[*condition], MOVE_OUT, |origin| {
                    format!("the `while` at {} differs between threads{origin}", stmt.at)
                });
                self.rounds(&[test, body], &inside, left);
            }
            StmtKind::Return(value) => {
                let uniform = all_here && value.is_none_or(|v| self.analysis.is_uniform(v));
                if !uniform && self.analysis.result {
                    self.analysis.result = false;
                    self.analysis.changed = true;
                }
                let cause = leaving(missing, "return", stmt.at);
                left.function = left.function.take().or(cause);
            }
            StmtKind::Break => {
                let cause = leaving(missing, "break", stmt.at);
                left.innermost_loop = left.innermost_loop.take().or(cause);
            }
            StmtKind::Continue => {
                let cause = leaving(missing, "continue", stmt.at);
                left.round = left.round.take().or(cause);
            }
            StmtKind::Barrier | StmtKind::GroupBarrier { .. } => self.barrier(stmt.at, missing),
            StmtKind::Call { function, arguments } => {
                self.called(*function, arguments, missing, stmt.at);
            }
            _ => {}
        }
    }

    /// The rounds of a loop: what some threads leave in one round is missing in the next.
    fn rounds(&mut self, blocks: &[&'a Block], inside: &Missing, left: &mut Left) {
        let outer = (left.innermost_loop.take(), left.round.take());
        loop {
            let before = (left.function.is_some(), left.innermost_loop.is_some());
            left.round = None;
            for block in blocks {
                self.block(block, inside, left);
            }
            if before == (left.function.is_some(), left.innermost_loop.is_some()) {
                break;
            }
        }
        (left.innermost_loop, left.round) = outer;
    }

    /// Who is missing inside of a construct that depends on some values.
    fn under(
        &self,
        missing: &Missing,
        values: &[ValueId],
        remedy: &'static str,
        text: impl Fn(String) -> String,
    ) -> Missing {
        let differing = values.iter().find(|v| !self.analysis.is_uniform(**v));
        missing.clone().or_else(|| {
            let origin = self.analysis.origin(self.program, *differing?);
            Some(Rc::new(Cause {
                text: text(origin),
                remedy,
            }))
        })
    }

    fn barrier(&mut self, at: Location, missing: &Missing) {
        let (Some(report), Some(cause)) = (&mut self.report, missing) else {
            return;
        };
        if self.program.reported.insert(at) {
            report.add(
                at,
                format!("this barrier is not reached by all threads: {}", cause.text),
                "barriers under conditions that all threads of a block share: comptime values, the kernel's scalar parameters, block indices, and what is loaded from read-only or shared memory at such an index",
                cause.remedy,
            );
        }
    }

    fn evaluated(&mut self, value: ValueId, missing: &Missing, at: Location) -> bool {
        let op = &self.analysis.body.value(value).op;
        let one_warp = self.program.one_warp();
        let operands = op.operands().into_iter().all(|v| self.analysis.is_uniform(v));
        match op {
            Op::Builtin(Builtin::ThreadIndex | Builtin::Lane) => false,
            Op::Builtin(Builtin::Warp) => one_warp,
            Op::Parameter(index) if self.analysis.function.is_some() => {
                self.analysis.arguments.get(*index as usize).copied().unwrap_or(false)
            }
            Op::ReadVariable(variable) => self.analysis.variables.get(variable.index()).copied().unwrap_or(false),
            Op::ReadRegister(reference) => {
                let array = self.analysis.registers.get(reference.registers.index());
                operands && array.copied().unwrap_or(false)
            }
            Op::Load(place) => operands && self.analysis.is_steady(self.program, place.memory),
            Op::Ballot(_) | Op::WarpReduce { width: 32, .. } => operands || one_warp,
            Op::Shuffle {
                kind: ShuffleKind::Lane(lane),
                value,
            } => self.analysis.is_uniform(*value) || (one_warp && self.analysis.is_uniform(*lane)),
            Op::Call { function, arguments } => self.called(*function, arguments, missing, at),
            Op::AssumeUniform(_) => true,
            _ => operands,
        }
    }

    /// Follows a call; whether its result is uniform.
    fn called(&mut self, id: FunctionId, arguments: &[Argument], missing: &Missing, at: Location) -> bool {
        let Some(function) = self.program.kernel.functions.get(id.index()) else {
            return false;
        };
        let uniform: Vec<bool> = arguments
            .iter()
            .map(|a| a.value().is_none_or(|v| self.analysis.is_uniform(v)))
            .collect();
        let key = (id, uniform.clone());
        if self.report.is_none()
            && let Some(known) = self.program.results.get(&key)
        {
            return *known;
        }
        let inside = missing.as_ref().map(|cause| {
            let called = format!(", and `{}` is called there at {at}", function.name);
            let text = match cause.text.contains(", and `") {
                true => cause.text.clone(),
                false => cause.text.clone() + &called,
            };
            Rc::new(Cause {
                text,
                remedy: cause.remedy,
            })
        });
        let visit = (id, uniform.clone(), inside.clone());
        if self.report.is_some() && !self.program.visited.insert(visit) {
            return self.program.results.get(&key).copied().unwrap_or(false);
        }
        let mut analysis = Analysis::new(&function.body, Some(function), uniform);
        analysis.settle(self.program);
        let result = analysis.result;
        self.program.results.insert(key, result);
        if let Some(report) = &mut self.report {
            analysis.walk(self.program, inside, Some(report));
        }
        result
    }
}

/// Some threads leave, if not all of them are here.
fn leaving(missing: &Missing, word: &str, at: Location) -> Missing {
    let cause = missing.as_ref()?;
    let text = format!(
        "some threads have left through the `{word}` at {at}, because {}",
        cause.text
    );
    // a cause that already tells of a jump says enough
    let text = match cause.text.starts_with("some threads have left") {
        true => cause.text.clone(),
        false => text,
    };
    Some(Rc::new(Cause { text, remedy: GUARD }))
}
