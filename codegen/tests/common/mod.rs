//! Builds kernel IR by hand, statement by statement.
#![allow(dead_code)]

pub mod kernels;

use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::Target;

pub const F32: Type = Type::Scalar(Scalar::F32);
pub const F16: Type = Type::Scalar(Scalar::F16);
pub const U32: Type = Type::Scalar(Scalar::U32);
pub const I32: Type = Type::Scalar(Scalar::I32);
pub const U64: Type = Type::Scalar(Scalar::U64);
pub const BOOL: Type = Type::Scalar(Scalar::Bool);

/// A body under construction.
#[derive(Default)]
pub struct Build {
    pub body: Body,
    open: Vec<Block>,
}

#[track_caller]
fn here() -> Location {
    Location::caller()
}

impl Build {
    pub fn new() -> Self {
        Self {
            body: Body::default(),
            open: vec![Vec::new()],
        }
    }

    pub fn finish(mut self) -> Body {
        self.body.block = self.open.pop().unwrap();
        assert!(self.open.is_empty());
        self.body
    }

    #[track_caller]
    pub fn stmt(&mut self, kind: StmtKind) {
        self.open.last_mut().unwrap().push(Stmt { kind, at: here() });
    }

    #[track_caller]
    pub fn eval(&mut self, ty: Type, op: Op) -> ValueId {
        let id = ValueId(self.body.values.len() as u32);
        self.body.values.push(Value {
            ty,
            op,
            name: None,
            at: here(),
        });
        self.stmt(StmtKind::Eval(id));
        id
    }

    /// `let name = value;`
    pub fn name(&mut self, id: ValueId, name: &str) -> ValueId {
        self.body.values[id.index()].name = Some(name.to_string());
        id
    }

    pub fn ty(&self, id: ValueId) -> Type {
        self.body.value(id).ty
    }

    #[track_caller]
    pub fn u32(&mut self, v: u32) -> ValueId {
        self.eval(U32, Op::Literal(Literal::U32(v)))
    }
    #[track_caller]
    pub fn i32(&mut self, v: i32) -> ValueId {
        self.eval(I32, Op::Literal(Literal::I32(v)))
    }
    #[track_caller]
    pub fn f32(&mut self, v: f32) -> ValueId {
        self.eval(F32, Op::Literal(Literal::F32(v)))
    }
    #[track_caller]
    pub fn bin(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        let ty = self.ty(a);
        self.eval(ty, Op::Binary(op, a, b))
    }
    #[track_caller]
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.bin(BinaryOp::Add, a, b)
    }
    #[track_caller]
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.bin(BinaryOp::Mul, a, b)
    }
    #[track_caller]
    pub fn cmp(&mut self, op: CompareOp, a: ValueId, b: ValueId) -> ValueId {
        self.eval(BOOL, Op::Compare(op, a, b))
    }
    #[track_caller]
    pub fn convert(&mut self, to: Type, a: ValueId) -> ValueId {
        self.eval(to, Op::Convert(a))
    }
    #[track_caller]
    pub fn math(&mut self, f: MathFn, operands: &[ValueId]) -> ValueId {
        let ty = self.ty(operands[0]);
        self.eval(ty, Op::Math(f, operands.to_vec()))
    }
    #[track_caller]
    pub fn builtin(&mut self, b: Builtin) -> ValueId {
        self.eval(U32, Op::Builtin(b))
    }
    #[track_caller]
    pub fn param(&mut self, ty: Type, index: u32) -> ValueId {
        self.eval(ty, Op::Parameter(index))
    }
    #[track_caller]
    pub fn load(&mut self, memory: Memory, index: ValueId, access: Type) -> ValueId {
        self.eval(access.widened(), Op::Load(Place { memory, index, access }))
    }
    #[track_caller]
    pub fn store(&mut self, memory: Memory, index: ValueId, access: Type, value: ValueId) {
        self.stmt(StmtKind::Store {
            place: Place { memory, index, access },
            value,
        });
    }
    #[track_caller]
    pub fn variable(&mut self, name: &str, value: ValueId) -> VariableId {
        let variable = VariableId(self.body.variables.len() as u32);
        self.body.variables.push(Variable {
            name: name.to_string(),
            ty: self.ty(value),
            at: here(),
        });
        self.stmt(StmtKind::Declare { variable, value });
        variable
    }
    #[track_caller]
    pub fn read(&mut self, variable: VariableId) -> ValueId {
        let ty = self.body.variables[variable.index()].ty;
        self.eval(ty, Op::ReadVariable(variable))
    }
    #[track_caller]
    pub fn assign(&mut self, variable: VariableId, value: ValueId) {
        self.stmt(StmtKind::Assign { variable, value });
    }
    /// `variable = variable op value`
    #[track_caller]
    pub fn update(&mut self, variable: VariableId, op: BinaryOp, value: ValueId) {
        let old = self.read(variable);
        let new = self.bin(op, old, value);
        self.assign(variable, new);
    }
    #[track_caller]
    pub fn comment(&mut self, text: &str) {
        self.stmt(StmtKind::Comment(text.to_string()));
    }

    fn block(&mut self, inside: impl FnOnce(&mut Self)) -> Block {
        self.open.push(Vec::new());
        inside(self);
        self.open.pop().unwrap()
    }

    #[track_caller]
    pub fn for_loop(
        &mut self,
        name: &str,
        [start, end, step]: [ValueId; 3],
        unroll: bool,
        inside: impl FnOnce(&mut Self, VariableId),
    ) {
        let variable = VariableId(self.body.variables.len() as u32);
        let at = here();
        self.body.variables.push(Variable {
            name: name.to_string(),
            ty: self.ty(start),
            at,
        });
        let body = self.block(|b| inside(b, variable));
        self.open.last_mut().unwrap().push(Stmt {
            kind: StmtKind::For {
                variable,
                start,
                end,
                step,
                unroll: if unroll { Unroll::Full } else { Unroll::Free },
                body,
            },
            at,
        });
    }

    /// `for name in 0..count` with comptime bounds, unrolled.
    #[track_caller]
    pub fn unrolled(&mut self, name: &str, count: u32, inside: impl FnOnce(&mut Self, ValueId)) {
        let bounds = [self.u32(0), self.u32(count), self.u32(1)];
        self.for_loop(name, bounds, true, |b, variable| {
            let i = b.read(variable);
            inside(b, i);
        });
    }

    #[track_caller]
    pub fn if_else(&mut self, condition: ValueId, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let at = here();
        let then = self.block(then);
        let otherwise = self.block(otherwise);
        self.open.last_mut().unwrap().push(Stmt {
            kind: StmtKind::If {
                condition,
                then,
                otherwise,
            },
            at,
        });
    }

    #[track_caller]
    pub fn while_loop(&mut self, test: impl FnOnce(&mut Self) -> ValueId, inside: impl FnOnce(&mut Self)) {
        let at = here();
        let mut condition = ValueId(0);
        let test = self.block(|b| condition = test(b));
        let body = self.block(inside);
        self.open.last_mut().unwrap().push(Stmt {
            kind: StmtKind::While { test, condition, body },
            at,
        });
    }

    #[track_caller]
    pub fn shared(&mut self, name: &str, element: Scalar, len: usize, note: &str) -> Memory {
        let id = SharedId(self.body.shared.len() as u32);
        self.body.shared.push(Shared {
            name: name.to_string(),
            element,
            len,
            note: (!note.is_empty()).then(|| note.to_string()),
            at: here(),
        });
        Memory::Shared(id)
    }

    #[track_caller]
    pub fn registers(
        &mut self,
        name: &str,
        element: Scalar,
        dims: &[usize],
        note: &str,
        fill: Option<Literal>,
    ) -> RegistersId {
        let registers = RegistersId(self.body.registers.len() as u32);
        self.body.registers.push(Registers {
            name: name.to_string(),
            element,
            dims: dims.to_vec(),
            note: (!note.is_empty()).then(|| note.to_string()),
            at: here(),
        });
        self.stmt(StmtKind::DeclareRegisters { registers, fill });
        registers
    }
    #[track_caller]
    pub fn element(&mut self, registers: RegistersId, index: &[ValueId]) -> ValueId {
        let ty = Type::Scalar(self.body.registers[registers.index()].element).widened();
        self.eval(
            ty,
            Op::ReadRegister(RegisterRef {
                registers,
                index: index.to_vec(),
            }),
        )
    }
    #[track_caller]
    pub fn set_element(&mut self, registers: RegistersId, index: &[ValueId], value: ValueId) {
        let target = RegisterRef {
            registers,
            index: index.to_vec(),
        };
        self.stmt(StmtKind::WriteRegister { target, value });
    }
    pub fn table(&mut self, name: &str, entries: Vec<Literal>) -> TableId {
        let id = TableId(self.body.tables.len() as u32);
        self.body.tables.push(Table {
            name: name.to_string(),
            entries,
        });
        id
    }
}

