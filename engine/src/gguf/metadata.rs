//! Metadata: keys and typed values in the order of the file.
//!
//! Values stay where they are in the file. Only the places of the strings of an array are kept, so a vocabulary of a
//! quarter of a million tokens costs one pass over its lengths.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{Error, ErrorKind, a};
use super::read::Cursor;
use super::storage::Storage;
use super::types::ValueType;

/// Arrays in arrays are legal in GGUF and unused in models.
const DEEPEST_ARRAY: usize = 4;

/// Key, value type and the smallest value: what an entry takes at least.
const SMALLEST_ENTRY: usize = 8 + 4 + 1;

/// All key/value pairs of a file, in its order. Cheap to clone; outlives the [`File`](super::File).
#[derive(Clone, Debug)]
pub struct Metadata {
    storage: Storage,
    entries: std::sync::Arc<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    list: Vec<(Box<str>, Raw)>,
    places: HashMap<Box<str>, usize>,
}

/// A value as places in the file.
#[derive(Debug)]
enum Raw {
    Scalar(ValueType, usize),
    String(Range<usize>),
    Array(RawArray),
}

#[derive(Debug)]
struct RawArray {
    kind: ValueType,
    count: usize,
    /// The elements, without the count in front.
    bytes: Range<usize>,
    /// Where each string starts, in the file. Its length is the u64 in front of it.
    starts: Vec<usize>,
}

/// A metadata value.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Usually UTF-8.
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata values.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    file: &'a [u8],
    raw: &'a RawArray,
}

/// The strings of an array, in order. They may be any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    file: &'a [u8],
    starts: &'a [usize],
}

/// A key with its value: typed access whose errors name the key.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    key: &'a str,
    value: Value<'a>,
    storage: &'a Storage,
}

impl Metadata {
    /// Reads `count` entries.
    pub(super) fn parse(cursor: &mut Cursor<'_>, count: usize, storage: &Storage) -> Result<Self, ErrorKind> {
        let mut entries = Entries::default();
        for index in 0..count {
            let at = cursor.at();
            let key = cursor.string(format_args!("metadata key {index}"))?;
            let key = str::from_utf8(key).map_err(|_| ErrorKind::Name {
                what: "metadata key",
                at,
            })?;
            let raw = Raw::parse(cursor, key)?;
            if entries.places.insert(key.into(), entries.list.len()).is_some() {
                return Err(ErrorKind::DuplicateKey { key: key.into(), at });
            }
            entries.list.push((key.into(), raw));
        }
        Ok(Self {
            storage: storage.clone(),
            entries: entries.into(),
        })
    }

    pub(super) fn count(cursor: &mut Cursor<'_>) -> Result<usize, ErrorKind> {
        cursor.count(SMALLEST_ENTRY, format_args!("the number of metadata keys"))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.list.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.list.is_empty()
    }

    fn field(&self, index: usize) -> Field<'_> {
        let (key, raw) = &self.entries.list[index];
        Field {
            key,
            value: raw.value(self.storage.bytes()),
            storage: &self.storage,
        }
    }

    /// All fields in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        (0..self.len()).map(|index| self.field(index))
    }

    /// The field of a key.
    pub fn get(&self, key: &str) -> Option<Field<'_>> {
        self.entries.places.get(key).map(|&index| self.field(index))
    }

    /// The field of a key that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn need(&self, key: &str) -> Result<Field<'_>, Error> {
        self.get(key)
            .ok_or_else(|| self.storage.error(ErrorKind::MissingKey(key.into())))
    }

    /// An integer of any width that fits u32. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.get(key).map(|field| field.u32()).transpose()
    }

    /// An integer of any width that fits u64. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.get(key).map(|field| field.u64()).transpose()
    }

    /// A float of either width. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.get(key).map(|field| field.f32()).transpose()
    }

    /// A bool. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.get(key).map(|field| field.bool()).transpose()
    }

    /// A text. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type or not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.get(key).map(|field| field.str()).transpose()
    }

    /// An array of strings. None when the key is missing.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>, Error> {
        self.get(key).map(|field| field.strings()).transpose()
    }
}

