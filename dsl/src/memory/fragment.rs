//! 16×16×16 matrix fragments. They own the lane layout of the target: authors never see which lane holds what.
//!
//! A product is `C[16 rows, 16 columns] += A[16 rows, 16 k] · B[16 k, 16 columns]` with 16-bit operands and an
//! `f32` accumulator, by all 32 lanes of a warp together. Layouts: [`FragmentLayout`].

use std::marker::PhantomData;

use super::registers::{RegisterIndex, Registers};
use super::shared::SharedTile;
use super::*;
use crate::record::{target, with};
use crate::target::FragmentLayout;
use crate::value::{IntoVal, Named, thread_index, unrolled};

/// Elements the matrix units take: f16 and bf16.
#[diagnostic::on_unimplemented(
    message = "matrix fragments cannot hold `{Self}`",
    label = "not a 16-bit float",
    note = "supported: f16, bf16; convert while storing to the shared tile"
)]
pub trait HalfElement: Element + Named {}
impl HalfElement for half::f16 {}
impl HalfElement for half::bf16 {}

macro_rules! operand {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        pub struct $name<T> {
            registers: Registers<u32>,
            marker: PhantomData<fn() -> T>,
        }
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $name<T> {}
        impl<T: HalfElement> $name<T> {
            fn declare(at: Location) -> (Self, FragmentLayout) {
                let layout = target().fragments;
                let note = format!("16x16 {}, {}", T::SCALAR, $what);
                let registers = Registers::declare(&[layout.operand_registers()], None, Some(note), at);
                let operand = Self {
                    registers,
                    marker: PhantomData,
                };
                (operand, layout)
            }
            pub(crate) fn rename(self, name: &str) {
                self.registers.rename(name);
            }
        }
    };
}
operand!(
    /// The left operand: 16 rows × 16 k.
    OperandA,
    "left operand"
);
operand!(
    /// The right operand: 16 k × 16 columns.
    OperandB,
    "right operand"
);

/// `base + offset`, without the addition where the base is a plain zero.
fn from(base: Val<u32>, offset: Val<u32>, at: Location) -> Val<u32> {
    let id = base.id(at);
    let is_zero = with(|r| matches!(r.frame().body.value(id).op, Op::Literal(Literal::U32(0))));
    if is_zero { offset } else { base + offset }
}

/// `ldmatrix` of this lane's row.
fn load_matrix(
    registers: Registers<u32>,
    tile: SharedTile<impl Element>,
    row: Val<u32>,
    col: Val<u32>,
    transposed: bool,
    at: Location,
) {
    let from = tile.place(row, col, at);
    let to = RegisterRef {
        registers: registers.id,
        index: Vec::new(),
    };
    with(|r| {
        r.push(StmtKind::LoadMatrix { to, from, transposed }, at);
    });
}

/// 16 consecutive values of one row, as two 16-byte loads (gfx11 operands).
fn load_row(registers: Registers<u32>, tile: SharedTile<impl Element>, row: Val<u32>, col: Val<u32>, at: Location) {
    let (row, col) = (row.by_value("row"), col.by_value("k"));
    for part in unrolled(0..2) {
        let _mark = crate::record::enter_loop();
        part.rename_place("part");
        let place = tile.place(row, from(col, part * 8, at), at);
        let chunk: Val<Pack<u32, 4>> = load(place.memory, place.index, Type::Vector(Scalar::U32, 4), at);
        let chunk = chunk.named("chunk", at);
        for word in 0..4 {
            let index = part * 4;
            let index = if word == 0 { index } else { index + word };
            registers.write(vec![index.id(at)], chunk.component(word), at);
        }
    }
}

impl<T: HalfElement> OperandA<T> {
    /// Rows `row..row+16`, columns (k) `col..col+16` of a tile.
    #[track_caller]
    pub fn load(tile: SharedTile<T>, row: impl IntoVal<u32>, col: impl IntoVal<u32>) -> Self {
        let at = Location::caller();
        let (row, col) = (row.into_val(1, at).settled(at), col.into_val(1, at).settled(at));
        let (operand, layout) = Self::declare(at);
        let thread = thread_index();
        match layout {
            FragmentLayout::PairOfM16N8K16 => {
                let (row, col) = (from(row, thread % 16, at), from(col, thread / 16 % 2 * 8, at));
                load_matrix(operand.registers, tile, row, col, false, at);
            }
            FragmentLayout::Wmma16x16x16 => load_row(operand.registers, tile, from(row, thread % 16, at), col, at),
        }
        operand
    }
}

