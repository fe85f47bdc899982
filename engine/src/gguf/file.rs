//! A whole file, checked.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::{Error, ErrorKind, recognise};
use super::metadata::Metadata;
use super::read::Cursor;
use super::storage::Storage;
use super::types::TensorType;

/// The first bytes of every GGUF file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// Where tensors start unless `general.alignment` says otherwise.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;

/// The key that says at which multiples of bytes tensors start.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Name, number of dimensions, one dimension, type and offset: what a tensor's description takes at least.
const SMALLEST_TENSOR: usize = 8 + 4 + 8 + 4 + 8;

/// What a file says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the file.
    pub name: Box<str>,
    /// One to four dimensions, innermost first: rows of `dims[0]` values lie together.
    pub dims: Vec<usize>,
    /// How values are stored.
    pub kind: TensorType,
    /// First byte, counted from the start of the data section.
    pub offset: usize,
    /// Size of the data. None when the type is unknown.
    pub bytes: Option<usize>,
}

impl TensorInfo {
    /// Number of values.
    pub fn values(&self) -> usize {
        // no overflow: checked when the file was read
        self.dims.iter().product()
    }

    /// Dimension `index` (0 is the innermost), 1 where there is none.
    pub fn dim(&self, index: usize) -> usize {
        self.dims.get(index).copied().unwrap_or(1)
    }

    /// Number of rows of `dims[0]` values.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product()
    }

    /// Bytes of a row of `dims[0]` values. None when the type is unknown.
    pub fn row_bytes(&self) -> Option<usize> {
        self.kind.bytes(self.dim(0))
    }
}

/// A GGUF file. Everything that can be checked without looking at the weights has been checked.
///
/// Cheap to clone; clones share the mapped bytes.
#[derive(Clone, Debug)]
pub struct File {
    storage: Storage,
    version: u32,
    alignment: usize,
    data_start: usize,
    metadata: Metadata,
    tensors: Arc<Tensors>,
}

#[derive(Debug, Default)]
struct Tensors {
    list: Vec<TensorInfo>,
    places: HashMap<Box<str>, usize>,
}

impl File {
    /// Maps a file into memory and reads what it says about itself. Weights are not touched.
    ///
    /// # Errors
    /// When it cannot be read or anything about it is wrong; the error says what, where, and the way out.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_storage(Storage::map(path)?)
    }

    /// Reads a file that is already in memory.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn parse(bytes: impl Into<Arc<[u8]>>) -> Result<Self, Error> {
        Self::from_storage(Storage::memory(bytes.into()))
    }

    fn from_storage(storage: Storage) -> Result<Self, Error> {
        let size = storage.bytes().len();
        Self::read(&storage, size).map_err(|kind| storage.error(kind))
    }

    /// Reads the bytes before the data section of a file of `size` bytes. The writer has no more than these.
    pub(super) fn read(storage: &Storage, size: usize) -> Result<Self, ErrorKind> {
        let bytes = storage.bytes();
        if !bytes.starts_with(MAGIC) {
            return Err(recognise(bytes));
        }
        let mut cursor = Cursor::new(bytes);
        cursor.take(4, format_args!("the magic"))?;
        let version = cursor.u32(format_args!("the version"))?;
        match version {
            2 | 3 => {}
            0x0200_0000 | 0x0300_0000 => return Err(ErrorKind::BigEndian),
            other => return Err(ErrorKind::Version(other)),
        }
        let tensor_count = cursor.count(SMALLEST_TENSOR, format_args!("the number of tensors"))?;
        let entry_count = Metadata::count(&mut cursor)?;
        let metadata = Metadata::parse(&mut cursor, entry_count, storage)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = Tensors::default();
        for index in 0..tensor_count {
            let at = cursor.at();
            let info = tensor_info(&mut cursor, index, alignment)?;
            if tensors.places.insert(info.name.clone(), index).is_some() {
                let tensor = info.name.into();
                return Err(ErrorKind::DuplicateTensor { tensor, at });
            }
            tensors.list.push(info);
        }
        // A file without tensors may end before the data section would begin.
        let data_start = cursor.at().checked_next_multiple_of(alignment);
        let data_start = data_start.ok_or(ErrorKind::Alignment(alignment as u64))?;
        check_places(&tensors.list, data_start, size)?;
        Ok(Self {
            storage: storage.clone(),
            version,
            alignment,
            data_start,
            metadata,
            tensors: tensors.into(),
        })
    }

    /// The file's name, unless it was parsed from memory.
    pub fn path(&self) -> Option<&Path> {
        self.storage.path()
    }

    /// Version of the container, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensors start at multiples of this many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where the data section starts in the file.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Size of the file.
    pub fn size(&self) -> usize {
        self.storage.bytes().len()
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors.list
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.places.get(name).map(|&index| &self.tensors.list[index])
    }

    /// The tensor of a name that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn need(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.tensor(name)
            .ok_or_else(|| self.storage.error(ErrorKind::MissingTensor(name.into())))
    }

    /// Where a tensor's data lies in the file.
    ///
    /// # Errors
    /// When its type is unknown, or it is no tensor of this file.
    pub fn range(&self, tensor: &TensorInfo) -> Result<Range<usize>, Error> {
        let foreign = || self.storage.error(ErrorKind::Foreign((*tensor.name).into()));
        let own = self
            .tensor(&tensor.name)
            .filter(|own| *own == tensor)
            .ok_or_else(foreign)?;
        let bytes = own
            .bytes
            .ok_or_else(|| self.storage.error(ErrorKind::unknown_type(&own.name, own.kind.id())))?;
        // no overflow: checked when the file was read
        let start = self.data_start + own.offset;
        Ok(start..start + bytes)
    }

    /// A tensor's data, mapped: reading it may read the disk.
    ///
    /// # Errors
    /// When its type is unknown, or it is no tensor of this file.
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<&[u8], Error> {
        let range = self.range(tensor)?;
        self.storage
            .bytes()
            .get(range)
            .ok_or_else(|| self.storage.error(ErrorKind::Foreign((*tensor.name).into())))
    }

    /// Tells the operating system that a tensor is read soon. A hint that never fails.
    pub fn will_need(&self, tensor: &TensorInfo) {
        if let Ok(range) = self.range(tensor) {
            self.storage.will_need(range);
        }
    }

    /// An error about this file, for checks that go further than the container's.
    pub fn error(&self, kind: ErrorKind) -> Error {
        self.storage.error(kind)
    }
}

