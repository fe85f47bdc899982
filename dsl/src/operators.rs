//! What the attribute macros rewrite an author's syntax into. Not called by hand.
//!
//! Rust decides by type whether `if a < b`, `x = y` or `for i in 0..n` is comptime or device code: each hook is a
//! small wrapper with an inherent method for device types and a trait method of the same name for everything else;
//! method lookup prefers the inherent one.

use crate::ir::{CompareOp, Location, Op, Unroll};
use crate::memory::{
    Accumulators, ColumnOperand, OperandA, OperandB, Products, Registers, RowOperand, RowSums, Shared, SharedTile,
};
use crate::record::{ComptimeIf, DeviceLoop, If, WhileCondition, logical};
use crate::value::{DeviceType, Element, IntoVal, Numeric, Val};

/// `let name = value`
pub struct Binding<T>(pub T);

/// `let` of comptime Rust: as it is.
pub trait PlainBinding: Sized {
    /// The bound value.
    type Value;
    /// `let name = …`
    fn immutable(self, name: &str, at: Location) -> Self::Value;
    /// `let mut name = …`
    fn mutable(self, name: &str, at: Location) -> Self::Value;
    /// The variable of a `for`.
    fn loop_variable(self, name: &str) -> Self::Value;
}
impl<T> PlainBinding for Binding<T> {
    type Value = T;
    fn immutable(self, _name: &str, _at: Location) -> T {
        self.0
    }
    fn mutable(self, _name: &str, _at: Location) -> T {
        self.0
    }
    fn loop_variable(self, _name: &str) -> T {
        self.0
    }
}

#[allow(missing_docs)]
impl<T: DeviceType> Binding<Val<T>> {
    pub fn immutable(self, name: &str, at: Location) -> Val<T> {
        self.0.named(name, at)
    }
    pub fn mutable(self, name: &str, at: Location) -> Val<T> {
        self.0.declared(name, at)
    }
    pub fn loop_variable(self, name: &str) -> Val<T> {
        self.0.rename_place(name);
        self.0
    }
}

#[allow(missing_docs)]
impl<T: DeviceType, const N: usize> Binding<[Val<T>; N]> {
    pub fn mutable(self, name: &str, at: Location) -> [Val<T>; N] {
        let mut index = 0;
        self.0.map(|value| {
            index += 1;
            value.declared(&format!("{name}_{}", index - 1), at)
        })
    }
    pub fn immutable(self, name: &str, at: Location) -> [Val<T>; N] {
        let mut index = 0;
        self.0.map(|value| {
            index += 1;
            value.named(&format!("{name}_{}", index - 1), at)
        })
    }
}

macro_rules! named_storage {
    ($([$($g:tt)*] $t:ty;)*) => {$(
        #[allow(missing_docs)]
        impl<$($g)*> Binding<$t> {
            pub fn immutable(self, name: &str, _at: Location) -> $t {
                self.0.rename(name);
                self.0
            }
            pub fn mutable(self, name: &str, _at: Location) -> $t {
                self.0.rename(name);
                self.0
            }
        }
    )*};
}
named_storage! {
    [T: Element] Shared<T>;
    [T: Element] SharedTile<T>;
    [T: Numeric] Registers<T>;
    [T: crate::memory::HalfElement] OperandA<T>;
    [T: crate::memory::HalfElement] OperandB<T>;
    [] Accumulators;
    [] RowSums;
    [T: crate::memory::MatrixElement] RowOperand<T>;
    [T: crate::memory::MatrixElement] ColumnOperand<T>;
    [S: Numeric] Products<S>;
}

/// `place = value`
#[diagnostic::on_unimplemented(
    message = "cannot assign a `{R}` to a `{Self}`",
    label = "the types differ",
    note = "convert with `.to::<…>()`"
)]
pub trait AssignFrom<R> {
    /// Assigns at the caller's line.
    #[track_caller]
    fn assign_from(&mut self, value: R);
}
impl<T: DeviceType, R: IntoVal<T>> AssignFrom<R> for Val<T> {
    #[track_caller]
    fn assign_from(&mut self, value: R) {
        let at = Location::caller();
        let value = value.into_val(1, at);
        self.assign_to(value, at);
    }
}

/// The left side of `place = value`.
pub struct Variable<'a, T>(pub &'a mut T);

