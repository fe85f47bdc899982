//! Divisions that were measured, in a file: one for each device in the cache folder, or wherever it is to be shipped from.
//!
//! A file is for one device: its name, its target, its units. It is also for the kernels as they were: of every kernel in
//! it there is a hash of the text, for one fixed division. When the text is another one now, what was measured says
//! nothing any more.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tilekiln_dsl::target::{TARGETS, Target, Vendor};
use tilekiln_runtime::compiler::cache;
use tilekiln_runtime::device::Properties;

use crate::model::{Tuned, TunedTile, Tuning, Unfit};
use crate::plan::Product;

/// Names this layout in a file.
pub const FORMAT: &str = "tilekiln tuning 1";
/// What the names of all layouts begin with.
const KIND: &str = "tilekiln tuning ";

/// Everything of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuningFile {
    /// [`FORMAT`]
    pub format: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// The device, as its driver says.
    pub device: String,
    /// The target whose kernels it runs.
    pub target: String,
    /// Multiprocessors, compute units or threads.
    pub units: usize,
    /// Hashes of the kernels in it.
    pub kernels: BTreeMap<String, String>,
    /// Products for which something better than the rule was found.
    pub products: Vec<Entry>,
}

/// A product and its best division.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    #[serde(flatten)]
    pub product: Product,
    /// What it is in a model: `ffn_down`.
    pub stages: Vec<String>,
    /// Warps of a block.
    pub warps: usize,
    /// Warps by rule.
    pub default_warps: usize,
    /// The rest of the division, for every number of column tiles.
    pub tiles: Vec<Tile>,
}

/// The division with some column tiles, and what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tile {
    /// Column tiles.
    pub columns: usize,
    /// Rows of the step that was timed.
    pub rows: usize,
    /// Tiles that each warp has under way.
    pub slots: usize,
    /// Blocks.
    pub blocks: usize,
    /// Microseconds of a launch.
    pub us: f64,
    /// Slots by rule.
    pub default_slots: usize,
    /// Blocks by rule.
    pub default_blocks: usize,
    /// Microseconds of a launch by rule.
    pub default_us: f64,
}

/// A chip that a tuning has to be for.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The whole name of a device, or a part that is in the names of all of its kind.
    pub name: &'a str,
    /// Whether `name` is the whole name.
    pub is_whole: bool,
    /// Its target.
    pub target: &'a Target,
    /// Its units.
    pub units: usize,
}

/// Why there is no tuning.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TuningError {
    #[error("{path}: {error}", path = path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{path} is no tuning of `tilekiln tune`: {reason}; delete or move it and run `tilekiln tune`, name another file, or give \
         --tuning none",
        path = path.display()
    )]
    NoTuning { path: PathBuf, reason: String },
    #[error(
        "{path} has the format `{found}`, and this program reads `{FORMAT}`; run `tilekiln tune` with this version, or give \
         --tuning none",
        path = path.display()
    )]
    OtherFormat { path: PathBuf, found: String },
    #[error(
        "{path} was measured on {found}, and this is {wanted}; run `tilekiln tune` here, or give --tuning none",
        path = path.display()
    )]
    OtherDevice {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error(
        "{path} was measured with other kernels than this version's ({kernels}); run `tilekiln tune` again, or give \
         --tuning none",
        path = path.display()
    )]
    OtherKernels { path: PathBuf, kernels: String },
    #[error(
        "{path} has a division that cannot be, {unfit}; run `tilekiln tune` again, or give --tuning none",
        path = path.display()
    )]
    Unfit { path: PathBuf, unfit: Unfit },
    #[error("{path} cannot be written: {error}", path = path.display())]
    Unwritable { path: PathBuf, error: io::Error },
    #[error(
        "none of TILEKILN_CACHE_DIR, XDG_CACHE_HOME and HOME is set, so there is no place for the result; give --out FILE"
    )]
    NoFolder,
}

impl<'a> Owner<'a> {
    /// A device at hand.
    pub fn device(properties: &'a Properties) -> Self {
        Self {
            name: &properties.name,
            is_whole: true,
            target: &properties.target,
            units: properties.units,
        }
    }
}

/// Where the tuning of a device is kept when nothing is said. None without a cache folder.
pub fn usual_path(device: &str) -> Option<PathBuf> {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let name: String = device.chars().map(plain).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    Some(
        cache::folder()?
            .join("tuning")
            .join(format!("{}.json", parts.join("-"))),
    )
}

/// Hash of the text of a product's kernel for a target, divided as its settings are when nothing is said.
///
/// The host has no text; it runs kernels recorded for any target, so the text for the first one stands for them.
fn kernel_hash(product: &Product, target: &Target) -> Option<(String, String)> {
    let spec = product.usual_kernel()?;
    let with_text = match target.vendor {
        Vendor::Host => TARGETS.first()?,
        _ => target,
    };
    let kernel = spec.record(with_text).ok()?;
    let generated = tilekiln_codegen::generate(&kernel).ok()?;
    let hash = blake3::hash(generated.text.as_bytes());
    Some((spec.to_string(), hash.to_hex()[..32].to_owned()))
}

