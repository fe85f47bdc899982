//! The list of cache formats, for every kernel that is generic over them.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

use super::cache_read::ReadShape;
use super::codec::{KvCodec, KvStore, UnitShape};
use super::flash::{FlashShape, flash_decode, flash_prefill};
use super::kv_block::{KvQ4, KvQ8};
use super::pages::Side;
use super::prepare::prepare_attention;
use super::queries::prepare_queries;
use super::{cache_read, cache_write, exact};
use crate::registry::prelude::*;
use crate::turbo::format::{Turbo2, Turbo3, Turbo4, Turbo4First};

/// A cache format.
#[derive(Clone, Copy)]
pub struct Format {
    /// Its name in settings and on the command line.
    pub name: &'static str,
    /// Values of a head as they are stored, padding included.
    pub stored: fn(usize) -> usize,
    /// Bytes of a page (64 positions of one KV head) for heads of so many values; the same on every target.
    pub page_bytes: fn(usize) -> usize,
    /// How a unit is laid out on a target.
    pub unit: fn(Side, usize, FragmentLayout) -> UnitShape,
    /// Stored in the rotated domain.
    pub rotated: bool,
    /// [`cache_read`](cache_read::cache_read).
    pub cache_read: fn(ReadShape) -> KernelDef,
    /// What fast attention needs, where a matrix instruction can be fed with the format; otherwise it serves exact
    /// attention only.
    pub fast: Option<Fast>,
}

/// What queries of keys of a format are like.
#[derive(Clone, Copy)]
pub struct Fast {
    /// [`prepare_queries`] of a head_dim.
    pub prepare_queries: fn(usize) -> KernelDef,
    pub(super) terms: usize,
    stored: fn(usize) -> usize,
}

impl Fast {
    /// Words of a prepared query.
    pub fn query_words(self, head_dim: usize) -> usize {
        self.terms * (self.stored)(head_dim) / 2
    }
}

fn page_bytes<Codec: KvStore>(head_dim: usize) -> usize {
    // the places of bits differ between targets, their number does not
    UnitShape::new::<Codec>(Side::Key, head_dim, FragmentLayout::PairOfM16N8K16).page_bytes()
}

impl Format {
    const fn fast<Codec: KvCodec>() -> Self {
        Self {
            fast: Some(Fast {
                prepare_queries: prepare_queries::<Codec>,
                terms: Codec::TERMS,
                stored: Codec::stored,
            }),
            ..Self::exact::<Codec>()
        }
    }

    const fn exact<Codec: KvStore>() -> Self {
        Self {
            name: Codec::NAME,
            stored: Codec::stored,
            page_bytes: page_bytes::<Codec>,
            unit: UnitShape::new::<Codec>,
            rotated: Codec::ROTATED,
            cache_read: cache_read::cache_read::<Codec>,
            fast: None,
        }
    }
}

/// Every format.
pub const FORMATS: &[Format] = &[
    Format::exact::<f32>(),
    Format::fast::<f16>(),
    Format::fast::<bf16>(),
    Format::fast::<KvQ8>(),
    Format::fast::<KvQ4>(),
    Format::fast::<Turbo2>(),
    Format::fast::<Turbo3>(),
    Format::fast::<Turbo4>(),
    Format::fast::<Turbo4First>(),
];

/// The format of a name.
pub fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

/// [`flash_decode`] and [`flash_prefill`] of a shape.
pub type Flash = [fn(FlashShape) -> KernelDef; 2];

/// A pair of formats, of keys and of values, and the kernels it makes.
pub struct Pair {
    /// Names of both.
    pub names: [&'static str; 2],
    /// [`cache_write`](cache_write::cache_write) of a head_dim.
    pub cache_write: fn(usize) -> KernelDef,
    /// [`attend_exact`](exact::attend_exact) of a head_dim.
    pub exact: fn(usize) -> KernelDef,
    /// [`flash_decode`] and [`flash_prefill`], where both formats are fast.
    pub flash: Option<Flash>,
    /// [`prepare_attention`] of a head_dim, where both formats are fast.
    pub prepare: Option<fn(usize) -> KernelDef>,
}

impl Pair {
    const fn stored<Keys: KvStore, Values: KvStore>() -> Self {
        Self {
            names: [Keys::NAME, Values::NAME],
            cache_write: cache_write::cache_write::<Keys, Values>,
            exact: exact::attend_exact::<Keys, Values>,
            flash: None,
            prepare: None,
        }
    }

