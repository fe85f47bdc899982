//! Opening vendor libraries at run time.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};

use libloading::Library;

use crate::error::DeviceError;

/// An opened vendor library. It stays open until the process ends: these libraries start threads and
/// register exit handlers that would run code which is no longer there.
pub(crate) struct Opened {
    /// The library.
    pub library: &'static Library,
    /// The name that worked.
    pub name: String,
}

/// Opens the first of `candidates` that the loader can load.
pub(crate) fn open_first(candidates: &[PathBuf]) -> Result<Opened, Vec<String>> {
    let mut tried = Vec::new();
    for candidate in candidates {
        // SAFETY: runs the initialisers of a vendor library that the user has installed; there is no way to
        // check them, and nothing else is known to be wrong with loading the libraries named here.
        match unsafe { Library::new(candidate) } {
            Ok(library) => {
                return Ok(Opened {
                    library: Box::leak(Box::new(library)),
                    name: candidate.display().to_string(),
                });
            }
            Err(error) => tried.push(loader_reason(candidate, &error)),
        }
    }
    Err(tried)
}

/// Opens a library for its side effect on the loader: a later open by its plain name finds it.
pub(crate) fn preload(path: &Path) {
    // SAFETY: as in `open_first`.
    if let Ok(library) = unsafe { Library::new(path) } {
        std::mem::forget(library);
    }
}

/// The loader's words, once, with the name in front.
fn loader_reason(candidate: &Path, error: &libloading::Error) -> String {
    let name = candidate.display().to_string();
    let words = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let words = words.trim_start_matches(&format!("{name}: ")).trim().to_string();
    format!("{name}: {words}")
}

impl Opened {
    /// The address of a function.
    ///
    /// # Safety
    /// `F` must be a function pointer type that fits the symbol.
    pub(crate) unsafe fn function<F: Copy>(&self, symbol: &str) -> Result<F, String> {
        // SAFETY: the caller's promise.
        unsafe { self.library.get::<F>(symbol) }
            .map(|found| *found)
            .map_err(|_| format!("{} has no function {symbol}", self.name))
    }

    /// The file that a function of this library was loaded from (Linux only).
    pub(crate) fn file_of(&self, symbol: &str) -> Option<PathBuf> {
        file_of(self.library, symbol)
    }
}

/// The file that a function of a library was loaded from (Linux only).
pub(crate) fn file_of(library: &Library, symbol: &str) -> Option<PathBuf> {
    // SAFETY: only the address is looked at, nothing is called.
    let address = *unsafe { library.get::<*const u8>(symbol) }.ok()? as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = rest.find('/').map(|at| PathBuf::from(&rest[at..]))?;
        (start..end).contains(&address).then_some(path)
    })
}

/// Where to look: in the folder that an environment variable names and nowhere else, or by name.
///
/// A folder that was asked for and does not have the library is an error rather than a reason to take
/// another version from somewhere else.
pub(crate) fn candidates(variable: &str, names: &[&str], elsewhere: &[PathBuf]) -> Vec<PathBuf> {
    match env_path(variable) {
        Some(folder) => names.iter().map(|name| folder.join(name)).collect(),
        None => names
            .iter()
            .map(PathBuf::from)
            .chain(
                elsewhere
                    .iter()
                    .flat_map(|folder| names.iter().map(move |name| folder.join(name))),
            )
            .collect(),
    }
}

/// A path from an environment variable that is set and not empty.
pub(crate) fn env_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The error for a library that could not be opened, or opened but is not what it should be.
pub(crate) fn missing(names: &[&str], tried: &[String], remedy: String) -> DeviceError {
    // The loader says much the same about every name; the first line is enough unless one is different,
    // for example a file that exists and cannot be loaded.
    let absent = |reason: &&String| reason.contains("No such file") || reason.contains("cannot open shared object");
    let unusual: Vec<&str> = tried
        .iter()
        .filter(|reason| !absent(reason))
        .map(String::as_str)
        .collect();
    let reason = match (unusual.is_empty(), tried.first()) {
        (false, _) => unusual.join("; "),
        (true, Some(first)) => first.clone(),
        (true, None) => "not looked for".to_string(),
    };
    DeviceError::MissingLibrary {
        library: names.join(", "),
        reason,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_libraries_are_named() {
        let names = ["libtilekiln-absent.so.3", "libtilekiln-absent.so"];
        let candidates = candidates("TILEKILN_NO_SUCH_VARIABLE", &names, &[PathBuf::from("/no/such/folder")]);
        assert_eq!(candidates.len(), 4);
        let tried = open_first(&candidates).err().expect("it cannot exist");
        assert_eq!(tried.len(), 4);
        let error = missing(&names, &tried, "install it".into()).to_string();
        assert!(
            error.contains("libtilekiln-absent.so.3, libtilekiln-absent.so"),
            "{error}"
        );
        assert!(error.contains("install it"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_the_reason_given() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("libbroken.so");
        std::fs::write(&file, "not a library").expect("written");
        let tried = open_first(&["libtilekiln-absent.so".into(), file])
            .err()
            .expect("neither loads");
        let error = missing(&["libbroken.so"], &tried, "install it".into()).to_string();
        assert!(
            error.contains("invalid ELF") || error.contains("file too short"),
            "{error}"
        );
    }
}
