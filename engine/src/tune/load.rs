//! Which tuning a model is loaded with.

use std::path::{Path, PathBuf};

use tilekiln_runtime::device::Properties;

use super::file::{Owner, TuningError, TuningFile, usual_path};
use crate::model::Tuning;
use crate::schedule::TuningChoice;

/// A tuning, and the file that it is from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub tuning: Tuning,
}

/// Reads a file for a chip.
///
/// # Errors
/// Files that are no tuning, and tunings for something else.
pub fn read(path: &Path, owner: &Owner<'_>) -> Result<Loaded, TuningError> {
    let file = TuningFile::read(path)?;
    file.check(path, owner)?;
    Ok(Loaded {
        tuning: file.tuning(path, owner.target)?,
        path: path.to_owned(),
    })
}

/// The tuning for a device. A cached file that cannot be used is left where it is, with a warning: a cache never keeps a
/// model from running.
///
/// # Errors
/// A file that was asked for cannot be used.
pub fn load(choice: &TuningChoice, properties: &Properties) -> Result<Option<Loaded>, TuningError> {
    let owner = Owner::device(properties);
    match choice {
        TuningChoice::None => Ok(None),
        TuningChoice::File(path) => read(path, &owner).map(Some),
        TuningChoice::Cached => {
            let path = usual_path(&properties.name).filter(|path| path.exists());
            let Some(path) = path else { return Ok(None) };
            match read(&path, &owner) {
                Ok(loaded) => Ok(Some(loaded)),
                Err(error) => {
                    tracing::warn!("the cached tuning is not used, divisions follow the rule: {error}");
                    Ok(None)
                }
            }
        }
    }
}
