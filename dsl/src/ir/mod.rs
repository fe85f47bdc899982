//! The kernel IR: what a recorded kernel *is*, for the writers and for the host device alike.
//!
//! # Shape
//! A [`Kernel`] has parameters, the device functions it calls in dependency order, and a [`Body`].
//! A body owns arenas (values, variables, register arrays, shared arrays, tables) and one [`Block`] of
//! statements; control flow is structured, there are no gotos and no phis.
//!
//! # Evaluation order
//! *Every* [`Value`] is evaluated exactly once per execution of its [`StmtKind::Eval`], in statement order,
//! for the lanes that are active there. Nothing is lazy: `Op::ReadVariable` reads the variable at that
//! statement. A writer may move the text of a value into its single use only where nothing it reads can
//! have changed in between.
//!
//! # Lanes
//! All statements are executed by all lanes of a block. `If`, `For` and `While` on values that differ
//! between lanes switch lanes off. Lanes see each other's shared-memory stores only across
//! [`StmtKind::Barrier`] (the whole block), [`StmtKind::GroupBarrier`] (some of its warps) or [`StmtKind::WarpBarrier`]
//! (the 32 lanes of a warp).
//!
//! # Numbers
//! Unsigned arithmetic wraps; `i32` wraps on the host and must not overflow elsewhere (C++). `f32` arithmetic is IEEE; a writer's compiler may contract `a*b+c` into a
//! fused multiply-add *except* for the `…Unfused` operations. 16-bit float arithmetic is done in `f32` and
//! rounded to nearest even once per operation. Float to integer conversion truncates and saturates,
//! NaN gives 0. Reductions over lanes combine by xor distance, nearest first (1, 2, 4, …).
//!
//! # Names
//! Values, variables, arrays and functions carry the author's names. Writers make them unique; nothing
//! else may depend on them.

mod types;
mod walk;

use std::fmt;

pub use types::{Scalar, Type};
pub use walk::{Visit, walk_block};

use crate::target::Target;

/// Where in the author's source something was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// File as rustc names it (relative to the workspace root).
    pub file: &'static str,
    /// 1-based line.
    pub line: u32,
    /// 1-based column.
    pub column: u32,
}

impl Location {
    /// The caller's location (`#[track_caller]` functions pass on their author's).
    #[track_caller]
    pub fn caller() -> Self {
        let at = std::panic::Location::caller();
        Self {
            file: at.file(),
            line: at.line(),
            column: at.column(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.replace('\\', "/"), self.line, self.column)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl $name {
            /// Position in its arena.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id!(
    /// A value of a [`Body`].
    ValueId
);
id!(
    /// A mutable variable of a [`Body`].
    VariableId
);
id!(
    /// A register array of a [`Body`].
    RegistersId
);
id!(
    /// A shared-memory array of a [`Body`].
    SharedId
);
id!(
    /// A constant lookup table of a [`Body`].
    TableId
);
id!(
    /// A device function of a [`Kernel`].
    FunctionId
);
id!(
    /// A named comptime constant of a [`Kernel`].
    ConstantId
);

/// One kernel, recorded for one target with fixed comptime arguments.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Symbol of the compiled function, unique per comptime arguments: `rms_norm_f16_t256`.
    pub symbol: String,
    /// The author's function name: `rms_norm`.
    pub family: String,
    /// Doc comment of the kernel, one entry per line.
    pub doc: Vec<String>,
    /// Where the kernel function is.
    pub at: Location,
    /// Comptime arguments in declaration order, as the command line spells them (`element=f16`, `threads=256`).
    pub settings: Vec<Setting>,
    /// What it was recorded for.
    pub target: Target,
    /// Threads in a block (x only).
    pub threads: usize,
    /// Blocks that are to fit on a multiprocessor at once, which bounds registers; 0 leaves it to the compiler.
    pub blocks: usize,
    /// Run-time parameters, in launch order.
    pub parameters: Vec<Parameter>,
    /// Named comptime constants that the body mentions.
    pub constants: Vec<Constant>,
    /// Device functions, callees before callers.
    pub functions: Vec<Function>,
    /// The algorithm.
    pub body: Body,
}

/// One comptime argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `threads`, or `element` for a type parameter called `Element`.
    pub key: String,
    /// `256`, `f16`.
    pub value: String,
    /// A type parameter (part of the kernel's title) rather than a number.
    pub is_type: bool,
}

/// A run-time parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The author's name.
    pub name: String,
    /// Scalar or memory.
    pub kind: ParameterKind,
    /// Where it is declared.
    pub at: Location,
}

