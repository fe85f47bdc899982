//! Cached keys or values as plain numbers: for comparisons, and for looking into a cache.

use tilekiln_dsl::comptime::Comptime;
use tilekiln_dsl::ir::Setting;
use tilekiln_dsl::prelude::*;

use super::codec::{KvStore, UnitShape};
use super::formats::{self, HEAD_DIM};
use super::pages::{PAGE, Side, UNIT};
use crate::registry::prelude::*;
use crate::turbo::rotation::{SIGNS_1, SIGNS_2, rotate};

/// Which cache, and of heads how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadShape {
    /// Values per head.
    pub head_dim: usize,
    /// Values are read, else keys.
    pub values: bool,
}

impl Comptime for ReadShape {
    /// Sides have names of one letter on the command line.
    fn settings(&self, _key: &str, out: &mut Vec<Setting>) {
        self.head_dim.settings("head_dim", out);
        let side = if self.values { "v" } else { "k" };
        side.settings("side", out);
    }
}

fn threads<Format: KvStore>(shape: ReadShape) -> usize {
    Format::stored(shape.head_dim)
}

/// One block per position (x, counted from `first`) and KV head (y), one thread per value: what a slot's cache holds,
/// rotated back where it is stored rotated.
#[kernel(threads = threads::<Format>(shape))]
pub fn cache_read<Format: KvStore>(
    #[shape(pages, kv_heads, page_bytes)] cache: In<u8>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(positions, kv_heads, head_dim)] out: Out<f32>,
    slot: u32,
    first: u32,
    kv_heads: u32,
    slot_pages: u32,
    #[comptime] shape: ReadShape,
) {
    let position = first + block_index();
    let kv_head = block_index_y();
    let dim = thread_index();
    let side = if shape.values { Side::Value } else { Side::Key };
    let units = UnitShape::here::<Format>(side, shape.head_dim);
    let entry = page_table[slot * slot_pages + position / PAGE % slot_pages];
    let page = units.page(entry, kv_heads, kv_head);
    let unit = units.unit(page, dim / units.places.dims, position % PAGE / UNIT);
    let four = Format::four(&units, cache, unit, position % UNIT, dim % units.places.dims / 4 * 4);
    let mut value = four[0];
    for i in 1..4 {
        value = select(dim % 4 == i as u32, four[i], value);
    }
    if Format::ROTATED {
        let exchange = Shared::<f32>::new(threads::<Format>(shape));
        value = rotate(value, dim, exchange, SIGNS_2, SIGNS_1);
    }
    if dim < shape.head_dim {
        out[(block_index() * kv_heads + kv_head) * shape.head_dim + dim] = value;
    }
}

/// Registration of [`cache_read`] with every format.
pub const ENTRY: Entry = Entry {
    name: "cache_read",
    parameters: &[
        choice("format", "f16", "format of the cache"),
        HEAD_DIM,
        choice("side", "k", "k: keys, v: values"),
    ],
    build: |settings| {
        let side = settings.text("side")?;
        settings.require("side", ["k", "v"].contains(&side), "k or v")?;
        let shape = ReadShape {
            head_dim: formats::head_dim(settings)?,
            values: side == "v",
        };
        Ok((formats::of(settings, "format")?.cache_read)(shape))
    },
    example: |settings, random| {
        let head_dim = formats::head_dim(settings)?;
        let (positions, kv_heads, slot_pages) = (random.size(1, 70), random.size(1, 3), random.size(1, 2));
        let pages = 2 * slot_pages;
        let bytes = pages * kv_heads * (formats::of(settings, "format")?.page_bytes)(head_dim);
        Ok(Example {
            grid: [positions as u32, kv_heads as u32, 1],
            arguments: vec![
                random.halves(bytes / 2),
                Argument::Input((0..pages as u32).rev().flat_map(u32::to_le_bytes).collect()),
                Argument::output(positions * kv_heads * head_dim * 4),
                Argument::U32(random.size(0, 1) as u32),
                Argument::U32(random.size(0, 100) as u32),
                Argument::U32(kv_heads as u32),
                Argument::U32(slot_pages as u32),
            ],
        })
    },
};
