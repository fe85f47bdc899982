//! All kernels by name, with the settings the command line can give them and inputs to try them on.

use std::collections::BTreeMap;
use std::fmt;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tilekiln_dsl::comptime::KernelDef;

/// What a kernel file needs to register itself.
pub mod prelude {
    pub use super::{Argument, ELEMENT, Entry, Example, Parameter, Random, SettingError, Settings, choice, width};
}

/// A kernel (with all its comptime variants).
pub struct Entry {
    /// The kernel function's name.
    pub name: &'static str,
    /// What can be set.
    pub parameters: &'static [Parameter],
    /// Makes the kernel.
    pub build: fn(&Settings) -> Result<KernelDef, SettingError>,
    /// Makes a launch with random inputs of random sizes.
    pub example: fn(&Settings, &mut Random) -> Result<Example, SettingError>,
}

/// One comptime setting.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// `threads`
    pub key: &'static str,
    /// Value when nothing is given.
    pub default: &'static str,
    /// What it means and what it may be.
    pub help: &'static str,
}

/// A setting of a kernel.
pub const fn choice(key: &'static str, default: &'static str, help: &'static str) -> Parameter {
    Parameter { key, default, help }
}

/// The element type of a kernel over floats.
pub const ELEMENT: Parameter = choice("element", "f16", "element type: f16, bf16, f32");

/// A setting that a kernel cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError(pub String);

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for SettingError {}

/// Values for an entry's parameters: given ones over defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    kernel: &'static str,
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Parses `key=value` pairs.
    ///
    /// # Errors
    /// An unknown key or something that is not a pair.
    pub fn parse<'a>(entry: &Entry, given: impl IntoIterator<Item = &'a str>) -> Result<Self, SettingError> {
        let mut values: BTreeMap<_, _> = entry
            .parameters
            .iter()
            .map(|p| (p.key, p.default.to_string()))
            .collect();
        for pair in given {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| SettingError(format!("`{pair}` is not a setting; write key=value")))?;
            let Some(parameter) = entry.parameters.iter().find(|p| p.key == key.trim()) else {
                let keys: Vec<_> = entry.parameters.iter().map(|p| p.key).collect();
                let known = if keys.is_empty() {
                    "it has none".to_string()
                } else {
                    format!("it has {}", keys.join(", "))
                };
                return Err(SettingError(format!(
                    "{} has no setting `{}`; {known}",
                    entry.name,
                    key.trim()
                )));
            };
            values.insert(parameter.key, value.trim().to_string());
        }
        Ok(Self {
            kernel: entry.name,
            values,
        })
    }

    /// A setting as text.
    ///
    /// # Errors
    /// The entry does not declare it.
    pub fn text(&self, key: &str) -> Result<&str, SettingError> {
        self.values
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| SettingError(format!("{} does not declare the setting `{key}`", self.kernel)))
    }

    /// A setting as a number.
    ///
    /// # Errors
    /// Not a whole number, or so large that no kernel can mean it.
    pub fn number(&self, key: &str) -> Result<usize, SettingError> {
        let text = self.text(key)?;
        let number = text.parse::<usize>().ok().filter(|n| *n <= 1 << 20);
        number.ok_or_else(|| {
            SettingError(format!(
                "{}: {key}={text} is not a whole number from 0 to {}",
                self.kernel,
                1 << 20
            ))
        })
    }

    /// The error for a value outside of what is supported.
    pub fn unsupported(&self, key: &str, value: &str, supported: &[&str]) -> SettingError {
        SettingError(format!(
            "{}: {key}={value} is not supported; {key} is one of {}",
            self.kernel,
            supported.join(", ")
        ))
    }

    /// Fails unless a setting fits.
    ///
    /// # Errors
    /// `fits` is false.
    pub fn require(&self, key: &str, fits: bool, supported: &str) -> Result<(), SettingError> {
        if fits {
            return Ok(());
        }
        Err(SettingError(format!(
            "{}: {key}={} is not supported; {key} has to be {supported}",
            self.kernel,
            self.text(key)?
        )))
    }
}

/// One launch argument of an example.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A buffer with contents.
    Input(Vec<u8>),
    /// A buffer the kernel fills: its size in bytes.
    Output(usize),
    /// A scalar.
    U32(u32),
    /// A scalar.
    F32(f32),
}