impl<T: HalfElement> OperandB<T> {
    /// From a tile that stores B transposed, `tile[column][k]` (keys of an attention, weights `[out, in]`):
    /// columns `row..row+16` of B, k `col..col+16`.
    #[track_caller]
    pub fn load_transposed(tile: SharedTile<T>, row: impl IntoVal<u32>, col: impl IntoVal<u32>) -> Self {
        let at = Location::caller();
        let (row, col) = (row.into_val(1, at).settled(at), col.into_val(1, at).settled(at));
        let (operand, layout) = Self::declare(at);
        let thread = thread_index();
        match layout {
            FragmentLayout::PairOfM16N8K16 => {
                let (row, col) = (
                    from(row, thread % 8 + thread / 16 % 2 * 8, at),
                    from(col, thread / 8 % 2 * 8, at),
                );
                load_matrix(operand.registers, tile, row, col, false, at);
            }
            FragmentLayout::Wmma16x16x16 => load_row(operand.registers, tile, from(row, thread % 16, at), col, at),
        }
        operand
    }

    /// From a tile that stores B as it is, `tile[k][column]` (values of an attention): k `row..row+16`,
    /// columns `col..col+16`.
    #[track_caller]
    pub fn load(tile: SharedTile<T>, row: impl IntoVal<u32>, col: impl IntoVal<u32>) -> Self {
        let at = Location::caller();
        let (row, col) = (row.into_val(1, at).settled(at), col.into_val(1, at).settled(at));
        let (operand, layout) = Self::declare(at);
        let thread = thread_index();
        match layout {
            FragmentLayout::PairOfM16N8K16 => {
                let (row, col) = (from(row, thread % 16, at), from(col, thread / 16 % 2 * 8, at));
                load_matrix(operand.registers, tile, row, col, true, at);
            }
            FragmentLayout::Wmma16x16x16 => {
                // no transposing load there: two values of a column per register
                let col = from(col, thread % 16, at).named("column", at);
                for pair in unrolled(0..layout.operand_registers()) {
                    let _mark = crate::record::enter_loop();
                    pair.rename_place("pair");
                    let bits = |k: Val<u32>| {
                        let index = tile.element_index(k, col, at);
                        let memory = tile.place(k, col, at).memory;
                        load::<u32>(memory, index, Type::Scalar(Scalar::U16), at)
                    };
                    let k = (row + pair * 2).named("k", at);
                    let low = bits(k);
                    let high = bits(k + 1);
                    operand.registers.write(vec![pair.id(at)], low | high << 16, at);
                }
            }
        }
        operand
    }
}

/// Several 16×16 accumulators of f32, in registers.
#[derive(Clone, Copy)]
pub struct Accumulators {
    registers: Registers<f32>,
    /// How many.
    pub count: usize,
}

impl Accumulators {
    /// `count` accumulators of zeros.
    #[track_caller]
    pub fn zeros(count: usize) -> Self {
        let at = Location::caller();
        let note = format!("{count} accumulator{} of 16x16 f32", if count == 1 { "" } else { "s" });
        let dims = [count, FragmentLayout::ACCUMULATOR_REGISTERS];
        Self {
            registers: Registers::declare(&dims, Some(Literal::F32(0.0)), Some(note), at),
            count,
        }
    }

    pub(crate) fn rename(self, name: &str) {
        self.registers.rename(name);
    }

    /// Accumulator number `index`: comptime, or the variable of an unrolled loop.
    #[track_caller]
    pub fn at(self, index: impl Into<RegisterIndex>) -> Accumulator {
        Accumulator {
            registers: self.registers,
            index: index.into(),
            at: Location::caller(),
        }
    }
}

/// One 16×16 accumulator.
#[derive(Clone, Copy)]
pub struct Accumulator {
    registers: Registers<f32>,
    index: RegisterIndex,
    at: Location,
}

/// One element of an accumulator as its lane sees it.
#[derive(Clone, Copy)]
pub struct Element16 {
    /// Row in the 16×16 tile.
    pub row: Val<u32>,
    /// Column in the 16×16 tile.
    pub column: Val<u32>,
    /// Which of the lane's rows this is: the index into a [`RowSums`].
    pub slot: Val<u32>,
}

impl Accumulator {
    fn prefix(self) -> ValueId {
        self.index.id(self.registers.dims[0], self.at)
    }

    /// Runs `f` on every element this lane holds and stores what it returns.
    #[track_caller]
    pub fn update(self, f: impl FnOnce(Element16, Val<f32>) -> Val<f32>) {
        self.walk(Location::caller(), |element, value| Some(f(element, value)));
    }

    /// Runs `f` on every element this lane holds.
    #[track_caller]
    pub fn each(self, f: impl FnOnce(Element16, Val<f32>)) {
        self.walk(Location::caller(), |element, value| {
            f(element, value);
            None
        });
    }

