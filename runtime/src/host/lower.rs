//! From kernel IR to a [`Program`]: slots assigned, constants resolved, device functions inlined.

use std::collections::HashMap;

use tilekiln_dsl::ir::*;

use super::analysis::{Lifetimes, Uniform};
use super::program::*;

/// Why a kernel cannot be executed: the IR is not well formed.
#[derive(Debug)]
pub(super) struct LowerError {
    pub message: String,
    pub at: Location,
}

pub(super) type Lowered<T> = Result<T, LowerError>;

/// A value's planes.
pub(super) type Planes = Box<[Slot]>;

#[derive(Clone)]
enum Bound {
    Value(Planes),
    Memory(Mem, Scalar),
}

/// One body being lowered: the kernel's, or one inlined call.
pub(super) struct Frame<'k> {
    pub body: &'k Body,
    function: Option<u32>,
    values: Vec<Option<Planes>>,
    variables: Vec<Option<Planes>>,
    parameters: Vec<Bound>,
    uniform: Uniform,
    life: Lifetimes,
    position: u32,
    /// Where `Return` leaves its value, when lanes may return at different places.
    result: Option<Planes>,
    /// The value of the one `Return` at the end.
    tail: Option<Planes>,
    tail_return: bool,
}

pub(super) struct Lowering<'k> {
    kernel: &'k Kernel,
    sanitize: bool,
    pub uniform: Vec<bool>,
    holders: Vec<u32>,
    persistent: Vec<bool>,
    free: [Vec<Slot>; 2],
    literals: HashMap<u32, Slot>,
    scalars: HashMap<u32, Planes>,
    builtins: HashMap<Builtin, Slot>,
    shared: HashMap<(Option<u32>, u32), u32>,
    registers: HashMap<(Option<u32>, u32), u32>,
    tables: HashMap<(Option<u32>, u32), u32>,
    program: Program,
    pub code: Vec<Node>,
    calls: Vec<u32>,
}

/// Lowers a kernel; with `sanitize`, checks are kept that cost time.
pub(super) fn lower(kernel: &Kernel, sanitize: bool) -> Lowered<Program> {
    if kernel.threads == 0 || kernel.threads > 1024 {
        return Err(LowerError {
            message: format!("{} threads in a block; between 1 and 1024 are possible", kernel.threads),
            at: kernel.at,
        });
    }
    let mut lowering = Lowering {
        kernel,
        sanitize,
        uniform: Vec::new(),
        holders: Vec::new(),
        persistent: Vec::new(),
        free: [Vec::new(), Vec::new()],
        literals: HashMap::new(),
        scalars: HashMap::new(),
        builtins: HashMap::new(),
        shared: HashMap::new(),
        registers: HashMap::new(),
        tables: HashMap::new(),
        program: Program {
            lanes: kernel.threads,
            group_lanes: kernel.threads as u32,
            uniform: Vec::new(),
            literals: Vec::new(),
            scalars: Vec::new(),
            block_index: [None; 3],
            grid_size: [None; 3],
            thread_index: None,
            lane_index: None,
            warp_index: None,
            shared: Vec::new(),
            registers: Vec::new(),
            tables: Vec::new(),
            fragments: kernel.target.fragments,
            code: Vec::new(),
        },
        code: Vec::new(),
        calls: Vec::new(),
    };
    let parameters = kernel
        .parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| match &parameter.kind {
            ParameterKind::Scalar(scalar) => {
                let planes: Planes = (0..words(*scalar)).map(|_| lowering.fixed(true)).collect();
                lowering.scalars.insert(index as u32, planes.clone());
                Bound::Value(planes)
            }
            ParameterKind::Memory { element, .. } => Bound::Memory(Mem::Global(index as u32), *element),
        })
        .collect::<Vec<_>>();
    let uniform = vec![true; parameters.len()];
    let mut frame = Frame::new(&kernel.body, None, parameters, &uniform);
    lowering.declare_variables(&mut frame);
    lowering.block(&mut frame, &kernel.body.block)?;
    Ok(lowering.finish())
}

