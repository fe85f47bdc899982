//! Arrays in registers.

use std::marker::PhantomData;

use super::*;
use crate::record::{error, with};
use crate::value::{IntoVal, Numeric};

/// What can index a register array: a comptime number, or a value made of comptime numbers and the variables of
/// unrolled loops (checked when the kernel is complete).
#[derive(Clone, Copy)]
pub enum RegisterIndex {
    /// Known while recording.
    Known(usize),
    /// A device value.
    Value(Val<u32>),
}
impl From<usize> for RegisterIndex {
    fn from(index: usize) -> Self {
        Self::Known(index)
    }
}
impl From<Val<u32>> for RegisterIndex {
    fn from(index: Val<u32>) -> Self {
        Self::Value(index)
    }
}
impl From<i32> for RegisterIndex {
    fn from(index: i32) -> Self {
        Self::Known(usize::try_from(index).unwrap_or(usize::MAX))
    }
}

impl RegisterIndex {
    pub(crate) fn id(self, size: usize, at: Location) -> ValueId {
        match self {
            Self::Value(value) => value.id(at),
            Self::Known(index) if index < size => Val::<u32>::literal(Literal::U32(index as u32), at).id(at),
            Self::Known(index) => {
                error(
                    at,
                    format!("index {index} into a register dimension of {size}"),
                    format!("0 to {}", size.saturating_sub(1)),
                    "make the array larger or the index smaller",
                );
                Val::<u32>::literal(Literal::U32(0), at).id(at)
            }
        }
    }
}

/// An array in registers, one per lane, of one or two dimensions.
pub struct Registers<T> {
    pub(crate) id: RegistersId,
    pub(crate) dims: [usize; 2],
    pub(crate) rank: usize,
    marker: PhantomData<fn() -> T>,
}
impl<T> Clone for Registers<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Registers<T> {}

impl<T: Numeric> Registers<T> {
    /// `len` elements, all `value`.
    #[track_caller]
    pub fn filled(len: usize, value: T) -> Self {
        Self::declare(&[len], Some(value.literal()), None, Location::caller())
    }

    /// `outer` × `inner` elements, all `value`.
    #[track_caller]
    pub fn filled_2d(outer: usize, inner: usize, value: T) -> Self {
        Self::declare(&[outer, inner], Some(value.literal()), None, Location::caller())
    }

    /// `len` elements with undefined contents.
    #[track_caller]
    pub fn undefined(len: usize) -> Self {
        Self::declare(&[len], None, None, Location::caller())
    }

    /// `outer` × `inner` elements with undefined contents.
    #[track_caller]
    pub fn undefined_2d(outer: usize, inner: usize) -> Self {
        Self::declare(&[outer, inner], None, None, Location::caller())
    }

    pub(crate) fn declare(dims: &[usize], fill: Option<Literal>, note: Option<String>, at: Location) -> Self {
        if dims.contains(&0) {
            error(
                at,
                format!("a register array of {dims:?} elements"),
                "1 element or more in every dimension",
                "leave the array out, or check the comptime size",
            );
        }
        let id = with(|r| {
            let registers = RegistersId(r.frame().body.registers.len() as u32);
            r.frame().body.registers.push(crate::ir::Registers {
                name: "registers".to_string(),
                element: T::TYPE.scalar(),
                dims: dims.iter().map(|d| (*d).max(1)).collect(),
                note,
                at,
            });
            r.push(StmtKind::DeclareRegisters { registers, fill }, at);
            registers
        });
        Self {
            id,
            dims: [dims[0], dims.get(1).copied().unwrap_or(1)],
            rank: dims.len(),
            marker: PhantomData,
        }
    }

    pub(crate) fn rename(self, name: &str) {
        with(|r| {
            let registers = &mut r.frame().body.registers[self.id.index()];
            if registers.name == "registers" {
                registers.name = name.to_string();
            }
        });
    }

    pub(crate) fn read(self, index: Vec<ValueId>, at: Location) -> Val<T> {
        self.check_rank(index.len(), at);
        Val::record(
            Op::ReadRegister(RegisterRef {
                registers: self.id,
                index,
            }),
            at,
        )
    }

    pub(crate) fn write(self, index: Vec<ValueId>, value: Val<T>, at: Location) {
        self.check_rank(index.len(), at);
        let value = value.id(at);
        let target = RegisterRef {
            registers: self.id,
            index,
        };
        with(|r| r.push(StmtKind::WriteRegister { target, value }, at));
    }

    fn check_rank(self, given: usize, at: Location) {
        if given != self.rank {
            error(
                at,
                format!("{given} indices into a register array of {} dimensions", self.rank),
                "one index per dimension",
                "index two-dimensional arrays as `array[(outer, inner)]`",
            );
        }
    }
}

macro_rules! one_index {
    ($($t:ty),*) => {$(
        impl<T: Numeric> Indexed<$t> for Registers<T> {
            type Item = Val<T>;
            #[track_caller]
            fn read_at(&self, index: $t) -> Val<T> {
                let at = Location::caller();
                let index = RegisterIndex::from(index).id(self.dims[0], at);
                self.read(vec![index], at)
            }
        }
        impl<T: Numeric, V: IntoVal<T>> IndexStore<$t, V> for Registers<T> {
            #[track_caller]
            fn store_at(&self, index: $t, value: V) {
                let at = Location::caller();
                let value = value.into_val(1, at).settled(at);
                let index = RegisterIndex::from(index).id(self.dims[0], at);
                self.write(vec![index], value, at);
            }
        }
    )*};
}
one_index!(usize, i32, Val<u32>);

impl<T: Numeric, A: Into<RegisterIndex>, B: Into<RegisterIndex>> Indexed<(A, B)> for Registers<T> {
    type Item = Val<T>;
    #[track_caller]
    fn read_at(&self, (outer, inner): (A, B)) -> Val<T> {
        let at = Location::caller();
        let index = vec![outer.into().id(self.dims[0], at), inner.into().id(self.dims[1], at)];
        self.read(index, at)
    }
}
impl<T: Numeric, A: Into<RegisterIndex>, B: Into<RegisterIndex>, V: IntoVal<T>> IndexStore<(A, B), V> for Registers<T> {
    #[track_caller]
    fn store_at(&self, (outer, inner): (A, B), value: V) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let index = vec![outer.into().id(self.dims[0], at), inner.into().id(self.dims[1], at)];
        self.write(index, value, at);
    }
}