impl Argument {
    /// A buffer of `u32` numbers.
    pub fn words(words: impl IntoIterator<Item = u32>) -> Self {
        Self::Input(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    /// A buffer of `u64` numbers.
    pub fn wide_words(words: impl IntoIterator<Item = u64>) -> Self {
        Self::Input(words.into_iter().flat_map(u64::to_le_bytes).collect())
    }

    /// A buffer of that many bytes for results.
    pub fn output(bytes: usize) -> Self {
        Self::Output(bytes)
    }
}

/// A launch to try a kernel on.
#[derive(Clone, Debug)]
pub struct Example {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// One per parameter.
    pub arguments: Vec<Argument>,
}

/// Bytes of a float element.
pub fn width(element: &str) -> usize {
    if element == "f32" { 4 } else { 2 }
}

/// Random inputs, the same for the same seed.
pub struct Random(StdRng);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A size from `low` to `high`, both included.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high.max(low))
    }

    fn float(&mut self) -> f32 {
        // the sum of three is close enough to a bell curve for test data
        (0..3).map(|_| self.0.random_range(-1.0f32..1.0)).sum()
    }

    /// Floats around zero.
    pub fn floats(&mut self, element: &str, count: usize) -> Argument {
        let mut bytes = Vec::with_capacity(count * width(element));
        for _ in 0..count {
            let value = self.float();
            match element {
                "f32" => bytes.extend(value.to_le_bytes()),
                "bf16" => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(f16::from_f32(value).to_le_bytes()),
            }
        }
        Argument::Input(bytes)
    }

    /// f32 numbers around zero.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// `u32` numbers below `limit`.
    pub fn below(&mut self, count: usize, limit: u32) -> Argument {
        Argument::Input(
            (0..count)
                .flat_map(|_| self.0.random_range(0..limit.max(1)).to_le_bytes())
                .collect(),
        )
    }

    /// Any bytes.
    pub fn bytes(&mut self, count: usize) -> Argument {
        Argument::Input((0..count).map(|_| self.0.random::<u8>()).collect())
    }

    /// Pairs of bytes that are finite f16 and bf16 numbers, and any quants.
    pub fn halves(&mut self, count: usize) -> Argument {
        // 14 bits: below 2 as f16 and as bf16, and in two halves of an f32
        Argument::Input(
            (0..count)
                .flat_map(|_| (self.0.random::<u16>() & 0xbfff).to_le_bytes())
                .collect(),
        )
    }
}

/// Every kernel of the library.
pub const KERNELS: &[&Entry] = &[
    &crate::norm::ENTRY,
    &crate::residual::RESIDUAL_NORM,
    &crate::residual::PLE_COMBINE,
    &crate::rope::ENTRY,
    &crate::heads::ENTRY,
    &crate::gather::ENTRY,
    &crate::gather::COPY_ROWS,
    &crate::embed::ENTRY,
    &crate::gated::GATED,
    &crate::gated::SOFTCAP,
    &crate::matmul::quantise::ENTRY,
    &crate::matmul::row_product::ENTRY,
    &crate::matmul::linear::ENTRY,
    &crate::matmul::candidates::ENTRY,
    &crate::matmul::tiled::ENTRY,
    &crate::attention::cache_read::ENTRY,
    &crate::matmul::packed::product::ENTRY,
    &crate::matmul::packed::product::PAIR,
    &crate::matmul::packed::gated::GATED,
    &crate::matmul::packed::gated::GATE,
    &crate::matmul::packed::halves::SPLIT,
    &crate::matmul::packed::halves::PRODUCT,
    &crate::matmul::prepare::ROWS,
    &crate::matmul::prepare::NORM,
    &crate::matmul::prepare::RESIDUAL,
    &crate::matmul::prepare::RESIDUAL_NORM,
    &crate::attention::cache_write::ENTRY,
    &crate::attention::exact::ENTRY,
    &crate::attention::queries::ENTRY,
    &crate::attention::prepare::ENTRY,
    &crate::attention::flash::DECODE,
    &crate::attention::flash::PREFILL,
    &crate::attention::combine::ENTRY,
    &crate::attention::combine::INT8,
    &crate::turbo::blocks::ENCODE,
    &crate::turbo::blocks::DECODE,
    &crate::select::ARGMAX,
    &crate::select::TOP_K,
    &crate::select::TAKE,
    &crate::select::CONFIDENCE,
    &crate::stream::ENTRY,
    &crate::sample::adjust::NOTE,
    &crate::sample::adjust::ADJUST,
    &crate::sample::best::CHUNK_BEST,
    &crate::sample::best::BEST_TOKEN,
    &crate::sample::histogram::ENTRY,
    &crate::sample::candidates::ENTRY,
    &crate::sample::cut::ENTRY,
    &crate::sample::draw::MASS,
    &crate::sample::draw::DRAW,
];

/// Looks a kernel up by name, planted ones included.
pub fn find(name: &str) -> Option<&'static Entry> {
    let planted = crate::planted::PLANTED.iter().map(|planted| planted.entry);
    KERNELS.iter().copied().chain(planted).find(|entry| entry.name == name)
}
