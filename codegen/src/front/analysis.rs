//! Which values are needed, and which are printed inside their use.
//!
//! Evaluation order is the IR's: a value is computed at its `Eval`. Its text may move to a later statement
//! only if nothing it reads is changed in between. The body is flattened into *points* in execution order;
//! every point says what it changes. A value *lands* at the point whose statement contains its text.

use tilekiln_dsl::ir::{Block, Body, FunctionId, Memory, Op, RegistersId, StmtKind, ValueId, VariableId};

use super::effects::{CallEffect, Owner};

/// What the printing of a body is based on.
pub(crate) struct Analysis {
    /// The value is needed.
    pub live: Vec<bool>,
    /// The value is printed inside its uses.
    pub inline: Vec<bool>,
    /// Something printed uses the value.
    pub used: Vec<bool>,
    /// The memories the value is an index of, if it is nothing else.
    pub index_of: Vec<Vec<Memory>>,
    /// Somebody reads the variable.
    pub variable_read: Vec<bool>,
    /// Somebody reads the register array.
    pub registers_read: Vec<bool>,
    /// The shared array is accessed.
    pub shared_used: Vec<bool>,
}

/// What a point changes.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Nothing,
    Variable(VariableId),
    Registers(RegistersId),
    Memory(Memory),
    /// Barriers and the like: loads and cross-lane operations stay on their side.
    Fence,
    /// A call that may do anything to memory.
    Call,
    /// Lanes may leave here.
    Flow,
}

struct Point {
    change: Change,
    /// Loads something (calls may not move over it).
    loads: bool,
    loops: Vec<usize>,
    block: usize,
}

#[derive(Clone, Copy)]
struct Landing {
    point: usize,
    /// In the condition or step of a `for`: evaluated again in every round.
    header: bool,
    /// In an operand that C++ may skip.
    lazy: bool,
}

#[derive(Clone, Copy)]
enum Use {
    Operand { user: ValueId, lazy: bool },
    Statement(Landing),
}

#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Nothing,
    Variable(VariableId),
    Registers(RegistersId),
    Memory(Memory),
    AnyMemory,
    /// Other lanes.
    Lanes,
    /// A call with effects.
    Everything,
}

struct Flow<'b> {
    body: &'b Body,
    owner: Owner<'b>,
    effects: &'b [CallEffect],
    points: Vec<Point>,
    loop_end: Vec<usize>,
    blocks: usize,
    evaluated_at: Vec<Option<usize>>,
    uses: Vec<Vec<Use>>,
    live: Vec<bool>,
    variable_read: Vec<bool>,
    registers_read: Vec<bool>,
    changed: bool,
}

/// Analyses a body.
pub(crate) fn analyse(body: &Body, owner: Owner<'_>, effects: &[CallEffect]) -> Analysis {
    let count = body.values.len();
    let mut flow = Flow {
        body,
        owner,
        effects,
        points: Vec::new(),
        loop_end: Vec::new(),
        blocks: 0,
        evaluated_at: vec![None; count],
        uses: vec![Vec::new(); count],
        live: vec![false; count],
        variable_read: vec![false; body.variables.len()],
        registers_read: vec![false; body.registers.len()],
        changed: true,
    };
    // A variable read only by what turns out dead is dead too: repeat until nothing more is needed.
    while flow.changed {
        flow.changed = false;
        flow.mark_block(&body.block);
    }
    flow.flatten(&body.block, &mut Vec::new());
    let inline = flow.decide();
    let index_of = (0..count)
        .map(|value| flow.indexed_memories(value).unwrap_or_default())
        .collect();
    let mut shared_used = vec![false; body.shared.len()];
    mark_shared(body, &body.block, &flow.live, &mut shared_used);
    Analysis {
        used: flow.uses.iter().map(|uses| !uses.is_empty()).collect(),
        live: flow.live,
        inline,
        index_of,
        variable_read: flow.variable_read,
        registers_read: flow.registers_read,
        shared_used,
    }
}

