//! GlobalMemory memory and scalars: the parameters of a kernel.

use std::marker::PhantomData;

use super::*;
use crate::record::{FunctionArgument, error, with};
use crate::value::{IntoIndex, IntoVal, Numeric};

/// Marks memory that may be read.
#[diagnostic::on_unimplemented(
    message = "memory declared `Out<T>` cannot be read",
    label = "reads write-only memory",
    note = "supported: `In<T>` and `InOut<T>` are read; declare the parameter as `InOut<T>` to read what it holds"
)]
pub trait Readable {
    /// How the parameter is declared.
    const ACCESS: crate::ir::Access;
}
/// Marks memory that may be written.
#[diagnostic::on_unimplemented(
    message = "memory declared `In<T>` cannot be stored to",
    label = "stores to read-only memory",
    note = "supported: `Out<T>` and `InOut<T>` are stored to; declare the parameter as one of them"
)]
pub trait Writable {}

/// Marker of read-only memory.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly;
/// Marker of write-only memory.
#[derive(Clone, Copy, Debug)]
pub struct WriteOnly;
/// Marker of memory that is read and written.
#[derive(Clone, Copy, Debug)]
pub struct ReadAndWrite;
impl Readable for ReadOnly {
    const ACCESS: crate::ir::Access = crate::ir::Access::Read;
}
impl Readable for ReadAndWrite {
    const ACCESS: crate::ir::Access = crate::ir::Access::ReadWrite;
}
impl Writable for WriteOnly {}
impl Writable for ReadAndWrite {}

/// A buffer in global memory: a parameter of the kernel. Different parameters never overlap.
pub struct GlobalMemory<T, A> {
    parameter: u32,
    marker: PhantomData<fn() -> (T, A)>,
}
impl<T, A> Clone for GlobalMemory<T, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, A> Copy for GlobalMemory<T, A> {}

/// GlobalMemory memory that is only read.
pub type In<T> = GlobalMemory<T, ReadOnly>;
/// GlobalMemory memory that is only written.
pub type Out<T> = GlobalMemory<T, WriteOnly>;
/// GlobalMemory memory that is read and written.
pub type InOut<T> = GlobalMemory<T, ReadAndWrite>;

/// One dimension of a parameter's shape.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// A run-time size: a scalar parameter of the kernel.
    Value(ValueId),
    /// A comptime size.
    Known(usize),
}

impl GlobalMemory<f32, ()> {
    /// One dimension of a shape.
    #[doc(hidden)]
    pub fn extent(size: impl IntoExtent, at: Location) -> Extent {
        size.extent(at)
    }
}

/// Sizes that can stand in a `#[shape(…)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a dimension of a shape",
    label = "not a size",
    note = "supported: `u32` parameters of the kernel and comptime `usize`"
)]
pub trait IntoExtent {
    /// The dimension.
    fn extent(self, at: Location) -> Extent;
}
impl IntoExtent for Val<u32> {
    fn extent(self, at: Location) -> Extent {
        Extent::Value(self.id(at))
    }
}
impl IntoExtent for usize {
    fn extent(self, _at: Location) -> Extent {
        Extent::Known(self)
    }
}

/// What a kernel can take at run time.
#[diagnostic::on_unimplemented(
    message = "a kernel cannot take a `{Self}` at run time",
    label = "not a kernel parameter",
    note = "supported: u32, i32, u64, f32, `In<T>`, `Out<T>`, `InOut<T>`; mark plain Rust parameters `#[comptime]`"
)]
pub trait KernelParameter: Sized {
    /// Adds the parameter to the kernel.
    fn declare(name: &str, shape: &[&str], at: Location) -> Self;
}

fn declare(name: &str, kind: ParameterKind, at: Location) -> u32 {
    with(|r| {
        r.parameters.push(Parameter {
            name: name.to_string(),
            kind,
            at,
        });
        r.parameters.len() as u32 - 1
    })
}

impl<T: Numeric> KernelParameter for Val<T> {
    fn declare(name: &str, _shape: &[&str], at: Location) -> Self {
        let index = declare(name, ParameterKind::Scalar(T::TYPE.scalar()), at);
        Val::record(Op::Parameter(index), at)
    }
}

macro_rules! memory_parameter {
    ($marker:ty, $access:expr) => {
        impl<T: Element> KernelParameter for GlobalMemory<T, $marker> {
            fn declare(name: &str, shape: &[&str], at: Location) -> Self {
                let kind = ParameterKind::Memory {
                    element: T::SCALAR,
                    access: $access,
                    shape: shape.iter().map(ToString::to_string).collect(),
                };
                Self {
                    parameter: declare(name, kind, at),
                    marker: PhantomData,
                }
            }
        }
        impl<T: Element> FunctionArgument for GlobalMemory<T, $marker> {
            fn kind(&self) -> FunctionParameterKind {
                if $access == crate::ir::Access::Read {
                    FunctionParameterKind::GlobalRead(T::SCALAR)
                } else {
                    FunctionParameterKind::GlobalWrite(T::SCALAR)
                }
            }
            fn argument(&self, _at: Location) -> Argument {
                Argument::Memory(self.memory())
            }
            fn parameter(&self, index: u32, _at: Location) -> Self {
                Self {
                    parameter: index,
                    marker: PhantomData,
                }
            }
        }
    };
}
memory_parameter!(ReadOnly, crate::ir::Access::Read);
memory_parameter!(WriteOnly, crate::ir::Access::Write);
memory_parameter!(ReadAndWrite, crate::ir::Access::ReadWrite);