/// What a parameter is.
#[derive(Clone, Debug)]
pub enum ParameterKind {
    /// A scalar passed by value, the same for all lanes.
    Scalar(Scalar),
    /// A pointer to elements in global memory. Different parameters never overlap.
    Memory {
        /// Element type.
        element: Scalar,
        /// What the kernel may do with it.
        access: Access,
        /// Shape as the author wrote it (`["rows", "cols"]`), for comments; empty when not given.
        shape: Vec<String>,
    },
}

/// What a kernel may do with a memory parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read, by nobody written during the launch.
    Read,
    /// Only written.
    Write,
    /// Read and written.
    ReadWrite,
}

/// A comptime number with a name, printed as `constexpr`.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The author's name: `threads`, `head_dim`.
    pub name: String,
    /// Its value; the type is the literal's.
    pub value: Literal,
}

/// A function called by the kernel or by another function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name, comptime arguments appended: `block_sum_256`.
    pub name: String,
    /// Doc comment, one entry per line.
    pub doc: Vec<String>,
    /// Parameters in order.
    pub parameters: Vec<FunctionParameter>,
    /// What it returns; the value is that of its `Return` statements.
    pub result: Option<Type>,
    /// The function's own arenas and statements.
    pub body: Body,
    /// Where it is written.
    pub at: Location,
}

/// A parameter of a device function.
#[derive(Clone, Debug)]
pub struct FunctionParameter {
    /// The author's name.
    pub name: String,
    /// Value or memory.
    pub kind: FunctionParameterKind,
}

/// What a device function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionParameterKind {
    /// A value, possibly different per lane.
    Value(Type),
    /// Global memory that is only read.
    GlobalRead(Scalar),
    /// Global memory that is written (and maybe read).
    GlobalWrite(Scalar),
    /// A shared-memory array.
    Shared(Scalar),
}

/// Arenas and statements of a kernel or a function.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// All values, in recording order.
    pub values: Vec<Value>,
    /// All mutable variables.
    pub variables: Vec<Variable>,
    /// All register arrays.
    pub registers: Vec<Registers>,
    /// All shared-memory arrays.
    pub shared: Vec<Shared>,
    /// All constant tables.
    pub tables: Vec<Table>,
    /// The statements.
    pub block: Block,
}

impl Body {
    /// The value behind an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }
}

/// Statements in order.
pub type Block = Vec<Stmt>;

/// A value: computed once, never changed.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its type.
    pub ty: Type,
    /// How it is computed.
    pub op: Op,
    /// The author's name, when bound by `let`.
    pub name: Option<String>,
    /// Where it is written.
    pub at: Location,
}

/// A mutable local (`let mut`), or the induction variable of a `For`.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The author's name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Where it is declared.
    pub at: Location,
}

/// An array in registers, one copy per lane. Indices are compile-time constants or variables of unrolled loops.
#[derive(Clone, Debug)]
pub struct Registers {
    /// The author's name.
    pub name: String,
    /// Element type. Fragment operands are arrays of `u32` (two 16-bit values each).
    pub element: Scalar,
    /// One or two dimensions; the last is innermost.
    pub dims: Vec<usize>,
    /// What the array means (`"16x16 f16, left operand"`), for the comment at its declaration.
    pub note: Option<String>,
    /// Where it is declared.
    pub at: Location,
}

/// An array in shared memory, one copy per block, contents undefined at start. Aligned to 16 bytes.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The author's name.
    pub name: String,
    /// Element type.
    pub element: Scalar,
    /// Number of elements.
    pub len: usize,
    /// Shape and layout for the comment at its declaration (`"[64, 256] f16, 16-byte chunks swizzled by row"`).
    pub note: Option<String>,
    /// Where it is declared.
    pub at: Location,
}

impl Shared {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * self.element.bytes()
    }
}

/// A constant table indexed at run time.
#[derive(Clone, Debug)]
pub struct Table {
    /// The author's name.
    pub name: String,
    /// The entries, all of one type.
    pub entries: Vec<Literal>,
}

/// A literal of a scalar type.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Literal {
    Bool(bool),
    I32(i32),
    U32(u32),
    U64(u64),
    F32(f32),
    F16(half::f16),
}

impl Literal {
    /// The scalar type.
    pub fn scalar(self) -> Scalar {
        match self {
            Self::Bool(_) => Scalar::Bool,
            Self::I32(_) => Scalar::I32,
            Self::U32(_) => Scalar::U32,
            Self::U64(_) => Scalar::U64,
            Self::F32(_) => Scalar::F32,
            Self::F16(_) => Scalar::F16,
        }
    }
}

