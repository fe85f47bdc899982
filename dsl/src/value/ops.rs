//! Operators on device values. Operands are values of one type, or a value and a Rust number of its type.

use std::ops;

use super::*;
use crate::ir::{BinaryOp, Location, Op, UnaryOp};

fn binary<T: DeviceType>(op: BinaryOp, a: Val<T>, b: Val<T>, at: Location) -> Val<T> {
    let (a, b) = (a.id(at), b.id(at));
    if let Some(same) = unchanged(op, a, b) {
        return Val::of_value(same);
    }
    Val::record(Op::Binary(op, a, b), at)
}

/// The operand that the result equals, where the other one is an integer literal that changes nothing: comptime sizes
/// of 0 and 1 leave no trace in the text.
fn unchanged(op: BinaryOp, a: ValueId, b: ValueId) -> Option<ValueId> {
    let literal = |id: ValueId| {
        with(|r| match r.frame().body.value(id).op {
            Op::Literal(Literal::U32(number)) => Some(u64::from(number)),
            Op::Literal(Literal::I32(number)) => u64::try_from(number).ok(),
            Op::Literal(Literal::U64(number)) => Some(number),
            _ => None,
        })
    };
    use BinaryOp::{Add, Div, Mul, Or, Shl, Shr, Sub, Xor};
    match (op, literal(a), literal(b)) {
        (Add | Sub | Or | Xor | Shl | Shr, _, Some(0)) | (Mul | Div, _, Some(1)) => Some(a),
        (Add | Or | Xor, Some(0), _) | (Mul, Some(1), _) => Some(b),
        _ => None,
    }
}

// The right side carries the bound on the left side's type: otherwise rustc would only say that there is no operator.
macro_rules! right_sides {
    ($($(#[$doc:meta])* $name:ident, $bound:ident, $into:ty, $message:literal, $note:literal;)*) => {$(
        $(#[$doc])*
        #[diagnostic::on_unimplemented(message = $message, label = "not supported on these types", note = $note)]
        pub trait $name<T>: IntoVal<$into> where T: DeviceType {}
        impl<T: $bound, R: IntoVal<$into>> $name<T> for R {}
    )*};
}
right_sides! {
    /// Right side of `%`.
    RemainderOperand, Integer, T,
        "there is no remainder of a `{T}` by this",
        "supported: i32, u32 and u64 with a value or number of the same type; for floats write `x - (x / y).floor() * y`";
    /// Right side of `&`, `|` and `^`.
    BitOperand, Bits, T,
        "there is no bit operation of a `{T}` with this",
        "supported: i32, u32, u64 and bool with a value or number of the same type; reinterpret floats with `.bitcast::<u32>()`";
    /// Right side of `<<` and `>>`.
    ShiftAmount, Integer, u32,
        "a `{T}` cannot be shifted by this",
        "supported: i32, u32 and u64 by a `Val<u32>` or a number; reinterpret floats with `.bitcast::<u32>()`";
}

macro_rules! operator {
    ($trait:ident, $method:ident, $assign_trait:ident, $assign_method:ident, $bound:ident, $op:ident, [$($left:ty => $right:ty),*]) => {
        operator!($trait, $method, $assign_trait, $assign_method, $bound, IntoVal, $op, [$($left => $right),*]);
    };
    ($trait:ident, $method:ident, $assign_trait:ident, $assign_method:ident, $bound:ident, $operand:ident, $op:ident, [$($left:ty => $right:ty),*]) => {
        impl<T: $bound, R: $operand<T>> ops::$trait<R> for Val<T> {
            type Output = Val<T>;
            #[track_caller]
            fn $method(self, right: R) -> Val<T> {
                let at = Location::caller();
                let left = self.settled(at);
                binary(BinaryOp::$op, left, right.into_val(1, at), at)
            }
        }
        impl<T: $bound, R: $operand<T>> ops::$assign_trait<R> for Val<T> {
            #[track_caller]
            fn $assign_method(&mut self, right: R) {
                let at = Location::caller();
                let right = right.into_val(1, at).settled(at);
                let new = binary(BinaryOp::$op, *self, right, at);
                self.assign_to(new, at);
            }
        }
        $(
            impl ops::$trait<Val<$right>> for $left {
                type Output = Val<$right>;
                #[track_caller]
                fn $method(self, right: Val<$right>) -> Val<$right> {
                    let at = Location::caller();
                    let left: Val<$right> = self.into_val(0, at);
                    binary(BinaryOp::$op, left, right, at)
                }
            }
        )*
    };
}
operator!(Add, add, AddAssign, add_assign, Arithmetic, Add, [f32 => f32, i32 => i32, i32 => u32, u32 => u32, usize => u32, usize => i32]);
operator!(Sub, sub, SubAssign, sub_assign, Arithmetic, Sub, [f32 => f32, i32 => i32, i32 => u32, u32 => u32, usize => u32, usize => i32]);
operator!(Mul, mul, MulAssign, mul_assign, Arithmetic, Mul, [f32 => f32, i32 => i32, i32 => u32, u32 => u32, usize => u32, usize => i32]);
operator!(Div, div, DivAssign, div_assign, Numeric, Div, [f32 => f32, i32 => i32, i32 => u32, u32 => u32, usize => u32, usize => i32]);
operator!(Rem, rem, RemAssign, rem_assign, DeviceType, RemainderOperand, Rem, [i32 => i32, i32 => u32, u32 => u32, usize => u32, usize => i32]);

macro_rules! bit_operator {
    ($trait:ident, $method:ident, $assign_trait:ident, $assign_method:ident, $op:ident) => {
        impl<T: DeviceType, R: BitOperand<T>> ops::$trait<R> for Val<T> {
            type Output = Val<T>;
            #[track_caller]
            fn $method(self, right: R) -> Val<T> {
                let at = Location::caller();
                let left = self.settled(at);
                binary(BinaryOp::$op, left, right.into_val(1, at), at)
            }
        }
        impl<T: DeviceType, R: BitOperand<T>> ops::$assign_trait<R> for Val<T> {
            #[track_caller]
            fn $assign_method(&mut self, right: R) {
                let at = Location::caller();
                let right = right.into_val(1, at).settled(at);
                let new = binary(BinaryOp::$op, *self, right, at);
                self.assign_to(new, at);
            }
        }
    };
}

/// Types on which `&`, `|` and `^` work: integers and `bool`.
#[diagnostic::on_unimplemented(
    message = "bit operations need integers or bools, not `{Self}`",
    label = "not an integer",
    note = "supported: i32, u32, u64, bool; reinterpret floats with `.bitcast::<u32>()`"
)]
pub trait Bits: DeviceType {}
impl Bits for i32 {}
impl Bits for u32 {}
impl Bits for u64 {}
impl Bits for bool {}
bit_operator!(BitAnd, bitand, BitAndAssign, bitand_assign, And);
bit_operator!(BitOr, bitor, BitOrAssign, bitor_assign, Or);
bit_operator!(BitXor, bitxor, BitXorAssign, bitxor_assign, Xor);

