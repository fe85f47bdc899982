//! The list of weight formats, for every kernel that is generic over them.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

use super::codec::{BlockCodec, WeightCodec};
use super::packed::halves::{PackedHalf, PackedHalves};
use super::packed::pack::Packer;
use super::packed::stream::{Footprint, Tiling};
use super::packed::worth::WorthShape;
use super::packed::{Packed, PackedFormat, gated, groups_down, halves, product, tiles_across};
use super::{candidates, linear, q4_0, q4_k, q5_0, q5_k, q6_k, q8_0, row_product};
use crate::embed;
use crate::registry::prelude::*;

/// A weight format and the kernels it makes.
pub struct Weight {
    /// Its name in settings, as GGUF calls it.
    pub name: &'static str,
    /// Values of a block.
    pub block_values: usize,
    /// Bytes of a matrix of rows and columns.
    pub bytes: fn(usize, usize) -> usize,
    /// [`embed`](embed::embed) of threads.
    pub embed: fn(usize) -> KernelDef,
    /// [`linear`](linear::linear) of warps and tile.
    pub linear: fn(usize, usize) -> KernelDef,
    /// [`candidate_scores`](candidates::candidate_scores) of warps.
    pub candidate_scores: fn(usize) -> KernelDef,
    /// [`row_product`](row_product::row_product) of warps and tile, if it can be multiplied with int8.
    pub row_product: Option<fn(usize, usize) -> KernelDef>,
    /// How it is packed, if it can be.
    pub packing: Option<Packing>,
}

/// A format that can be packed, and the kernels over packed matrices of it.
pub struct Packing {
    /// Bytes of a packed matrix of rows and columns.
    pub bytes: fn(usize, usize) -> usize,
    /// What packs rows of a file for a layout.
    pub packer: fn(FragmentLayout) -> Packer,
    /// What products take of shared memory.
    pub footprint: Footprint,
    /// Products with int8 activations; halves have [`packed_halves`](super::packed::halves::packed_halves).
    pub int8: Option<Int8Products>,
}

/// Kernels over packed matrices of a format, each of a tiling.
pub struct Int8Products {
    /// [`packed_product`](product::packed_product)
    pub product: fn(Tiling, usize) -> KernelDef,
    /// [`packed_pair`](product::packed_pair) with a second matrix in Q6_K.
    pub pair: fn(Tiling) -> KernelDef,
    /// [`packed_gated`](gated::packed_gated)
    pub gated: fn(Tiling, usize) -> KernelDef,
    /// [`packed_gate`](gated::packed_gate)
    pub gate: fn(Tiling) -> KernelDef,
}

/// Every weight format: a new one is a line here.
pub const WEIGHTS: &[Weight] = &[
    Weight::floats::<f32>(),
    Weight::halves_in_file::<f16>(),
    Weight::halves_in_file::<bf16>(),
    Weight::in_file::<q4_0::Q4_0>(),
    Weight::in_file::<q5_0::Q5_0>(),
    Weight::in_file::<q8_0::Q8_0>(),
    Weight::in_file::<q4_k::Q4K>(),
    Weight::in_file::<q5_k::Q5K>(),
    Weight::in_file::<q6_k::Q6K>(),
    Weight::packed::<q4_0::Q4_0>(),
    Weight::packed::<q5_0::Q5_0>(),
    Weight::packed::<q8_0::Q8_0>(),
    Weight::packed::<q4_k::Q4K>(),
    Weight::packed::<q5_k::Q5K>(),
    Weight::packed::<q6_k::Q6K>(),
    Weight::packed_halves::<f16>(),
    Weight::packed_halves::<bf16>(),
];

impl Weight {
    const fn of<Codec: WeightCodec>(block_values: usize, bytes: fn(usize, usize) -> usize) -> Self {
        Self {
            name: Codec::NAME,
            block_values,
            bytes,
            embed: embed::embed::<Codec>,
            linear: linear::linear::<Codec>,
            candidate_scores: candidates::candidate_scores::<Codec>,
            row_product: None,
            packing: None,
        }
    }

    const fn floats<Codec: BlockCodec>() -> Self {
        Self::of::<Codec>(Codec::BLOCK_VALUES, bytes_in_file::<Codec>)
    }

