//! In which formats keys and values are cached.

use std::fmt;
use std::str::FromStr;

use tilekiln_kernels::attention::formats::{self, FORMATS, Format, Pair};

use crate::model::config::LayerKind;

/// A format of cached keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KvType(&'static str);

impl KvType {
    /// 32-bit floats, for comparisons with references.
    pub const F32: Self = Self("f32");
    /// Half precision.
    pub const F16: Self = Self("f16");
    /// bfloat16.
    pub const BF16: Self = Self("bf16");
    /// 8 bits, a scale for 32 values.
    pub const Q8_0: Self = Self("q8_0");
    /// 4 bits, a scale for 32 values.
    pub const Q4_0: Self = Self("q4_0");
    /// TurboQuant with 2 bits a value.
    pub const TURBO2: Self = Self("turbo2");
    /// TurboQuant with 3 bits a value.
    pub const TURBO3: Self = Self("turbo3");
    /// TurboQuant with 4 bits a value.
    pub const TURBO4: Self = Self("turbo4");
    /// [`Self::TURBO4`] with the first codebook that was published, for caches written with it.
    pub const TURBO4_FIRST: Self = Self("turbo4_first");

    /// Every format, as kernels know them.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().map(|format| Self(format.name))
    }

    /// As the command line and the kernels spell it.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// What the kernels know of it.
    fn format(self) -> Option<&'static Format> {
        formats::find(self.0)
    }

    /// Bytes of a page: 64 positions of one KV head with heads of so many values.
    pub fn page_bytes(self, head_dim: usize) -> usize {
        self.format().map_or(0, |format| (format.page_bytes)(head_dim))
    }

    /// Values of a head as they are stored, padding included.
    pub fn stored(self, head_dim: usize) -> usize {
        self.format().map_or(head_dim, |format| (format.stored)(head_dim))
    }

    /// Stored in the rotated domain.
    pub fn is_rotated(self) -> bool {
        self.format().is_some_and(|format| format.rotated)
    }

    /// Words of a prepared query that meets keys of this format; 0 where there is no fast attention.
    pub fn query_words(self, head_dim: usize) -> usize {
        let fast = self.format().and_then(|format| format.fast);
        fast.map_or(0, |fast| fast.query_words(head_dim))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no format of a cache; there are {}", names(KvType::all()))]
pub struct UnknownKvType {
    /// The word.
    pub given: String,
}

fn names(types: impl Iterator<Item = KvType>) -> String {
    types.map(KvType::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(given: &str) -> Result<Self, UnknownKvType> {
        let found = Self::all().find(|kind| kind.0.eq_ignore_ascii_case(given));
        found.ok_or_else(|| UnknownKvType {
            given: given.to_owned(),
        })
    }
}

/// The formats of the keys and values of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheTypes {
    /// Of keys.
    pub keys: KvType,
    /// Of values.
    pub values: KvType,
}

/// Formats that no kernel takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "keys as {keys} and values as {values}: f32 caches are for comparisons and there are no kernels that mix them with another \
     format; the nearest choices are f32 for both, or f16 in place of f32"
)]
pub struct UnsupportedPair {
    /// Format of keys.
    pub keys: KvType,
    /// Format of values.
    pub values: KvType,
}

impl CacheTypes {
    /// Keys and values in one format.
    pub const fn both(kind: KvType) -> Self {
        Self {
            keys: kind,
            values: kind,
        }
    }

    /// Bytes of a page of keys and of one of values.
    pub fn page_bytes(self, head_dim: usize) -> [usize; 2] {
        [self.keys, self.values].map(|kind| kind.page_bytes(head_dim))
    }

    /// The kernels of the pair.
    ///
    /// # Errors
    /// There are none.
    pub fn pair(self) -> Result<&'static Pair, UnsupportedPair> {
        formats::find_pair([self.keys.0, self.values.0]).ok_or(UnsupportedPair {
            keys: self.keys,
            values: self.values,
        })
    }
}

