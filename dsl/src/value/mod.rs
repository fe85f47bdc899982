//! Typed device values.
//!
//! A [`Val<T>`] is a small handle to something the kernel computes. `rustc` checks the element types; the
//! recorder stores what is done with it. A handle made by `let mut` in a kernel names a *place* (a variable):
//! using it reads the variable at that point, assigning to it writes.

mod convert;
mod element;
mod math;
mod ops;
mod warp;

use std::marker::PhantomData;

pub use convert::{IntoIndex, IntoVal, literals};
pub use element::{Arithmetic, DeviceType, Element, Float, Integer, Named, Numeric, Pack, bf16, f16};
pub use math::*;
pub use ops::{Bits, max, min, select};
pub use warp::*;

use crate::ir::*;
use crate::record::{error, with};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handle {
    Value(ValueId),
    Place(VariableId),
}

/// A device value of type `T`: one per lane.
pub struct Val<T> {
    frame: u32,
    handle: Handle,
    ty: PhantomData<fn() -> T>,
}

impl<T> Clone for Val<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Val<T> {}

impl<T: DeviceType> Val<T> {
    /// Appends an operation.
    pub(crate) fn record(op: Op, at: Location) -> Self {
        with(|r| {
            let id = r.value(T::TYPE, op, at);
            Self::of(r.frame().id, Handle::Value(id))
        })
    }

    /// A handle to a variable.
    pub(crate) fn place(variable: VariableId) -> Self {
        with(|r| Self::of(r.frame().id, Handle::Place(variable)))
    }

    fn of(frame: u32, handle: Handle) -> Self {
        Self {
            frame,
            handle,
            ty: PhantomData,
        }
    }

    /// A literal.
    pub(crate) fn literal(literal: Literal, at: Location) -> Self {
        Self::record(Op::Literal(literal), at)
    }

    /// The value now: reads the variable if this is a place.
    pub(crate) fn id(self, at: Location) -> ValueId {
        let frame = with(|r| r.frame().id);
        if frame != self.frame {
            error(
                at,
                "a value of another function is used here",
                "values computed in the same function, and its parameters",
                "pass the value as a parameter",
            );
            return with(|r| r.value(T::TYPE, Op::Literal(T::ZERO), at));
        }
        match self.handle {
            Handle::Value(id) => id,
            Handle::Place(variable) => with(|r| r.value(T::TYPE, Op::ReadVariable(variable), at)),
        }
    }

    /// A handle that no later assignment changes.
    pub(crate) fn settled(self, at: Location) -> Self {
        let id = self.id(at);
        with(|r| Self::of(r.frame().id, Handle::Value(id)))
    }

    /// The value now, independent of later assignments: what passing by value means. A computed value takes the
    /// parameter's name.
    #[doc(hidden)]
    #[track_caller]
    pub fn by_value(self, name: &str) -> Self {
        let settled = self.settled(Location::caller());
        if let Handle::Value(id) = settled.handle {
            with(|r| {
                let value = &mut r.frame().body.values[id.index()];
                let is_plain = matches!(
                    value.op,
                    Op::Literal(_) | Op::Constant(_) | Op::Builtin(_) | Op::Parameter(_) | Op::ReadVariable(_)
                );
                if value.name.is_none() && !is_plain {
                    value.name = Some(name.to_string());
                }
            });
        }
        settled
    }

    /// Gives the value the author's name (first name wins), or copies a place into a named value.
    pub(crate) fn named(self, name: &str, at: Location) -> Self {
        if let Handle::Place(variable) = self.handle {
            let fresh = with(|r| {
                let frame = r.frame();
                let position = frame.unnamed.iter().position(|v| *v == variable)?;
                frame.unnamed.remove(position);
                frame.body.variables[variable.index()].name = name.to_string();
                Some(())
            });
            if fresh.is_some() {
                return self;
            }
        }
        let id = self.id(at);
        with(|r| {
            let value = &mut r.frame().body.values[id.index()];
            let has_name = matches!(value.op, Op::Parameter(_) | Op::Constant(_));
            if value.name.is_none() && !has_name {
                value.name = Some(name.to_string());
            }
            Self::of(r.frame().id, Handle::Value(id))
        })
    }

    /// Renames the variable of a loop.
    pub(crate) fn rename_place(self, name: &str) {
        if let Handle::Place(variable) = self.handle {
            with(|r| r.frame().body.variables[variable.index()].name = name.to_string());
        }
    }

    /// A mutable variable that starts with this value, for state kept in structs. (`let mut` does this by itself.)
    #[track_caller]
    pub fn variable(self, name: &str) -> Self {
        let at = Location::caller();
        self.declared(name, at)
    }

    pub(crate) fn declared(self, name: &str, at: Location) -> Self {
        let value = self.id(at);
        with(|r| {
            let frame = r.frame();
            let variable = VariableId(frame.body.variables.len() as u32);
            frame.body.variables.push(Variable {
                name: name.to_string(),
                ty: T::TYPE,
                at,
            });
            r.push(StmtKind::Declare { variable, value }, at);
            Self::of(r.frame().id, Handle::Place(variable))
        })
    }

    /// Assigns the variable behind this handle.
    pub(crate) fn assign_to(self, value: Self, at: Location) {
        let Handle::Place(variable) = self.handle else {
            error(
                at,
                "assignment to a device value that is not a variable",
                "values bound by `let mut` in the kernel, register arrays, and values made with `.variable(name)`",
                "declare it with `let mut`, or keep it in a struct as `value.variable(\"name\")`",
            );
            return;
        };
        let value = value.id(at);
        with(|r| r.push(StmtKind::Assign { variable, value }, at));
    }

    /// The same bits as another type of the same size.
    #[track_caller]
    pub fn bitcast<U: DeviceType>(self) -> Val<U> {
        let at = Location::caller();
        if T::TYPE.bytes() != U::TYPE.bytes() {
            error(
                at,
                format!(
                    "bitcast from {} ({} bytes) to {} ({} bytes)",
                    T::TYPE,
                    T::TYPE.bytes(),
                    U::TYPE,
                    U::TYPE.bytes()
                ),
                "types of one size",
                "convert the value with `.to::<…>()`",
            );
            return Val::literal(U::ZERO, at);
        }
        Val::record(Op::Bitcast(self.id(at)), at)
    }
}

impl<T: DeviceType, const N: usize> Val<Pack<T, N>>
where
    Pack<T, N>: DeviceType,
{
    /// Component `index`, 0 to N-1.
    #[track_caller]
    pub fn component(self, index: usize) -> Val<T> {
        let at = Location::caller();
        if index >= N {
            error(
                at,
                format!("component {index} of a vector of {N}"),
                format!("components 0 to {}", N - 1),
                format!("`.component({})`", N - 1),
            );
            return Val::literal(T::ZERO, at);
        }
        Val::record(Op::Component(self.id(at), index as u8), at)
    }

    /// A vector from its components.
    #[track_caller]
    pub fn pack(components: [Val<T>; N]) -> Self {
        let at = Location::caller();
        let ids = components.iter().map(|c| c.id(at)).collect();
        Self::record(Op::Vector(ids), at)
    }
}
