//! One matrix instruction of the target, with operands that the author fills word by word.
//!
//! [`OperandA`](super::OperandA) and its kin load 16×16 tiles and hide which lane holds what. Where values come packed
//! from memory in an order of their own, a kernel makes operands in registers instead: each lane supplies whole words of
//! some rows ([`operand_row`]) and of one column ([`operand_column`]), a part of the values along k
//! ([`operand_part`]). What stands where along k is up to the author, as long as both operands agree. How many rows,
//! parts and words there are is asked of the target: [`FragmentLayout`].

use std::marker::PhantomData;

use super::fragment::Element16;
use super::registers::{RegisterIndex, Registers};
use super::*;
use crate::record::{target, with};
use crate::target::FragmentLayout;
use crate::value::{IntoVal, Named, Numeric, lane_index, unrolled};

/// Elements that a matrix instruction takes: f16, bf16, i8, and u8 on the left of i8.
#[diagnostic::on_unimplemented(
    message = "no matrix instruction takes `{Self}`",
    label = "not an element of matrix instructions",
    note = "supported: f16, bf16, i8, and u8 on the left of i8"
)]
pub trait MatrixElement: Element + Named {
    /// What products are summed in.
    type Sum: Numeric;
    /// What stands on the right where this stands on the left.
    type Right: MatrixElement;
}
macro_rules! matrix_elements {
    ($($element:ty, $sum:ty, $right:ty;)*) => {$(
        impl MatrixElement for $element {
            type Sum = $sum;
            type Right = $right;
        }
    )*};
}
matrix_elements! {
    half::f16, f32, half::f16;
    half::bf16, f32, half::bf16;
    i8, i32, i8;
    u8, i32, i8;
}

fn layout() -> FragmentLayout {
    target().fragments
}

/// The row of a left operand that is row `slot` (below [`FragmentLayout::lane_rows`]) of this lane.
#[track_caller]
pub fn operand_row(slot: usize) -> Val<u32> {
    let lane = lane_index();
    match (layout(), slot) {
        (FragmentLayout::PairOfM16N8K16, 0) => lane / 4,
        (FragmentLayout::PairOfM16N8K16, _) => lane / 4 + 8,
        (FragmentLayout::Wmma16x16x16, _) => lane % 16,
    }
}

/// The column of a right operand of which this lane supplies a part.
#[track_caller]
pub fn operand_column() -> Val<u32> {
    let lane = lane_index();
    match layout() {
        FragmentLayout::PairOfM16N8K16 => lane / 4,
        FragmentLayout::Wmma16x16x16 => lane % 16,
    }
}

/// Which part along k this lane supplies, below [`FragmentLayout::k_parts`].
#[track_caller]
pub fn operand_part() -> Val<u32> {
    match layout() {
        FragmentLayout::PairOfM16N8K16 => lane_index() % 4,
        FragmentLayout::Wmma16x16x16 => Val::literal(Literal::U32(0), Location::caller()),
    }
}

macro_rules! operand {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<T: MatrixElement> {
            registers: Registers<u32>,
            marker: PhantomData<fn() -> T>,
        }
        impl<T: MatrixElement> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T: MatrixElement> Copy for $name<T> {}
        impl<T: MatrixElement> $name<T> {
            /// Words of a row or column that this lane supplies.
            pub fn words() -> usize {
                layout().words_per_row(T::SCALAR.bytes())
            }

            fn declare(count: usize, note: String, at: Location) -> Self {
                Self {
                    registers: Registers::declare(&[count], None, Some(note), at),
                    marker: PhantomData,
                }
            }

            pub(crate) fn rename(self, name: &str) {
                self.registers.rename(name);
            }
        }
    };
}
operand!(
    /// The left operand: 16 rows.
    RowOperand
);
operand!(
    /// The right operand: as many columns as one instruction has.
    ColumnOperand
);