/// Memory that can be loaded from or stored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// A memory parameter of this kernel or function (index into its parameters).
    Parameter(u32),
    /// A shared array of this body.
    Shared(SharedId),
}

/// An address: `memory[index]`, `index` counted in elements of the memory (`u32` or `u64` value).
///
/// The access may be of another type than the memory's element (a 16-byte vector, an `f16` in a byte
/// buffer): it then starts at that element and must be naturally aligned for its own size (vectors: their
/// whole size). A load gives a value of [`Type::widened`] of the access type; a store takes one and narrows it
/// (integers: the low bits; `bf16`: nearest even).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which memory.
    pub memory: Memory,
    /// Which element.
    pub index: ValueId,
    /// What lies there: the type that is read or written.
    pub access: Type,
}

/// A register array, or the part of it left after fixing its leading dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterRef {
    /// Which array.
    pub registers: RegistersId,
    /// Indices of the leading dimensions.
    pub index: Vec<ValueId>,
}

/// How a value is computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A literal.
    Literal(Literal),
    /// A named comptime constant; type and value are the constant's.
    Constant(ConstantId),
    /// A scalar parameter of the kernel, or a value parameter of the function.
    Parameter(u32),
    /// A coordinate of the lane.
    Builtin(Builtin),
    /// The present value of a variable.
    ReadVariable(VariableId),
    /// One element of a register array (all dimensions indexed).
    ReadRegister(RegisterRef),
    /// A load; the value's type is the access type, widened.
    Load(Place),
    /// `table[index]`.
    Lookup {
        /// Which table.
        table: TableId,
        /// `u32` index.
        index: ValueId,
    },
    /// One operand, result of the same type.
    Unary(UnaryOp, ValueId),
    /// Two operands of the value's type (shift amounts: `u32`). Also element-wise on two-element half vectors.
    Binary(BinaryOp, ValueId, ValueId),
    /// Two operands of one type, a `bool`.
    Compare(CompareOp, ValueId, ValueId),
    /// `condition ? yes : no`; both are already computed.
    Select {
        /// A `bool`.
        condition: ValueId,
        /// Value where true.
        yes: ValueId,
        /// Value where false.
        no: ValueId,
    },
    /// Numeric conversion to the value's type.
    Convert(ValueId),
    /// Same bits, the value's type (equal sizes).
    Bitcast(ValueId),
    /// A mathematical function.
    Math(MathFn, Vec<ValueId>),
    /// Component `1` of a vector value.
    Component(ValueId, u8),
    /// A vector from its components.
    Vector(Vec<ValueId>),
    /// The value another lane of the warp holds. All 32 lanes of the warp must be active.
    Shuffle {
        /// How the source lane is found.
        kind: ShuffleKind,
        /// What is exchanged (a 32-bit scalar).
        value: ValueId,
    },
    /// Fold over groups of `width` consecutive lanes (2, 4, 8, 16, 32); every lane gets the result. All 32 lanes must be active.
    WarpReduce {
        /// How two values are combined.
        op: ReduceOp,
        /// A 32-bit scalar.
        value: ValueId,
        /// Lanes per group.
        width: u32,
    },
    /// Bit l of the `u32` result is lane l's `bool`. All 32 lanes must be active.
    Ballot(ValueId),
    /// `accumulator + Σ a.i8[j] * b.i8[j]` over the four bytes of two `u32`, an `i32`.
    Dot4 {
        /// First four bytes, a `u32`.
        a: ValueId,
        /// Whether they are signed.
        a_signed: bool,
        /// Second four bytes, a `u32`; always signed.
        b: ValueId,
        /// An `i32`.
        accumulator: ValueId,
    },
    /// Four bytes picked from eight: result byte i is byte `(selector >> 4i) & 7` of `high:low`. All `u32`.
    BytePermute {
        /// Bytes 0 to 3.
        low: ValueId,
        /// Bytes 4 to 7.
        high: ValueId,
        /// One nibble per result byte; bit 3 of each nibble must be 0.
        selector: ValueId,
    },
    /// The result of a device function.
    Call {
        /// Which function.
        function: FunctionId,
        /// Its arguments.
        arguments: Vec<Argument>,
    },
    /// The author's promise that all active lanes hold the same value (checked by the sanitizer, free elsewhere).
    AssumeUniform(ValueId),
    /// The same `u32`, which the vendor compiler has to keep in a register: it must not make it anew where it is used.
    InRegister(ValueId),
}

