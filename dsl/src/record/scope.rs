//! Control flow: `if`, `for`, `while`, `break`, `continue`, `return` of the author's function.
//!
//! The attribute macros rewrite these so that a trait decides: on comptime conditions and ranges they stay what
//! they are in Rust (branches are chosen and loops unroll while recording), on device values they open a block,
//! run the author's code once to record it, and close the block.

use super::{OpenBlock, Recorder, error, with};
use crate::ir::*;
use crate::value::{DeviceType, Numeric, Val};

/// A loop of the author that is being recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopKind {
    Device,
    /// Unrolled while recording; the number of blocks that were open at its start.
    Comptime(usize),
}

impl Recorder {
    fn open(&mut self) {
        self.frame().blocks.push(OpenBlock { statements: Vec::new() });
    }

    fn close(&mut self) -> Block {
        self.frame().blocks.pop().map(|b| b.statements).unwrap_or_default()
    }

    fn append(&mut self, mut block: Block) {
        let frame = self.frame();
        if let Some(open) = frame.blocks.last_mut() {
            open.statements.append(&mut block);
        }
    }

    /// Closes a block that Rust has jumped out of; true when that has been reported. What it computed stays
    /// known, so that one mistake does not cause others.
    fn abandon(&mut self) -> bool {
        let block = self.close();
        self.append(block);
        self.jump_reported
    }

    /// Only arithmetic: may be evaluated where its result is not needed.
    fn is_speculable(&mut self, block: &Block) -> bool {
        let frame = self.frame();
        block.iter().all(|stmt| match &stmt.kind {
            StmtKind::Eval(value) => match &frame.body.value(*value).op {
                Op::Load(_)
                | Op::Lookup { .. }
                | Op::Call { .. }
                | Op::Shuffle { .. }
                | Op::WarpReduce { .. }
                | Op::Ballot(_)
                | Op::AssumeUniform(_) => false,
                // division by zero is guarded by exactly such conditions
                Op::Binary(BinaryOp::Div | BinaryOp::Rem, _, by) => {
                    let is_float = frame.body.value(*value).ty.scalar().is_float();
                    is_float || matches!(frame.body.value(*by).op, Op::Literal(_) | Op::Constant(_))
                }
                _ => true,
            },
            _ => false,
        })
    }
}

/// An `if` whose condition is known while recording.
pub struct ComptimeIf(pub bool);

impl ComptimeIf {
    /// Whether the first block is recorded.
    pub fn then(&mut self) -> bool {
        self.0
    }
    /// Whether the second block is recorded.
    pub fn otherwise(&mut self) -> bool {
        !self.0
    }
    /// The chosen block's value.
    pub fn close<T>(self, then: Option<T>, otherwise: Option<T>) -> T {
        match then.or(otherwise) {
            Some(value) => value,
            None => unreachable!("exactly one branch was recorded"),
        }
    }
}

/// An `if` on a device value: both blocks are recorded.
pub struct If {
    condition: Val<bool>,
    at: Location,
    then: Block,
    stage: u8,
}

impl If {
    /// Starts an `if` at the author's line.
    pub fn open(condition: Val<bool>, at: Location) -> Self {
        let condition = condition.settled(at);
        with(|r| r.jump_reported = false);
        Self {
            condition,
            at,
            then: Vec::new(),
            stage: 0,
        }
    }
    /// Opens the first block.
    pub fn then(&mut self) -> bool {
        self.stage = 1;
        with(Recorder::open);
        true
    }
    /// Closes the first block and opens the second.
    pub fn otherwise(&mut self) -> bool {
        self.then = with(Recorder::close);
        self.stage = 2;
        with(Recorder::open);
        true
    }
    /// Closes the second block; the value of the whole expression.
    pub fn close<T: Merge<O>, O>(mut self, then: Option<T>, otherwise: Option<O>) -> T {
        let other = with(Recorder::close);
        self.stage = 3;
        let first = std::mem::take(&mut self.then);
        match (then, otherwise) {
            (Some(a), Some(b)) => T::merge(self.condition, (first, a), (other, b), self.at),
            _ => unreachable!("both branches were recorded"),
        }
    }
}

