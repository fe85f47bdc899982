//! Compiled kernels on disk.
//!
//! **Key.** BLAKE3 over, each with its length in front: this format's version, the compiler's fingerprint
//! (name, version, size of its file), the options with the architecture in them, the kernel's symbol, the
//! dynamic shared memory its costs include, and the generated text. Two texts that differ in a comment are
//! two entries.
//!
//! **Failures are soft.** A cache only saves time: whatever is wrong with it (no home folder, a full disk, a
//! file cut short or altered, no permission) is a miss on reading and nothing on writing, never an error.
//!
//! **Concurrency.** An entry is written to a temporary file in the same folder and renamed over its name, so
//! readers, other threads and other processes see whole entries or none. Two writers of one key write
//! the same content; the last one wins.
//!
//! **Trust.** The checksum in an entry finds damage, not malice: who can write the folder chooses what runs
//! on the GPU. It is therefore created for its owner alone, inside the user's own cache folder.
//!
//! **Size.** Above [`LIMIT`] the entries that were used longest ago go, until three quarters are left.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tilekiln_codegen::Generated;

use super::{Compiled, Compiler};
use crate::device::Resources;
use crate::library::env_path;

/// Bytes all entries may take together.
pub const LIMIT: u64 = 1 << 30;

/// Changes whenever the key's contents or the entry's layout change.
const FORMAT: &str = "tilekiln jit cache 1";
const MAGIC: &[u8; 8] = b"TKJIT\0\0\x01";
const HASH: usize = blake3::OUT_LEN;
const EXTENSION: &str = "kernel";
/// A temporary file this old was left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A cache folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// Bytes of entries as far as known; set right by each pruning.
    bytes: AtomicU64,
}

/// What identifies an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of one text for one architecture.
    pub fn new(compiler: &dyn Compiler, generated: &Generated, architecture: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(FORMAT.as_bytes());
        part(compiler.fingerprint().as_bytes());
        part(architecture.as_bytes());
        for option in compiler.options(architecture) {
            part(option.as_bytes());
        }
        part(generated.symbol.as_bytes());
        part(&(generated.dynamic_shared_bytes as u64).to_le_bytes());
        part(generated.text.as_bytes());
        Self(hasher.finalize())
    }
}

/// What is in a cache folder, for a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheState {
    /// Where it is; nothing when there is neither a home folder nor a variable that names one.
    pub folder: Option<PathBuf>,
    /// Entries can be written. A folder that does not exist yet counts when it could be made.
    pub writable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Compiled kernels in it.
    pub entries: usize,
    /// Bytes they take.
    pub bytes: u64,
}

/// `TILEKILN_CACHE_DIR`, else `XDG_CACHE_HOME/tilekiln`, else `~/.cache/tilekiln`, else none.
pub fn folder() -> Option<PathBuf> {
    env_path("TILEKILN_CACHE_DIR")
        .or_else(|| env_path("XDG_CACHE_HOME").map(|folder| folder.join("tilekiln")))
        .or_else(|| env_path("HOME").map(|home| home.join(".cache").join("tilekiln")))
}

impl Cache {
    /// The user's cache, `None` when there is no place for one.
    pub fn open() -> Option<Self> {
        folder().map(|folder| Self::at(&folder))
    }

    /// A cache in this folder, which is made when the first entry is written.
    pub fn at(folder: &Path) -> Self {
        Self::with_limit(folder, LIMIT)
    }

    fn with_limit(folder: &Path, limit: u64) -> Self {
        let cache = Self {
            folder: folder.to_path_buf(),
            limit,
            bytes: AtomicU64::new(0),
        };
        cache.prune();
        cache
    }

    /// The entry of a key, unless there is none or it is damaged.
    pub fn get(&self, key: &Key) -> Option<Compiled> {
        let path = self.path(key);
        let bytes = fs::read(&path).ok()?;
        let Some(compiled) = decode(&bytes) else {
            // Damaged: it would be read again each time.
            let _ = fs::remove_file(&path);
            return None;
        };
        // Pruning goes by the time of last use.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(compiled)
    }

