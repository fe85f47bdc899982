//! Reading bytes in order, never past the end.

use std::fmt;

use super::error::ErrorKind;

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `size` bytes, which belong to `what`.
    pub(super) fn take(&mut self, size: u64, what: fmt::Arguments<'_>) -> Result<&'a [u8], ErrorKind> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(size).ok().and_then(|size| rest.get(..size));
        let taken = taken.ok_or_else(|| ErrorKind::Truncated {
            what: what.to_string(),
            at: self.at,
            needs: size,
            left: self.left(),
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: fmt::Arguments<'_>) -> Result<[u8; N], ErrorKind> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: fmt::Arguments<'_>) -> Result<u32, ErrorKind> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: fmt::Arguments<'_>) -> Result<u64, ErrorKind> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Bytes behind their length.
    pub(super) fn string(&mut self, what: fmt::Arguments<'_>) -> Result<&'a [u8], ErrorKind> {
        let size = self.u64(what)?;
        self.take(size, what)
    }

    /// A number of things that take at least `smallest` bytes each: refused here, before anything is allocated, when
    /// the rest of the file cannot hold them.
    pub(super) fn count(&mut self, smallest: usize, what: fmt::Arguments<'_>) -> Result<usize, ErrorKind> {
        let at = self.at;
        let count = self.u64(what)?;
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= self.left() / smallest)
            .ok_or_else(|| ErrorKind::Count {
                what: what.to_string(),
                at,
                count,
                left: self.left(),
            })
    }
}