#[allow(missing_docs)]
impl<T: DeviceType> Variable<'_, Val<T>> {
    #[track_caller]
    pub fn assign<R: IntoVal<T>>(self, value: R) {
        self.0.assign_from(value);
    }
}
/// Assignment of comptime Rust: as it is.
pub trait PlainPlace<T> {
    /// `place = value`
    fn assign(self, value: T);
}
impl<T> PlainPlace<T> for Variable<'_, T> {
    fn assign(self, value: T) {
        *self.0 = value;
    }
}

/// `a < b` and its kin.
pub struct Compare<'a, A, B>(pub &'a A, pub &'a B);

fn compare<T: DeviceType>(op: CompareOp, a: Val<T>, b: Val<T>, at: Location) -> Val<bool> {
    let a = a.id(at);
    let b = b.id(at);
    Val::record(Op::Compare(op, a, b), at)
}

macro_rules! comparisons {
    ($($name:ident $op:ident $plain:tt $bound:ident,)*) => {
        #[allow(missing_docs)]
        impl<T: DeviceType, R: Copy> Compare<'_, Val<T>, R> {
            $(
                #[track_caller]
                pub fn $name(self) -> Val<bool> where R: IntoVal<T> {
                    let at = Location::caller();
                    let right = (*self.1).into_val(1, at);
                    compare(CompareOp::$op, *self.0, right, at)
                }
            )*
        }
        comparisons!(@left f32, f32; $($name $op,)*);
        comparisons!(@left usize, u32; $($name $op,)*);
        comparisons!(@left i32, i32; $($name $op,)*);
        /// Comparisons of comptime Rust: as they are.
        #[allow(missing_docs)]
        pub trait PlainComparison {
            type Left;
            type Right;
            $(fn $name(self) -> bool where Self::Left: $bound<Self::Right>;)*
        }
        impl<A, B> PlainComparison for Compare<'_, A, B> {
            type Left = A;
            type Right = B;
            $(fn $name(self) -> bool where A: $bound<B> { self.0 $plain self.1 })*
        }
    };
    (@left $from:ty, $to:ty; $($name:ident $op:ident,)*) => {
        #[allow(missing_docs)]
        impl Compare<'_, $from, Val<$to>> {
            $(
                #[track_caller]
                pub fn $name(self) -> Val<bool> {
                    let at = Location::caller();
                    let left: Val<$to> = (*self.0).into_val(0, at);
                    compare(CompareOp::$op, left, *self.1, at)
                }
            )*
        }
    };
}
comparisons! {
    equal Eq == PartialEq,
    not_equal Ne != PartialEq,
    less Lt < PartialOrd,
    less_equal Le <= PartialOrd,
    greater Gt > PartialOrd,
    greater_equal Ge >= PartialOrd,
}

/// The left side of `a && b` and `a || b`.
#[diagnostic::on_unimplemented(
    message = "`&&` and `||` join conditions, not `{Self}` and `{Right}`",
    label = "not two conditions",
    note = "supported: `bool` and `Val<bool>`; compare numbers with something: `x != 0`"
)]
pub trait JoinsWith<Right> {
    /// `bool` if both sides are known while recording.
    type Joined;
    /// `self && right()`
    fn and(self, right: impl FnOnce() -> Right, at: Location) -> Self::Joined;
    /// `self || right()`
    fn or(self, right: impl FnOnce() -> Right, at: Location) -> Self::Joined;
}
impl<R: LogicResult> JoinsWith<R> for bool {
    type Joined = R;
    fn and(self, right: impl FnOnce() -> R, _at: Location) -> R {
        if self { right() } else { R::constant(false) }
    }
    fn or(self, right: impl FnOnce() -> R, _at: Location) -> R {
        if self { R::constant(true) } else { right() }
    }
}
impl JoinsWith<Val<bool>> for Val<bool> {
    type Joined = Val<bool>;
    fn and(self, right: impl FnOnce() -> Val<bool>, at: Location) -> Val<bool> {
        logical(self, true, right, at)
    }
    fn or(self, right: impl FnOnce() -> Val<bool>, at: Location) -> Val<bool> {
        logical(self, false, right, at)
    }
}
impl JoinsWith<bool> for Val<bool> {
    type Joined = Val<bool>;
    fn and(self, right: impl FnOnce() -> bool, at: Location) -> Val<bool> {
        logical(self, true, || right().into_val(1, at), at)
    }
    fn or(self, right: impl FnOnce() -> bool, at: Location) -> Val<bool> {
        logical(self, false, || right().into_val(1, at), at)
    }
}

