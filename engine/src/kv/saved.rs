//! A slot's cache in a file.
//!
//! | Part | Content |
//! | --- | --- |
//! | 8 bytes | `TKSLOT\r\n` |
//! | u32 | version of this layout: [`VERSION`] |
//! | u32 | length of the header |
//! | header | JSON, [`Header`] |
//! | pages | of each layer that owns a cache: keys, then values, oldest page first, as they are on the device |
//! | 32 bytes | BLAKE3 of everything before |
//!
//! Numbers are little-endian. Pages are in the order of matrix instructions, which differs between families of devices, so
//! the header names it; a file is read back by the model, the formats and the family it was written by.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of the layout.
pub const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"TKSLOT\r\n";
const HASH_BYTES: usize = 32;
/// Headers are smaller: a million tokens take seven megabytes.
const LARGEST_HEADER: usize = 64 << 20;

/// What a layer's pages are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLayer {
    /// The layer.
    pub layer: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Format of keys.
    pub keys: String,
    /// Format of values.
    pub values: String,
    /// Number of the oldest page that is saved: 64 positions each, counted from the beginning of the sequence.
    pub first_page: usize,
    /// Pages.
    pub pages: usize,
    /// Bytes of all its key pages.
    pub key_bytes: usize,
    /// Bytes of all its value pages.
    pub value_bytes: usize,
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the model.
    pub model: String,
    /// Hash of samples of the model's weights.
    pub fingerprint: String,
    /// Order of values in pages.
    pub layout: String,
    /// Tokens whose keys and values are valid.
    pub tokens: Vec<u32>,
    /// One more than the highest position that was written.
    pub high: usize,
    /// Layers that own a cache.
    pub layers: Vec<SavedLayer>,
}

/// Why a slot cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file cannot be read or written.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is something else.
    #[error("{path} is no saved slot", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// It is of another version.
    #[error(
        "{path} is a saved slot of version {found}; this program reads version {VERSION}: evaluate the prompt again and save it anew",
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is cut short or changed.
    #[error("{path} is damaged: {what}; nothing was restored", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        what: String,
    },
    /// It belongs to another model or another setting.
    #[error("{path} does not belong here: its {what} is {found} and here it is {wanted}; nothing was restored", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// In the file.
        found: String,
        /// Here.
        wanted: String,
    },
}

impl SaveError {
    fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::File {
            path: path.to_owned(),
            error,
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    /// A difference, where there is one.
    pub(crate) fn differs(
        path: &Path,
        what: impl Into<String>,
        found: impl PartialEq + ToString,
        wanted: impl ToString,
    ) -> Result<(), Self> {
        let (found, wanted) = (found.to_string(), wanted.to_string());
        if found == wanted {
            return Ok(());
        }
        Err(Self::Mismatch {
            path: path.to_owned(),
            what: what.into(),
            found,
            wanted,
        })
    }
}

/// Writes a file. It appears under its name when it is complete.
///
/// # Errors
/// Those of the file system.
pub fn write(path: &Path, header: &Header, pages: &[Vec<u8>]) -> Result<u64, SaveError> {
    let failed = SaveError::file(path);
    let json = serde_json::to_vec(header).map_err(|error| failed(error.into()))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let length = (json.len() as u32).to_le_bytes();
    let head = [&MAGIC[..], &VERSION.to_le_bytes(), &length, &json];
    let pieces = head.into_iter().chain(pages.iter().map(Vec::as_slice));
    let written = write_pieces(&part, pieces).and_then(|bytes| std::fs::rename(&part, path).map(|()| bytes));
    written.map_err(|error| {
        // a half-written file helps nobody
        let _ = std::fs::remove_file(&part);
        failed(error)
    })
}

/// Writes pieces and the hash of all of them. Returns the bytes of the file.
fn write_pieces<'a>(path: &Path, pieces: impl Iterator<Item = &'a [u8]>) -> std::io::Result<u64> {
    let mut file = File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
        file.write_all(piece)?;
    }
    file.write_all(hasher.finalize().as_bytes())?;
    file.sync_all()?;
    Ok(hasher.count() + HASH_BYTES as u64)
}

/// Reads a file: header and pages, keys and values of each layer in turn.
///
/// # Errors
/// Files that are something else, of another version, or damaged.
pub fn read(path: &Path) -> Result<(Header, Vec<Vec<u8>>), SaveError> {
    let failed = SaveError::file(path);
    let damaged = |what: &str| SaveError::damaged(path, what);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(&failed)?;
    let Some(rest) = bytes.strip_prefix(&MAGIC[..]) else {
        return Err(SaveError::Unknown { path: path.to_owned() });
    };
    let number = |at: usize| {
        let word = rest.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes).ok_or_else(|| damaged("it ends early"))
    };
    let found = number(0)?;
    if found != VERSION {
        return Err(SaveError::Version {
            path: path.to_owned(),
            found,
        });
    }
    let length = number(4)? as usize;
    let body = rest.len().checked_sub(HASH_BYTES).and_then(|end| rest.get(8..end));
    let body = body.ok_or_else(|| damaged("it ends early"))?;
    let hash_at = bytes.len() - HASH_BYTES;
    if blake3::hash(&bytes[..hash_at]).as_bytes()[..] != bytes[hash_at..] {
        return Err(damaged("its checksum is wrong"));
    }
    if length > LARGEST_HEADER || length > body.len() {
        return Err(damaged("its header is longer than the file"));
    }
    let (json, mut left) = body.split_at(length);
    let header: Header = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
    let mut pages = Vec::new();
    for layer in &header.layers {
        for size in [layer.key_bytes, layer.value_bytes] {
            let Some((piece, after)) = left.split_at_checked(size) else {
                return Err(damaged("pages are missing"));
            };
            pages.push(piece.to_vec());
            left = after;
        }
    }
    if !left.is_empty() {
        return Err(damaged("there is something behind its pages"));
    }
    Ok((header, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Header, Vec<Vec<u8>>) {
        let header = Header {
            model: "tiny".to_owned(),
            fingerprint: "ab".to_owned(),
            layout: "pairs".to_owned(),
            tokens: (0..70).collect(),
            high: 71,
            layers: vec![SavedLayer {
                layer: 3,
                kv_heads: 2,
                head_dim: 64,
                keys: "turbo3".to_owned(),
                values: "f16".to_owned(),
                first_page: 0,
                pages: 2,
                key_bytes: 100,
                value_bytes: 300,
            }],
        };
        let pages = [100, 300].map(|size| (0..size).map(|byte: u32| (byte * 7) as u8).collect());
        (header, pages.to_vec())
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        let (header, pages) = example();
        let bytes = write(&path, &header, &pages).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(read(&path).unwrap(), (header, pages));
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        let (header, pages) = example();
        write(&path, &header, &pages).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let error_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path).expect_err("damaged").to_string()
        };
        for at in (0..whole.len()).step_by(13).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let error = error_of(&bytes);
            let wanted = match at {
                0..8 => "no saved slot",
                8..12 => "version",
                _ => "damaged",
            };
            assert!(error.contains(wanted), "byte {at}: {error}");
        }
        // too short for a header, and with the right checksum all the same
        let mut short = whole[..12].to_vec();
        short.extend(blake3::hash(&short).as_bytes());
        assert!(error_of(&short).contains("damaged"));
        for length in [0, 7, 8, 11, 15, 40, whole.len() - 1] {
            let error = error_of(&whole[..length]);
            assert!(
                error.contains("damaged") || error.contains("no saved slot"),
                "{length}: {error}"
            );
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