fn mark_shared(body: &Body, block: &Block, live: &[bool], used: &mut [bool]) {
    use tilekiln_dsl::ir::Argument;
    let mut mark = |memory: &Memory| {
        if let Memory::Shared(id) = memory
            && let Some(slot) = used.get_mut(id.index())
        {
            *slot = true;
        }
    };
    for stmt in block {
        let mut arguments: &[Argument] = &[];
        match &stmt.kind {
            StmtKind::Eval(value) if live[value.index()] => match &body.value(*value).op {
                Op::Load(place) => mark(&place.memory),
                Op::Call { arguments: list, .. } => arguments = list,
                _ => {}
            },
            StmtKind::Store { place, .. } => mark(&place.memory),
            StmtKind::AsyncCopy { to, from } => {
                mark(&to.memory);
                mark(&from.memory);
            }
            StmtKind::LoadMatrix { from, .. } => mark(&from.memory),
            StmtKind::InitCopyBarriers { barriers } => mark(&Memory::Shared(*barriers)),
            StmtKind::BulkCopy { to, from, barrier, .. } => {
                for place in [to, from, barrier] {
                    mark(&place.memory);
                }
            }
            StmtKind::WaitForCopy { barrier, .. } => mark(&barrier.memory),
            StmtKind::Call { arguments: list, .. } => arguments = list,
            _ => {}
        }
        for argument in arguments {
            if let Argument::Memory(memory) = argument {
                mark(memory);
            }
        }
    }
    for stmt in block {
        for inner in stmt.kind.blocks() {
            mark_shared(body, inner, live, used);
        }
    }
}