    const fn in_file<Format: PackedFormat>() -> Self {
        Self {
            row_product: Some(row_product::row_product::<Format>),
            packing: Some(Packing {
                bytes: bytes_packed::<Format>,
                packer: Packer::new::<Format>,
                footprint: Footprint {
                    copy_bytes: Format::SECTIONS.bytes(),
                    worth: WorthShape::of::<Format>(),
                    planes: Format::SECTIONS.planes.len(),
                },
                int8: Some(Int8Products {
                    product: product::packed_product::<Format>,
                    pair: product::packed_pair::<Format, q6_k::Q6K>,
                    gated: gated::packed_gated::<Format>,
                    gate: gated::packed_gate::<Format>,
                }),
            }),
            ..Self::floats::<Format>()
        }
    }

    const fn halves_in_file<Half: PackedHalf + BlockCodec>() -> Self {
        Self {
            packing: Some(Packing {
                bytes: bytes_of_halves,
                packer: Packer::halves,
                footprint: halves::FOOTPRINT,
                int8: None,
            }),
            ..Self::floats::<Half>()
        }
    }

    const fn packed_halves<Half: PackedHalf + BlockCodec>() -> Self {
        Self::of::<PackedHalves<Half>>(Half::BLOCK_VALUES, bytes_of_halves)
    }

    const fn packed<Format: PackedFormat>() -> Self {
        Self::of::<Packed<Format>>(Format::BLOCK_VALUES, bytes_packed::<Format>)
    }

    /// A matrix of random contents.
    pub fn sample(&self, random: &mut Random, rows: usize, cols: usize) -> Argument {
        random.bytes((self.bytes)(rows, cols))
    }
}

fn bytes_in_file<Codec: BlockCodec>(rows: usize, cols: usize) -> usize {
    rows * cols / Codec::BLOCK_VALUES * Codec::BLOCK_BYTES
}

fn bytes_packed<Format: PackedFormat>(rows: usize, cols: usize) -> usize {
    groups_down(rows) * tiles_across(cols) * Format::SECTIONS.bytes()
}

fn bytes_of_halves(rows: usize, cols: usize) -> usize {
    groups_down(rows) * tiles_across(cols) * halves::SECTIONS.bytes()
}

/// The setting that names the format.
pub const WEIGHT: Parameter = choice("weight", "q4_k", "weight format, as GGUF calls it");
/// The setting for the rows of a block.
pub const WARPS: Parameter = choice("warps", "4", "rows per block");
/// The setting for the tokens of a block.
pub const TILE: Parameter = choice("tile", "1", "tokens per block, 1 to 16");

/// The format that the settings name.
///
/// # Errors
/// There is none of that name.
pub fn named(settings: &Settings) -> Result<&'static Weight, SettingError> {
    find(settings, "weight", WEIGHTS.iter())
}

/// `row_product` with the format that the settings name.
///
/// # Errors
/// There is none of that name, or it cannot be multiplied with int8.
pub fn with_int8_dot(settings: &Settings) -> Result<fn(usize, usize) -> KernelDef, SettingError> {
    let weight = find(
        settings,
        "weight",
        WEIGHTS.iter().filter(|weight| weight.row_product.is_some()),
    )?;
    weight
        .row_product
        .ok_or_else(|| settings.unsupported("weight", weight.name, &[]))
}

/// The format that setting `key` names, which can be packed and multiplied with int8 activations.
///
/// # Errors
/// There is none of that name, or it cannot.
pub fn packable(settings: &Settings, key: &str) -> Result<(&'static Packing, &'static Int8Products), SettingError> {
    let int8 = |weight: &&'static Weight| Some((weight.packing.as_ref()?, weight.packing.as_ref()?.int8.as_ref()?));
    let weight = find(settings, key, WEIGHTS.iter().filter(|weight| int8(weight).is_some()))?;
    int8(&weight).ok_or_else(|| settings.unsupported(key, weight.name, &[]))
}

fn find(
    settings: &Settings,
    key: &str,
    mut among: impl Iterator<Item = &'static Weight> + Clone,
) -> Result<&'static Weight, SettingError> {
    let name = settings.text(key)?;
    let names: Vec<_> = among.clone().map(|weight| weight.name).collect();
    among
        .find(|weight| weight.name == name)
        .ok_or_else(|| settings.unsupported(key, name, &names))
}

/// Warps of a block.
///
/// # Errors
/// None, or more than a block can have.
pub fn warps(settings: &Settings) -> Result<usize, SettingError> {
    let warps = settings.number("warps")?;
    settings.require("warps", (1..=32).contains(&warps), "1 to 32")?;
    Ok(warps)
}

/// Tokens of a block.
///
/// # Errors
/// None, or so many that their sums would not stay in registers.
pub fn tile(settings: &Settings) -> Result<usize, SettingError> {
    let tile = settings.number("tile")?;
    settings.require("tile", (1..=16).contains(&tile), "1 to 16")?;
    Ok(tile)
}
