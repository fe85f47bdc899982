//! A small builder of kernel IR by hand, and helpers to run it on the host device.
#![allow(dead_code, missing_docs)]

use std::sync::Arc;

use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::{HOST, Target};
use tilekiln_runtime::device::{Argument as Given, Buffer, Device, Launch, Loaded};
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::host::{HostDevice, Report};

pub const F32: Type = Type::Scalar(Scalar::F32);
pub const F16: Type = Type::Scalar(Scalar::F16);
pub const I32: Type = Type::Scalar(Scalar::I32);
pub const U32: Type = Type::Scalar(Scalar::U32);
pub const U64: Type = Type::Scalar(Scalar::U64);
pub const BOOL: Type = Type::Scalar(Scalar::Bool);

/// Records statements of one body; nested blocks are closures.
#[derive(Default)]
pub struct Recorder {
    pub body: Body,
    open: Vec<Block>,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            body: Body::default(),
            open: vec![Vec::new()],
        }
    }

    #[track_caller]
    pub fn stmt(&mut self, kind: StmtKind) {
        let at = Location::caller();
        self.open.last_mut().unwrap().push(Stmt { kind, at });
    }

    #[track_caller]
    pub fn value(&mut self, ty: Type, op: Op) -> ValueId {
        self.body.values.push(Value {
            ty,
            op,
            name: None,
            at: Location::caller(),
        });
        let id = ValueId(self.body.values.len() as u32 - 1);
        self.stmt(StmtKind::Eval(id));
        id
    }

    pub fn type_of(&self, id: ValueId) -> Type {
        self.body.value(id).ty
    }

    #[track_caller]
    pub fn u32(&mut self, x: u32) -> ValueId {
        self.value(U32, Op::Literal(Literal::U32(x)))
    }

    #[track_caller]
    pub fn i32(&mut self, x: i32) -> ValueId {
        self.value(I32, Op::Literal(Literal::I32(x)))
    }

    #[track_caller]
    pub fn f32(&mut self, x: f32) -> ValueId {
        self.value(F32, Op::Literal(Literal::F32(x)))
    }

    #[track_caller]
    pub fn u64(&mut self, x: u64) -> ValueId {
        self.value(U64, Op::Literal(Literal::U64(x)))
    }

    #[track_caller]
    pub fn builtin(&mut self, builtin: Builtin) -> ValueId {
        self.value(U32, Op::Builtin(builtin))
    }

    #[track_caller]
    pub fn thread(&mut self) -> ValueId {
        self.builtin(Builtin::ThreadIndex)
    }

    /// Block index × threads + thread index.
    #[track_caller]
    pub fn global_thread(&mut self, threads: usize) -> ValueId {
        let block = self.builtin(Builtin::BlockIndex(0));
        let threads = self.u32(threads as u32);
        let start = self.binary(BinaryOp::Mul, block, threads);
        let thread = self.thread();
        self.binary(BinaryOp::Add, start, thread)
    }

    #[track_caller]
    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        let ty = self.type_of(a);
        self.value(ty, Op::Binary(op, a, b))
    }

    #[track_caller]
    pub fn compare(&mut self, op: CompareOp, a: ValueId, b: ValueId) -> ValueId {
        self.value(BOOL, Op::Compare(op, a, b))
    }

    #[track_caller]
    pub fn fma(&mut self, a: ValueId, b: ValueId, c: ValueId) -> ValueId {
        let ty = self.type_of(a);
        self.value(ty, Op::Math(MathFn::Fma, vec![a, b, c]))
    }

    #[track_caller]
    pub fn convert(&mut self, a: ValueId, ty: Type) -> ValueId {
        self.value(ty, Op::Convert(a))
    }

    #[track_caller]
    pub fn load(&mut self, memory: Memory, index: ValueId, access: Type) -> ValueId {
        self.value(access.widened(), Op::Load(Place { memory, index, access }))
    }

    #[track_caller]
    pub fn store(&mut self, memory: Memory, index: ValueId, access: Type, value: ValueId) {
        self.stmt(StmtKind::Store {
            place: Place { memory, index, access },
            value,
        });
    }

    #[track_caller]
    pub fn declare(&mut self, name: &str, value: ValueId) -> VariableId {
        let ty = self.type_of(value);
        let variable = self.variable(name, ty);
        self.stmt(StmtKind::Declare { variable, value });
        variable
    }

    #[track_caller]
    pub fn variable(&mut self, name: &str, ty: Type) -> VariableId {
        self.body.variables.push(Variable {
            name: name.into(),
            ty,
            at: Location::caller(),
        });
        VariableId(self.body.variables.len() as u32 - 1)
    }

    #[track_caller]
    pub fn assign(&mut self, variable: VariableId, value: ValueId) {
        self.stmt(StmtKind::Assign { variable, value });
    }

    #[track_caller]
    pub fn read(&mut self, variable: VariableId) -> ValueId {
        let ty = self.body.variables[variable.index()].ty;
        self.value(ty, Op::ReadVariable(variable))
    }

    #[track_caller]
    pub fn registers(&mut self, name: &str, element: Scalar, dims: &[usize], fill: Option<Literal>) -> RegistersId {
        self.body.registers.push(Registers {
            name: name.into(),
            element,
            dims: dims.to_vec(),
            note: None,
            at: Location::caller(),
        });
        let registers = RegistersId(self.body.registers.len() as u32 - 1);
        self.stmt(StmtKind::DeclareRegisters { registers, fill });
        registers
    }

    #[track_caller]
    pub fn write_register(&mut self, registers: RegistersId, index: &[ValueId], value: ValueId) {
        let target = RegisterRef {
            registers,
            index: index.to_vec(),
        };
        self.stmt(StmtKind::WriteRegister { target, value });
    }

    #[track_caller]
    pub fn read_register(&mut self, registers: RegistersId, index: &[ValueId]) -> ValueId {
        let ty = Type::Scalar(self.body.registers[registers.index()].element);
        self.value(
            ty,
            Op::ReadRegister(RegisterRef {
                registers,
                index: index.to_vec(),
            }),
        )
    }

    #[track_caller]
    pub fn shared(&mut self, name: &str, element: Scalar, len: usize) -> Memory {
        self.body.shared.push(Shared {
            name: name.into(),
            element,
            len,
            note: None,
            at: Location::caller(),
        });
        Memory::Shared(SharedId(self.body.shared.len() as u32 - 1))
    }

    pub fn nested(&mut self, run: impl FnOnce(&mut Self)) -> Block {
        self.open.push(Vec::new());
        run(self);
        self.open.pop().unwrap()
    }

    #[track_caller]
    pub fn when(&mut self, condition: ValueId, then: impl FnOnce(&mut Self)) {
        let at = Location::caller();
        let then = self.nested(then);
        let kind = StmtKind::If {
            condition,
            then,
            otherwise: Vec::new(),
        };
        self.open.last_mut().unwrap().push(Stmt { kind, at });
    }

    #[track_caller]
    pub fn when_else(&mut self, condition: ValueId, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let at = Location::caller();
        let then = self.nested(then);
        let otherwise = self.nested(otherwise);
        let kind = StmtKind::If {
            condition,
            then,
            otherwise,
        };
        self.open.last_mut().unwrap().push(Stmt { kind, at });
    }

    #[track_caller]
    pub fn each(&mut self, start: ValueId, end: ValueId, step: ValueId, run: impl FnOnce(&mut Self, VariableId)) {
        let at = Location::caller();
        let ty = self.type_of(start);
        let variable = self.variable("i", ty);
        let body = self.nested(|it| run(it, variable));
        let kind = StmtKind::For {
            variable,
            start,
            end,
            step,
            unroll: Unroll::Free,
            body,
        };
        self.open.last_mut().unwrap().push(Stmt { kind, at });
    }

    #[track_caller]
    pub fn repeat(&mut self, test: impl FnOnce(&mut Self) -> ValueId, body: impl FnOnce(&mut Self)) {
        let at = Location::caller();
        let mut condition = ValueId(0);
        let test = self.nested(|it| condition = test(it));
        let body = self.nested(body);
        self.open.last_mut().unwrap().push(Stmt {
            kind: StmtKind::While { test, condition, body },
            at,
        });
    }

    pub fn finish(mut self) -> Body {
        self.body.block = self.open.pop().unwrap();
        self.body
    }
}

