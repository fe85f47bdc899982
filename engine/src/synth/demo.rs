//! The model that runs when no file is given.

use std::path::PathBuf;

use super::config::TINY;
use super::{Error, Files, Model, Options};

/// Writes the tiny synthetic model with its assistant into the cache folder, where it is not there yet.
///
/// # Errors
/// The files cannot be written.
pub fn demo() -> Result<Files, Error> {
    // an older program's model in the same place would be another one
    let folder = folder().join(format!("demo-{}", env!("CARGO_PKG_VERSION")));
    let files = Files::new(&TINY, &folder);
    if files.all().iter().all(|file| file.exists()) {
        return Ok(files);
    }
    let options = Options {
        force: true,
        ..Options::default()
    };
    Model::new(&TINY, options)?.write(&folder, &|_| ())
}

/// Where models that can be made again are kept.
fn folder() -> PathBuf {
    tilekiln_runtime::compiler::cache::folder().unwrap_or_else(|| std::env::temp_dir().join("tilekiln"))
}