/// An argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A value.
    Value(ValueId),
    /// A memory, whole.
    Memory(Memory),
}

/// Coordinates of a lane. All `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Block index in the grid, axis 0 (x) to 2 (z).
    BlockIndex(u8),
    /// Blocks in the grid along an axis.
    GridSize(u8),
    /// Thread index in the block.
    ThreadIndex,
    /// Thread index modulo 32.
    Lane,
    /// Thread index divided by 32.
    Warp,
}

/// Operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// Negation.
    Neg,
    /// Bitwise complement, or logical not of a `bool`.
    Not,
}

/// Operations on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Integers: truncating. A zero divisor is an error.
    Div,
    /// Integers: sign of the dividend. A zero divisor is an error.
    Rem,
    And,
    Or,
    Xor,
    /// Shift amount below the bit width.
    Shl,
    /// Arithmetic for signed types. Shift amount below the bit width.
    Shr,
    Min,
    Max,
    /// f32 addition that is never contracted into a fused operation.
    AddUnfused,
    /// f32 subtraction that is never contracted.
    SubUnfused,
    /// f32 multiplication that is never contracted.
    MulUnfused,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Functions of f32 values (and `Abs` of i32, `Fma` of half pairs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MathFn {
    /// |x|
    Abs,
    /// x·y+z, rounded once
    Fma,
    /// √x, correctly rounded
    Sqrt,
    /// 1/√x, within 2 ulp
    Rsqrt,
    /// 2^x, within 2 ulp
    Exp2,
    /// 2^x, within 2 ulp; 0 where that is below 2^-126
    Exp2Flushed,
    /// log2 x, within 2 ulp
    Log2,
    /// sin x (radians), full range
    Sin,
    /// cos x (radians), full range
    Cos,
    /// tanh x, within 4 ulp
    Tanh,
    /// nearest integer, ties to even
    Round,
    /// largest integer not above
    Floor,
}

/// How the source lane of a shuffle is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleKind {
    /// `lane ^ mask`, 1 ≤ mask < 32.
    Xor(u32),
    /// `lane - delta`; the lowest `delta` lanes keep their own value.
    Up(u32),
    /// `lane + delta`; the highest `delta` lanes keep their own value.
    Down(u32),
    /// A `u32` value per lane, taken modulo 32.
    Lane(ValueId),
}

/// How a warp reduction combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ReduceOp {
    Sum,
    Min,
    Max,
}

/// What the vendor compiler is told about unrolling a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroll {
    /// Nothing: it decides.
    Free,
    /// That many rounds at a time, to keep register use in bounds.
    By(u32),
    /// All of it; bounds are compile-time constants, and the variable may index register arrays.
    Full,
}

/// How large a matrix product is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaShape {
    /// 16×16×16.
    Square,
    /// What one instruction of the target multiplies: 16 rows, [`FragmentLayout::columns`] columns.
    ///
    /// [`FragmentLayout::columns`]: crate::target::FragmentLayout::columns
    Instruction,
}

/// A statement and where it was written.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What it does.
    pub kind: StmtKind,
    /// Where it is written.
    pub at: Location,
}