impl Drop for If {
    fn drop(&mut self) {
        // a Rust-level jump left the blocks open
        if self.stage == 1 || self.stage == 2 {
            if with(Recorder::abandon) {
                return;
            }
            error(
                self.at,
                "this `if` on a device value is left by a Rust jump",
                "`break`, `continue` and `return` written directly in the kernel",
                "move the jump out of the closure or nested function",
            );
        }
    }
}

/// What the two blocks of an `if` on a device value may yield: nothing, or device values of one type.
#[diagnostic::on_unimplemented(
    message = "an `if` on a device value cannot yield a `{Self}` in one block and a `{Other}` in the other",
    label = "both blocks are recorded, so their results must be device values of one type, or nothing",
    note = "supported: nothing or a `Val<T>` of the same type in both; convert with `.to::<…>()`, make the condition comptime, or assign to a `let mut` in both blocks"
)]
pub trait Merge<Other = Self>: Sized {
    /// Joins the results of both blocks behind the condition.
    fn merge(condition: Val<bool>, then: (Block, Self), otherwise: (Block, Other), at: Location) -> Self;
}

fn push_if(condition: ValueId, then: Block, otherwise: Block, at: Location) {
    with(|r| {
        r.push(
            StmtKind::If {
                condition,
                then,
                otherwise,
            },
            at,
        );
    });
}

impl Merge for () {
    fn merge(condition: Val<bool>, then: (Block, ()), otherwise: (Block, ()), at: Location) {
        push_if(condition.id(at), then.0, otherwise.0, at);
    }
}

/// The value of the second block.
#[diagnostic::on_unimplemented(
    message = "an `if` on a device value yields a `Val<{T}>` in one block and a `{Self}` in the other",
    label = "both blocks are recorded, so their results must be device values of one type",
    note = "supported: nothing, or a `Val<T>` of the same type in both; convert with `.to::<{T}>()`"
)]
pub trait OtherBlock<T> {
    /// The value.
    fn value(self) -> Val<T>;
}
impl<T: DeviceType> OtherBlock<T> for Val<T> {
    fn value(self) -> Val<T> {
        self
    }
}

impl<T: DeviceType, O: OtherBlock<T>> Merge<O> for Val<T> {
    fn merge(condition: Val<bool>, then: (Block, Self), otherwise: (Block, O), at: Location) -> Self {
        let (mut then_block, a) = then;
        let (mut else_block, b) = (otherwise.0, otherwise.1.value());
        let simple = with(|r| r.is_speculable(&then_block) && r.is_speculable(&else_block));
        if simple {
            with(|r| {
                r.append(then_block);
                r.append(else_block);
            });
            let (condition, yes, no) = (condition.id(at), a.id(at), b.id(at));
            return Val::record(Op::Select { condition, yes, no }, at);
        }
        let variable = with(|r| {
            let zero = r.value(T::TYPE, Op::Literal(T::ZERO), at);
            let variable = VariableId(r.frame().body.variables.len() as u32);
            r.frame().body.variables.push(Variable {
                name: "chosen".to_string(),
                ty: T::TYPE,
                at,
            });
            r.frame().unnamed.push(variable);
            r.push(StmtKind::Declare { variable, value: zero }, at);
            variable
        });
        for (block, result) in [(&mut then_block, a), (&mut else_block, b)] {
            with(|r| {
                r.open();
                r.append(std::mem::take(block));
            });
            let value = result.id(at);
            *block = with(|r| {
                r.push(StmtKind::Assign { variable, value }, at);
                r.close()
            });
        }
        push_if(condition.id(at), then_block, else_block, at);
        Val::place(variable)
    }
}

