//! What a weight format has to say to be packed and to be multiplied by matrix instructions.

use std::marker::PhantomData;

use tilekiln_dsl::ir::Location;
use tilekiln_dsl::memory::Access;
use tilekiln_dsl::prelude::*;

use super::layout::{Quads, SUB_BLOCKS, Sections, TILE_COLS, TILE_ROWS};
use crate::matmul::codec::{Int8Dot, Quants, WeightCodec};

/// A format of quantised values that can be packed.
///
/// A value has a *code*, a few bits that the planes share from its high bits to its low ones. As an operand it is an
/// integer of eight bits, the code at its upper end or where it costs least; [`MULTIPLES`](Self::MULTIPLES) says how much
/// too large that makes it.
pub trait PackedFormat: Int8Dot {
    /// The name of the packed format in settings.
    const PACKED_NAME: &'static str;
    /// What a tile consists of. A block of a file fills the planes of scales of a row in order.
    const SECTIONS: Sections;
    /// Where a file's block has what goes to each plane of scales: first byte and bytes.
    const SCALE_PARTS: &'static [(usize, usize)];
    /// Operand of weights: `u8` or `i8`.
    type Operand: MatrixElement<Sum = i32, Right = i8>;
    /// How many times too large the operand's integers are, in even and in odd sub-blocks: powers of two.
    const MULTIPLES: [f32; 2];
    /// Scales of a sub-block: 1, or 2 for 16 values each.
    const SCALES: usize;
    /// Whether something is taken from each value.
    const HAS_MINIMA: bool;

    /// The codes of a block of a file, in element order.
    fn codes(block: &[u8], codes: &mut [u8]);

    /// The values of one sub-block of row `row` of the tile at byte `tile`, as integers and what they are worth.
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants;

    /// What the values of row `row` are worth.
    fn worth(tile: &Tile, row: Val<u32>) -> Worth;

    /// A word of a left operand: from this lane's words of the planes, for sub-block `field` of four.
    fn operand(planes: &[Val<u32>], field: usize) -> Val<u32>;
}

/// A tile in shared memory.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Where it is.
    pub bytes: Shared<u8>,
    /// Its first byte.
    pub start: Val<u32>,
}

impl Tile {
    /// Loads from byte `offset` of the tile on.
    #[track_caller]
    pub fn load<V: Access>(&self, offset: impl IntoVal<u32>) -> Val<V::Value> {
        let offset = offset.into_val(1, Location::caller());
        self.bytes.load_as::<V>(self.start + offset)
    }
}

/// What the values of a row of a tile are worth: a value of sub-block s is `scales[s]` times the operand's integer, minus
/// `minimum_step * minima[s]`.
#[derive(Clone)]
pub struct Worth {
    /// [`PackedFormat::SCALES`] for each sub-block.
    pub scales: Vec<Val<f32>>,
    /// Whole numbers below 64, one for each sub-block, in formats that have them.
    pub minima: Vec<Val<f32>>,
    /// What a minimum counts.
    pub minimum_step: Option<Val<f32>>,
}

/// A packed matrix of a format.
#[derive(Clone, Copy, Debug)]
pub struct Packed<Format>(PhantomData<Format>);

impl<Format: PackedFormat> Named for Packed<Format> {
    const NAME: &'static str = Format::PACKED_NAME;
}

impl<Format: PackedFormat> WeightCodec for Packed<Format> {
    #[tile_fn]
    fn decode(weights: In<u8>, row: Val<u32>, cols: Val<u32>, group: Val<u32>) -> Registers<f32> {
        let tiles = (cols + (TILE_COLS - 1)) / TILE_COLS;
        let tile = (row / TILE_ROWS * tiles + group / SUB_BLOCKS) * Format::SECTIONS.bytes();
        Format::gather(weights, tile, row % TILE_ROWS, group % SUB_BLOCKS).decode()
    }
}

/// The eight words of one sub-block of a row of a tile, in element order, in the plane of `bits` that starts at byte
/// `plane`. Their bytes hold the bits of `8 / bits` sub-blocks, the first one lowest.
#[tile_fn]
pub fn plane_words(
    weights: In<u8>,
    plane: Val<u32>,
    row: Val<u32>,
    sub_block: Val<u32>,
    #[comptime] bits: usize,
) -> Registers<u32> {
    let quads = Quads::here(1);
    let rows_per_slot = 16 / quads.slots();
    let quad = row / 16 * bits + sub_block / (8 / bits);
    let lane = row % rows_per_slot * quads.parts();
    let slot = row % 16 / rows_per_slot;
    let first = plane + quad * (quads.start(0, 0, 1) * quads.steps()) + lane * 16 + slot * (quads.words() * 4);
    let words = Registers::<u32>::undefined(8);
    for step in 0..quads.steps() {
        for part in 0..quads.parts() {
            let at = first + (quads.start(0, 0, step) + part * 16);
            let place = step * quads.words() * quads.parts() + part;
            if quads.words() == 2 {
                let two = weights.load_as::<Pack<u32, 2>>(at);
                words[place] = two.component(0);
                words[place + quads.parts()] = two.component(1);
            } else {
                let four = weights.load_as::<Pack<u32, 4>>(at);
                for word in 0..4 {
                    words[place + word * quads.parts()] = four.component(word);
                }
            }
        }
    }
    words
}

/// What eight halves beside each other are worth, each a scale of 32 values, divided by `multiple`.
#[tile_fn]
pub fn worth_of_halves(tile: &Tile, offset: Val<u32>, #[comptime] multiple: f32) -> Worth {
    let four = tile.load::<Pack<u32, 4>>(offset);
    let mut scales = Vec::new();
    for word in 0..4 {
        let pair = four.component(word).bitcast::<Pack<f16, 2>>();
        for half in 0..2 {
            let scale = pair.component(half).to::<f32>();
            scales.push(if multiple == 1.0 {
                scale
            } else {
                scale * (1.0 / multiple)
            });
        }
    }
    Worth {
        scales,
        minima: Vec::new(),
        minimum_step: None,
    }
}

/// A scale of values that are `multiple` times too large.
#[tile_fn]
pub fn part_of(scale: Val<f32>, #[comptime] multiple: f32) -> Val<f32> {
    if multiple == 1.0 {
        scale
    } else {
        scale * (1.0 / multiple)
    }
}

/// Byte `index` of a word, as a number.
#[tile_fn]
pub fn byte_of(word: Val<u32>, #[comptime] index: usize) -> Val<f32> {
    (word >> (8 * index) & 255).to::<f32>()
}

/// The high nibble of each byte of a plane of four bits, for sub-block `field` of four.
#[tile_fn]
pub fn upper_nibbles(plane: Val<u32>, field: usize) -> Val<u32> {
    let nibbles = if field % 2 == 0 { plane << 4 } else { plane };
    nibbles & 0xf0f0_f0f0u32
}

/// Five bits at the upper end of each byte: four of one plane, one of another.
#[tile_fn]
pub fn five_bits(planes: &[Val<u32>], field: usize) -> Val<u32> {
    let lowest = if field == 3 {
        planes[1]
    } else {
        planes[1] << (3 - field)
    };
    upper_nibbles(planes[0], field) | (lowest & 0x0808_0808)
}
