//! Mathematical functions of device values. Accuracies are those of [`MathFn`](crate::ir::MathFn).

use super::*;
use crate::ir::{Location, MathFn, Op};

fn unary<T: DeviceType>(function: MathFn, x: Val<T>, at: Location) -> Val<T> {
    let id = x.id(at);
    Val::record(Op::Math(function, vec![id]), at)
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)*) => {
        impl Val<f32> {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $name(self) -> Self {
                    unary(MathFn::$function, self, Location::caller())
                }
            )*
        }
    };
}
functions! {
    /// Square root, correctly rounded.
    sqrt = Sqrt;
    /// One over the square root, within 2 ulp.
    rsqrt = Rsqrt;
    /// 2 to this power, within 2 ulp.
    exp2 = Exp2;
    /// 2 to this power, within 2 ulp; 0 where that is below the normal numbers: one instruction.
    exp2_flushed = Exp2Flushed;
    /// Logarithm to base 2, within 2 ulp.
    log2 = Log2;
    /// Sine of radians.
    sin = Sin;
    /// Cosine of radians.
    cos = Cos;
    /// Hyperbolic tangent, within 4 ulp.
    tanh = Tanh;
    /// Nearest integer, ties to even.
    round = Round;
    /// Largest integer not above.
    floor = Floor;
    /// Absolute value.
    abs = Abs;
}

impl Val<i32> {
    /// Absolute value; the smallest integer stays as it is.
    #[track_caller]
    pub fn abs(self) -> Self {
        unary(MathFn::Abs, self, Location::caller())
    }
}

/// `a * b + c`, rounded once. On f32, f16 and pairs of f16.
#[track_caller]
pub fn fma<T: Fused>(a: Val<T>, b: impl IntoVal<T>, c: impl IntoVal<T>) -> Val<T> {
    let at = Location::caller();
    let operands = vec![a.id(at), b.into_val(1, at).id(at), c.into_val(1, at).id(at)];
    Val::record(Op::Math(MathFn::Fma, operands), at)
}

/// Types with a fused multiply-add.
#[diagnostic::on_unimplemented(
    message = "there is no fused multiply-add on `{Self}`",
    label = "not a float",
    note = "supported: f32, f16, `Pack<f16, 2>`; write `a * b + c` for integers"
)]
pub trait Fused: Arithmetic {}
impl Fused for f32 {}
impl Fused for f16 {}
impl Fused for Pack<f16, 2> {}

/// The four signed bytes of `a` times those of `b`, summed onto `accumulator`.
#[track_caller]
pub fn dot4(a: Val<u32>, b: Val<u32>, accumulator: impl IntoVal<i32>) -> Val<i32> {
    dot4_of(true, a, b, accumulator, Location::caller())
}

/// The four *unsigned* bytes of `a` times the signed bytes of `b`, summed onto `accumulator`.
#[track_caller]
pub fn dot4_unsigned(a: Val<u32>, b: Val<u32>, accumulator: impl IntoVal<i32>) -> Val<i32> {
    dot4_of(false, a, b, accumulator, Location::caller())
}

fn dot4_of(a_signed: bool, a: Val<u32>, b: Val<u32>, accumulator: impl IntoVal<i32>, at: Location) -> Val<i32> {
    let accumulator = accumulator.into_val(1, at).id(at);
    let (a, b) = (a.id(at), b.id(at));
    Val::record(
        Op::Dot4 {
            a,
            a_signed,
            b,
            accumulator,
        },
        at,
    )
}

/// Four bytes picked from the eight of `high:low`; nibble i of the selector (0 to 7) says which becomes byte i.
#[track_caller]
pub fn byte_permute(low: impl IntoVal<u32>, high: impl IntoVal<u32>, selector: impl IntoVal<u32>) -> Val<u32> {
    let at = Location::caller();
    let low = low.into_val(1, at).id(at);
    let high = high.into_val(1, at).id(at);
    let selector = selector.into_val(1, at).id(at);
    Val::record(Op::BytePermute { low, high, selector }, at)
}

/// The same number, kept in a register: a constant that is an operand of many instructions is otherwise moved to one in
/// front of each.
#[track_caller]
pub fn in_register(value: impl IntoVal<u32>) -> Val<u32> {
    let at = Location::caller();
    let id = value.into_val(1, at).id(at);
    Val::record(Op::InRegister(id), at)
}

/// Promises that all lanes of the block hold the same value here, so that a barrier may depend on it.
/// Costs nothing; the sanitizer checks it.
#[track_caller]
pub fn assume_uniform<T: DeviceType>(value: Val<T>) -> Val<T> {
    let at = Location::caller();
    let id = value.id(at);
    Val::record(Op::AssumeUniform(id), at)
}
