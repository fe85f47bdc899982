//! Which Rust types stand for which device types.

use std::fmt::Debug;

use crate::ir::{Literal, Scalar, Type};

pub use half::{bf16, f16};

/// A type that values can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a type of device values",
    label = "not a device type",
    note = "supported: bool, i32, u32, u64, f16, f32 and `Pack<T, N>`; smaller integers and bf16 exist in memory only and widen when loaded"
)]
pub trait DeviceType: Copy + Debug + 'static {
    /// The IR type.
    const TYPE: Type;
    /// A zero of the scalar type.
    const ZERO: Literal;
}

/// A scalar that lies in memory. Loading widens it to [`Element::Value`].
#[diagnostic::on_unimplemented(
    message = "memory cannot hold elements of type `{Self}`",
    label = "not an element type",
    note = "supported: i8, u8, i16, u16, i32, u32, u64, f16, bf16, f32"
)]
pub trait Element: Copy + Debug + 'static {
    /// What lies in memory.
    const SCALAR: Scalar;
    /// What a load gives and a store takes.
    type Value: DeviceType;
}

/// A device type that can be added, multiplied and compared.
#[diagnostic::on_unimplemented(
    message = "arithmetic on `{Self}` is not supported",
    label = "not a number",
    note = "supported: i32, u32, u64, f16, f32, and `Pack<f16, 2>`; convert with `.to::<…>()`"
)]
pub trait Arithmetic: DeviceType {}

/// A scalar number.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a scalar number",
    label = "not a scalar number",
    note = "supported: i32, u32, u64, f16, f32"
)]
pub trait Numeric: Arithmetic + Copy {
    /// A literal of this type.
    fn literal(self) -> Literal;
}

/// A whole number on which bit operations work.
#[diagnostic::on_unimplemented(
    message = "bit operations and remainders need integers, not `{Self}`",
    label = "not an integer",
    note = "supported: i32, u32, u64; reinterpret floats with `.bitcast::<u32>()`"
)]
pub trait Integer: Numeric {}

/// The name of a type parameter on the command line and in symbols.
#[diagnostic::on_unimplemented(
    message = "kernels cannot be generic over `{Self}`",
    label = "has no name on the command line",
    note = "implement `Named` for it (codecs and element types do)"
)]
pub trait Named {
    /// `f16`, `turbo3`, …
    const NAME: &'static str;
}

/// A floating-point element: f16, bf16 or f32 in memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a floating-point element",
    label = "not a float",
    note = "supported: f16, bf16, f32"
)]
pub trait Float: Element<Value: Numeric> + Named {}

/// `N` scalars that are loaded and stored whole: 4, 8 or 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pack<T, const N: usize>(pub [T; N]);

macro_rules! values {
    ($($rust:ty, $scalar:ident, $zero:expr;)*) => {$(
        impl DeviceType for $rust {
            const TYPE: Type = Type::Scalar(Scalar::$scalar);
            const ZERO: Literal = Literal::$scalar($zero);
        }
    )*};
}
values! {
    bool, Bool, false;
    i32, I32, 0;
    u32, U32, 0;
    u64, U64, 0;
    f16, F16, f16::ZERO;
    f32, F32, 0.0;
}

macro_rules! numbers {
    ($($rust:ty, $scalar:ident;)*) => {$(
        impl Arithmetic for $rust {}
        impl Numeric for $rust {
            fn literal(self) -> Literal {
                Literal::$scalar(self)
            }
        }
    )*};
}
numbers! { i32, I32; u32, U32; u64, U64; f16, F16; f32, F32; }
impl Integer for i32 {}
impl Integer for u32 {}
impl Integer for u64 {}
impl Arithmetic for Pack<f16, 2> {}

macro_rules! elements {
    ($($rust:ty, $scalar:ident, $value:ty;)*) => {$(
        impl Element for $rust {
            const SCALAR: Scalar = Scalar::$scalar;
            type Value = $value;
        }
        impl Named for $rust {
            const NAME: &'static str = Scalar::$scalar.name();
        }
    )*};
}
elements! {
    i8, I8, i32;
    u8, U8, u32;
    i16, I16, i32;
    u16, U16, u32;
    i32, I32, i32;
    u32, U32, u32;
    u64, U64, u64;
    f16, F16, f16;
    bf16, BF16, f32;
    f32, F32, f32;
}
impl Float for f16 {}
impl Float for bf16 {}
impl Float for f32 {}

macro_rules! packs {
    ($($rust:ty, $n:literal;)*) => {$(
        impl DeviceType for Pack<$rust, $n> {
            const TYPE: Type = Type::Vector(<$rust as DeviceType>::TYPE.scalar(), $n);
            const ZERO: Literal = <$rust as DeviceType>::ZERO;
        }
    )*};
}
packs! {
    u32, 2; u32, 4;
    i32, 2; i32, 4;
    f32, 2; f32, 4;
    f16, 2;
}
