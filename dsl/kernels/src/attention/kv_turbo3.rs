//! The turbo3 cache: decoded inside the tile load, in the rotated domain (queries come rotated, outputs leave rotated).

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, store_eight};
use crate::registry::{Argument, Random};
use crate::turbo::GROUP;
use crate::turbo::turbo3::{BYTES, codeword};

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Turbo3;

impl Named for Turbo3 {
    const NAME: &'static str = "turbo3";
}

impl KvCodec for Turbo3 {
    fn row_bytes(head_dim: usize) -> usize {
        head_dim.div_ceil(GROUP) * BYTES
    }

    // a shorter row is padded before it is rotated: its rotated values do not end at head_dim
    const GROUP: usize = GROUP;

    fn sample(random: &mut Random, rows: usize, head_dim: usize) -> Argument {
        random.turbo3(rows * head_dim.div_ceil(GROUP))
    }

    #[tile_fn]
    fn load_eight(tile: SharedTile<f16>, tile_row: Val<u32>, cache: In<u8>, row: Val<u32>, first: Val<u32>) {
        let group = row + first / GROUP * BYTES;
        let within = first % GROUP;
        let scale = cache.load_as::<f16>(group).to::<f32>();
        /// two low bits of eight values in two bytes, their high bits in one
        let low = cache.load_as::<u16>(group + 2 + within / 4);
        let high = cache[group + 34 + within / 8];
        let values = [0, 1, 2, 3, 4, 5, 6, 7].map(|i: usize| {
            let index = (low >> (2 * i) & 3) | (high >> i & 1) << 2;
            codeword(index) * scale
        });
        store_eight(tile, tile_row, first, values);
    }
}