    /// Stores an entry, or does not.
    pub fn put(&self, key: &Key, compiled: &Compiled) {
        let bytes = encode(compiled);
        let size = bytes.len() as u64;
        if size > self.limit / 4 || self.write(key, &bytes).is_err() {
            return;
        }
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > self.limit {
            self.prune();
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.{EXTENSION}", key.0.to_hex()))
    }

    fn write(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        static UNIQUE: AtomicU64 = AtomicU64::new(0);
        create_private(&self.folder)?;
        let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .folder
            .join(format!("{}.{}.{unique}.tmp", key.0.to_hex(), std::process::id()));
        let written = fs::File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, self.path(key)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes what was used longest ago when there is too much, and what dead processes left.
    fn prune(&self) {
        let mut entries = files(&self.folder);
        let now = SystemTime::now();
        entries.retain(|entry| {
            let entry_is_kernel = entry.path.extension().is_some_and(|extension| extension == EXTENSION);
            let temporary = entry.path.extension().is_some_and(|extension| extension == "tmp");
            let age = now.duration_since(entry.used).unwrap_or_default();
            if temporary && age > ABANDONED {
                let _ = fs::remove_file(&entry.path);
            }
            entry_is_kernel
        });
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if total > self.limit {
            entries.sort_by_key(|entry| entry.used);
            for entry in &entries {
                if total <= self.limit / 4 * 3 {
                    break;
                }
                if fs::remove_file(&entry.path).is_ok() {
                    total -= entry.bytes;
                }
            }
        }
        self.bytes.store(total, Ordering::Relaxed);
    }
}

/// What is in the user's cache. Makes the folder when it is not there yet.
pub fn state() -> CacheState {
    let Some(folder) = folder() else {
        let reason = "none of TILEKILN_CACHE_DIR, XDG_CACHE_HOME and HOME is set".to_string();
        return CacheState {
            folder: None,
            writable: false,
            reason: Some(reason),
            entries: 0,
            bytes: 0,
        };
    };
    let test = folder.join(format!("writable.{}.tmp", std::process::id()));
    let written = create_private(&folder).and_then(|()| fs::write(&test, b"x"));
    let _ = fs::remove_file(&test);
    let kernels: Vec<Entry> = files(&folder)
        .into_iter()
        .filter(|entry| entry.path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect();
    CacheState {
        folder: Some(folder),
        writable: written.is_ok(),
        reason: written.err().map(|error| error.to_string()),
        entries: kernels.len(),
        bytes: kernels.iter().map(|entry| entry.bytes).sum(),
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn files(folder: &Path) -> Vec<Entry> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            let used = meta.modified().ok()?;
            meta.is_file().then(|| Entry {
                path: entry.path(),
                bytes: meta.len(),
                used,
            })
        })
        .collect()
}

/// Makes the folder, readable by its owner alone. One that exists stays as it is.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Magic, checksum of what follows, four costs, length and bytes of the log, the binary.
fn encode(compiled: &Compiled) -> Vec<u8> {
    let Resources {
        registers,
        shared_bytes,
        spills,
        scratch_bytes,
    } = compiled.resources;
    let mut payload = Vec::with_capacity(compiled.binary.len() + compiled.log.len() + 24);
    for number in [registers, shared_bytes, spills, scratch_bytes] {
        payload.extend(number.to_le_bytes());
    }
    payload.extend((compiled.log.len() as u64).to_le_bytes());
    payload.extend(compiled.log.as_bytes());
    payload.extend(&compiled.binary);
    let mut out = Vec::with_capacity(payload.len() + MAGIC.len() + HASH);
    out.extend(MAGIC);
    out.extend(blake3::hash(&payload).as_bytes());
    out.extend(payload);
    out
}

fn decode(bytes: &[u8]) -> Option<Compiled> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (checksum, mut payload) = rest.split_at_checked(HASH)?;
    if blake3::hash(payload).as_bytes() != checksum {
        return None;
    }
    let mut costs = [0u32; 4];
    for cost in &mut costs {
        let (number, rest) = payload.split_first_chunk()?;
        (*cost, payload) = (u32::from_le_bytes(*number), rest);
    }
    let (length, rest) = payload.split_first_chunk()?;
    let (log, binary) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    if binary.is_empty() {
        return None;
    }
    let [registers, shared_bytes, spills, scratch_bytes] = costs;
    Some(Compiled {
        binary: binary.to_vec(),
        resources: Resources {
            registers,
            shared_bytes,
            spills,
            scratch_bytes,
        },
        log: std::str::from_utf8(log).ok()?.to_string(),
        time: Duration::ZERO,
        from_cache: true,
    })
}

#[cfg(test)]
mod tests;