pub fn memory(name: &str, element: Scalar, access: Access) -> Parameter {
    Parameter {
        name: name.into(),
        kind: ParameterKind::Memory {
            element,
            access,
            shape: Vec::new(),
        },
        at: Location::caller(),
    }
}

pub fn scalar(name: &str, scalar: Scalar) -> Parameter {
    Parameter {
        name: name.into(),
        kind: ParameterKind::Scalar(scalar),
        at: Location::caller(),
    }
}

pub fn kernel(threads: usize, parameters: Vec<Parameter>, record: impl FnOnce(&mut Recorder)) -> Kernel {
    kernel_for(&HOST, threads, parameters, record)
}

pub fn kernel_for(
    target: &Target,
    threads: usize,
    parameters: Vec<Parameter>,
    record: impl FnOnce(&mut Recorder),
) -> Kernel {
    let mut recorder = Recorder::new();
    record(&mut recorder);
    Kernel {
        symbol: "test_kernel".into(),
        family: "test_kernel".into(),
        doc: Vec::new(),
        at: Location::caller(),
        settings: Vec::new(),
        target: target.clone(),
        threads,
        blocks: 0,
        parameters,
        constants: Vec::new(),
        functions: Vec::new(),
        body: recorder.finish(),
    }
}

/// The bytes of words.
pub fn bytes<T: Copy>(words: &[T], f: impl Fn(T) -> Vec<u8>) -> Vec<u8> {
    words.iter().flat_map(|word| f(*word)).collect()
}

