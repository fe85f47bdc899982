//! What a target language must know. The front asks; the answers are pieces of C++ text.

use std::collections::BTreeSet;

use tilekiln_dsl::ir::{BinaryOp, Builtin, Literal, MathFn, ReduceOp, Scalar, ShuffleKind, Type, UnaryOp};
use tilekiln_dsl::target::FragmentLayout;

/// How tightly C++ operators bind; higher binds tighter.
pub(crate) mod binding {
    pub const PRIMARY: u8 = 16;
    pub const UNARY: u8 = 15;
    pub const PRODUCT: u8 = 13;
    pub const SUM: u8 = 12;
    pub const SHIFT: u8 = 11;
    pub const RELATION: u8 = 9;
    pub const EQUALITY: u8 = 8;
    pub const BIT_AND: u8 = 7;
    pub const BIT_XOR: u8 = 6;
    pub const BIT_OR: u8 = 5;
    pub const AND: u8 = 4;
    pub const OR: u8 = 3;
    pub const SELECT: u8 = 2;
}

/// A piece of expression text and how tightly it holds together.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub text: String,
    pub binds: u8,
}

impl Expr {
    /// A name, a call, a literal: never needs parentheses.
    pub fn primary(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            binds: binding::PRIMARY,
        }
    }

    /// A call of a function.
    pub fn call(function: &str, arguments: &[Expr]) -> Self {
        let list: Vec<&str> = arguments.iter().map(|a| a.text.as_str()).collect();
        Self::primary(format!("{function}({})", list.join(", ")))
    }

    /// The text, in parentheses if it holds less tightly than its surroundings ask.
    pub fn within(self, binds: u8) -> String {
        if self.binds < binds {
            format!("({})", self.text)
        } else {
            self.text
        }
    }
}

/// A function, type or macro the generated file defines only if something uses it.
pub(crate) struct Helper {
    /// What the language asks for it by (a helper name, with a suffix where overloads differ).
    pub key: &'static str,
    /// The identifier it defines.
    pub name: &'static str,
    /// Other helpers its text uses; they stand earlier in the table.
    pub needs: &'static [&'static str],
    /// A system header its text uses.
    pub include: Option<&'static str>,
    /// Its definition. `{threads}` stands for the threads in a block.
    pub text: &'static str,
}

/// What the text written so far relies on.
#[derive(Default)]
pub(crate) struct Needs {
    pub helpers: BTreeSet<&'static str>,
    pub includes: BTreeSet<&'static str>,
}

impl Needs {
    /// Notes a helper by its key and returns the key, for use as a name.
    pub fn helper(&mut self, key: &'static str) -> &'static str {
        self.helpers.insert(key);
        key
    }

    /// Calls a helper whose key is its name.
    pub fn call(&mut self, key: &'static str, arguments: &[Expr]) -> Expr {
        Expr::call(self.helper(key), arguments)
    }

    /// Notes a system header.
    pub fn include(&mut self, header: &'static str) {
        self.includes.insert(header);
    }
}

/// Statements without operands that every language spells its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Block,
    /// So many warps.
    Group(usize),
    Warp,
    AsyncCommit,
    AsyncWait(u32),
    TriggerDependents,
    WaitForPrerequisites,
}

/// Why a piece has no spelling: what was asked and the nearest that works.
pub(crate) type Spelled<T> = Result<T, String>;

