//! What a cache format has to say to be attended to.

use tilekiln_dsl::prelude::*;

use crate::registry::{Argument, Random};

/// A format of cached keys or values.
///
/// One cached row holds the `head_dim` values of one position and one KV head, in [`row_bytes`](Self::row_bytes) bytes
/// without padding; a position's heads follow each other.
pub trait KvCodec: Named + 'static {
    /// Bytes of one cached row.
    fn row_bytes(head_dim: usize) -> usize;

    /// Values that are stored together: `head_dim` has to be a multiple.
    const GROUP: usize;

    /// A cache of that many rows with random contents that can occur.
    fn sample(random: &mut Random, rows: usize, head_dim: usize) -> Argument;

    /// Brings eight consecutive values of a row into a tile: values `first..first+8` (a multiple of 8) of the row that
    /// starts at byte `row`, to (tile_row, first). A format that stores f16 copies them, others decode on the way.
    fn load_eight(tile: SharedTile<f16>, tile_row: Val<u32>, cache: In<u8>, row: Val<u32>, first: Val<u32>);
}

/// Packs eight values as halves and stores them with one 16-byte access.
#[tile_fn]
pub fn store_eight(tile: SharedTile<f16>, row: Val<u32>, col: Val<u32>, values: [Val<f32>; 8]) {
    let words = [0, 1, 2, 3].map(|pair: usize| {
        let low = values[2 * pair].to::<f16>();
        let high = values[2 * pair + 1].to::<f16>();
        Val::<Pack<f16, 2>>::pack([low, high]).bitcast::<u32>()
    });
    tile.store_as::<Pack<u32, 4>>(row, col, Val::pack(words));
}