    const fn of<Keys: KvCodec, Values: KvCodec>() -> Self {
        Self {
            flash: Some([flash_decode::<Keys, Values>, flash_prefill::<Keys, Values>]),
            prepare: Some(prepare_attention::<Keys, Values>),
            ..Self::stored::<Keys, Values>()
        }
    }
}

/// Every key format with every value format.
macro_rules! pairs {
    ($($k:ty),*) => { pairs!(@rows [$($k),*] $($k),*) };
    (@rows $all:tt $($k:ty),*) => { &[$(pairs!(@row $k, $all)),*] };
    (@row $k:ty, [$($v:ty),*]) => { &[$(Pair::of::<$k, $v>()),*] };
}

/// Every pair of fast formats: a new format is a word here and a line in [`FORMATS`].
const PAIRS: &[&[Pair]] = pairs![f16, bf16, KvQ8, KvQ4, Turbo2, Turbo3, Turbo4, Turbo4First];
/// f32 goes with itself only.
const EXACT: &[Pair] = &[Pair::stored::<f32, f32>()];

/// The setting that names the format of keys.
pub const K: Parameter = choice("k", "f16", "format of cached keys");
/// The setting that names the format of values.
pub const V: Parameter = choice("v", "f16", "format of cached values");
/// The setting for the values of a head.
pub const HEAD_DIM: Parameter = choice("head_dim", "256", "values per head: 32, 64, 128, 256 or 512");
/// Head dims that there are kernels for.
pub const HEAD_DIMS: [usize; 5] = [32, 64, 128, 256, 512];

/// Values of a head.
///
/// # Errors
/// There are no kernels for so many.
pub fn head_dim(settings: &Settings) -> Result<usize, SettingError> {
    let head_dim = settings.number("head_dim")?;
    settings.require("head_dim", HEAD_DIMS.contains(&head_dim), "32, 64, 128, 256 or 512")?;
    Ok(head_dim)
}

/// The format that a setting names.
///
/// # Errors
/// There is none of that name.
pub fn of(settings: &Settings, key: &str) -> Result<&'static Format, SettingError> {
    let name = settings.text(key)?;
    let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
    find(name).ok_or_else(|| settings.unsupported(key, name, &known))
}

/// The formats of keys and values that the settings name.
///
/// # Errors
/// There is none of that name.
pub fn sides(settings: &Settings) -> Result<[&'static Format; 2], SettingError> {
    Ok([of(settings, "k")?, of(settings, "v")?])
}

/// The pair of two formats by name.
pub fn find_pair(names: [&str; 2]) -> Option<&'static Pair> {
    let mut all = PAIRS.iter().copied().flatten().chain(EXACT);
    all.find(|pair| pair.names == names)
}

/// The pair of formats that the settings name.
///
/// # Errors
/// There is none of that name, or f32 is to go with another format.
pub fn pair(settings: &Settings) -> Result<&'static Pair, SettingError> {
    let wanted = sides(settings)?.map(|format| format.name);
    find_pair(wanted).ok_or_else(|| {
        let with = if wanted[0] == "f32" { "v" } else { "k" };
        settings.unsupported(
            with,
            wanted[usize::from(with == "v")],
            &["f32 where the other one is f32"],
        )
    })
}

/// What queries of keys in the format that the settings name are like.
///
/// # Errors
/// There is none of that name, or only exact attention for it.
pub fn fast(settings: &Settings) -> Result<Fast, SettingError> {
    let name = settings.text("k")?;
    let known: Vec<_> = FORMATS
        .iter()
        .filter(|format| format.fast.is_some())
        .map(|format| format.name)
        .collect();
    find(name)
        .and_then(|format| format.fast)
        .ok_or_else(|| settings.unsupported("k", name, &known))
}

/// [`prepare_attention`] for the formats that the settings name.
///
/// # Errors
/// As [`flash`].
pub fn prepare(settings: &Settings) -> Result<fn(usize) -> KernelDef, SettingError> {
    flash(settings)?;
    let prepare = pair(settings)?.prepare;
    prepare.ok_or_else(|| settings.unsupported("k", "f32", &["a format with fast attention"]))
}

/// The kernels of fast attention for the formats that the settings name.
///
/// # Errors
/// As [`pair`]; f32 has no fast attention.
pub fn flash(settings: &Settings) -> Result<Flash, SettingError> {
    pair(settings)?.flash.ok_or_else(|| {
        let fast: Vec<_> = FORMATS
            .iter()
            .filter(|format| format.fast.is_some())
            .map(|format| format.name)
            .collect();
        settings.unsupported("k", "f32", &fast)
    })
}
