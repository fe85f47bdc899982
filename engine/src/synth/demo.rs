//! The model that runs when no file is given.

use std::fs;
use std::path::{Path, PathBuf};

use super::config::TINY;
use super::{Error, Files, Model, Options, failed};

/// Writes the tiny synthetic model with its assistant into the cache folder, where it is not there yet.
///
/// # Errors
/// The files cannot be written.
pub fn demo() -> Result<Files, Error> {
    // an older program's model in the same place would be another one
    demo_in(&folder().join(format!("demo-{}", env!("CARGO_PKG_VERSION"))))
}

/// As [`demo`], in a folder. Others may do the same at the same time: each writes into a folder of its own and renames
/// the files, whose contents are the same whoever wrote them.
fn demo_in(folder: &Path) -> Result<Files, Error> {
    let files = Files::new(&TINY, folder);
    if files.all().iter().all(|file| file.exists()) {
        return Ok(files);
    }
    fs::create_dir_all(folder).map_err(|error| failed(folder, 0, error))?;
    let own = tempfile::tempdir_in(folder).map_err(|error| failed(folder, 0, error))?;
    let written = Model::new(&TINY, Options::default())?.write(own.path(), &|_| ())?;
    for (from, to) in written.all().into_iter().zip(files.all()) {
        fs::rename(from, to).map_err(|error| failed(to, 0, error))?;
    }
    Ok(files)
}

/// Where models that can be made again are kept.
fn folder() -> PathBuf {
    tilekiln_runtime::compiler::cache::folder().unwrap_or_else(|| std::env::temp_dir().join("tilekiln"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_write_it_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("demo");
        let found: Vec<[Vec<u8>; 3]> = std::thread::scope(|scope| {
            let read = || demo_in(&place).map(|files| files.all().map(|file| fs::read(file).expect("it is there")));
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            let found = writers.into_iter().map(|writer| writer.join().expect("no panic"));
            found.collect::<Result<_, _>>().expect("written")
        });
        let alone = folder.path().join("alone");
        let files = demo_in(&alone).expect("written");
        let expected = files.all().map(|file| fs::read(file).expect("it is there"));
        assert!(
            found.iter().all(|found| *found == expected),
            "somebody read a half-written file"
        );
        let left = fs::read_dir(&place).expect("it is there").count();
        assert_eq!(left, 3, "temporary folders stay behind");
    }
}
