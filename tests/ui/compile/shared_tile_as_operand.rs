use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<f32>) {
    let left = SharedTile::<f16>::new(16, 64, TileLayout::Swizzled);
    let right = SharedTile::<f16>::new(16, 64, TileLayout::Swizzled);
    let sums = Accumulators::zeros(1);
    mma(sums.at(0), left, right);
    y[0] = 1.0;
}

fn main() {}
