//! Shared memory: arrays and two-dimensional tiles with a layout.

use std::marker::PhantomData;

use super::*;
use crate::record::{FunctionArgument, error, with};
use crate::value::{IntoIndex, IntoVal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Array(SharedId),
    Parameter(u32),
}

impl Space {
    fn memory(self) -> Memory {
        match self {
            Self::Array(id) => Memory::Shared(id),
            Self::Parameter(index) => Memory::Parameter(index),
        }
    }
}

/// An array in shared memory, one per block. Its contents are undefined at first.
pub struct Shared<T> {
    space: Space,
    len: usize,
    marker: PhantomData<fn() -> T>,
}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

impl<T: Element> Shared<T> {
    /// An array of `len` elements, aligned to 16 bytes.
    #[track_caller]
    pub fn new(len: usize) -> Self {
        Self::with_note(len, None, Location::caller())
    }

    pub(crate) fn with_note(len: usize, note: Option<String>, at: Location) -> Self {
        if len == 0 {
            error(
                at,
                "a shared array without elements",
                "1 element or more",
                "leave the array out, or check the comptime size",
            );
        }
        let id = with(|r| {
            let body = &mut r.frame().body;
            body.shared.push(crate::ir::Shared {
                name: "shared".to_string(),
                element: T::SCALAR,
                len: len.max(1),
                note,
                at,
            });
            SharedId(body.shared.len() as u32 - 1)
        });
        Self {
            space: Space::Array(id),
            len,
            marker: PhantomData,
        }
    }

    pub(crate) fn memory(self) -> Memory {
        self.space.memory()
    }

    pub(crate) fn rename(self, name: &str) {
        if let Space::Array(id) = self.space {
            with(|r| {
                let shared = &mut r.frame().body.shared[id.index()];
                if shared.name == "shared" {
                    shared.name = name.to_string();
                }
            });
        }
    }

    fn checked(self, index: impl IntoIndex, at: Location) -> ValueId {
        if let Some(known) = index.known()
            && known >= self.len
        {
            error(
                at,
                format!("index {known} into a shared array of {} elements", self.len),
                format!("0 to {}", self.len.saturating_sub(1)),
                "make the array larger or the index smaller",
            );
            return Val::<u32>::literal(Literal::U32(0), at).id(at);
        }
        index.index(at)
    }

    /// Reads a value of another type that starts at element `index`; see [`GlobalMemory::load_as`].
    #[track_caller]
    pub fn load_as<V: super::Access>(self, index: impl IntoIndex) -> Val<V::Value> {
        let at = Location::caller();
        let index = self.checked(index, at);
        load(self.space.memory(), index, V::ACCESS, at)
    }

    /// Stores a value of another type from element `index` on.
    #[track_caller]
    pub fn store_as<V: super::Access>(self, index: impl IntoIndex, value: Val<V::Value>) {
        let at = Location::caller();
        let value = value.settled(at);
        let index = self.checked(index, at);
        store(self.space.memory(), index, V::ACCESS, value, at);
    }

    pub(crate) fn place(self, index: ValueId, access: Type) -> Place {
        Place {
            memory: self.space.memory(),
            index,
            access,
        }
    }
}

impl<T: Element, I: IntoIndex> Indexed<I> for Shared<T> {
    type Item = Val<T::Value>;
    #[track_caller]
    fn read_at(&self, index: I) -> Self::Item {
        let at = Location::caller();
        let index = self.checked(index, at);
        load(self.space.memory(), index, Type::Scalar(T::SCALAR), at)
    }
}
impl<T: Element, I: IntoIndex, V: IntoVal<T::Value>> IndexStore<I, V> for Shared<T> {
    #[track_caller]
    fn store_at(&self, index: I, value: V) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let index = self.checked(index, at);
        store(self.space.memory(), index, Type::Scalar(T::SCALAR), value, at);
    }
}

