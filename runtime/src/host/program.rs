//! The compact program a kernel is lowered to: one instruction per plane operation.
//!
//! A *plane* is one 32-bit word per lane (or a single word when all lanes agree); a *slot* names a plane.
//! Scalars of 64 bits take two planes (low, high), vectors one or two per component. Booleans are 0 or 1,
//! `f16` lies in the low half of its word, small integers of vectors are extended to 32 bits.

use tilekiln_dsl::ir::{CompareOp, Location, ReduceOp, Scalar, Type};
use tilekiln_dsl::target::FragmentLayout;

pub(super) type Slot = u32;

pub(super) struct Node {
    pub op: Instr,
    pub at: Location,
}

/// Functions of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fn1 {
    NegI,
    NegF32,
    NegF16,
    NegBf16,
    NotBits,
    NotBool,
    AbsI,
    AbsF32,
    AbsHalf,
    Sqrt,
    Rsqrt,
    Exp2,
    Exp2Flushed,
    Log2,
    Sin,
    Cos,
    Tanh,
    Round,
    Floor,
    I32ToF32,
    U32ToF32,
    F32ToI32,
    F32ToU32,
    F16ToF32,
    F32ToF16,
    Bf16ToF32,
    F32ToBf16,
    ToBool,
    F32ToBool,
    SignExtend8,
    SignExtend16,
    ZeroExtend8,
    ZeroExtend16,
    High16,
    SignWord,
}

/// Functions of two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fn2 {
    AddI,
    SubI,
    MulI,
    DivI,
    DivU,
    RemI,
    RemU,
    And,
    Or,
    Xor,
    Shl,
    ShrI,
    ShrU,
    MinI,
    MinU,
    MaxI,
    MaxU,
    AddF,
    SubF,
    MulF,
    DivF,
    RemF,
    MinF,
    MaxF,
    AddH,
    SubH,
    MulH,
    DivH,
    MinH,
    MaxH,
    AddB,
    SubB,
    MulB,
    DivB,
    MinB,
    MaxB,
    Eq,
    Ne,
    LtI,
    LeI,
    GtI,
    GeI,
    LtU,
    LeU,
    GtU,
    GeU,
    EqF,
    NeF,
    LtF,
    LeF,
    GtF,
    GeF,
    EqH,
    NeH,
    LtH,
    LeH,
    GtH,
    GeH,
    Pack16,
}

/// Functions of three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fn3 {
    FmaF32,
    FmaF16,
    FmaBf16,
    Select,
    Dot4Signed,
    Dot4Unsigned,
    BytePermute,
}

/// Functions of two 64-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum W2 {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Min,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mem {
    /// Index into the kernel's parameters.
    Global(u32),
    /// Index into the program's shared arrays.
    Shared(u32),
}

pub(super) struct PlaceRef {
    pub memory: Mem,
    pub index: Slot,
    /// High word of a 64-bit index.
    pub index_high: Option<Slot>,
    pub access: Type,
    /// log2 of the bytes of the memory's element.
    pub element_shift: u32,
}

/// Elements of a register array, some leading dimensions indexed.
pub(super) struct RegRef {
    /// Which array of the program.
    pub array: u32,
    /// Index slot, extent and stride (in elements) per indexed dimension.
    pub terms: Vec<(Slot, u32, u32)>,
}

pub(super) struct RegArray {
    pub name: String,
    /// First plane; element `i` starts at `base + i * planes`.
    pub base: Slot,
    pub planes: u32,
    pub len: u32,
}

pub(super) struct SharedArray {
    pub name: String,
    pub element: Scalar,
    pub len: usize,
}

pub(super) struct TableData {
    pub name: String,
    /// One vector per plane.
    pub planes: Vec<Vec<u32>>,
}

pub(super) enum ShuffleBy {
    Xor(u32),
    Up(u32),
    Down(u32),
    Lane(Slot),
}