pub fn u32_bytes(words: &[u32]) -> Vec<u8> {
    bytes(words, |word| word.to_le_bytes().to_vec())
}

pub fn f32_bytes(words: &[f32]) -> Vec<u8> {
    bytes(words, |word| word.to_le_bytes().to_vec())
}

pub fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|chunk| u32::from_le_bytes(chunk.try_into().unwrap()))
        .collect()
}

pub fn floats_of(bytes: &[u8]) -> Vec<f32> {
    words_of(bytes).into_iter().map(f32::from_bits).collect()
}

/// A device with one kernel and its buffers.
pub struct Bench {
    pub device: HostDevice,
    pub loaded: Loaded,
    pub buffers: Vec<Buffer>,
    pub launch: Launch,
}

/// What a test passes for one parameter.
pub enum Data {
    Bytes(Vec<u8>),
    /// Allocated, never written.
    Fresh(usize),
    Scalar(Given),
}

impl Bench {
    pub fn new(device: HostDevice, kernel: Kernel, grid: u32, data: Vec<Data>) -> Result<Self, DeviceError> {
        let loaded = device.load(vec![Arc::new(kernel)])?.remove(0);
        let mut buffers = Vec::new();
        let mut arguments = Vec::new();
        for data in data {
            arguments.push(match data {
                Data::Bytes(bytes) => {
                    let buffer = device.allocate(bytes.len())?;
                    device.upload(&buffer, 0, &bytes)?;
                    buffers.push(buffer.clone());
                    Given::Buffer(buffer, 0)
                }
                Data::Fresh(bytes) => {
                    let buffer = device.allocate(bytes)?;
                    buffers.push(buffer.clone());
                    Given::Buffer(buffer, 0)
                }
                Data::Scalar(given) => given,
            });
        }
        let launch = Launch {
            grid: [grid, 1, 1],
            arguments,
            dependent: false,
        };
        Ok(Self {
            device,
            loaded,
            buffers,
            launch,
        })
    }

    pub fn run(&self) -> Result<(), DeviceError> {
        self.device.launch(&self.loaded, &self.launch)
    }

    pub fn report(&self) -> Report {
        self.device.check(&self.loaded, &self.launch).unwrap()
    }

    pub fn bytes(&self, buffer: usize) -> Vec<u8> {
        let mut out = vec![0; self.buffers[buffer].bytes];
        self.device.download(&self.buffers[buffer], 0, &mut out).unwrap();
        out
    }

    pub fn words(&self, buffer: usize) -> Vec<u32> {
        words_of(&self.bytes(buffer))
    }

    pub fn floats(&self, buffer: usize) -> Vec<f32> {
        floats_of(&self.bytes(buffer))
    }
}

/// Runs on the fast device and under the sanitizer; both must succeed, be clean and agree on the last buffer.
#[track_caller]
pub fn run_both(kernel: Kernel, grid: u32, data: impl Fn() -> Vec<Data>) -> Bench {
    let fast = Bench::new(HostDevice::new(), kernel.clone(), grid, data()).unwrap();
    fast.run().unwrap();
    let checked = Bench::new(HostDevice::sanitizing(), kernel, grid, data()).unwrap();
    checked.run().unwrap();
    for buffer in 0..fast.buffers.len() {
        assert_eq!(
            fast.bytes(buffer),
            checked.bytes(buffer),
            "buffer {buffer} differs under the sanitizer"
        );
    }
    fast
}
