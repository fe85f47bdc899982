//! Memory a kernel sees: global buffers, shared arrays and tiles, register arrays.
//!
//! Each space is a type of its own, so that `rustc` keeps them apart: a store into an [`In`] or a register tile
//! where a shared tile is needed does not compile.

mod copies;
mod fragment;
mod global;
mod instruction;
mod registers;
mod shared;

pub use copies::CopyRing;
pub use fragment::{Accumulator, Accumulators, Element16, HalfElement, OperandA, OperandB, RowSums, mma};
pub use global::{
    Extent, GlobalMemory, In, InOut, KernelParameter, Out, ReadAndWrite, ReadOnly, Readable, Writable, WriteOnly,
};
pub use instruction::{
    ColumnOperand, MatrixElement, Product, Products, RowOperand, multiply, operand_column, operand_part, operand_row,
};
pub use registers::{RegisterIndex, Registers};
pub use shared::{Shared, SharedTile, TileLayout, async_commit, async_copy, async_wait};

use crate::ir::*;
use crate::record::with;
use crate::value::{DeviceType, Element, Pack, Val};

/// `memory[index]` as a value.
#[diagnostic::on_unimplemented(
    message = "a `{Self}` cannot be read at a `{I}`",
    label = "not readable with this index",
    note = "supported: `In<T>` and `InOut<T>` with an index or a tuple of its shape, `Shared<T>` with an index, `SharedTile<T>` with (row, column), `Registers<T>` with an index or (index, index), and Rust arrays with a comptime index; `Out<T>` is write-only, declare the parameter as `InOut<T>` to read it"
)]
pub trait Indexed<I> {
    /// What is read.
    type Item;
    /// Reads at the caller's line.
    #[track_caller]
    fn read_at(&self, index: I) -> Self::Item;
}

/// `memory[index] = value`.
#[diagnostic::on_unimplemented(
    message = "a `{V}` cannot be stored to a `{Self}` at a `{I}`",
    label = "not writable like this",
    note = "supported: `Out<T>`, `InOut<T>`, `Shared<T>`, `SharedTile<T>` and `Registers<T>` with values of their element type (convert with `.to::<…>()`); `In<T>` is read-only, declare the parameter as `Out<T>` or `InOut<T>`"
)]
pub trait IndexStore<I, V> {
    /// Stores at the caller's line.
    #[track_caller]
    fn store_at(&self, index: I, value: V);
}

/// Reads an element of `access` type and wraps it.
pub(crate) fn load<T: DeviceType>(memory: Memory, index: ValueId, access: Type, at: Location) -> Val<T> {
    Val::record(Op::Load(Place { memory, index, access }), at)
}

pub(crate) fn store<T: DeviceType>(memory: Memory, index: ValueId, access: Type, value: Val<T>, at: Location) {
    let value = value.id(at);
    let place = Place { memory, index, access };
    with(|r| r.push(StmtKind::Store { place, value }, at));
}

/// What a typed access at an element offset may read or write: an element, or a whole [`Pack`].
#[diagnostic::on_unimplemented(
    message = "memory cannot be accessed as `{Self}`",
    label = "not an access type",
    note = "supported: element types (i8 … f32, f16, bf16) and packs of 8 or 16 bytes such as `Pack<u32, 4>`"
)]
pub trait Access {
    /// What lies in memory.
    const ACCESS: Type;
    /// What a load gives.
    type Value: DeviceType;
}

macro_rules! element_access {
    ($($t:ty),*) => {$(
        impl Access for $t {
            const ACCESS: Type = Type::Scalar(<$t as Element>::SCALAR);
            type Value = <$t as Element>::Value;
        }
    )*};
}
element_access!(i8, u8, i16, u16, i32, u32, u64, half::f16, half::bf16, f32);

impl<T: Copy + std::fmt::Debug + 'static, const N: usize> Access for Pack<T, N>
where
    Pack<T, N>: DeviceType,
{
    const ACCESS: Type = <Pack<T, N> as DeviceType>::TYPE;
    type Value = Pack<T, N>;
}

// Rust containers of handles: comptime indices only.
macro_rules! containers {
    ($([$($g:tt)*] $t:ty;)*) => {$(
        impl<$($g)*> Indexed<usize> for $t {
            type Item = T;
            #[track_caller]
            fn read_at(&self, index: usize) -> T {
                self[index].clone()
            }
        }
    )*};
}
containers! {
    [T: Clone, const N: usize] [T; N];
    [T: Clone] Vec<T>;
    [T: Clone] [T];
}

macro_rules! containers_of_values {
    ($([$($g:tt)*] $t:ty;)*) => {$(
        impl<V: crate::value::IntoVal<T>, $($g)*> IndexStore<usize, V> for $t {
            #[track_caller]
            fn store_at(&self, index: usize, value: V) {
                let at = Location::caller();
                self[index].assign_to(value.into_val(1, at), at);
            }
        }
    )*};
}
containers_of_values! {
    [T: DeviceType, const N: usize] [Val<T>; N];
    [T: DeviceType] Vec<Val<T>>;
    [T: DeviceType] [Val<T>];
}

impl<I, C: Indexed<I> + ?Sized> Indexed<I> for &C {
    type Item = C::Item;
    #[track_caller]
    fn read_at(&self, index: I) -> C::Item {
        (**self).read_at(index)
    }
}
impl<I, V, C: IndexStore<I, V> + ?Sized> IndexStore<I, V> for &C {
    #[track_caller]
    fn store_at(&self, index: I, value: V) {
        (**self).store_at(index, value);
    }
}
