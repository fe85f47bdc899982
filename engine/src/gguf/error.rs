//! What can be wrong with a GGUF file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::types::{TensorType, ValueType};

/// Why a file, or something in it, cannot be used. Names the file where there is one.
#[derive(Debug)]
pub struct Error(Box<(Option<PathBuf>, ErrorKind)>);

impl Error {
    pub(super) fn new(path: Option<&Path>, kind: ErrorKind) -> Self {
        Self(Box::new((path.map(Path::to_path_buf), kind)))
    }

    /// What is wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.1
    }

    /// The file, unless the bytes came from memory.
    pub fn path(&self) -> Option<&Path> {
        self.0.0.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            write!(f, "{}: ", path.display())?;
        }
        self.kind().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind().source()
    }
}

/// What is wrong with a file or with something in it. Offsets count bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ErrorKind {
    // the container
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("not a GGUF file: {found}; {remedy}")]
    NotGguf { found: String, remedy: &'static str },
    #[error("a big-endian GGUF file; only little-endian files are read, convert it for a little-endian machine")]
    BigEndian,
    #[error("GGUF version {0}; versions 2 and 3 are read, convert the model again with a current converter")]
    Version(u32),
    #[error(
        "{what} at byte {at} needs {needs} bytes and the file has {left} more: it is cut short or damaged, fetch it again"
    )]
    Truncated {
        what: String,
        at: usize,
        needs: u64,
        left: usize,
    },
    #[error(
        "{what} at byte {at} is {count}, more than the {left} bytes that follow can hold: the file is damaged, fetch it again"
    )]
    Count {
        what: String,
        at: usize,
        count: u64,
        left: usize,
    },

    // metadata as written
    #[error("the {what} at byte {at} is not UTF-8: the file is damaged, fetch it again")]
    Name { what: &'static str, at: usize },
    #[error("metadata key `{key}` (again at byte {at}) occurs twice; the writer of this file must keep one")]
    DuplicateKey { key: String, at: usize },
    #[error(
        "metadata key `{key}`: value type {id} at byte {at} does not exist in GGUF (0 to 12 do): the file is damaged or newer than this reader"
    )]
    NoSuchValueType { key: String, id: u32, at: usize },
    #[error(
        "metadata key `{key}`: the bool at byte {at} is {byte}, neither 0 nor 1: the file is damaged, fetch it again"
    )]
    NotBool { key: String, at: usize, byte: u8 },
    #[error("metadata key `{key}`: arrays within arrays deeper than {limit} at byte {at}: the file is damaged")]
    Depth { key: String, limit: usize, at: usize },

    // metadata as used
    #[error(
        "metadata key `{0}` is missing; the model was converted without it, convert it again with a current converter"
    )]
    MissingKey(String),
    #[error("metadata key `{key}` is {found}, wanted {wanted}")]
    WrongType {
        key: String,
        found: String,
        wanted: &'static str,
    },
    #[error("metadata key `{key}` is {value}, which does not fit {wanted}")]
    OutOfRange {
        key: String,
        value: String,
        wanted: &'static str,
    },
    #[error("metadata key `{key}` has {found} entries, wanted {wanted}")]
    Length { key: String, found: usize, wanted: usize },
    #[error("metadata key `{0}` is not UTF-8 text")]
    NotText(String),
    #[error("metadata key `general.alignment` is {0}; it must be a power of two")]
    Alignment(u64),

    // tensors as written
    #[error("tensor `{tensor}` (again at byte {at}) occurs twice; the writer of this file must keep one")]
    DuplicateTensor { tensor: String, at: usize },
    #[error("tensor `{tensor}` has {count} dimensions; 1 to 4 are possible")]
    Dimensions { tensor: String, count: u32 },
    #[error("tensor `{tensor}` has dimensions {dims:?}; none may be 0")]
    ZeroDimension { tensor: String, dims: Vec<u64> },
    #[error("tensor `{tensor}` has dimensions {dims:?}: more bytes than memory can address, the file is damaged")]
    TooLarge { tensor: String, dims: Vec<u64> },
    #[error("tensor `{tensor}` has rows of {row} values, no whole number of {kind} blocks of {block}")]
    Row {
        tensor: String,
        row: usize,
        kind: TensorType,
        block: usize,
    },
    #[error("tensor `{tensor}` starts at byte {offset} of the data, no multiple of the alignment {alignment}")]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: usize,
    },
    #[error("tensor `{tensor}` ends at byte {end}, the file at byte {size}: it is cut short, fetch it again")]
    PastEnd { tensor: String, end: u64, size: usize },
    #[error("tensors `{first}` and `{second}` overlap at byte {at}: the file is damaged, fetch it again")]
    Overlap { first: String, second: String, at: usize },

    // tensors as used
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    #[error(
        "tensor `{tensor}` has type id {id}, which this reader does not know; quantise the model to another type (known: {known})"
    )]
    UnknownType { tensor: String, id: u32, known: String },
    #[error("tensor `{0}` belongs to another file")]
    Foreign(String),
}

