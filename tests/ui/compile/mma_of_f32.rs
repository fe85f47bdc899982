use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<f32>) {
    let tile = SharedTile::<f32>::new(16, 64, TileLayout::Swizzled);
    let a = OperandA::load(tile, 0, 0);
    y[0] = 1.0;
}

fn main() {}