/// What a statement does.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// Evaluates a value.
    Eval(ValueId),
    /// The author's section comment (may have several lines).
    Comment(String),
    /// Declares a variable with its first value.
    Declare {
        /// Which variable.
        variable: VariableId,
        /// Its first value.
        value: ValueId,
    },
    /// Assigns a variable.
    Assign {
        /// Which variable.
        variable: VariableId,
        /// Its new value.
        value: ValueId,
    },
    /// Declares a register array.
    DeclareRegisters {
        /// Which array.
        registers: RegistersId,
        /// Every element's first value; `None` leaves them undefined.
        fill: Option<Literal>,
    },
    /// Writes one element of a register array (all dimensions indexed).
    WriteRegister {
        /// Which element.
        target: RegisterRef,
        /// Its new value.
        value: ValueId,
    },
    /// Stores a value, narrowed to the access type (see [`Place`]).
    Store {
        /// Where.
        place: Place,
        /// What.
        value: ValueId,
    },
    /// `if`; lanes where the condition is false run `otherwise`.
    If {
        /// A `bool`.
        condition: ValueId,
        /// Where true.
        then: Block,
        /// Where false.
        otherwise: Block,
    },
    /// `for (variable = start; variable < end; variable += step)`, all of the variable's integer type.
    /// Bounds are evaluated once, before the loop.
    For {
        /// Induction variable; the body does not assign it.
        variable: VariableId,
        /// First value.
        start: ValueId,
        /// First value not reached.
        end: ValueId,
        /// Increment, positive.
        step: ValueId,
        /// What the vendor compiler is told about unrolling.
        unroll: Unroll,
        /// The body.
        body: Block,
    },
    /// `while`; `test` is run before every round and computes `condition`.
    While {
        /// Statements that compute the condition.
        test: Block,
        /// A `bool` of `test`.
        condition: ValueId,
        /// The body.
        body: Block,
    },
    /// Leaves the innermost loop.
    Break,
    /// Goes on with the innermost loop's next round.
    Continue,
    /// Ends the kernel for this lane, or returns from the function.
    Return(Option<ValueId>),
    /// All lanes of the block meet; shared-memory stores before it are seen after it.
    Barrier,
    /// The lanes of each group of `warps` warps meet, or of the whole block; a group sees shared-memory stores of its
    /// lanes before it.
    GroupBarrier {
        /// Warps of a group: the same in all group barriers of a kernel.
        warps: usize,
    },
    /// All lanes of the warp meet; shared-memory stores before it are seen by the warp after it.
    WarpBarrier,
    /// Starts copying 16 bytes from global to shared memory; done when an `AsyncWait` says so.
    /// Where the target has no such copy, it is done on the spot.
    AsyncCopy {
        /// Shared memory, 16-byte aligned.
        to: Place,
        /// Global memory, 16-byte aligned.
        from: Place,
    },
    /// Closes the group of copies this lane has started since the last commit.
    AsyncCommit,
    /// Waits until at most `pending` of this lane's latest groups are unfinished.
    AsyncWait {
        /// Groups that may still be in flight.
        pending: u32,
    },
    /// Lets the next launch of the stream start (programmatic dependent launch).
    TriggerDependents,
    /// Waits until the launches before this one have finished and their stores are seen.
    WaitForPrerequisites,
    /// Four 8×8 matrices of 16-bit values from shared memory into an operand fragment (`ldmatrix.x4`):
    /// lane l gives the address of row l%8 of matrix l/8; register m of lane l gets columns 2(l%4), 2(l%4)+1 of row l/4 of matrix m
    /// (transposed: rows 2(l%4), 2(l%4)+1 of column l/4). Only recorded where the target has it.
    LoadMatrix {
        /// Four `u32` registers.
        to: RegisterRef,
        /// Address of this lane's row: shared memory, 16-byte aligned.
        from: Place,
        /// Transposed on the way.
        transposed: bool,
    },
    /// `accumulator += a · b` for fragments in the target's layout. All 32 lanes must be active.
    Mma {
        /// `f32` registers, or `i32` for products of bytes.
        accumulator: RegisterRef,
        /// A fragment.
        a: RegisterRef,
        /// B fragment.
        b: RegisterRef,
        /// Element of A: `F16` or `BF16`, and for one instruction also `I8` or `U8`. B is of the same, or `I8`.
        element: Scalar,
        /// How large the product is.
        shape: MmaShape,
    },
    /// Makes barriers ready that count copies, before any copy names them. Called by all threads of a block; a block
    /// barrier has to follow. Only recorded where the target has bulk copies.
    InitCopyBarriers {
        /// A shared array of `u64`, all of it.
        barriers: SharedId,
    },
    /// Starts copying from global to shared memory on behalf of the whole warp, whose lanes agree on everything. A
    /// [`Self::WaitForCopy`] on the same barrier waits for it. Only recorded where the target has bulk copies.
    BulkCopy {
        /// Shared memory, 16-byte aligned.
        to: Place,
        /// Global memory, 16-byte aligned.
        from: Place,
        /// A multiple of 16, a `u32`.
        bytes: ValueId,
        /// One `u64` of an array that [`Self::InitCopyBarriers`] has made ready.
        barrier: Place,
    },
    /// Waits until the copy that the barrier counts has arrived; all lanes of a warp see its data.
    WaitForCopy {
        /// One `u64`.
        barrier: Place,
        /// 0 for the first copy of a barrier, 1 for the second, 0 for the third, …
        parity: ValueId,
    },
    /// Calls a device function for its effects.
    Call {
        /// Which function; it has no result.
        function: FunctionId,
        /// Its arguments.
        arguments: Vec<Argument>,
    },
}