impl ErrorKind {
    pub(super) fn wrong_type(key: &str, found: impl fmt::Display, wanted: &'static str) -> Self {
        Self::WrongType {
            key: key.into(),
            found: found.to_string(),
            wanted,
        }
    }

    pub(super) fn unknown_type(tensor: &str, id: u32) -> Self {
        let known: Vec<_> = TensorType::known().map(TensorType::name).collect();
        Self::UnknownType {
            tensor: tensor.into(),
            id,
            known: known.join(", "),
        }
    }

    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            _ => None,
        }
    }
}

/// An article and a type: "a u32", "an i32".
pub(super) fn a(kind: ValueType) -> String {
    let article = match kind {
        ValueType::I8 | ValueType::I16 | ValueType::I32 | ValueType::I64 => "an",
        ValueType::F32 | ValueType::Array => "an",
        _ => "a",
    };
    format!("{article} {kind}")
}

/// What bytes are that do not begin as a GGUF file does, and what to do about it.
pub(super) fn recognise(bytes: &[u8]) -> ErrorKind {
    const FETCH: &str = "fetch the file itself (a .gguf)";
    const CONVERT: &str = "convert the model to GGUF first";
    let found = |found: &str, remedy| ErrorKind::NotGguf {
        found: found.into(),
        remedy,
    };
    let text = bytes.trim_ascii_start();
    let starts = |text: &[u8], start: &str| {
        text.get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
    };
    let safetensors = bytes
        .first_chunk::<8>()
        .is_some_and(|&size| u64::from_le_bytes(size) <= bytes.len() as u64 && bytes.get(8) == Some(&b'{'));
    match bytes {
        [] => found("it is empty", FETCH),
        _ if starts(bytes, "version https://git-lfs") => {
            found("a Git LFS pointer, not the file it points to", "run `git lfs pull`")
        }
        _ if starts(text, "<!doctype html") || starts(text, "<html") => found("an HTML page", FETCH),
        _ if starts(text, "<?xml") => found("an XML document", FETCH),
        _ if safetensors => found("a safetensors file", CONVERT),
        [b'F', b'U', b'G', b'G', ..] => ErrorKind::BigEndian,
        [b'P', b'K', 3 | 5, 4 | 6, ..] => found("a ZIP archive (perhaps a PyTorch checkpoint)", CONVERT),
        [0x80, 2..=5, ..] => found("a Python pickle (perhaps a PyTorch checkpoint)", CONVERT),
        [0x1f, 0x8b, ..] => found("gzip-compressed data", "decompress it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => found("zstd-compressed data", "decompress it first"),
        [b'l', b'm', b'g', b'g', ..] | [b't' | b'f' | b'a', b'j' | b'm' | b'l', b'g', b'g', ..] => {
            found("a GGML file from before GGUF", "convert the model again")
        }
        _ if text.first().is_some_and(|byte| matches!(byte, b'{' | b'[')) => found("JSON text", FETCH),
        _ => {
            let head: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let text = format!("it starts with the bytes {}, not with 47 47 55 46", head.join(" "));
            found(&text, FETCH)
        }
    }
}
