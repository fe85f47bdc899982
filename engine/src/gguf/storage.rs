//! Where the bytes of a file are.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tilekiln_runtime::map::MappedFile;

use super::error::{Error, ErrorKind};

/// The bytes of a file and its name. Clones share them.
#[derive(Clone)]
pub(super) struct Storage {
    path: Option<Arc<PathBuf>>,
    backing: Backing,
}

#[derive(Clone)]
enum Backing {
    Mapped(Arc<MappedFile>),
    Memory(Arc<[u8]>),
}

impl Storage {
    pub(super) fn map(path: &Path) -> Result<Self, Error> {
        let map = MappedFile::open(path).map_err(|error| Error::new(Some(path), error.into()))?;
        Ok(Self {
            path: Some(Arc::new(path.to_path_buf())),
            backing: Backing::Mapped(Arc::new(map)),
        })
    }

    pub(super) fn memory(bytes: Arc<[u8]>) -> Self {
        Self {
            path: None,
            backing: Backing::Memory(bytes),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_ref().map(|path| path.as_path())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::Mapped(map) => map,
            Backing::Memory(bytes) => bytes,
        }
    }

    pub(super) fn will_need(&self, range: Range<usize>) {
        if let Backing::Mapped(map) = &self.backing {
            map.will_need(range);
        }
    }

    /// An error that names the file.
    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(self.path(), kind)
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(f, "{} ({} bytes)", path.display(), self.bytes().len()),
            None => write!(f, "{} bytes", self.bytes().len()),
        }
    }
}