/// `a && b` or `a || b` where the left side is a device value. The right side is evaluated only where it is needed.
pub fn logical(left: Val<bool>, is_and: bool, right: impl FnOnce() -> Val<bool>, at: Location) -> Val<bool> {
    let left = left.settled(at);
    with(Recorder::open);
    let right = right();
    let block = with(Recorder::close);
    let op = if is_and { BinaryOp::And } else { BinaryOp::Or };
    if with(|r| r.is_speculable(&block)) {
        with(|r| r.append(block));
        let op = Op::Binary(op, left.id(at), right.id(at));
        return Val::record(op, at);
    }
    // evaluated only where the left side does not decide: `bool chosen = left; if (chosen) chosen = right;`
    let chosen = left.declared("chosen", at);
    with(|r| {
        let variable = VariableId(r.frame().body.variables.len() as u32 - 1);
        r.frame().unnamed.push(variable);
        r.open();
        r.append(block);
    });
    chosen.assign_to(right, at);
    let assign = with(Recorder::close);
    let undecided = if is_and { chosen } else { !chosen };
    push_if(undecided.id(at), assign, Vec::new(), at);
    chosen
}

/// A `for` over device values: yields its variable once, and records the body around it.
pub struct DeviceLoop<T: DeviceType> {
    variable: VariableId,
    bounds: [Val<T>; 3],
    unroll: Unroll,
    at: Location,
    stage: u8,
}

impl<T: Numeric> DeviceLoop<T> {
    /// `for variable in start..end` by `step`.
    pub fn new(start: Val<T>, end: Val<T>, step: Val<T>, unroll: Unroll, at: Location) -> Self {
        let bounds = [start.settled(at), end.settled(at), step.settled(at)];
        let variable = with(|r| {
            let body = &mut r.frame().body;
            body.variables.push(Variable {
                name: "i".to_string(),
                ty: T::TYPE,
                at,
            });
            VariableId(body.variables.len() as u32 - 1)
        });
        Self {
            variable,
            bounds,
            unroll,
            at,
            stage: 0,
        }
    }

    fn finish(&mut self) {
        if self.stage == 1 {
            self.stage = 2;
            let [start, end, step] = self.bounds.map(|b| b.id(self.at));
            with(|r| {
                let body = r.close();
                r.push(
                    StmtKind::For {
                        variable: self.variable,
                        start,
                        end,
                        step,
                        unroll: self.unroll,
                        body,
                    },
                    self.at,
                );
            });
        }
    }
}

impl<T: Numeric> Iterator for DeviceLoop<T> {
    type Item = Val<T>;
    fn next(&mut self) -> Option<Val<T>> {
        if self.stage > 0 {
            self.finish();
            return None;
        }
        self.stage = 1;
        with(|r| {
            r.open();
            r.fresh_loop = true;
            r.jump_reported = false;
        });
        Some(Val::place(self.variable))
    }
}

impl<T: DeviceType> Drop for DeviceLoop<T> {
    fn drop(&mut self) {
        if self.stage == 1 {
            if with(Recorder::abandon) {
                return;
            }
            error(
                self.at,
                "this loop over device values is left by a Rust jump",
                "`break` and `continue` written directly in the loop of a kernel",
                "move the jump out of the closure or nested function",
            );
        }
    }
}

/// Keeps track of which loop a `break` belongs to. Lives as long as one recorded round.
pub struct LoopMark(());

/// Marks the start of a loop body.
pub fn enter_loop() -> LoopMark {
    with(|r| {
        let device = std::mem::take(&mut r.fresh_loop);
        let frame = r.frame();
        let kind = if device {
            LoopKind::Device
        } else {
            LoopKind::Comptime(frame.blocks.len())
        };
        frame.loops.push(kind);
    });
    LoopMark(())
}

impl Drop for LoopMark {
    fn drop(&mut self) {
        with(|r| {
            r.frame().loops.pop();
        });
    }
}