impl Flow<'_> {
    fn call_effect(&self, function: FunctionId) -> CallEffect {
        self.effects.get(function.index()).copied().unwrap_or(CallEffect::Full)
    }

    fn mark_value(&mut self, id: ValueId) {
        if self.live[id.index()] {
            return;
        }
        self.live[id.index()] = true;
        self.changed = true;
        let body = self.body;
        match &body.value(id).op {
            Op::ReadVariable(variable) => self.variable_read[variable.index()] = true,
            Op::ReadRegister(reference) => self.registers_read[reference.registers.index()] = true,
            _ => {}
        }
        for operand in body.value(id).op.operands() {
            self.mark_value(operand);
        }
    }

    /// Marks what the needed statements of a block use; says whether there were any.
    fn mark_block(&mut self, block: &Block) -> bool {
        let mut any = false;
        for stmt in block {
            let inner_needed = stmt
                .kind
                .blocks()
                .into_iter()
                .fold(false, |any, inner| self.mark_block(inner) | any);
            let needed = match &stmt.kind {
                StmtKind::Eval(value) => {
                    let effect = matches!(&self.body.value(*value).op, Op::Call { function, .. } if self.call_effect(*function) == CallEffect::Full);
                    if effect {
                        self.mark_value(*value);
                    }
                    effect
                }
                StmtKind::Declare { variable, .. } | StmtKind::Assign { variable, .. } => {
                    self.variable_read[variable.index()]
                }
                StmtKind::WriteRegister { target, .. } => self.registers_read[target.registers.index()],
                StmtKind::LoadMatrix { to, .. } => self.registers_read[to.registers.index()],
                StmtKind::Mma { accumulator, a, b, .. } => {
                    let needed = self.registers_read[accumulator.registers.index()];
                    if needed {
                        for operand in [a, b] {
                            let read = &mut self.registers_read[operand.registers.index()];
                            self.changed |= !*read;
                            *read = true;
                        }
                    }
                    needed
                }
                StmtKind::If { .. } | StmtKind::For { .. } | StmtKind::While { .. } => inner_needed,
                StmtKind::Comment(_) | StmtKind::DeclareRegisters { .. } => false,
                _ => true,
            };
            if needed && !matches!(stmt.kind, StmtKind::Eval(_)) {
                for operand in stmt.kind.operands(self.body) {
                    self.mark_value(operand);
                }
                if let StmtKind::For { variable, .. } = &stmt.kind {
                    self.variable_read[variable.index()] = true;
                }
            }
            any |= needed;
        }
        any
    }

    /// The memories a value is an index of; `None` if it is used in another way as well.
    fn indexed_memories(&self, value: usize) -> Option<Vec<Memory>> {
        let mut memories = Vec::new();
        for used in &self.uses[value] {
            memories.push(match used {
                Use::Operand { user, .. } => match &self.body.value(*user).op {
                    Op::Load(place) => place.memory,
                    _ => return None,
                },
                Use::Statement(landing) => self.indexed_at(landing.point, value)?,
            });
        }
        Some(memories)
    }

    /// Which memory the statement at a point accesses at this value.
    fn indexed_at(&self, point: usize, value: usize) -> Option<Memory> {
        fn search<'b>(block: &'b Block, next: &mut usize, point: usize) -> Option<&'b StmtKind> {
            for stmt in block {
                if *next == point {
                    return Some(&stmt.kind);
                }
                *next += 1;
                for (number, inner) in stmt.kind.blocks().into_iter().enumerate() {
                    if let Some(found) = search(inner, next, point) {
                        return Some(found);
                    }
                    // The check of a `while` is a point of its own.
                    if matches!(stmt.kind, StmtKind::While { .. }) && number == 0 {
                        *next += 1;
                    }
                }
            }
            None
        }
        match search(&self.body.block, &mut 0, point)? {
            StmtKind::Store { place, value: stored } if stored.index() != value => Some(place.memory),
            StmtKind::AsyncCopy { to, from } => Some(if to.index.index() == value {
                to.memory
            } else {
                from.memory
            }),
            StmtKind::LoadMatrix { from, .. } => Some(from.memory),
            StmtKind::BulkCopy { to, from, barrier, .. } => [to, from, barrier]
                .into_iter()
                .find(|place| place.index.index() == value)
                .map(|place| place.memory),
            StmtKind::WaitForCopy { barrier, .. } if barrier.index.index() == value => Some(barrier.memory),
            _ => None,
        }
    }

    fn flatten(&mut self, block: &Block, loops: &mut Vec<usize>) {
        let number = self.blocks;
        self.blocks += 1;
        for stmt in block {
            let point = self.points.len();
            let mut change = Change::Nothing;
            let mut loads = false;
            match &stmt.kind {
                StmtKind::Eval(value) => {
                    self.evaluated_at[value.index()] = Some(point);
                    let op = &self.body.value(*value).op;
                    match op {
                        Op::Load(_) => loads = self.live[value.index()],
                        Op::Call { function, .. } => match self.call_effect(*function) {
                            CallEffect::Pure => {}
                            CallEffect::Reads => loads = true,
                            CallEffect::Full => change = Change::Call,
                        },
                        _ => {}
                    }
                }
                StmtKind::Assign { variable, .. } => change = Change::Variable(*variable),
                StmtKind::WriteRegister { target, .. } => change = Change::Registers(target.registers),
                StmtKind::LoadMatrix { to, .. } => {
                    change = Change::Registers(to.registers);
                    loads = true;
                }
                StmtKind::Mma { accumulator, .. } => change = Change::Registers(accumulator.registers),
                StmtKind::Store { place, .. } => change = Change::Memory(place.memory),
                StmtKind::AsyncCopy { to, .. } | StmtKind::BulkCopy { to, .. } => {
                    change = Change::Memory(to.memory);
                    loads = true;
                }
                StmtKind::Barrier
                | StmtKind::GroupBarrier { .. }
                | StmtKind::WarpBarrier
                | StmtKind::AsyncCommit
                | StmtKind::AsyncWait { .. }
                | StmtKind::InitCopyBarriers { .. }
                | StmtKind::WaitForCopy { .. }
                | StmtKind::TriggerDependents
                | StmtKind::WaitForPrerequisites => change = Change::Fence,
                StmtKind::Call { function, .. } if self.call_effect(*function) != CallEffect::Pure => {
                    change = Change::Call;
                }
                StmtKind::Break | StmtKind::Continue | StmtKind::Return(_) => change = Change::Flow,
                _ => {}
            }
            self.points.push(Point {
                change,
                loads,
                loops: loops.clone(),
                block: number,
            });
            let at = |point, header| {
                Use::Statement(Landing {
                    point,
                    header,
                    lazy: false,
                })
            };
            match &stmt.kind {
                StmtKind::Eval(value) => {
                    if self.live[value.index()] {
                        self.note_operands(*value);
                    }
                }
                StmtKind::For { start, end, step, .. } => {
                    self.note(*start, at(point, false));
                    self.note(*end, at(point, true));
                    self.note(*step, at(point, true));
                }
                StmtKind::While { .. } => {}
                kind => {
                    if self.statement_prints(kind) {
                        for operand in kind.operands(self.body) {
                            self.note(operand, at(point, false));
                        }
                    }
                }
            }
            match &stmt.kind {
                StmtKind::For { body, .. } => {
                    loops.push(self.loop_end.len());
                    let this = self.loop_end.len();
                    self.loop_end.push(0);
                    self.flatten(body, loops);
                    self.loop_end[this] = self.points.len();
                    loops.pop();
                }
                StmtKind::While { test, condition, body } => {
                    let this = self.loop_end.len();
                    loops.push(this);
                    self.loop_end.push(0);
                    let test_block = self.blocks;
                    self.flatten(test, loops);
                    let check = self.points.len();
                    self.points.push(Point {
                        change: Change::Flow,
                        loads: false,
                        loops: loops.clone(),
                        block: test_block,
                    });
                    self.note(*condition, at(check, false));
                    self.flatten(body, loops);
                    self.loop_end[this] = self.points.len();
                    loops.pop();
                }
                kind => {
                    for inner in kind.blocks() {
                        self.flatten(inner, loops);
                    }
                }
            }
        }
    }

    fn statement_prints(&self, kind: &StmtKind) -> bool {
        match kind {
            StmtKind::Declare { variable, .. } | StmtKind::Assign { variable, .. } => {
                self.variable_read[variable.index()]
            }
            StmtKind::WriteRegister { target, .. } => self.registers_read[target.registers.index()],
            StmtKind::LoadMatrix { to, .. } => self.registers_read[to.registers.index()],
            StmtKind::Mma { accumulator, .. } => self.registers_read[accumulator.registers.index()],
            _ => true,
        }
    }

    fn note(&mut self, value: ValueId, used: Use) {
        if self.live[value.index()] {
            self.uses[value.index()].push(used);
        }
    }

    fn note_operands(&mut self, user: ValueId) {
        let body = self.body;
        let value = body.value(user);
        for (position, operand) in value.op.operands().into_iter().enumerate() {
            let lazy = match &value.op {
                Op::Select { .. } => position > 0,
                Op::Binary(..) => {
                    position > 0 && value.ty == tilekiln_dsl::ir::Type::Scalar(tilekiln_dsl::ir::Scalar::Bool)
                }
                _ => false,
            };
            self.note(operand, Use::Operand { user, lazy });
        }
    }

    fn reads(&self, op: &Op) -> Reads {
        match op {
            Op::ReadVariable(variable) => Reads::Variable(*variable),
            Op::ReadRegister(reference) => Reads::Registers(reference.registers),
            Op::Load(place) => Reads::Memory(place.memory),
            // a number that is to stay in a register is not made inside of loops
            Op::Shuffle { .. } | Op::WarpReduce { .. } | Op::Ballot(_) | Op::InRegister(_) => Reads::Lanes,
            Op::Call { function, .. } => match self.call_effect(*function) {
                CallEffect::Pure => Reads::Nothing,
                CallEffect::Reads => Reads::AnyMemory,
                CallEffect::Full => Reads::Everything,
            },
            _ => Reads::Nothing,
        }
    }

    fn conflicts(&self, reads: Reads, point: &Point) -> bool {
        match reads {
            Reads::Nothing => false,
            Reads::Variable(variable) => point.change == Change::Variable(variable),
            Reads::Registers(registers) => point.change == Change::Registers(registers),
            Reads::Memory(memory) => match point.change {
                Change::Fence | Change::Call => true,
                Change::Memory(written) => self.owner.may_alias(memory, written),
                _ => false,
            },
            Reads::AnyMemory => matches!(point.change, Change::Fence | Change::Call | Change::Memory(_)),
            Reads::Lanes => matches!(point.change, Change::Fence | Change::Call | Change::Flow),
            Reads::Everything => {
                point.loads
                    || matches!(
                        point.change,
                        Change::Memory(_) | Change::Fence | Change::Call | Change::Flow
                    )
            }
        }
    }

    /// Values in reverse order of evaluation: users are decided before what they use.
    fn decide(&self) -> Vec<bool> {
        let count = self.body.values.len();
        let mut inline = vec![false; count];
        let mut order: Vec<usize> = (0..count).filter(|&v| self.live[v]).collect();
        order.sort_by_key(|&v| self.evaluated_at[v]);
        let mut landings: Vec<Vec<Landing>> = vec![Vec::new(); count];
        for &value in order.iter().rev() {
            let mut lands = Vec::new();
            for used in &self.uses[value] {
                match *used {
                    Use::Statement(landing) => lands.push(landing),
                    Use::Operand { user, lazy } if inline[user.index()] => {
                        lands.extend(landings[user.index()].iter().map(|l| Landing {
                            lazy: l.lazy || lazy,
                            ..*l
                        }));
                    }
                    Use::Operand { user, lazy } => {
                        if let Some(point) = self.evaluated_at[user.index()] {
                            lands.push(Landing {
                                point,
                                header: false,
                                lazy,
                            });
                        }
                    }
                }
            }
            inline[value] = self.may_inline(value, &lands);
            landings[value] = lands;
        }
        inline
    }

    fn may_inline(&self, index: usize, lands: &[Landing]) -> bool {
        let value = &self.body.values[index];
        if value.name.is_some() && !self.renames(index) {
            return false;
        }
        if always_inline(&value.op) {
            return true;
        }
        let Some(from) = self.evaluated_at[index] else {
            return false;
        };
        let leaf = self.is_leaf(index);
        if lands.is_empty() || (lands.len() > 1 && !leaf) {
            return false;
        }
        let reads = self.reads(&value.op);
        lands.iter().all(|landing| self.may_land(from, landing, reads, leaf))
    }

    fn may_land(&self, from: usize, landing: &Landing, reads: Reads, leaf: bool) -> bool {
        let to = landing.point;
        if to <= from {
            return false;
        }
        let (start, target) = (&self.points[from], &self.points[to]);
        let crossed = target.loops.iter().find(|l| !start.loops.contains(l)).copied();
        let mut end = to;
        if let Some(outermost) = crossed {
            if !leaf {
                return false;
            }
            end = self.loop_end[outermost];
        } else if landing.header {
            if !leaf && reads != Reads::Nothing {
                return false;
            }
            // The loop that starts at `to` is the first whose points follow it.
            end = self
                .points
                .get(to + 1)
                .and_then(|p| p.loops.last())
                .map_or(to + 1, |&l| self.loop_end[l].max(to + 1));
        }
        if matches!(reads, Reads::Lanes | Reads::Everything)
            && (landing.lazy || landing.header || start.block != target.block)
        {
            return false;
        }
        !(from + 1..end).any(|p| self.conflicts(reads, &self.points[p]))
    }

    /// Cheap to repeat: a variable, a register with constant indices, a component of something declared.
    fn is_leaf(&self, index: usize) -> bool {
        match &self.body.values[index].op {
            Op::ReadVariable(_) => true,
            Op::ReadRegister(reference) => reference.index.iter().all(|i| self.is_simple(i.index())),
            Op::Component(vector, _) => {
                let v = vector.index();
                self.body.values[v].name.is_some() || (self.uses[v].len() > 1 && !self.is_simple(v))
            }
            Op::AssumeUniform(inner) => self.is_simple(inner.index()) || self.body.values[inner.index()].name.is_some(),
            _ => false,
        }
    }

    fn is_simple(&self, index: usize) -> bool {
        always_inline(&self.body.values[index].op) || matches!(self.body.values[index].op, Op::ReadVariable(_))
    }

    /// A name that only repeats what it is bound to (`let cols = cols;`).
    fn renames(&self, index: usize) -> bool {
        let value = &self.body.values[index];
        let Some(name) = value.name.as_deref() else {
            return false;
        };
        match (&value.op, self.owner) {
            (Op::Constant(id), Owner::Kernel(kernel) | Owner::Function(kernel, _)) => {
                kernel.constants.get(id.index()).is_some_and(|c| c.name == name)
            }
            (Op::Parameter(p), Owner::Kernel(kernel)) => {
                kernel.parameters.get(*p as usize).is_some_and(|x| x.name == name)
            }
            (Op::Parameter(p), Owner::Function(kernel, f)) => kernel
                .functions
                .get(f.index())
                .and_then(|f| f.parameters.get(*p as usize))
                .is_some_and(|x| x.name == name),
            _ => false,
        }
    }
}

/// Values that read nothing that changes and cost nothing to repeat.
fn always_inline(op: &Op) -> bool {
    matches!(op, Op::Literal(_) | Op::Constant(_) | Op::Parameter(_) | Op::Builtin(_))
}
