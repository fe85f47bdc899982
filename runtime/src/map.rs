//! Files mapped into memory.
//!
//! Weights are read where they lie: nothing is copied that a device does not ask for, and what the operating system
//! has read once stays in its cache for the next start.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// A whole file as bytes, read-only.
///
/// The file must not be written or cut while it is mapped; replacing it (write beside it, then rename) is fine.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, or is a folder, a pipe or a device.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Asked first: opening a pipe would wait for its writer.
        let facts = fs::metadata(path)?;
        if facts.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder, not a file",
            ));
        }
        if !facts.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is not a regular file and cannot be mapped into memory",
            ));
        }
        let file = fs::File::open(path)?;
        // SAFETY: the map is private to this value and only read. Like any program that maps files, this one relies on
        // nobody cutting or rewriting a model file in place while it is served.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Tells the operating system that these bytes are needed soon, so that it reads ahead. A hint: failing is no
    /// error, and a range outside of the file is cut.
    pub fn will_need(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start < end {
            #[cfg(unix)]
            let _ = self
                .map
                .advise_range(memmap2::Advice::WillNeed, range.start, end - range.start);
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_bytes_and_anything_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        for size in [0, 1, 4096, 10_001] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let map = MappedFile::open(&path).unwrap();
            map.will_need(0..size * 2);
            map.will_need(size..usize::MAX);
            assert_eq!(map[..], bytes[..]);
        }
        let error = MappedFile::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        let error = MappedFile::open(&folder.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        #[cfg(unix)]
        assert!(MappedFile::open(Path::new("/dev/null")).is_err());
    }
}