impl<T: MatrixElement> RowOperand<T> {
    /// An operand whose words are still to be set.
    #[track_caller]
    pub fn undefined() -> Self {
        let note = format!("{}, this lane's part of 16 rows", T::SCALAR);
        Self::declare(layout().lane_rows() * Self::words(), note, Location::caller())
    }

    /// Sets word `word` of this lane's row `slot`.
    #[track_caller]
    pub fn set(self, slot: usize, word: usize, value: Val<u32>) {
        let at = Location::caller();
        let value = value.settled(at);
        let register = layout().row_register(slot, word);
        let index = RegisterIndex::from(register).id(self.registers.dims[0], at);
        self.registers.write(vec![index], value, at);
    }
}

impl<T: MatrixElement> ColumnOperand<T> {
    /// An operand whose words are still to be set.
    #[track_caller]
    pub fn undefined() -> Self {
        let note = format!("{}, this lane's part of a column", T::SCALAR);
        Self::declare(Self::words(), note, Location::caller())
    }

    /// Sets word `word` of this lane's column.
    #[track_caller]
    pub fn set(self, word: impl Into<RegisterIndex>, value: impl IntoVal<u32>) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let index = word.into().id(self.registers.dims[0], at);
        self.registers.write(vec![index], value, at);
    }
}

/// Sums of several instructions' products, `f32` or `i32`, in registers.
pub struct Products<S> {
    registers: Registers<S>,
    /// How many.
    pub count: usize,
}
impl<S> Clone for Products<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Products<S> {}

impl<S: Numeric> Products<S> {
    /// `count` products of zeros.
    #[track_caller]
    pub fn zeros(count: usize) -> Self {
        Self::starting(count, S::ZERO, Location::caller())
    }

    /// `count` products whose sums all start at `value`.
    #[track_caller]
    pub fn filled(count: usize, value: S) -> Self {
        Self::starting(count, value.literal(), Location::caller())
    }

    fn starting(count: usize, value: Literal, at: Location) -> Self {
        let plural = if count == 1 { "" } else { "s" };
        let note = format!("{count} product{plural} of 16 rows and {} columns", layout().columns());
        let dims = [count, layout().column_accumulators()];
        Self {
            registers: Registers::declare(&dims, Some(value), Some(note), at),
            count,
        }
    }

    pub(crate) fn rename(self, name: &str) {
        self.registers.rename(name);
    }

    /// Product number `index`: comptime, or the variable of an unrolled loop.
    #[track_caller]
    pub fn at(self, index: impl Into<RegisterIndex>) -> Product<S> {
        Product {
            registers: self.registers,
            index: index.into(),
            at: Location::caller(),
        }
    }

    /// Rows of the 16 that a lane holds sums of.
    pub fn lane_rows() -> usize {
        layout().rows_per_lane()
    }

    /// Columns that a lane holds sums of.
    pub fn lane_columns() -> usize {
        layout().column_accumulators() / layout().rows_per_lane()
    }

    /// The row that is row `slot` of this lane, below [`Self::lane_rows`]: comptime, or the variable of an unrolled loop.
    #[track_caller]
    pub fn row(slot: impl Into<RegisterIndex>) -> Val<u32> {
        let lane = lane_index();
        match layout() {
            FragmentLayout::PairOfM16N8K16 => strided_from(lane / 4, slot.into(), 8),
            FragmentLayout::Wmma16x16x16 => strided_from(lane / 16, slot.into(), 2),
        }
    }

    /// The column that is column `slot` of this lane, below [`Self::lane_columns`], likewise.
    #[track_caller]
    pub fn column(slot: impl Into<RegisterIndex>) -> Val<u32> {
        let lane = lane_index();
        match layout() {
            FragmentLayout::PairOfM16N8K16 => strided_from(lane % 4 * 2, slot.into(), 1),
            FragmentLayout::Wmma16x16x16 => lane % 16,
        }
    }
}