impl<T: Element> FunctionArgument for Shared<T> {
    fn kind(&self) -> FunctionParameterKind {
        FunctionParameterKind::Shared(T::SCALAR)
    }
    fn argument(&self, _at: Location) -> Argument {
        Argument::Memory(self.space.memory())
    }
    fn parameter(&self, index: u32, _at: Location) -> Self {
        Self {
            space: Space::Parameter(index),
            ..*self
        }
    }
    fn variant(&self) -> String {
        self.len.to_string()
    }
}

/// How the rows of a shared tile lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileLayout {
    /// Row after row.
    Plain,
    /// Row after row, each followed by that many unused elements.
    Padded(usize),
    /// Row after row; the 16-byte chunks of a row are permuted by xor with the row number modulo 8, so that
    /// eight rows of one column fall into different banks.
    Swizzled,
}

/// A two-dimensional tile in shared memory.
pub struct SharedTile<T> {
    array: Shared<T>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How rows lie in memory.
    pub layout: TileLayout,
}
impl<T> Clone for SharedTile<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedTile<T> {}

impl<T: Element> SharedTile<T> {
    /// A tile of `rows` × `cols` elements. Swizzled rows must be whole multiples of 128 bytes.
    #[track_caller]
    pub fn new(rows: usize, cols: usize, layout: TileLayout) -> Self {
        let at = Location::caller();
        let row_bytes = cols * T::SCALAR.bytes();
        if layout == TileLayout::Swizzled && !row_bytes.is_multiple_of(128) {
            let nearest = row_bytes.next_multiple_of(128).max(128) / T::SCALAR.bytes();
            error(
                at,
                format!("a swizzled tile with rows of {cols} {} ({row_bytes} bytes)", T::SCALAR),
                "swizzled rows of whole multiples of 128 bytes (8 chunks of 16)",
                format!("{nearest} columns, or TileLayout::Padded({})", 16 / T::SCALAR.bytes()),
            );
        }
        if let TileLayout::Padded(by) = layout
            && !(by * T::SCALAR.bytes()).is_multiple_of(16)
        {
            error(
                at,
                format!("rows padded by {by} {} ({} bytes)", T::SCALAR, by * T::SCALAR.bytes()),
                "paddings of whole multiples of 16 bytes, so that vector accesses stay aligned",
                format!("TileLayout::Padded({})", 16 / T::SCALAR.bytes()),
            );
        }
        let stride = cols
            + match layout {
                TileLayout::Padded(by) => by,
                _ => 0,
            };
        let how = match layout {
            TileLayout::Plain => String::new(),
            TileLayout::Padded(by) => format!(", rows padded by {by}"),
            TileLayout::Swizzled => ", 16-byte chunks swizzled by row".to_string(),
        };
        let note = format!("[{rows}, {cols}]{how}");
        Self {
            array: Shared::with_note(rows * stride, Some(note), at),
            rows,
            cols,
            layout,
        }
    }

    pub(crate) fn rename(self, name: &str) {
        self.array.rename(name);
    }

    fn check_position(self, row: Option<usize>, col: Option<usize>, at: Location) {
        if row.is_some_and(|r| r >= self.rows) || col.is_some_and(|c| c >= self.cols) {
            let show = |x: Option<usize>| x.map_or("…".to_string(), |x| x.to_string());
            error(
                at,
                format!(
                    "position ({}, {}) in a shared tile of {} × {}",
                    show(row),
                    show(col),
                    self.rows,
                    self.cols
                ),
                format!(
                    "rows 0 to {}, columns 0 to {}",
                    self.rows.saturating_sub(1),
                    self.cols.saturating_sub(1)
                ),
                "make the tile larger or the position smaller",
            );
        }
    }