impl TuningFile {
    /// Without products.
    pub fn new(properties: &Properties) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: properties.name.clone(),
            target: properties.target.name.to_owned(),
            units: properties.units,
            kernels: BTreeMap::new(),
            products: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Files that cannot be read, that are none of these, or of another format.
    pub fn read(path: &Path) -> Result<Self, TuningError> {
        let text = fs::read(path).map_err(|error| TuningError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let wrong = |reason: String| TuningError::NoTuning {
            path: path.to_owned(),
            reason,
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("it is no JSON ({error})")))?;
        match value.get("format").and_then(|format| format.as_str()) {
            Some(FORMAT) => {}
            Some(found) if found.starts_with(KIND) => {
                return Err(TuningError::OtherFormat {
                    path: path.to_owned(),
                    found: found.to_owned(),
                });
            }
            Some(other) => return Err(wrong(format!("its format is `{other}`"))),
            None => return Err(wrong("it does not say its format".to_owned())),
        }
        serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
    }

    /// Whether it was measured on a chip, with the kernels as they are.
    ///
    /// # Errors
    /// How it differs. `path` is where it is from.
    pub fn check(&self, path: &Path, owner: &Owner<'_>) -> Result<(), TuningError> {
        let path = path.to_owned();
        let is_named = match owner.is_whole {
            true => self.device == owner.name,
            false => self.device.contains(owner.name),
        };
        let found = (self.target.as_str(), self.units);
        if !is_named || found != (owner.target.name, owner.units) {
            let describe = |name: &str, target: &str, units| format!("{name} ({target}, {units} units)");
            return Err(TuningError::OtherDevice {
                path,
                found: describe(&self.device, &self.target, self.units),
                wanted: describe(owner.name, owner.target.name, owner.units),
            });
        }
        let now = hashes(&self.products, owner.target);
        let differs = |(kernel, hash): (&String, &String)| (now.get(kernel) != Some(hash)).then(|| kernel.clone());
        let mut changed: Vec<String> = self.kernels.iter().filter_map(differs).collect();
        changed.extend(now.into_keys().filter(|kernel| !self.kernels.contains_key(kernel)));
        if changed.is_empty() {
            return Ok(());
        }
        Err(TuningError::OtherKernels {
            path,
            kernels: changed.join(", "),
        })
    }

    /// For the planner.
    ///
    /// # Errors
    /// Divisions that do not fit the target. `path` is where it is from.
    pub fn tuning(&self, path: &Path, target: &Target) -> Result<Tuning, TuningError> {
        let products = self.products.iter().map(|entry| (entry.product.clone(), entry.tuned()));
        Tuning::new(target, products).map_err(|unfit| TuningError::Unfit {
            path: path.to_owned(),
            unfit,
        })
    }

    /// Takes over what was found for some products, in place of what it has of them.
    pub fn replace(&mut self, measured: &[Product], found: Vec<Entry>, target: &Target) {
        self.products.retain(|entry| !measured.contains(&entry.product));
        self.products.extend(found);
        self.products.sort_by(|a, b| a.product.cmp(&b.product));
        self.kernels = hashes(&self.products, target);
        self.version = env!("CARGO_PKG_VERSION").to_owned();
    }
}

/// Hashes of the kernels of products, each once. A kernel that the library does not have has none.
fn hashes(products: &[Entry], target: &Target) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for entry in products {
        let kernel = (&entry.product.kernel, &entry.product.settings);
        seen.entry(kernel)
            .or_insert_with(|| kernel_hash(&entry.product, target));
    }
    seen.into_values().flatten().collect()
}

impl Entry {
    /// The division.
    pub fn tuned(&self) -> Tuned {
        let tiles = self.tiles.iter().map(|tile| TunedTile {
            columns: tile.columns,
            slots: tile.slots,
            blocks: tile.blocks,
        });
        Tuned {
            warps: self.warps,
            tiles: tiles.collect(),
        }
    }
}

/// A place for a result, found to be writable before minutes of measuring. The file appears there whole, or not at all.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// The name until it is written.
    temporary: PathBuf,
    file: fs::File,
}

impl Place {
    /// Takes a place, and makes its folder where it is missing.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn take(path: &Path) -> Result<Self, TuningError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let temporary = path.with_file_name(name);
        let create = || {
            if path.is_dir() || path.file_name().is_none() {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::File::create(&temporary)
        };
        let file = create().map_err(|error| unwritable(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            file,
        })
    }

    /// Puts a file there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(mut self, tuning: &TuningFile) -> Result<(), TuningError> {
        let mut text = serde_json::to_string_pretty(tuning).map_err(|error| unwritable(&self.path, error.into()))?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let kept = written.and_then(|()| fs::rename(&self.temporary, &self.path));
        kept.map_err(|error| unwritable(&self.path, error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // once it has its name, there is nothing left to remove
        let _ = fs::remove_file(&self.temporary);
    }
}

fn unwritable(path: &Path, error: io::Error) -> TuningError {
    TuningError::Unwritable {
        path: path.to_owned(),
        error,
    }
}