impl Raw {
    fn parse(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, ErrorKind> {
        let kind = value_type(cursor, key)?;
        match kind {
            ValueType::String => {
                let text = cursor.string(format_args!("the text of `{key}`"))?;
                Ok(Self::String(cursor.at() - text.len()..cursor.at()))
            }
            ValueType::Array => Ok(Self::Array(RawArray::parse(cursor, key, 1)?)),
            _ => {
                let at = cursor.at();
                let bytes = cursor.take(size(kind), format_args!("the value of `{key}`"))?;
                if kind == ValueType::Bool {
                    check_bools(bytes, at, key)?;
                }
                Ok(Self::Scalar(kind, at))
            }
        }
    }

    fn value<'a>(&'a self, file: &'a [u8]) -> Value<'a> {
        match self {
            Self::Scalar(kind, at) => scalar(*kind, &file[*at..]),
            Self::String(range) => Value::String(&file[range.clone()]),
            Self::Array(raw) => Value::Array(Array { file, raw }),
        }
    }
}

fn value_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, ErrorKind> {
    let at = cursor.at();
    let id = cursor.u32(format_args!("the value type of `{key}`"))?;
    ValueType::from_id(id).ok_or_else(|| ErrorKind::NoSuchValueType {
        key: key.into(),
        id,
        at,
    })
}

/// Bytes of one value of a type of fixed size.
fn size(kind: ValueType) -> u64 {
    kind.bytes().unwrap_or_default() as u64
}

fn check_bools(bytes: &[u8], at: usize, key: &str) -> Result<(), ErrorKind> {
    match bytes.iter().position(|&byte| byte > 1) {
        None => Ok(()),
        Some(index) => Err(ErrorKind::NotBool {
            key: key.into(),
            at: at + index,
            byte: bytes[index],
        }),
    }
}

impl RawArray {
    fn parse(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Self, ErrorKind> {
        let kind = value_type(cursor, key)?;
        let smallest = match kind {
            ValueType::String => 8,
            ValueType::Array => 4 + 8,
            _ => kind.bytes().unwrap_or(1),
        };
        let count = cursor.count(smallest, format_args!("the number of entries of `{key}`"))?;
        let start = cursor.at();
        let mut starts = Vec::new();
        match kind {
            ValueType::String => {
                starts.reserve_exact(count);
                for index in 0..count {
                    let text = cursor.string(format_args!("entry {index} of `{key}`"))?;
                    starts.push(cursor.at() - text.len());
                }
            }
            ValueType::Array => {
                if depth == DEEPEST_ARRAY {
                    return Err(ErrorKind::Depth {
                        key: key.into(),
                        limit: DEEPEST_ARRAY,
                        at: start,
                    });
                }
                for _ in 0..count {
                    Self::parse(cursor, key, depth + 1)?;
                }
            }
            _ => {
                // no overflow: the count was held against the size of the file
                let bytes = cursor.take(count as u64 * size(kind), format_args!("the entries of `{key}`"))?;
                if kind == ValueType::Bool {
                    check_bools(bytes, start, key)?;
                }
            }
        }
        Ok(Self {
            kind,
            count,
            bytes: start..cursor.at(),
            starts,
        })
    }
}

/// The value at the start of `bytes`, which were checked to hold one.
fn scalar<'a>(kind: ValueType, bytes: &[u8]) -> Value<'a> {
    fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    match kind {
        ValueType::U8 => Value::U8(first::<1>(bytes)[0]),
        ValueType::I8 => Value::I8(i8::from_le_bytes(first(bytes))),
        ValueType::U16 => Value::U16(u16::from_le_bytes(first(bytes))),
        ValueType::I16 => Value::I16(i16::from_le_bytes(first(bytes))),
        ValueType::U32 => Value::U32(u32::from_le_bytes(first(bytes))),
        ValueType::I32 => Value::I32(i32::from_le_bytes(first(bytes))),
        ValueType::F32 => Value::F32(f32::from_le_bytes(first(bytes))),
        ValueType::Bool => Value::Bool(first::<1>(bytes)[0] == 1),
        ValueType::U64 => Value::U64(u64::from_le_bytes(first(bytes))),
        ValueType::I64 => Value::I64(i64::from_le_bytes(first(bytes))),
        ValueType::F64 => Value::F64(f64::from_le_bytes(first(bytes))),
        // neither is stored in place
        ValueType::String | ValueType::Array => Value::String(&[]),
    }
}

impl Value<'_> {
    /// Its type.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// What it is, for errors: "a string", "an array of 42 i32".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Array(array) => format!("an array of {} {}", array.len(), array.kind()),
            other => a(other.kind()),
        }
    }

    /// The integer, if it is one.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// The floating-point number, if it is one.
    pub fn float(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The bool. Writers without a bool type use the integers 0 and 1.
    pub fn boolean(&self) -> Option<bool> {
        match (self, self.integer()) {
            (Self::Bool(value), _) => Some(*value),
            (_, Some(0)) => Some(false),
            (_, Some(1)) => Some(true),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    /// Type of its entries.
    pub fn kind(&self) -> ValueType {
        self.raw.kind
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.raw.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.raw.count == 0
    }

    /// The strings, if its entries are strings.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.kind() == ValueType::String).then_some(Strings {
            file: self.file,
            starts: &self.raw.starts,
        })
    }

    /// Numbers, bools or strings, in order; nothing when the entries are arrays.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, bytes) = (self.raw.kind, &self.file[self.raw.bytes.clone()]);
        let plain = kind.bytes().map(|size| bytes.chunks_exact(size));
        let strings = self.strings();
        let numbers = plain.into_iter().flatten().map(move |bytes| scalar(kind, bytes));
        numbers.chain(
            strings
                .into_iter()
                .flat_map(|strings| strings.iter().map(Value::String)),
        )
    }
}

