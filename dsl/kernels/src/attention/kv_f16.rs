//! The f16 cache: values as they are.

use tilekiln_dsl::prelude::*;

use super::codec::KvCodec;
use crate::registry::{Argument, Random};

impl KvCodec for f16 {
    fn row_bytes(head_dim: usize) -> usize {
        2 * head_dim
    }

    const GROUP: usize = 1;

    fn sample(random: &mut Random, rows: usize, head_dim: usize) -> Argument {
        random.floats("f16", rows * head_dim)
    }

    #[tile_fn]
    fn load_eight(tile: SharedTile<f16>, tile_row: Val<u32>, cache: In<u8>, row: Val<u32>, first: Val<u32>) {
        async_copy(tile, (tile_row, first), cache, row + first * 2);
    }
}