impl<'k> Frame<'k> {
    fn new(body: &'k Body, function: Option<u32>, parameters: Vec<Bound>, uniform: &[bool]) -> Self {
        Self {
            body,
            function,
            values: vec![None; body.values.len()],
            variables: vec![None; body.variables.len()],
            parameters,
            uniform: Uniform::of(body, uniform),
            life: Lifetimes::of(body),
            position: 0,
            result: None,
            tail: None,
            tail_return: false,
        }
    }
}

fn malformed(at: Location, message: impl Into<String>) -> LowerError {
    LowerError {
        message: format!("malformed IR: {}", message.into()),
        at,
    }
}

impl<'k> Lowering<'k> {
    fn finish(mut self) -> Program {
        let mut literals: Vec<_> = self.literals.into_iter().map(|(word, slot)| (slot, word)).collect();
        literals.sort_unstable();
        let mut scalars: Vec<_> = self.scalars.into_iter().collect();
        scalars.sort_unstable();
        for (builtin, slot) in self.builtins {
            match builtin {
                Builtin::BlockIndex(axis) => self.program.block_index[axis as usize] = Some(slot),
                Builtin::GridSize(axis) => self.program.grid_size[axis as usize] = Some(slot),
                Builtin::ThreadIndex => self.program.thread_index = Some(slot),
                Builtin::Lane => self.program.lane_index = Some(slot),
                Builtin::Warp => self.program.warp_index = Some(slot),
            }
        }
        Program {
            uniform: self.uniform,
            literals,
            scalars,
            code: self.code,
            ..self.program
        }
    }

    // Slots

    fn new_slot(&mut self, uniform: bool) -> Slot {
        self.uniform.push(uniform);
        self.holders.push(0);
        self.persistent.push(false);
        (self.uniform.len() - 1) as Slot
    }

    /// A slot that keeps its meaning for the whole launch.
    fn fixed(&mut self, uniform: bool) -> Slot {
        let slot = self.new_slot(uniform);
        self.persistent[slot as usize] = true;
        slot
    }

    /// A slot for a value; nobody holds it yet.
    pub fn slot(&mut self, uniform: bool) -> Slot {
        match self.free[usize::from(uniform)].pop() {
            Some(slot) => slot,
            None => self.new_slot(uniform),
        }
    }

    fn hold(&mut self, planes: &[Slot]) {
        for slot in planes {
            self.holders[*slot as usize] += 1;
        }
    }

    fn release(&mut self, planes: &[Slot]) {
        for slot in planes {
            let index = *slot as usize;
            if self.persistent[index] {
                continue;
            }
            self.holders[index] = self.holders[index].saturating_sub(1);
            if self.holders[index] == 0 {
                self.free[usize::from(self.uniform[index])].push(*slot);
            }
        }
    }

    /// Gives back slots that were only needed while one statement was lowered.
    pub fn release_scratch(&mut self, slots: &[Slot]) {
        self.hold(slots);
        self.release(slots);
    }

    pub fn all_uniform(&self, planes: &[Slot]) -> bool {
        planes.iter().all(|slot| self.uniform[*slot as usize])
    }

    pub fn word(&mut self, word: u32) -> Slot {
        if let Some(slot) = self.literals.get(&word) {
            return *slot;
        }
        let slot = self.fixed(true);
        self.literals.insert(word, slot);
        slot
    }

    pub fn word_of(&self, slot: Slot) -> Option<u32> {
        self.literals
            .iter()
            .find(|(_, known)| **known == slot)
            .map(|(word, _)| *word)
    }

    pub fn emit(&mut self, at: Location, op: Instr) {
        self.code.push(Node { op, at });
    }

    fn nested<T>(&mut self, run: impl FnOnce(&mut Self) -> Lowered<T>) -> Lowered<(Vec<Node>, T)> {
        let outer = std::mem::take(&mut self.code);
        let result = run(self);
        let inner = std::mem::replace(&mut self.code, outer);
        Ok((inner, result?))
    }

    // Names of the IR

    pub fn planes_of(&self, frame: &Frame<'k>, id: ValueId, at: Location) -> Lowered<Planes> {
        frame
            .values
            .get(id.index())
            .and_then(|planes| planes.clone())
            .ok_or_else(|| malformed(at, format!("value {} is used where it was not evaluated", id.0)))
    }

