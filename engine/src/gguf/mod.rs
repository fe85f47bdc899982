//! GGUF files: reading, checking, writing. Format: GGUF v3, little-endian (v2 has the same layout).
//!
//! [`File`] maps a file and checks all that it says about itself, so that nothing behind it has to. Weights and long
//! arrays stay where they are. Errors name the file, the place and the way out; no input makes the reader panic.

mod codec;
mod error;
mod file;
mod metadata;
mod read;
mod storage;
mod types;
mod write;

pub use codec::{CodecError, decode, encode};
pub use error::{Error, ErrorKind};
pub use file::{File, TensorInfo};
pub use metadata::{Array, Field, Metadata, Strings, Value};
pub use types::{TensorType, ValueType};
pub use write::{Bytes, Layout, Output, Store, Writer};