impl<T: DeviceType> FunctionArgument for Val<T> {
    fn kind(&self) -> FunctionParameterKind {
        FunctionParameterKind::Value(T::TYPE)
    }
    fn argument(&self, at: Location) -> Argument {
        Argument::Value(self.id(at))
    }
    fn parameter(&self, index: u32, at: Location) -> Self {
        Val::record(Op::Parameter(index), at)
    }
}

impl<T: Element, A> GlobalMemory<T, A> {
    fn memory(&self) -> Memory {
        Memory::Parameter(self.parameter)
    }

    /// Remembers the run-time shape for tuple indices.
    pub fn set_shape(&self, extents: Vec<Extent>) {
        with(|r| r.shapes.insert(self.parameter, extents));
    }

    /// Row-major element index of a tuple.
    fn flatten(&self, index: &[ValueId], at: Location) -> ValueId {
        let shape = with(|r| {
            // shapes belong to the kernel's own parameters
            if r.frames.len() == 1 {
                r.shapes.get(&self.parameter).cloned()
            } else {
                None
            }
        });
        let shape = match shape {
            Some(shape) if shape.len() + 1 == index.len() => shape,
            other => {
                let has = other.map_or("no shape".to_string(), |s| format!("{} dimensions", s.len() + 1));
                error(
                    at,
                    format!("{} indices into a buffer declared with {has}", index.len()),
                    "a tuple with one index per dimension of the parameter's `#[shape(…)]`, or one flat index",
                    "write `#[shape(rows, cols)]` in front of the kernel's parameter",
                );
                return index[0];
            }
        };
        let mut flat = Val::<u32>::of_value(index[0]);
        for (extent, part) in shape.iter().zip(&index[1..]) {
            let extent = match extent {
                Extent::Value(id) => Val::<u32>::of_value(*id),
                Extent::Known(size) => (*size).into_val(1, at),
            };
            let product = Val::<u32>::record(Op::Binary(BinaryOp::Mul, flat.id(at), extent.id(at)), at);
            flat = Val::record(Op::Binary(BinaryOp::Add, product.id(at), *part), at);
        }
        flat.id(at)
    }
}

impl<T: Element, A: Readable> GlobalMemory<T, A> {
    /// Reads a value of another type that starts at element `index`, e.g. 16 bytes as `Pack<u32, 4>`, or an
    /// f16 inside a buffer of bytes. The address must be a multiple of the value's size.
    #[track_caller]
    pub fn load_as<V: super::Access>(self, index: impl IntoIndex) -> Val<V::Value> {
        let at = Location::caller();
        let index = index.index(at);
        load(self.memory(), index, V::ACCESS, at)
    }
}

impl<T: Element, A: Writable> GlobalMemory<T, A> {
    /// Stores a value of another type from element `index` on. The address must be a multiple of its size.
    #[track_caller]
    pub fn store_as<V: super::Access>(self, index: impl IntoIndex, value: Val<V::Value>) {
        let at = Location::caller();
        let value = value.settled(at);
        let index = index.index(at);
        store(self.memory(), index, V::ACCESS, value, at);
    }
}

pub(crate) fn global_place<T: Element, A>(global: GlobalMemory<T, A>, index: ValueId) -> Place {
    Place {
        memory: global.memory(),
        index,
        access: Type::Vector(Scalar::U32, 4),
    }
}

impl<T: Element, A: Readable, I: IntoIndex> Indexed<I> for GlobalMemory<T, A> {
    type Item = Val<T::Value>;
    #[track_caller]
    fn read_at(&self, index: I) -> Self::Item {
        let at = Location::caller();
        let index = index.index(at);
        load(self.memory(), index, Type::Scalar(T::SCALAR), at)
    }
}
impl<T: Element, A: Writable, I: IntoIndex, V: IntoVal<T::Value>> IndexStore<I, V> for GlobalMemory<T, A> {
    #[track_caller]
    fn store_at(&self, index: I, value: V) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let index = index.index(at);
        store(self.memory(), index, Type::Scalar(T::SCALAR), value, at);
    }
}

macro_rules! tuple_index {
    ($($name:ident $part:tt),*) => {
        impl<T: Element, A: Readable, $($name: IntoIndex),*> Indexed<($($name,)*)> for GlobalMemory<T, A> {
            type Item = Val<T::Value>;
            #[track_caller]
            fn read_at(&self, index: ($($name,)*)) -> Self::Item {
                let at = Location::caller();
                let flat = self.flatten(&[$(index.$part.index(at)),*], at);
                load(self.memory(), flat, Type::Scalar(T::SCALAR), at)
            }
        }
        impl<T: Element, A: Writable, V: IntoVal<T::Value>, $($name: IntoIndex),*> IndexStore<($($name,)*), V> for GlobalMemory<T, A> {
            #[track_caller]
            fn store_at(&self, index: ($($name,)*), value: V) {
                let at = Location::caller();
                let value = value.into_val(1, at).settled(at);
                let flat = self.flatten(&[$(index.$part.index(at)),*], at);
                store(self.memory(), flat, Type::Scalar(T::SCALAR), value, at);
            }
        }
    };
}
tuple_index!(I0 0, I1 1);
tuple_index!(I0 0, I1 1, I2 2);
