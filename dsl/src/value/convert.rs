//! From Rust numbers to device values, and between device types.

use super::*;
use crate::ir::{Constant, ConstantId, Literal, Location, Op};
use crate::record::{error, with};

/// What can stand where a device value of type `T` is expected: one of that type, or a Rust number of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used where a device value of type `{T}` is expected",
    label = "this is `{Self}`",
    note = "nothing converts by itself: write `.to::<{T}>()` for a numeric conversion or `.bitcast::<{T}>()` for the same bits"
)]
pub trait IntoVal<T: DeviceType> {
    /// The value; `side` is 0 for a left operand, 1 for a right one.
    fn into_val(self, side: usize, at: Location) -> Val<T>;
}

impl<T: DeviceType> IntoVal<T> for Val<T> {
    fn into_val(self, _side: usize, _at: Location) -> Val<T> {
        self
    }
}

/// A literal, under the author's name when its operand had one.
fn constant<T: DeviceType>(value: Literal, side: usize, at: Location) -> Val<T> {
    let id = with(|r| {
        let name = r.operand_names[side].take()?;
        let known = r.constants.iter().position(|c| c.name == name);
        match known {
            Some(index) if r.constants[index].value == value => Some(ConstantId(index as u32)),
            Some(_) => None,
            None => {
                r.constants.push(Constant {
                    name: name.to_string(),
                    value,
                });
                Some(ConstantId(r.constants.len() as u32 - 1))
            }
        }
    });
    match id {
        Some(id) => Val::record(Op::Constant(id), at),
        None => Val::literal(value, at),
    }
}

macro_rules! same {
    ($($rust:ty),*) => {$(
        impl IntoVal<$rust> for $rust {
            fn into_val(self, side: usize, at: Location) -> Val<$rust> {
                constant(Numeric::literal(self), side, at)
            }
        }
    )*};
}
same!(i32, u32, u64, f16, f32);

impl IntoVal<bool> for bool {
    fn into_val(self, _side: usize, at: Location) -> Val<bool> {
        Val::literal(Literal::Bool(self), at)
    }
}

macro_rules! checked {
    ($($from:ty => $to:ty),*) => {$(
        impl IntoVal<$to> for $from {
            fn into_val(self, side: usize, at: Location) -> Val<$to> {
                match <$to>::try_from(self) {
                    Ok(value) => constant(Numeric::literal(value), side, at),
                    Err(_) => {
                        error(
                            at,
                            format!("{self} does not fit a device value of type {}", stringify!($to)),
                            format!("{} to {}", <$to>::MIN, <$to>::MAX),
                            "use a wider or signed type on the other side",
                        );
                        Val::literal(<$to as DeviceType>::ZERO, at)
                    }
                }
            }
        }
    )*};
}
checked!(i32 => u32, usize => u32, usize => i32, i32 => u64, u32 => u64, usize => u64);

/// What can index memory: a comptime number or an integer device value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot index device memory",
    label = "not an index",
    note = "supported: usize, u32 and i32 numbers, `Val<u32>`, `Val<i32>` and `Val<u64>`; convert floats with `.to::<u32>()`"
)]
pub trait IntoIndex: Copy {
    /// The IR value, of type `u32` or `u64`.
    fn index(self, at: Location) -> ValueId;
    /// The number, when it is known while recording.
    fn known(self) -> Option<usize> {
        None
    }
}

impl IntoIndex for Val<u32> {
    fn index(self, at: Location) -> ValueId {
        self.id(at)
    }
}
impl IntoIndex for Val<u64> {
    fn index(self, at: Location) -> ValueId {
        self.id(at)
    }
}
impl IntoIndex for Val<i32> {
    fn index(self, at: Location) -> ValueId {
        let id = self.id(at);
        Val::<u32>::record(Op::Convert(id), at).id(at)
    }
}
macro_rules! known_index {
    ($($rust:ty),*) => {$(
        impl IntoIndex for $rust {
            fn index(self, at: Location) -> ValueId {
                <$rust as IntoVal<u32>>::into_val(self, 1, at).id(at)
            }
            fn known(self) -> Option<usize> {
                usize::try_from(self).ok()
            }
        }
    )*};
}
known_index!(usize, u32, i32);

impl<T: Numeric> Val<T> {
    /// Numeric conversion. To integers: truncates and saturates, NaN gives 0. To narrower floats: nearest even.
    #[track_caller]
    pub fn to<U: Numeric>(self) -> Val<U> {
        let at = Location::caller();
        let id = self.id(at);
        if T::TYPE == U::TYPE {
            return Val::of_value(id);
        }
        Val::record(Op::Convert(id), at)
    }
}

impl<T: DeviceType> Val<T> {
    pub(crate) fn of_value(id: ValueId) -> Self {
        with(|r| Self::of(r.frame().id, Handle::Value(id)))
    }
}

impl Val<bool> {
    /// 1 where true, 0 where false.
    #[track_caller]
    pub fn to_u32(self) -> Val<u32> {
        let at = Location::caller();
        Val::record(Op::Convert(self.id(at)), at)
    }
}

macro_rules! literal_functions {
    ($($name:ident),*) => {$(
        #[doc = concat!("A device value from a Rust `", stringify!($name), "`, or from a device value of that type.")]
        #[track_caller]
        pub fn $name(value: impl IntoVal<$name>) -> Val<$name> {
            value.into_val(1, Location::caller())
        }
    )*};
}

/// Functions named like the types whose values they make: `f32(0.0)`, `u32(7)`.
#[allow(non_snake_case)]
pub mod literals {
    use super::*;
    literal_functions!(i32, u32, u64, f32);
}