/// `bool` or `Val<bool>`.
#[diagnostic::on_unimplemented(message = "`{Self}` is not a condition", label = "expected `bool` or `Val<bool>`")]
pub trait LogicResult {
    /// Known while recording.
    fn constant(value: bool) -> Self;
}
impl LogicResult for bool {
    fn constant(value: bool) -> Self {
        value
    }
}
impl LogicResult for Val<bool> {
    #[track_caller]
    fn constant(value: bool) -> Self {
        value.into_val(1, Location::caller())
    }
}

/// What an `if` can test.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the condition of an `if` or `while` in a kernel",
    label = "expected `bool` or `Val<bool>`",
    note = "compare it with something: `x != 0`"
)]
pub trait Condition {
    /// Chosen while recording, or recorded as device control flow.
    type Branch;
    /// Starts the `if`.
    fn branch(self, at: Location) -> Self::Branch;
    /// The same for a `while`.
    fn repeat(self) -> WhileCondition;
}
impl Condition for bool {
    type Branch = ComptimeIf;
    fn branch(self, _at: Location) -> ComptimeIf {
        ComptimeIf(self)
    }
    fn repeat(self) -> WhileCondition {
        WhileCondition::Comptime(self)
    }
}
impl Condition for Val<bool> {
    type Branch = If;
    fn branch(self, at: Location) -> If {
        If::open(self, at)
    }
    fn repeat(self) -> WhileCondition {
        WhileCondition::Device(self)
    }
}

/// The condition of a `while`.
pub fn while_condition(condition: impl Condition) -> WhileCondition {
    condition.repeat()
}

/// `start..end` of a `for`: unrolled while recording for Rust numbers, a loop on the device as soon as one bound is
/// a device value.
#[diagnostic::on_unimplemented(
    message = "a `for` cannot run from `{Self}` to `{End}`",
    label = "bounds of different kinds",
    note = "supported: two Rust integers of one type, or `Val<u32>`/`Val<i32>` with a value or number of that type"
)]
pub trait LoopRange<End> {
    /// The iterator.
    type Rounds: Iterator;
    /// The loop.
    fn rounds(self, end: End, at: Location) -> Self::Rounds;
}
macro_rules! plain_ranges {
    ($($t:ty),*) => {$(
        impl LoopRange<$t> for $t {
            type Rounds = std::ops::Range<$t>;
            fn rounds(self, end: $t, _at: Location) -> Self::Rounds {
                self..end
            }
        }
    )*};
}
plain_ranges!(usize, i32, u32);
macro_rules! device_ranges {
    ($($start:ty, $end:ty => $t:ty;)*) => {$(
        impl LoopRange<$end> for $start {
            type Rounds = DeviceLoop<$t>;
            fn rounds(self, end: $end, at: Location) -> DeviceLoop<$t> {
                let start: Val<$t> = self.into_val(0, at);
                let end: Val<$t> = end.into_val(1, at);
                let step: Val<$t> = 1i32.into_val(1, at);
                DeviceLoop::new(start, end, step, Unroll::Free, at)
            }
        }
    )*};
}
device_ranges! {
    Val<u32>, Val<u32> => u32;
    i32, Val<u32> => u32;
    usize, Val<u32> => u32;
    Val<u32>, usize => u32;
    Val<i32>, Val<i32> => i32;
    Val<i32>, usize => i32;
}

/// Bounds of a `for` between device values and numbers as a loop on the device, also when both are numbers.
#[track_caller]
pub fn device_range(start: impl IntoVal<u32>, end: impl IntoVal<u32>) -> DeviceLoop<u32> {
    let at = Location::caller();
    let start = start.into_val(0, at);
    let end = end.into_val(1, at);
    let step = 1u32.into_val(1, at);
    DeviceLoop::new(start, end, step, Unroll::Free, at)
}

/// Remembers the source name of an operand for the operation about to be recorded.
pub fn operand<T>(side: usize, name: &'static str, value: T) -> T {
    crate::record::name_operand(side, Some(name));
    value
}
/// Forgets the operands' names: the operation has been recorded, or was comptime.
pub fn operation<T>(result: T) -> T {
    crate::record::name_operand(0, None);
    crate::record::name_operand(1, None);
    result
}