    pub fn one(&self, frame: &Frame<'k>, id: ValueId, at: Location) -> Lowered<Slot> {
        let planes = self.planes_of(frame, id, at)?;
        match &planes[..] {
            [slot] => Ok(*slot),
            _ => Err(malformed(
                at,
                format!(
                    "value {} is {}, a 32-bit scalar is needed",
                    id.0,
                    frame.body.value(id).ty
                ),
            )),
        }
    }

    fn memory(&mut self, frame: &Frame<'k>, memory: Memory, at: Location) -> Lowered<(Mem, Scalar)> {
        match memory {
            Memory::Parameter(index) => match frame.parameters.get(index as usize) {
                Some(Bound::Memory(memory, element)) => Ok((*memory, *element)),
                _ => Err(malformed(at, format!("parameter {index} is not a memory"))),
            },
            Memory::Shared(id) => {
                let array = frame
                    .body
                    .shared
                    .get(id.index())
                    .ok_or_else(|| malformed(at, format!("shared array {} does not exist", id.0)))?;
                let shared = &mut self.program.shared;
                let index = *self.shared.entry((frame.function, id.0)).or_insert_with(|| {
                    shared.push(SharedArray {
                        name: array.name.clone(),
                        element: array.element,
                        len: array.len,
                    });
                    (shared.len() - 1) as u32
                });
                Ok((Mem::Shared(index), array.element))
            }
        }
    }

    pub fn place(&mut self, frame: &Frame<'k>, place: &Place, at: Location) -> Lowered<PlaceRef> {
        let (memory, element) = self.memory(frame, place.memory, at)?;
        let index = self.planes_of(frame, place.index, at)?;
        Ok(PlaceRef {
            memory,
            index: index[0],
            index_high: index.get(1).copied(),
            access: place.access,
            element_shift: element.bytes().trailing_zeros(),
        })
    }

    fn array(&mut self, frame: &Frame<'k>, id: RegistersId, at: Location) -> Lowered<u32> {
        if let Some(known) = self.registers.get(&(frame.function, id.0)) {
            return Ok(*known);
        }
        let array = frame
            .body
            .registers
            .get(id.index())
            .ok_or_else(|| malformed(at, format!("register array {} does not exist", id.0)))?;
        let len: usize = array.dims.iter().product();
        let planes = words(array.element);
        let base = self.uniform.len() as Slot;
        for _ in 0..len * planes {
            self.fixed(false);
        }
        self.program.registers.push(RegArray {
            name: array.name.clone(),
            base,
            planes: planes as u32,
            len: len as u32,
        });
        let index = (self.program.registers.len() - 1) as u32;
        self.registers.insert((frame.function, id.0), index);
        Ok(index)
    }

    pub fn reference(&mut self, frame: &Frame<'k>, reference: &RegisterRef, at: Location) -> Lowered<RegRef> {
        let array = self.array(frame, reference.registers, at)?;
        let dims = &frame.body.registers[reference.registers.index()].dims;
        if reference.index.len() > dims.len() {
            return Err(malformed(
                at,
                "a register array is indexed in more dimensions than it has",
            ));
        }
        let terms = reference
            .index
            .iter()
            .enumerate()
            .map(|(axis, id)| {
                let stride: usize = dims[axis + 1..].iter().product();
                Ok((self.one(frame, *id, at)?, dims[axis] as u32, stride as u32))
            })
            .collect::<Lowered<Vec<_>>>()?;
        Ok(RegRef { array, terms })
    }

    pub fn table(&mut self, frame: &Frame<'k>, id: TableId, at: Location) -> Lowered<u32> {
        let table = frame
            .body
            .tables
            .get(id.index())
            .ok_or_else(|| malformed(at, format!("table {} does not exist", id.0)))?;
        let tables = &mut self.program.tables;
        Ok(*self.tables.entry((frame.function, id.0)).or_insert_with(|| {
            let words: Vec<Vec<u32>> = table.entries.iter().map(|entry| literal_words(*entry)).collect();
            let planes = words.first().map_or(1, Vec::len);
            tables.push(TableData {
                name: table.name.clone(),
                planes: (0..planes).map(|p| words.iter().map(|w| w[p]).collect()).collect(),
            });
            (tables.len() - 1) as u32
        }))
    }