    /// Element index of a position.
    pub(crate) fn element_index(self, row: impl IntoIndex, col: impl IntoIndex, at: Location) -> ValueId {
        self.check_position(row.known(), col.known(), at);
        let chunk = 16 / T::SCALAR.bytes();
        let row: Val<u32> = Val::of_value(row.index(at));
        let col: Val<u32> = Val::of_value(col.index(at));
        let number = |n: usize| Val::<u32>::literal(Literal::U32(n as u32), at).id(at);
        match self.layout {
            TileLayout::Swizzled => crate::tile::swizzled_index(row, col, self.cols, chunk, at).id(at),
            TileLayout::Plain | TileLayout::Padded(_) => {
                let stride = match self.layout {
                    TileLayout::Padded(by) => self.cols + by,
                    _ => self.cols,
                };
                let start = Val::<u32>::record(Op::Binary(BinaryOp::Mul, row.id(at), number(stride)), at);
                Val::<u32>::record(Op::Binary(BinaryOp::Add, start.id(at), col.id(at)), at).id(at)
            }
        }
    }

    /// Reads a whole pack that starts at (row, col); `col` is a multiple of the pack's length.
    #[track_caller]
    pub fn load_as<V: super::Access>(self, row: impl IntoIndex, col: impl IntoIndex) -> Val<V::Value> {
        let at = Location::caller();
        let index = self.element_index(row, col, at);
        load(self.array.space.memory(), index, V::ACCESS, at)
    }

    /// Stores a whole pack from (row, col) on; `col` is a multiple of the pack's length.
    #[track_caller]
    pub fn store_as<V: super::Access>(self, row: impl IntoIndex, col: impl IntoIndex, value: Val<V::Value>) {
        let at = Location::caller();
        let value = value.settled(at);
        let index = self.element_index(row, col, at);
        store(self.array.space.memory(), index, V::ACCESS, value, at);
    }

    pub(crate) fn place(self, row: impl IntoIndex, col: impl IntoIndex, at: Location) -> Place {
        let index = self.element_index(row, col, at);
        self.array.place(index, Type::Vector(Scalar::U32, 4))
    }
}

impl<T: Element, R: IntoIndex, C: IntoIndex> Indexed<(R, C)> for SharedTile<T> {
    type Item = Val<T::Value>;
    #[track_caller]
    fn read_at(&self, (row, col): (R, C)) -> Self::Item {
        let at = Location::caller();
        let index = self.element_index(row, col, at);
        load(self.array.space.memory(), index, Type::Scalar(T::SCALAR), at)
    }
}
impl<T: Element, R: IntoIndex, C: IntoIndex, V: IntoVal<T::Value>> IndexStore<(R, C), V> for SharedTile<T> {
    #[track_caller]
    fn store_at(&self, (row, col): (R, C), value: V) {
        let at = Location::caller();
        let value = value.into_val(1, at).settled(at);
        let index = self.element_index(row, col, at);
        store(self.array.space.memory(), index, Type::Scalar(T::SCALAR), value, at);
    }
}

impl<T: Element> FunctionArgument for SharedTile<T> {
    fn kind(&self) -> FunctionParameterKind {
        self.array.kind()
    }
    fn argument(&self, at: Location) -> Argument {
        self.array.argument(at)
    }
    fn parameter(&self, index: u32, at: Location) -> Self {
        Self {
            array: self.array.parameter(index, at),
            ..*self
        }
    }
    fn variant(&self) -> String {
        format!("{}x{}{:?}", self.rows, self.cols, self.layout)
    }
}

/// Starts copying 16 bytes from `from[index]` to `to[(row, col)]`; finished when [`async_wait`] says so.
#[track_caller]
pub fn async_copy<T: Element, S: Element, A: super::Readable>(
    to: SharedTile<T>,
    (row, col): (impl IntoIndex, impl IntoIndex),
    from: GlobalMemory<S, A>,
    index: impl IntoIndex,
) {
    let at = Location::caller();
    let to = to.place(row, col, at);
    let from = super::global::global_place(from, index.index(at));
    with(|r| r.push(StmtKind::AsyncCopy { to, from }, at));
}

/// Closes the group of copies started since the last commit.
#[track_caller]
pub fn async_commit() {
    crate::record::statement(StmtKind::AsyncCommit);
}

/// Waits until at most `pending` of the latest groups are unfinished. Other threads see the data after a barrier.
#[track_caller]
pub fn async_wait(pending: usize) {
    crate::record::statement(StmtKind::AsyncWait {
        pending: pending as u32,
    });
}