fn alignment(metadata: &Metadata) -> Result<usize, ErrorKind> {
    let Some(field) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let found = field.value().integer().and_then(|value| u64::try_from(value).ok());
    let value =
        found.ok_or_else(|| ErrorKind::wrong_type(ALIGNMENT_KEY, field.value().describe(), "a power of two"))?;
    match u32::try_from(value) {
        Ok(small) if small.is_power_of_two() => Ok(small as usize),
        _ => Err(ErrorKind::Alignment(value)),
    }
}

fn tensor_info(cursor: &mut Cursor<'_>, index: usize, alignment: usize) -> Result<TensorInfo, ErrorKind> {
    let at = cursor.at();
    let name = cursor.string(format_args!("the name of tensor {index}"))?;
    let name = str::from_utf8(name).map_err(|_| ErrorKind::Name {
        what: "tensor name",
        at,
    })?;
    let tensor = || name.to_owned();
    let count = cursor.u32(format_args!("the number of dimensions of `{name}`"))?;
    if !(1..=4).contains(&count) {
        return Err(ErrorKind::Dimensions {
            tensor: tensor(),
            count,
        });
    }
    let mut written = Vec::with_capacity(4);
    for _ in 0..count {
        written.push(cursor.u64(format_args!("the dimensions of `{name}`"))?);
    }
    let kind = TensorType::from_id(cursor.u32(format_args!("the type of `{name}`"))?);
    let offset = cursor.u64(format_args!("the offset of `{name}`"))?;
    if written.contains(&0) {
        return Err(ErrorKind::ZeroDimension {
            tensor: tensor(),
            dims: written,
        });
    }
    let dims: Option<Vec<usize>> = written.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let values = |dims: &Vec<usize>| dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    let (dims, values) = dims
        .and_then(|dims| values(&dims).map(|values| (dims, values)))
        .ok_or_else(|| ErrorKind::TooLarge {
            tensor: tensor(),
            dims: written.clone(),
        })?;
    if let Some(block) = kind.block_values().filter(|&block| !dims[0].is_multiple_of(block)) {
        return Err(ErrorKind::Row {
            tensor: tensor(),
            row: dims[0],
            kind,
            block,
        });
    }
    let bytes = kind.bytes(values);
    if bytes.is_none() && kind.block_bytes().is_some() {
        return Err(ErrorKind::TooLarge {
            tensor: tensor(),
            dims: written,
        });
    }
    let Some(place) = usize::try_from(offset)
        .ok()
        .filter(|offset| offset.is_multiple_of(alignment))
    else {
        return Err(ErrorKind::Misaligned {
            tensor: tensor(),
            offset,
            alignment,
        });
    };
    Ok(TensorInfo {
        name: name.into(),
        dims,
        kind,
        offset: place,
        bytes,
    })
}

/// Every tensor lies in the file, and no two share a byte. Of a tensor of unknown type only the start is known.
fn check_places(tensors: &[TensorInfo], data_start: usize, size: usize) -> Result<(), ErrorKind> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    let mut before: Option<(&TensorInfo, usize)> = None;
    for tensor in order {
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes.unwrap_or(1)));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= size)) else {
            return Err(ErrorKind::PastEnd {
                tensor: (*tensor.name).into(),
                end: (data_start as u64)
                    .saturating_add(tensor.offset as u64)
                    .saturating_add(tensor.bytes.unwrap_or(1) as u64),
                size,
            });
        };
        if let Some((first, first_end)) = before
            && first_end > start
        {
            return Err(ErrorKind::Overlap {
                first: (*first.name).into(),
                second: (*tensor.name).into(),
                at: start,
            });
        }
        before = Some((tensor, end));
    }
    Ok(())
}