macro_rules! shift {
    ($trait:ident, $method:ident, $op:ident) => {
        impl<T: DeviceType, R: ShiftAmount<T>> ops::$trait<R> for Val<T> {
            type Output = Val<T>;
            #[track_caller]
            fn $method(self, amount: R) -> Val<T> {
                let at = Location::caller();
                let left = self.settled(at).id(at);
                let amount = amount.into_val(1, at).id(at);
                if let Some(same) = unchanged(BinaryOp::$op, left, amount) {
                    return Val::of_value(same);
                }
                Val::record(Op::Binary(BinaryOp::$op, left, amount), at)
            }
        }
    };
}
shift!(Shl, shl, Shl);
shift!(Shr, shr, Shr);

impl<T: Arithmetic> ops::Neg for Val<T> {
    type Output = Val<T>;
    #[track_caller]
    fn neg(self) -> Val<T> {
        let at = Location::caller();
        Val::record(Op::Unary(UnaryOp::Neg, self.id(at)), at)
    }
}

impl<T: Bits> ops::Not for Val<T> {
    type Output = Val<T>;
    #[track_caller]
    fn not(self) -> Val<T> {
        let at = Location::caller();
        Val::record(Op::Unary(UnaryOp::Not, self.id(at)), at)
    }
}

/// The smaller of two numbers. NaN loses.
#[track_caller]
pub fn min<T: Numeric>(a: Val<T>, b: impl IntoVal<T>) -> Val<T> {
    let at = Location::caller();
    let a = a.settled(at);
    binary(BinaryOp::Min, a, b.into_val(1, at), at)
}

/// The larger of two numbers. NaN loses.
#[track_caller]
pub fn max<T: Numeric>(a: Val<T>, b: impl IntoVal<T>) -> Val<T> {
    let at = Location::caller();
    let a = a.settled(at);
    binary(BinaryOp::Max, a, b.into_val(1, at), at)
}

/// `yes` where the condition holds, else `no`. Both are evaluated.
#[track_caller]
pub fn select<T: DeviceType>(condition: Val<bool>, yes: impl IntoVal<T>, no: impl IntoVal<T>) -> Val<T> {
    let at = Location::caller();
    let condition = condition.id(at);
    let yes = yes.into_val(1, at).id(at);
    let no = no.into_val(1, at).id(at);
    Val::record(Op::Select { condition, yes, no }, at)
}

impl Val<f32> {
    /// Addition that is never contracted into a fused multiply-add.
    #[track_caller]
    pub fn add_unfused(self, other: impl IntoVal<f32>) -> Self {
        let at = Location::caller();
        let a = self.settled(at);
        binary(BinaryOp::AddUnfused, a, other.into_val(1, at), at)
    }
    /// Subtraction that is never contracted.
    #[track_caller]
    pub fn sub_unfused(self, other: impl IntoVal<f32>) -> Self {
        let at = Location::caller();
        let a = self.settled(at);
        binary(BinaryOp::SubUnfused, a, other.into_val(1, at), at)
    }
    /// Multiplication that is never contracted.
    #[track_caller]
    pub fn mul_unfused(self, other: impl IntoVal<f32>) -> Self {
        let at = Location::caller();
        let a = self.settled(at);
        binary(BinaryOp::MulUnfused, a, other.into_val(1, at), at)
    }
}