/// A kernel around a body.
#[track_caller]
pub fn kernel(
    target: &str,
    family: &str,
    symbol: &str,
    threads: usize,
    parameters: Vec<Parameter>,
    body: Body,
) -> Kernel {
    Kernel {
        symbol: symbol.to_string(),
        family: family.to_string(),
        doc: Vec::new(),
        at: Location {
            file: "dsl/kernels/src/example.rs",
            line: 3,
            column: 1,
        },
        settings: vec![setting("threads", &threads.to_string(), false)],
        target: Target::named(target).unwrap().clone(),
        threads,
        blocks: 0,
        parameters,
        constants: Vec::new(),
        functions: Vec::new(),
        body,
    }
}

pub fn setting(key: &str, value: &str, is_type: bool) -> Setting {
    Setting {
        key: key.to_string(),
        value: value.to_string(),
        is_type,
    }
}

#[track_caller]
pub fn memory(name: &str, element: Scalar, access: Access, shape: &[&str]) -> Parameter {
    Parameter {
        name: name.to_string(),
        kind: ParameterKind::Memory {
            element,
            access,
            shape: shape.iter().map(|s| s.to_string()).collect(),
        },
        at: here(),
    }
}

#[track_caller]
pub fn scalar(name: &str, scalar: Scalar) -> Parameter {
    Parameter {
        name: name.to_string(),
        kind: ParameterKind::Scalar(scalar),
        at: here(),
    }
}

/// The lines between the kernel's braces, without indentation of the body.
pub fn body_text(text: &str) -> String {
    let start = text.find("extern \"C\" __global__").unwrap();
    let open = start + text[start..].find("\n{\n").unwrap() + 3;
    let lines = text[open..].trim_end().strip_suffix('}').unwrap().lines();
    lines
        .map(|l| l.strip_prefix("    ").unwrap_or(l))
        .collect::<Vec<_>>()
        .join("\n")
}