    pub fn constant(&self, id: ConstantId, at: Location) -> Lowered<Literal> {
        let constant = self.kernel.constants.get(id.index());
        constant
            .map(|c| c.value)
            .ok_or_else(|| malformed(at, format!("constant {} does not exist", id.0)))
    }

    pub fn builtin(&mut self, builtin: Builtin, at: Location) -> Lowered<Slot> {
        if let Builtin::BlockIndex(axis) | Builtin::GridSize(axis) = builtin
            && axis > 2
        {
            return Err(malformed(at, format!("axis {axis} of the grid; there are 0, 1 and 2")));
        }
        if let Some(slot) = self.builtins.get(&builtin) {
            return Ok(*slot);
        }
        let slot = self.fixed(matches!(builtin, Builtin::BlockIndex(_) | Builtin::GridSize(_)));
        self.builtins.insert(builtin, slot);
        Ok(slot)
    }

    pub fn parameter(&self, frame: &Frame<'k>, index: u32, at: Location) -> Lowered<Planes> {
        match frame.parameters.get(index as usize) {
            Some(Bound::Value(planes)) => Ok(planes.clone()),
            _ => Err(malformed(at, format!("parameter {index} is not a value"))),
        }
    }

    /// The planes a variable's value can be read from; the flag says it need not be copied, because
    /// nothing assigns the variable while the value lives.
    pub fn read_variable(
        &self,
        frame: &Frame<'k>,
        value: ValueId,
        variable: VariableId,
        at: Location,
    ) -> Lowered<(Planes, bool)> {
        let planes = frame
            .variables
            .get(variable.index())
            .and_then(|planes| planes.clone())
            .ok_or_else(|| malformed(at, format!("variable {} does not exist", variable.0)))?;
        let (from, to) = (frame.position, frame.life.last[value.index()]);
        let still = !frame.life.assigned[variable.index()]
            .iter()
            .any(|p| (from..=to).contains(p));
        Ok((planes, still))
    }

    pub fn sanitizing(&self) -> bool {
        self.sanitize
    }

    // Statements

    fn declare_variables(&mut self, frame: &mut Frame<'k>) {
        for (index, variable) in frame.body.variables.iter().enumerate() {
            let uniform = frame.uniform.variables[index];
            let planes: Planes = (0..planes(variable.ty)).map(|_| self.slot(uniform)).collect();
            self.hold(&planes);
            frame.variables[index] = Some(planes);
        }
    }

    fn expire(&mut self, frame: &mut Frame<'k>, position: u32) {
        let dead = std::mem::take(&mut frame.life.expire[position as usize]);
        for id in &dead {
            if let Some(planes) = frame.values[id.index()].take() {
                self.release(&planes);
            }
        }
    }

    /// The value dies with this statement and nobody else looks at its slot.
    fn takes(&self, frame: &Frame<'k>, id: ValueId, slot: Slot) -> bool {
        frame.life.last[id.index()] == frame.position
            && self.holders[slot as usize] == 1
            && !self.persistent[slot as usize]
    }

    fn block(&mut self, frame: &mut Frame<'k>, block: &'k Block) -> Lowered<()> {
        for stmt in block {
            self.stmt(frame, stmt)?;
        }
        Ok(())
    }