/// `first + slot * stride`, without what adds nothing.
#[track_caller]
fn strided_from(first: Val<u32>, slot: RegisterIndex, stride: usize) -> Val<u32> {
    match slot {
        RegisterIndex::Known(0) => first,
        RegisterIndex::Known(slot) => first + slot * stride,
        RegisterIndex::Value(slot) if stride == 1 => first + slot,
        RegisterIndex::Value(slot) => first + slot * stride,
    }
}

/// One instruction's sums.
pub struct Product<S> {
    registers: Registers<S>,
    index: RegisterIndex,
    at: Location,
}
impl<S> Clone for Product<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Product<S> {}

impl<S: Numeric> Product<S> {
    fn prefix(self) -> ValueId {
        self.index.id(self.registers.dims[0], self.at)
    }

    fn element(self, row: RegisterIndex, column: RegisterIndex, at: Location) -> ValueId {
        let columns = Products::<S>::lane_columns();
        let element = match (row, column) {
            (RegisterIndex::Known(row), RegisterIndex::Known(column)) => RegisterIndex::Known(row * columns + column),
            (row, column) => {
                let row = Val::<u32>::of_value(row.id(Products::<S>::lane_rows(), at));
                let column = Val::<u32>::of_value(column.id(columns, at));
                RegisterIndex::Value(if columns == 1 { row } else { row * columns + column })
            }
        };
        element.id(self.registers.dims[1], at)
    }

    /// The sum at this lane's row `row` and column `column`: comptime, or variables of unrolled loops.
    #[track_caller]
    pub fn get(self, row: impl Into<RegisterIndex>, column: impl Into<RegisterIndex>) -> Val<S> {
        let at = Location::caller();
        let element = self.element(row.into(), column.into(), at);
        self.registers.read(vec![self.prefix(), element], at)
    }

    /// Replaces the sum at this lane's row `row` and column `column`.
    #[track_caller]
    pub fn set(self, row: impl Into<RegisterIndex>, column: impl Into<RegisterIndex>, value: impl IntoVal<S>) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let element = self.element(row.into(), column.into(), at);
        self.registers.write(vec![self.prefix(), element], value, at);
    }

    /// Runs `f` on every sum this lane holds.
    #[track_caller]
    pub fn each(self, f: impl FnOnce(Element16, Val<S>)) {
        let at = Location::caller();
        let lane = lane_index();
        let prefix = self.prefix();
        let mut f = Some(f);
        for element in unrolled(0..layout().column_accumulators()) {
            let _mark = crate::record::enter_loop();
            element.rename_place("element");
            let position = match layout() {
                FragmentLayout::PairOfM16N8K16 => Element16 {
                    row: (lane / 4 + element / 2 * 8).named("row", at),
                    column: (lane % 4 * 2 + element % 2).named("column", at),
                    slot: element / 2,
                },
                FragmentLayout::Wmma16x16x16 => Element16 {
                    row: (element * 2 + lane / 16).named("row", at),
                    column: (lane % 16).named("column", at),
                    slot: element,
                },
            };
            let value = self.registers.read(vec![prefix, element.id(at)], at);
            if let Some(f) = f.take() {
                f(position, value);
            }
        }
    }
}

/// `sums += rows · columns`, one instruction.
#[track_caller]
pub fn multiply<T: MatrixElement>(sums: Product<T::Sum>, rows: RowOperand<T>, columns: ColumnOperand<T::Right>) {
    let at = Location::caller();
    let whole = |registers: Registers<u32>| RegisterRef {
        registers: registers.id,
        index: Vec::new(),
    };
    let kind = StmtKind::Mma {
        accumulator: RegisterRef {
            registers: sums.registers.id,
            index: vec![sums.prefix()],
        },
        a: whole(rows.registers),
        b: whole(columns.registers),
        element: T::SCALAR,
        shape: MmaShape::Instruction,
    };
    with(|r| r.push(kind, at));
}