    fn walk(self, at: Location, f: impl FnOnce(Element16, Val<f32>) -> Option<Val<f32>>) {
        let layout = target().fragments;
        let thread = thread_index();
        let prefix = self.prefix();
        let mut f = Some(f);
        for element in unrolled(0..FragmentLayout::ACCUMULATOR_REGISTERS) {
            let _mark = crate::record::enter_loop();
            element.rename_place("element");
            let position = match layout {
                FragmentLayout::PairOfM16N8K16 => Element16 {
                    row: (thread / 4 % 8 + element / 2 % 2 * 8).named("row", at),
                    column: (thread % 4 * 2 + element % 2 + element / 4 * 8).named("column", at),
                    slot: element / 2 % 2,
                },
                FragmentLayout::Wmma16x16x16 => Element16 {
                    row: (element * 2 + thread / 16 % 2).named("row", at),
                    column: (thread % 16).named("column", at),
                    slot: element,
                },
            };
            let index = vec![prefix, element.id(at)];
            let value = self.registers.read(index.clone(), at);
            if let Some(f) = f.take()
                && let Some(new) = f(position, value)
            {
                self.registers.write(index, new, at);
            }
        }
    }
}

/// One number per accumulator row, spread over the lanes like the rows are.
#[derive(Clone, Copy)]
pub struct RowSums {
    registers: Registers<f32>,
}

impl RowSums {
    /// `value` for every row.
    #[track_caller]
    pub fn filled(value: f32) -> Self {
        let at = Location::caller();
        let slots = target().fragments.rows_per_lane();
        let note = "one per accumulator row of this lane".to_string();
        Self {
            registers: Registers::declare(&[slots], Some(Literal::F32(value)), Some(note), at),
        }
    }

    pub(crate) fn rename(self, name: &str) {
        self.registers.rename(name);
    }

    /// The number of the row that `slot` names.
    #[track_caller]
    pub fn get(self, slot: Val<u32>) -> Val<f32> {
        let at = Location::caller();
        self.registers.read(vec![slot.id(at)], at)
    }

    /// Replaces the number of the row that `slot` names.
    #[track_caller]
    pub fn set(self, slot: Val<u32>, value: Val<f32>) {
        let at = Location::caller();
        self.registers.write(vec![slot.id(at)], value, at);
    }

    /// Runs `f` for every row of this lane: its slot, and its row in the 16×16 tile.
    #[track_caller]
    pub fn each(self, f: impl FnOnce(Val<u32>, Val<u32>)) {
        let at = Location::caller();
        let layout = target().fragments;
        let thread = thread_index();
        let mut f = Some(f);
        for slot in unrolled(0..layout.rows_per_lane()) {
            let _mark = crate::record::enter_loop();
            slot.rename_place("slot");
            let row = match layout {
                FragmentLayout::PairOfM16N8K16 => thread / 4 % 8 + slot * 8,
                FragmentLayout::Wmma16x16x16 => slot * 2 + thread / 16 % 2,
            };
            let row = row.named("row", at);
            if let Some(f) = f.take() {
                f(slot, row);
            }
        }
    }

    /// Folds over the lanes that share a row: every one of them holds the row's total after it.
    #[track_caller]
    pub fn sum_over_lanes(self) {
        let at = Location::caller();
        self.fold(ReduceOp::Sum, at);
    }

    /// The row's largest value, on every lane that shares the row.
    #[track_caller]
    pub fn max_over_lanes(self) {
        let at = Location::caller();
        self.fold(ReduceOp::Max, at);
    }

    fn fold(self, op: ReduceOp, at: Location) {
        let width = target().fragments.lanes_per_row() as u32;
        let slots = self.registers.dims[0];
        for slot in unrolled(0..slots) {
            let _mark = crate::record::enter_loop();
            slot.rename_place("slot");
            let index = vec![slot.id(at)];
            let value = self.registers.read(index.clone(), at).id(at);
            let folded = Val::record(Op::WarpReduce { op, value, width }, at);
            self.registers.write(index, folded, at);
        }
    }
}

/// `accumulator += a · b`.
#[track_caller]
pub fn mma<T: HalfElement>(accumulator: Accumulator, a: OperandA<T>, b: OperandB<T>) {
    let at = Location::caller();
    let whole = |registers: Registers<u32>| RegisterRef {
        registers: registers.id,
        index: Vec::new(),
    };
    let kind = StmtKind::Mma {
        accumulator: RegisterRef {
            registers: accumulator.registers.id,
            index: vec![accumulator.prefix()],
        },
        a: whole(a.registers),
        b: whole(b.registers),
        element: T::SCALAR,
        shape: MmaShape::Square,
    };
    with(|r| r.push(kind, at));
}
