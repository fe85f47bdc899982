//! The list of weight formats, for every kernel that is generic over them.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot};
use super::{candidates, linear, q4_0, q4_k, q5_0, q5_k, q6_k, q8_0, row_product};
use crate::embed;
use crate::registry::prelude::*;

/// A weight format and the kernels it makes.
pub struct Weight {
    /// Its name in settings, as GGUF calls it.
    pub name: &'static str,
    /// Values of a block.
    pub block_values: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// [`embed`](embed::embed) of threads.
    pub embed: fn(usize) -> KernelDef,
    /// [`linear`](linear::linear) of warps and tile.
    pub linear: fn(usize, usize) -> KernelDef,
    /// [`candidate_scores`](candidates::candidate_scores) of warps.
    pub candidate_scores: fn(usize) -> KernelDef,
    /// [`row_product`](row_product::row_product) of warps and tile, if it can be multiplied with int8.
    pub row_product: Option<fn(usize, usize) -> KernelDef>,
}

/// Every weight format: a new one is a line here.
pub const WEIGHTS: &[Weight] = &[
    Weight::of::<f32>(),
    Weight::of::<f16>(),
    Weight::of::<bf16>(),
    Weight::with_int8_dot::<q4_0::Q4_0>(),
    Weight::with_int8_dot::<q5_0::Q5_0>(),
    Weight::with_int8_dot::<q8_0::Q8_0>(),
    Weight::with_int8_dot::<q4_k::Q4K>(),
    Weight::with_int8_dot::<q5_k::Q5K>(),
    Weight::with_int8_dot::<q6_k::Q6K>(),
];

impl Weight {
    const fn of<Codec: BlockCodec>() -> Self {
        Self {
            name: Codec::NAME,
            block_values: Codec::BLOCK_VALUES,
            block_bytes: Codec::BLOCK_BYTES,
            embed: embed::embed::<Codec>,
            linear: linear::linear::<Codec>,
            candidate_scores: candidates::candidate_scores::<Codec>,
            row_product: None,
        }
    }

    const fn with_int8_dot<Codec: Int8Dot>() -> Self {
        Self {
            row_product: Some(row_product::row_product::<Codec>),
            ..Self::of::<Codec>()
        }
    }

    /// A matrix of random contents.
    pub fn sample(&self, random: &mut Random, rows: usize, cols: usize) -> Argument {
        random.bytes(rows * cols / self.block_values * self.block_bytes)
    }
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
    find(settings, WEIGHTS.iter())
}

/// `row_product` with the format that the settings name.
///
/// # Errors
/// There is none of that name, or it cannot be multiplied with int8.
pub fn with_int8_dot(settings: &Settings) -> Result<fn(usize, usize) -> KernelDef, SettingError> {
    let weight = find(settings, WEIGHTS.iter().filter(|weight| weight.row_product.is_some()))?;
    weight
        .row_product
        .ok_or_else(|| settings.unsupported("weight", weight.name, &[]))
}

fn find(
    settings: &Settings,
    mut among: impl Iterator<Item = &'static Weight> + Clone,
) -> Result<&'static Weight, SettingError> {
    let name = settings.text("weight")?;
    let names: Vec<_> = among.clone().map(|weight| weight.name).collect();
    among
        .find(|weight| weight.name == name)
        .ok_or_else(|| settings.unsupported("weight", name, &names))
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