    fn stmt(&mut self, frame: &mut Frame<'k>, stmt: &'k Stmt) -> Lowered<()> {
        let at = stmt.at;
        let position = frame.position;
        match &stmt.kind {
            StmtKind::Eval(id) => {
                let body = frame.body;
                let value = body
                    .values
                    .get(id.index())
                    .ok_or_else(|| malformed(at, format!("value {} does not exist", id.0)))?;
                let planes = match &value.op {
                    Op::Call { function, arguments } => self
                        .call(frame, *function, arguments, value.at)?
                        .ok_or_else(|| malformed(value.at, "a function without result is used as a value"))?,
                    _ => self.operation(frame, *id, value)?,
                };
                self.hold(&planes);
                if let Some(old) = frame.values[id.index()].replace(planes) {
                    self.release(&old);
                }
            }
            StmtKind::Declare { variable, value } | StmtKind::Assign { variable, value } => {
                let source = self.planes_of(frame, *value, at)?;
                let target = frame
                    .variables
                    .get(variable.index())
                    .and_then(|planes| planes.clone())
                    .filter(|target| target.len() == source.len())
                    .ok_or_else(|| malformed(at, "a variable is assigned a value of another type"))?;
                for (d, s) in target.iter().zip(&source) {
                    if d == s {
                        continue;
                    }
                    let same = self.uniform[*d as usize] == self.uniform[*s as usize];
                    let take = same && self.takes(frame, *value, *s);
                    let (d, s) = (*d, *s);
                    self.emit(
                        at,
                        match &stmt.kind {
                            StmtKind::Declare { .. } => Instr::Declare { d, s, take },
                            _ => Instr::Assign { d, s, take },
                        },
                    );
                }
            }
            StmtKind::DeclareRegisters { registers, fill } => {
                let array = self.array(frame, *registers, at)?;
                let fill = fill.map(|literal| {
                    let words = literal_words(literal);
                    [words[0], words.get(1).copied().unwrap_or(0)]
                });
                if fill.is_some() || self.sanitize {
                    self.emit(at, Instr::FillRegisters { array, fill });
                }
            }
            StmtKind::WriteRegister { target, value } => {
                let s = self.planes_of(frame, *value, at)?;
                let to = self.reference(frame, target, at)?;
                let take = s
                    .iter()
                    .all(|slot| !self.uniform[*slot as usize] && self.takes(frame, *value, *slot));
                self.emit(at, Instr::WriteRegister { to, s, take });
            }
            StmtKind::Store { place, value } => {
                let s = self.planes_of(frame, *value, at)?;
                let place = self.place(frame, place, at)?;
                let s = self.narrowed(&s, frame.body.value(*value).ty, place.access, at)?;
                self.emit(at, Instr::Store { s: s.0, place });
                self.release_scratch(&s.1);
            }
            StmtKind::If {
                condition,
                then,
                otherwise,
            } => {
                let condition = self.one(frame, *condition, at)?;
                self.expire(frame, position);
                frame.position += 1;
                let (then, ()) = self.nested(|it| it.block(frame, then))?;
                let (otherwise, ()) = self.nested(|it| it.block(frame, otherwise))?;
                self.emit(
                    at,
                    Instr::If {
                        condition,
                        then,
                        otherwise,
                    },
                );
                return Ok(());
            }
            StmtKind::For {
                variable,
                start,
                end,
                step,
                body,
                ..
            } => {
                let [start, end, step] = [
                    self.planes_of(frame, *start, at)?,
                    self.planes_of(frame, *end, at)?,
                    self.planes_of(frame, *step, at)?,
                ];
                let induction = frame
                    .variables
                    .get(variable.index())
                    .and_then(|planes| planes.clone())
                    .filter(|planes| [&start, &end, &step].iter().all(|other| other.len() == planes.len()))
                    .ok_or_else(|| malformed(at, "the bounds of a loop are not of its variable's type"))?;
                let signed = frame.body.variables[variable.index()].ty.scalar().is_signed_integer();
                // `start` may die here, but its slot is read after the body was lowered: keep it out of reuse.
                self.hold(&start);
                self.expire(frame, position);
                frame.position += 1;
                let (body, ()) = self.nested(|it| it.block(frame, body))?;
                self.release(&start);
                self.emit(
                    at,
                    Instr::For {
                        variable: induction,
                        start,
                        end,
                        step,
                        signed,
                        body,
                    },
                );
                self.expire(frame, frame.position);
            }
            StmtKind::While { test, condition, body } => {
                self.expire(frame, position);
                frame.position += 1;
                let (test, ()) = self.nested(|it| it.block(frame, test))?;
                let condition = self.one(frame, *condition, at)?;
                self.expire(frame, frame.position);
                frame.position += 1;
                let (body, ()) = self.nested(|it| it.block(frame, body))?;
                self.emit(at, Instr::While { test, condition, body });
                self.expire(frame, frame.position);
            }
            StmtKind::Return(value) => self.returns(frame, *value, at)?,
            StmtKind::Call { function, arguments } => {
                if let Some(planes) = self.call(frame, *function, arguments, at)? {
                    self.release_scratch(&planes);
                }
            }
            StmtKind::AsyncCopy { to, from } => {
                let (to, from) = (self.place(frame, to, at)?, self.place(frame, from, at)?);
                self.emit(at, Instr::AsyncCopy { to, from });
            }
            StmtKind::LoadMatrix { to, from, transposed } => {
                let (to, from) = (self.reference(frame, to, at)?, self.place(frame, from, at)?);
                self.check_span(&to, 4, at)?;
                self.emit(
                    at,
                    Instr::LoadMatrix {
                        to,
                        from,
                        transposed: *transposed,
                    },
                );
            }
            StmtKind::Mma {
                accumulator,
                a,
                b,
                element,
                shape,
            } => {
                let is_byte = matches!(element, Scalar::I8 | Scalar::U8) && *shape == MmaShape::Instruction;
                if !is_byte && !matches!(element, Scalar::F16 | Scalar::BF16) {
                    return Err(malformed(
                        at,
                        format!("a matrix product of {element}; f16 and bf16 exist"),
                    ));
                }
                let layout = self.program.fragments;
                let accumulator = self.reference(frame, accumulator, at)?;
                let (a, b) = (self.reference(frame, a, at)?, self.reference(frame, b, at)?);
                let element = *element;
                let [sums, left, right] = match shape {
                    MmaShape::Square => [8, layout.operand_registers(), layout.operand_registers()],
                    MmaShape::Instruction => {
                        let words = layout.words_per_row(element.bytes());
                        [layout.column_accumulators(), layout.lane_rows() * words, words]
                    }
                };
                self.check_span(&accumulator, sums, at)?;
                self.check_span(&a, left, at)?;
                self.check_span(&b, right, at)?;
                self.emit(
                    at,
                    match shape {
                        MmaShape::Square => Instr::Mma {
                            accumulator,
                            a,
                            b,
                            element,
                        },
                        MmaShape::Instruction => Instr::Multiply {
                            accumulator,
                            a,
                            b,
                            element,
                        },
                    },
                );
            }
            // barriers are counted where copies name them
            StmtKind::InitCopyBarriers { .. } => {}
            StmtKind::BulkCopy {
                to,
                from,
                bytes,
                barrier,
            } => {
                let (to, from) = (self.place(frame, to, at)?, self.place(frame, from, at)?);
                let bytes = self.one(frame, *bytes, at)?;
                let barrier = self.place(frame, barrier, at)?;
                self.emit(
                    at,
                    Instr::BulkCopy {
                        to,
                        from,
                        bytes,
                        barrier,
                    },
                );
            }
            StmtKind::WaitForCopy { barrier, parity } => {
                let barrier = self.place(frame, barrier, at)?;
                let parity = self.one(frame, *parity, at)?;
                self.emit(at, Instr::WaitForCopy { barrier, parity });
            }
            StmtKind::Break => self.emit(at, Instr::Break),
            StmtKind::Continue => self.emit(at, Instr::Continue),
            StmtKind::Barrier => self.emit(at, Instr::Barrier),
            StmtKind::GroupBarrier { warps } => {
                // all groups of a kernel are of one size
                self.program.group_lanes = 32 * *warps as u32;
                self.emit(at, Instr::GroupBarrier);
            }
            StmtKind::WarpBarrier => self.emit(at, Instr::WarpBarrier),
            StmtKind::AsyncCommit => self.emit(at, Instr::AsyncCommit),
            StmtKind::AsyncWait { pending } => self.emit(at, Instr::AsyncWait { pending: *pending }),
            // The launches of a host device run one after the other.
            StmtKind::Comment(_) | StmtKind::TriggerDependents | StmtKind::WaitForPrerequisites => {}
        }
        if frame.position == position || matches!(stmt.kind, StmtKind::For { .. } | StmtKind::While { .. }) {
            if frame.position == position {
                self.expire(frame, position);
            }
            frame.position += 1;
        }
        Ok(())
    }