pub(super) enum Instr {
    Map1 {
        f: Fn1,
        d: Slot,
        a: Slot,
    },
    Map2 {
        f: Fn2,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Map3 {
        f: Fn3,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Wide2 {
        f: W2,
        d: [Slot; 2],
        a: [Slot; 2],
        b: [Slot; 2],
    },
    WideCompare {
        f: CompareOp,
        d: Slot,
        a: [Slot; 2],
        b: [Slot; 2],
    },
    WideToF32 {
        d: Slot,
        a: [Slot; 2],
    },
    F32ToWide {
        d: [Slot; 2],
        a: Slot,
    },
    /// Copies whatever lanes are active; `take` when the source is dead afterwards.
    Declare {
        d: Slot,
        s: Slot,
        take: bool,
    },
    /// Copies the active lanes only.
    Assign {
        d: Slot,
        s: Slot,
        take: bool,
    },
    CheckDivisor {
        b: Slot,
        high: Option<Slot>,
    },
    CheckShift {
        b: Slot,
        width: u32,
    },
    AssumeUniform {
        s: Box<[Slot]>,
    },
    FillRegisters {
        array: u32,
        fill: Option<[u32; 2]>,
    },
    ReadRegister {
        d: Box<[Slot]>,
        from: RegRef,
    },
    WriteRegister {
        to: RegRef,
        s: Box<[Slot]>,
        take: bool,
    },
    Lookup {
        d: Box<[Slot]>,
        table: u32,
        index: Slot,
    },
    Load {
        d: Box<[Slot]>,
        place: PlaceRef,
    },
    Store {
        s: Box<[Slot]>,
        place: PlaceRef,
    },
    Shuffle {
        d: Slot,
        s: Slot,
        by: ShuffleBy,
    },
    WarpReduce {
        d: Slot,
        s: Slot,
        op: ReduceOp,
        scalar: Scalar,
        width: u32,
    },
    Ballot {
        d: Slot,
        s: Slot,
    },
    AsyncCopy {
        to: PlaceRef,
        from: PlaceRef,
    },
    AsyncCommit,
    AsyncWait {
        pending: u32,
    },
    LoadMatrix {
        to: RegRef,
        from: PlaceRef,
        transposed: bool,
    },
    Mma {
        accumulator: RegRef,
        a: RegRef,
        b: RegRef,
        element: Scalar,
    },
    /// The product of one matrix instruction.
    Multiply {
        accumulator: RegRef,
        a: RegRef,
        b: RegRef,
        element: Scalar,
    },
    BulkCopy {
        to: PlaceRef,
        from: PlaceRef,
        bytes: Slot,
        barrier: PlaceRef,
    },
    WaitForCopy {
        barrier: PlaceRef,
        parity: Slot,
    },
    Barrier,
    GroupBarrier,
    WarpBarrier,
    If {
        condition: Slot,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    For {
        variable: Box<[Slot]>,
        start: Box<[Slot]>,
        end: Box<[Slot]>,
        step: Box<[Slot]>,
        signed: bool,
        body: Vec<Node>,
    },
    While {
        test: Vec<Node>,
        condition: Slot,
        body: Vec<Node>,
    },
    Break,
    Continue,
    /// Switches the lanes off up to the end of the innermost call, or of the kernel.
    Return,
    /// A function body with `Return` inside.
    Call {
        body: Vec<Node>,
    },
}

/// A lowered kernel.
pub(super) struct Program {
    pub lanes: usize,
    /// Lanes of the groups that meet at group barriers.
    pub group_lanes: u32,
    /// Per slot: one word for all lanes.
    pub uniform: Vec<bool>,
    pub literals: Vec<(Slot, u32)>,
    /// Slots of scalar parameters: parameter, slots.
    pub scalars: Vec<(u32, Box<[Slot]>)>,
    pub block_index: [Option<Slot>; 3],
    pub grid_size: [Option<Slot>; 3],
    pub thread_index: Option<Slot>,
    pub lane_index: Option<Slot>,
    pub warp_index: Option<Slot>,
    pub shared: Vec<SharedArray>,
    pub registers: Vec<RegArray>,
    pub tables: Vec<TableData>,
    pub fragments: FragmentLayout,
    pub code: Vec<Node>,
}

/// 32-bit words per value of a scalar type.
pub(super) const fn words(scalar: Scalar) -> usize {
    match scalar {
        Scalar::U64 => 2,
        _ => 1,
    }
}

/// Planes of a type.
pub(super) const fn planes(ty: Type) -> usize {
    words(ty.scalar()) * ty.components()
}