impl<'a> Strings<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let start = *self.starts.get(index)?;
        let size = self.file.get(start.checked_sub(8)?..start)?.first_chunk::<8>()?;
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        self.file.get(start..start.checked_add(size)?)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let this = *self;
        (0..this.len()).map(move |index| this.get(index).unwrap_or_default())
    }
}

impl<'a> Field<'a> {
    /// The key.
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The value.
    pub fn value(&self) -> Value<'a> {
        self.value
    }

    /// Whether the value is an array.
    pub fn is_array(&self) -> bool {
        matches!(self.value, Value::Array(_))
    }

    fn wrong(&self, wanted: &'static str) -> Error {
        let kind = ErrorKind::wrong_type(self.key, self.value.describe(), wanted);
        self.storage.error(kind)
    }

    /// An integer of any width that fits `T`.
    fn fitting<T: TryFrom<i128>>(&self, value: Value<'_>, wanted: &'static str) -> Result<T, Error> {
        let integer = value.integer().ok_or_else(|| self.wrong(wanted))?;
        T::try_from(integer).map_err(|_| {
            self.storage.error(ErrorKind::OutOfRange {
                key: self.key.into(),
                value: integer.to_string(),
                wanted,
            })
        })
    }

    /// The entries, each converted.
    fn each<T>(&self, wanted: &'static str, convert: impl Fn(Value<'a>) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        match self.value {
            Value::Array(array) if array.kind() != ValueType::Array => array.values().map(convert).collect(),
            _ => Err(self.wrong(wanted)),
        }
    }

    /// One value for each of `count` layers: an array of so many, or one number that holds for all.
    fn per<T: Clone>(
        &self,
        count: usize,
        one: impl Fn() -> Result<T, Error>,
        all: impl Fn() -> Result<Vec<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        if !self.is_array() {
            return Ok(vec![one()?; count]);
        }
        let values = all()?;
        match values.len() == count {
            true => Ok(values),
            false => Err(self.storage.error(ErrorKind::Length {
                key: self.key.into(),
                found: values.len(),
                wanted: count,
            })),
        }
    }

    /// An integer of any width that fits u32.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn u32(&self) -> Result<u32, Error> {
        self.fitting(self.value, "an integer from 0 to 4294967295")
    }

    /// An integer of any width that fits i32.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn i32(&self) -> Result<i32, Error> {
        self.fitting(self.value, "an integer from -2147483648 to 2147483647")
    }

    /// An integer of any width that fits u64.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn u64(&self) -> Result<u64, Error> {
        self.fitting(self.value, "an integer that is not negative")
    }

    /// An integer of any width that fits usize.
    ///
    /// # Errors
    /// When the value is of another type or does not fit.
    pub fn usize(&self) -> Result<usize, Error> {
        self.fitting(self.value, "an integer that is not negative")
    }

    /// A float of either width.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn f32(&self) -> Result<f32, Error> {
        let value = self.value.float().ok_or_else(|| self.wrong("a float"))?;
        Ok(value as f32)
    }

    /// A bool, or the integers 0 and 1.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn bool(&self) -> Result<bool, Error> {
        self.value.boolean().ok_or_else(|| self.wrong("a bool"))
    }

    /// A text.
    ///
    /// # Errors
    /// When the value is of another type or not UTF-8.
    pub fn str(&self) -> Result<&'a str, Error> {
        let Value::String(bytes) = self.value else {
            return Err(self.wrong("a string"));
        };
        str::from_utf8(bytes).map_err(|_| self.storage.error(ErrorKind::NotText(self.key.into())))
    }

    /// An array of strings.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn strings(&self) -> Result<Strings<'a>, Error> {
        match self.value {
            Value::Array(array) => array.strings(),
            _ => None,
        }
        .ok_or_else(|| self.wrong("an array of strings"))
    }

    /// An array of integers of any width that fit u32.
    ///
    /// # Errors
    /// When the value is of another type or an entry does not fit.
    pub fn u32s(&self) -> Result<Vec<u32>, Error> {
        const WANTED: &str = "an array of integers from 0 to 4294967295";
        self.each(WANTED, |value| self.fitting(value, WANTED))
    }

    /// An array of integers of any width that fit i32.
    ///
    /// # Errors
    /// When the value is of another type or an entry does not fit.
    pub fn i32s(&self) -> Result<Vec<i32>, Error> {
        const WANTED: &str = "an array of integers from -2147483648 to 2147483647";
        self.each(WANTED, |value| self.fitting(value, WANTED))
    }

    /// An array of floats of either width.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn f32s(&self) -> Result<Vec<f32>, Error> {
        const WANTED: &str = "an array of floats";
        self.each(WANTED, |value| {
            let value = value.float().ok_or_else(|| self.wrong(WANTED))?;
            Ok(value as f32)
        })
    }

    /// An array of bools, or of the integers 0 and 1.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn bools(&self) -> Result<Vec<bool>, Error> {
        const WANTED: &str = "an array of bools";
        self.each(WANTED, |value| value.boolean().ok_or_else(|| self.wrong(WANTED)))
    }

    /// An integer for each of `count` layers: an array of so many, or one integer for all.
    ///
    /// # Errors
    /// When the value is of another type, an entry does not fit, or the array has another length.
    pub fn u32_per_layer(&self, count: usize) -> Result<Vec<u32>, Error> {
        self.per(count, || self.u32(), || self.u32s())
    }

    /// A float for each of `count` layers: an array of so many, or one float for all.
    ///
    /// # Errors
    /// When the value is of another type or the array has another length.
    pub fn f32_per_layer(&self, count: usize) -> Result<Vec<f32>, Error> {
        self.per(count, || self.f32(), || self.f32s())
    }
}
