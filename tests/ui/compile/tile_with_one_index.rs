use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn flat(y: Out<f32>) {
    let tile = SharedTile::<f32>::new(16, 64, TileLayout::Plain);
    y[0] = tile[thread_index()];
}

fn main() {}