/// `break` or `continue`: true when Rust itself has to jump.
pub fn leave_loop(is_break: bool, at: Location) -> bool {
    let word = if is_break { "break" } else { "continue" };
    let (kind, depth) = with(|r| {
        let frame = r.frame();
        (frame.loops.last().copied(), frame.blocks.len())
    });
    match kind {
        Some(LoopKind::Device) => {
            with(|r| {
                let kind = if is_break { StmtKind::Break } else { StmtKind::Continue };
                r.push(kind, at);
            });
            false
        }
        Some(LoopKind::Comptime(start)) if depth != start => {
            error(
                at,
                format!("`{word}` of a loop that unrolls while recording depends on a device value"),
                format!(
                    "`{word}` under comptime conditions there, or under device conditions in a loop over device values"
                ),
                "loop over a device range (`for i in device_range(0, n)`), or guard the rest of the round with `if`",
            );
            false
        }
        _ => true,
    }
}

/// `return` in a kernel or device function: true when Rust itself has to return.
pub fn leave_function(value: Option<ValueId>, at: Location) -> bool {
    with(|r| {
        let nested = r.frame().blocks.len() > 1;
        let is_kernel = r.frames.len() == 1;
        if nested || is_kernel {
            r.push(StmtKind::Return(value), at);
        }
        !nested
    })
}

/// `return value` in a device function: true when Rust itself has to return.
pub fn leave_with<T: DeviceType>(value: &Val<T>, at: Location) -> bool {
    if depth() == 1 {
        return true;
    }
    leave_function(Some(value.id(at)), at)
}

/// `return` in a function whose text is expanded into its caller: only Rust itself can return.
pub fn leave_inlined(depth_at_entry: usize, at: Location) {
    let depth = with(|r| r.frame().blocks.len());
    with(|r| r.jump_reported = depth != depth_at_entry);
    if depth != depth_at_entry {
        error(
            at,
            "`return` under a device condition in a function that is expanded into its caller",
            "such a `return` in a #[kernel] or a #[device_fn]",
            "make the function a #[device_fn], or guard the rest with `if`",
        );
    }
}

/// How many blocks are open.
pub fn depth() -> usize {
    with(|r| r.frame().blocks.len())
}

/// A `while`: its condition is recorded into a block of its own before we know what it is.
pub struct WhileScope {
    at: Location,
    rounds: usize,
    test: Block,
    condition: Option<ValueId>,
}

impl WhileScope {
    /// Starts a `while` at the author's line.
    pub fn new(at: Location) -> Self {
        Self {
            at,
            rounds: 0,
            test: Vec::new(),
            condition: None,
        }
    }

    /// Before the condition is evaluated.
    pub fn open_test(&mut self) {
        if self.condition.is_some() {
            // the body has been recorded: close the loop, then let the second evaluation go nowhere
            let body = with(Recorder::close);
            let (test, condition) = (std::mem::take(&mut self.test), self.condition.take());
            if let Some(condition) = condition {
                with(|r| {
                    r.push(StmtKind::While { test, condition, body }, self.at);
                });
            }
            self.rounds = usize::MAX;
        }
        with(Recorder::open);
    }
}

/// Decides whether another round is recorded.
pub fn test_round(scope: &mut WhileScope, condition: WhileCondition) -> bool {
    let test = with(Recorder::close);
    match condition {
        WhileCondition::Comptime(go_on) => {
            with(|r| r.append(test));
            go_on
        }
        WhileCondition::Device(_) if scope.rounds == usize::MAX => false,
        WhileCondition::Device(condition) => {
            with(|r| {
                r.open();
                r.append(test);
            });
            let value = condition.id(scope.at);
            scope.test = with(Recorder::close);
            scope.condition = Some(value);
            with(|r| {
                r.open();
                r.fresh_loop = true;
            });
            true
        }
    }
}

/// The condition of a `while`.
pub enum WhileCondition {
    /// Known while recording.
    Comptime(bool),
    /// A device value.
    Device(Val<bool>),
}