    fn check_span(&self, reference: &RegRef, needed: usize, at: Location) -> Lowered<()> {
        let array = &self.program.registers[reference.array as usize];
        let span = reference.terms.last().map_or(array.len, |(_, _, stride)| *stride) as usize;
        if span < needed || array.planes != 1 {
            return Err(malformed(
                at,
                format!(
                    "`{}` holds {span} registers where a fragment needs {needed}",
                    array.name
                ),
            ));
        }
        Ok(())
    }

    fn returns(&mut self, frame: &mut Frame<'k>, value: Option<ValueId>, at: Location) -> Lowered<()> {
        if frame.tail_return {
            if let Some(id) = value {
                let planes = self.planes_of(frame, id, at)?;
                self.hold(&planes);
                frame.tail = Some(planes);
            }
            return Ok(());
        }
        if let (Some(id), Some(result)) = (value, frame.result.clone()) {
            let source = self.planes_of(frame, id, at)?;
            for (d, s) in result.iter().zip(&source) {
                self.emit(
                    at,
                    Instr::Assign {
                        d: *d,
                        s: *s,
                        take: false,
                    },
                );
            }
        }
        self.emit(at, Instr::Return);
        Ok(())
    }

    /// Inlines a call. The planes of the result are not held by anybody yet.
    fn call(
        &mut self,
        frame: &Frame<'k>,
        id: FunctionId,
        arguments: &[Argument],
        at: Location,
    ) -> Lowered<Option<Planes>> {
        let kernel = self.kernel;
        let function = kernel
            .functions
            .get(id.index())
            .ok_or_else(|| malformed(at, format!("function {} does not exist", id.0)))?;
        if self.calls.contains(&id.0) {
            return Err(malformed(at, format!("`{}` calls itself", function.name)));
        }
        if arguments.len() != function.parameters.len() {
            return Err(malformed(
                at,
                format!(
                    "`{}` takes {} arguments, {} are given",
                    function.name,
                    function.parameters.len(),
                    arguments.len()
                ),
            ));
        }
        let mut bound = Vec::with_capacity(arguments.len());
        let mut uniform = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                Argument::Value(value) => {
                    let planes = self.planes_of(frame, *value, at)?;
                    uniform.push(self.all_uniform(&planes));
                    bound.push(Bound::Value(planes));
                }
                Argument::Memory(memory) => {
                    let (memory, element) = self.memory(frame, *memory, at)?;
                    uniform.push(false);
                    bound.push(Bound::Memory(memory, element));
                }
            }
        }
        let mut callee = Frame::new(&function.body, Some(id.0), bound, &uniform);
        callee.tail_return = returns_only_at_end(&function.body.block);
        self.calls.push(id.0);
        self.declare_variables(&mut callee);
        if callee.tail_return {
            self.block(&mut callee, &function.body.block)?;
        } else {
            if let Some(ty) = function.result {
                let result: Planes = (0..planes(ty)).map(|_| self.slot(false)).collect();
                self.hold(&result);
                callee.result = Some(result);
            }
            let (body, ()) = self.nested(|it| it.block(&mut callee, &function.body.block))?;
            self.emit(at, Instr::Call { body });
        }
        self.calls.pop();
        for planes in callee.variables.iter().flatten() {
            self.release(planes);
        }
        let result = callee.tail.or(callee.result);
        if let Some(planes) = &result {
            // The caller's value takes over the hold.
            for slot in planes {
                if !self.persistent[*slot as usize] {
                    self.holders[*slot as usize] -= 1;
                }
            }
        }
        if function.result.is_some() && result.is_none() {
            return Err(malformed(at, format!("`{}` never returns its value", function.name)));
        }
        Ok(result)
    }
}

fn returns_only_at_end(block: &Block) -> bool {
    fn has_return(block: &Block) -> bool {
        block
            .iter()
            .any(|stmt| matches!(stmt.kind, StmtKind::Return(_)) || stmt.kind.blocks().into_iter().any(has_return))
    }
    match block.iter().position(|stmt| matches!(stmt.kind, StmtKind::Return(_))) {
        Some(first) if first + 1 == block.len() => !block[..first]
            .iter()
            .any(|stmt| stmt.kind.blocks().into_iter().any(has_return)),
        Some(_) => false,
        None => !has_return(block),
    }
}

/// The words of a literal.
pub(super) fn literal_words(literal: Literal) -> Vec<u32> {
    match literal {
        Literal::Bool(x) => vec![u32::from(x)],
        Literal::I32(x) => vec![x as u32],
        Literal::U32(x) => vec![x],
        Literal::U64(x) => vec![x as u32, (x >> 32) as u32],
        Literal::F32(x) => vec![x.to_bits()],
        Literal::F16(x) => vec![u32::from(x.to_bits())],
    }
}