/// A target language.
pub(crate) trait Language {
    /// Ending of generated files.
    fn extension(&self) -> &'static str;
    /// Fragment layouts its matrix product can be written for.
    fn fragments(&self) -> &'static [FragmentLayout];
    /// Names an author's name must not become: what its compiler predefines
    /// beyond `keywords::RESERVED` (helpers come on top).
    fn keywords(&self) -> &'static [&'static str];
    /// Everything the prelude can define, in the order it is printed.
    fn helpers(&self) -> &'static [Helper];
    /// Lines that every file starts with, after the includes.
    fn preamble(&self) -> &'static [&'static str];

    /// Type of a scalar as it lies in memory.
    fn scalar(&self, scalar: Scalar, needs: &mut Needs) -> &'static str;
    /// Type of a vector.
    fn vector(&self, scalar: Scalar, lanes: u8, needs: &mut Needs) -> Spelled<&'static str>;
    /// A 16-bit float literal.
    fn half_literal(&self, text: &str, needs: &mut Needs) -> Expr;
    /// Whether entries of a table of this type are stored as `f32` (constants of the type cannot be written).
    fn table_entry_as_float(&self, scalar: Scalar) -> bool;

    fn builtin(&self, builtin: Builtin, needs: &mut Needs) -> Expr;
    /// `None`: the C operator does it.
    fn unary(&self, op: UnaryOp, ty: Type, a: &Expr, needs: &mut Needs) -> Option<Expr>;
    /// `None`: the C operator does it.
    fn binary(&self, op: BinaryOp, ty: Type, a: &Expr, b: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>>;
    fn math(&self, function: MathFn, ty: Type, operands: &[Expr], needs: &mut Needs) -> Spelled<Expr>;
    /// `None`: a C++ cast does it.
    fn convert(&self, from: Type, to: Type, a: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>>;
    /// `None`: the generic `bit_cast` helper does it.
    fn bitcast(&self, from: Type, to: Type, a: &Expr, needs: &mut Needs) -> Option<Expr>;
    /// One component, as it lies in memory.
    fn component(&self, vector: Type, index: u8, a: Expr) -> Expr;
    /// A vector from components as they lie in memory.
    fn compose(&self, vector: Type, parts: &[Expr], needs: &mut Needs) -> Spelled<Expr>;
    /// `bf16` from and to `f32`.
    fn widen_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr;
    fn narrow_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr;

    fn shuffle(&self, kind: ShuffleKind, value: &Expr, lane: Option<&Expr>, needs: &mut Needs) -> Expr;
    fn reduce(&self, op: ReduceOp, ty: Type, width: u32, value: &Expr, needs: &mut Needs) -> Expr;
    fn ballot(&self, a: &Expr, needs: &mut Needs) -> Expr;
    fn byte_permute(&self, parts: &[Expr; 3], needs: &mut Needs) -> Expr;
    /// The helper that multiplies as one matrix instruction does; empty for elements that none takes.
    fn instruction_product(&self, element: Scalar) -> &'static str;
    /// The attribute that tells the compiler how large blocks are, and how many should fit beside each other; each has so
    /// many bytes of shared memory.
    fn launch_bounds(&self, threads: usize, blocks: usize, shared_bytes: usize) -> String;
    /// A statement; `None` where the target needs none.
    fn sync(&self, what: Sync, async_copy: bool, needs: &mut Needs) -> Option<String>;
    /// How dynamic shared memory is declared.
    fn dynamic_shared(&self) -> &'static str;
}

/// Text of a finite `f32`, exact when read back.
pub(crate) fn float_text(value: f32) -> String {
    format!("{value:?}f")
}

/// Text of a 32-bit word: numbers too large to be sizes are bit patterns, which read best in hexadecimal. A
/// hexadecimal literal above the range of `int` is unsigned; a decimal one would become a 64-bit one.
pub(crate) fn word_text(value: u32, is_mask: bool) -> String {
    match value {
        0x1_0000.. => format!("{value:#010x}"),
        10.. if is_mask => format!("{value:#x}"),
        _ => value.to_string(),
    }
}

/// Whether a literal is printed with a minus sign.
pub(crate) fn is_negative(literal: Literal) -> bool {
    match literal {
        Literal::I32(v) => v < 0,
        Literal::F32(v) => v.is_sign_negative(),
        Literal::F16(v) => v.is_sign_negative(),
        _ => false,
    }
}