impl fmt::Display for CacheTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keys, self.values)
    }
}

/// The formats of all caches of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvTypes {
    /// Of layers that see the whole context.
    pub full: CacheTypes,
    /// Of layers with a window.
    pub sliding: CacheTypes,
}

impl KvTypes {
    /// One format for everything.
    pub const fn uniform(kind: KvType) -> Self {
        Self {
            full: CacheTypes::both(kind),
            sliding: CacheTypes::both(kind),
        }
    }

    /// The formats of layers of a kind.
    pub fn of(self, kind: LayerKind) -> CacheTypes {
        match kind {
            LayerKind::Full => self.full,
            LayerKind::Sliding => self.sliding,
        }
    }

    /// Refuses what there are no kernels for.
    ///
    /// # Errors
    /// [`UnsupportedPair`]
    pub fn check(self) -> Result<(), UnsupportedPair> {
        self.full.pair()?;
        self.sliding.pair()?;
        Ok(())
    }
}

impl Default for KvTypes {
    fn default() -> Self {
        Self::uniform(KvType::F16)
    }
}

impl fmt::Display for KvTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.full == self.sliding {
            self.full.fmt(f)
        } else {
            write!(f, "{} in full layers, {} in sliding ones", self.full, self.sliding)
        }
    }
}

/// A choice of formats by what matters.
///
/// Sliding layers hold little and are most of the layers, so presets spend more on them, and keys are worth more than
/// values, because their errors are exponentiated. What each costs in accuracy on the golden models is printed by
/// `tests/models/caches.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPreset {
    /// As exact as the arithmetic.
    #[default]
    Quality,
    /// About a third of the bytes for long contexts.
    Balanced,
    /// The smallest that still follows the model.
    Small,
}

impl KvPreset {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 3] = [
        ("quality", Self::Quality),
        ("balanced", Self::Balanced),
        ("small", Self::Small),
    ];

    /// The formats it stands for.
    pub fn types(self) -> KvTypes {
        match self {
            Self::Quality => KvTypes::uniform(KvType::F16),
            Self::Balanced => KvTypes {
                full: CacheTypes {
                    keys: KvType::Q8_0,
                    values: KvType::TURBO4,
                },
                sliding: CacheTypes::both(KvType::Q8_0),
            },
            Self::Small => KvTypes {
                full: CacheTypes::both(KvType::TURBO3),
                sliding: CacheTypes {
                    keys: KvType::Q8_0,
                    values: KvType::TURBO4,
                },
            },
        }
    }
}

impl FromStr for KvPreset {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(given));
        found
            .map(|(_, preset)| *preset)
            .ok_or_else(|| format!("`{given}` is none of quality, balanced, small"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        let constants = [
            KvType::F32,
            KvType::F16,
            KvType::BF16,
            KvType::Q8_0,
            KvType::Q4_0,
            KvType::TURBO2,
            KvType::TURBO3,
            KvType::TURBO4,
            KvType::TURBO4_FIRST,
        ];
        assert_eq!(KvType::all().collect::<Vec<_>>(), constants);
        for kind in constants {
            assert_eq!(kind.to_string().to_uppercase().parse(), Ok(kind));
            assert!(kind.page_bytes(128) > 0);
        }
        let error = "turbo5".parse::<KvType>().expect_err("unknown").to_string();
        assert!(error.contains("turbo5") && error.contains("turbo4"), "{error}");
    }

    #[test]
    fn f32_goes_with_itself_only() {
        for keys in KvType::all() {
            for values in KvType::all() {
                let mixed = (keys == KvType::F32) != (values == KvType::F32);
                assert_eq!(CacheTypes { keys, values }.pair().is_err(), mixed, "{keys} {values}");
            }
        }
    }

    #[test]
    fn presets_exist() {
        for (name, preset) in KvPreset::ALL {
            assert_eq!(name.parse(), Ok(preset));
            preset.types().check().expect("kernels");
        }
    }
}
