//! Writing files: describe first, then stream the tensors, from one thread or from many.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::file::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, File, MAGIC, TensorInfo};
use super::storage::Storage;
use super::types::{TensorType, ValueType};

/// What can be stored as a metadata value: numbers, bools, text, and slices of these as arrays.
pub trait Store {
    /// Its type in the file.
    const KIND: ValueType;

    /// Appends the value as it lies in the file.
    fn store(&self, out: &mut Vec<u8>);
}

macro_rules! store_numbers {
    ($($number:ty => $kind:ident),*) => {$(
        impl Store for $number {
            const KIND: ValueType = ValueType::$kind;

            fn store(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

store_numbers!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, u64 => U64, i64 => I64, f64 => F64
);

impl Store for bool {
    const KIND: ValueType = ValueType::Bool;

    fn store(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

/// A string of any bytes. (A slice of u8 is an array of numbers.)
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Store for Bytes<'_> {
    const KIND: ValueType = ValueType::String;

    fn store(&self, out: &mut Vec<u8>) {
        (self.0.len() as u64).store(out);
        out.extend_from_slice(self.0);
    }
}

impl Store for str {
    const KIND: ValueType = ValueType::String;

    fn store(&self, out: &mut Vec<u8>) {
        Bytes(self.as_bytes()).store(out);
    }
}

impl Store for String {
    const KIND: ValueType = ValueType::String;

    fn store(&self, out: &mut Vec<u8>) {
        self.as_str().store(out);
    }
}

impl<T: Store + ?Sized> Store for &T {
    const KIND: ValueType = T::KIND;

    fn store(&self, out: &mut Vec<u8>) {
        (**self).store(out);
    }
}

impl<T: Store> Store for [T] {
    const KIND: ValueType = ValueType::Array;

    fn store(&self, out: &mut Vec<u8>) {
        T::KIND.id().store(out);
        (self.len() as u64).store(out);
        for value in self {
            value.store(out);
        }
    }
}

impl<T: Store> Store for Vec<T> {
    const KIND: ValueType = ValueType::Array;

    fn store(&self, out: &mut Vec<u8>) {
        self.as_slice().store(out);
    }
}

/// Describes a file: metadata and tensors in order. [`Writer::layout`] then says where everything goes.
///
/// ```
/// use tilekiln::gguf::{File, TensorType, Writer};
///
/// let mut writer = Writer::new();
/// writer.set("general.architecture", "none").set("answer", &42_u32);
/// writer.tensor("ones", &[4, 2], TensorType::F32);
/// let layout = writer.layout().unwrap();
/// let mut bytes = Vec::new();
/// layout.write(&mut bytes, |_, out| out.write_all(&1_f32.to_le_bytes().repeat(8))).unwrap();
/// let file = File::parse(bytes).unwrap();
/// assert_eq!(file.metadata().u32("answer").unwrap(), Some(42));
/// assert_eq!(file.tensor("ones").unwrap().dims, [4, 2]);
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    alignment: usize,
    entries: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    /// Where the next tensor goes, from the start of the data section; None when it is beyond what can be addressed.
    next: Option<usize>,
    end: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty file, tensors aligned to 32 bytes.
    pub fn new() -> Self {
        Self {
            alignment: DEFAULT_ALIGNMENT,
            entries: 0,
            metadata: Vec::new(),
            tensors: 0,
            infos: Vec::new(),
            next: Some(0),
            end: 0,
        }
    }

    /// An empty file whose tensors are aligned to a power of two, with the key that says so.
    pub fn with_alignment(alignment: u32) -> Self {
        let mut writer = Self::new();
        writer.alignment = (alignment as usize).max(1);
        writer.set(ALIGNMENT_KEY, &alignment);
        writer
    }

    /// Adds a key.
    pub fn set<T: Store + ?Sized>(&mut self, key: &str, value: &T) -> &mut Self {
        key.store(&mut self.metadata);
        T::KIND.id().store(&mut self.metadata);
        value.store(&mut self.metadata);
        self.entries += 1;
        self
    }

    /// Adds a tensor. Dimensions are innermost first. Its data follows when the layout is written.
    pub fn tensor(&mut self, name: &str, dims: &[usize], kind: TensorType) -> &mut Self {
        name.store(&mut self.infos);
        (dims.len() as u32).store(&mut self.infos);
        for &dim in dims {
            (dim as u64).store(&mut self.infos);
        }
        kind.id().store(&mut self.infos);
        let offset = self.next.unwrap_or(0);
        (offset as u64).store(&mut self.infos);
        self.tensors += 1;
        // What is wrong with it, `layout` says.
        let values = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let bytes = match kind {
            TensorType::Unknown(_) => Some(1),
            known => values.and_then(|values| known.bytes(values)),
        };
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        self.end = end.unwrap_or(offset);
        self.next = end.and_then(|end| end.checked_next_multiple_of(self.alignment));
        self
    }

    /// Where everything goes.
    ///
    /// # Errors
    /// When a reader would refuse the file: a key or tensor twice, dimensions that do not fit the type, an alignment
    /// that is no power of two; or when a tensor's type has no known size.
    pub fn layout(&self) -> Result<Layout, Error> {
        let mut header = MAGIC.to_vec();
        3_u32.store(&mut header);
        self.tensors.store(&mut header);
        self.entries.store(&mut header);
        header.extend_from_slice(&self.metadata);
        header.extend_from_slice(&self.infos);
        if self.tensors > 0 {
            header.resize(header.len().next_multiple_of(self.alignment), 0);
        }
        let size = header.len().saturating_add(self.end);
        let storage = Storage::memory(Arc::from(header));
        // The reader's own checks, on a file that has no data yet.
        let file = File::read(&storage, size).map_err(|kind| Error::new(None, kind))?;
        for tensor in file.tensors() {
            file.range(tensor)?;
        }
        Ok(Layout { storage, file, size })
    }
}

/// A file as it will be: its first bytes, and the place of every tensor.
#[derive(Clone, Debug)]
pub struct Layout {
    storage: Storage,
    file: File,
    size: usize,
}

impl Layout {
    /// Size of the whole file.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Everything before the data section.
    pub fn header(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The tensors in order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.file.tensors()
    }

    /// Writes the file from front to back. `data` writes one tensor, called in order.
    ///
    /// # Errors
    /// When writing fails, or `data` writes more or less than the tensor has.
    pub fn write(
        &self,
        out: &mut dyn Write,
        mut data: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        out.write_all(self.header())?;
        let mut at = self.header().len();
        for tensor in self.tensors() {
            let range = self.file.range(tensor).map_err(io::Error::other)?;
            out.write_all(&vec![0; range.start - at])?;
            let mut counted = Counted {
                out: &mut *out,
                left: range.len(),
            };
            data(tensor, &mut counted)?;
            if counted.left > 0 {
                let text = format!("tensor `{}`: {} bytes were not written", tensor.name, counted.left);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            at = range.end;
        }
        out.flush()
    }

    /// Starts the file at `path`, for [`Output::write_at`] from any thread. It has a temporary name until
    /// [`Output::finish`].
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(&self, path: &Path) -> io::Result<Output> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let temporary = path.with_file_name(name);
        let file = fs::File::create(&temporary)?;
        let output = Output {
            layout: self.clone(),
            file,
            temporary: Some(temporary),
            path: path.to_path_buf(),
        };
        output.file.set_len(self.size as u64)?;
        output.write_file_at(0, self.header())?;
        Ok(output)
    }
}

/// Passes on at most what a tensor has.
struct Counted<'a> {
    out: &'a mut dyn Write,
    left: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            let text = format!("{} bytes more than the tensor has", bytes.len() - self.left);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let written = self.out.write(bytes)?;
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that is being written, in any order and from any thread. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct Output {
    layout: Layout,
    file: fs::File,
    /// The name until it is finished.
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl Output {
    /// The layout being written.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes bytes of a tensor, `at` bytes after its start.
    ///
    /// # Errors
    /// When writing fails, or the bytes go past the tensor's end.
    pub fn write_at(&self, tensor: &TensorInfo, at: usize, bytes: &[u8]) -> io::Result<()> {
        let range = self.layout.file.range(tensor).map_err(io::Error::other)?;
        if at.checked_add(bytes.len()).is_none_or(|end| end > range.len()) {
            let text = format!("tensor `{}`: bytes past its end", tensor.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.write_file_at((range.start + at) as u64, bytes)
    }

    #[cfg(unix)]
    fn write_file_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, at)
    }

    #[cfg(windows)]
    fn write_file_at(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(&self.file, bytes, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn finish(mut self) -> io::Result<()> {
        let Some(temporary) = self.temporary.take() else {
            return Ok(());
        };
        fs::rename(&temporary, &self.path).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}
