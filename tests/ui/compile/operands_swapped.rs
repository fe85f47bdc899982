use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<f32>) {
    let tile = SharedTile::<f16>::new(16, 64, TileLayout::Swizzled);
    let a = OperandA::load(tile, 0, 0);
    let b = OperandB::load(tile, 0, 0);
    let sums = Accumulators::zeros(1);
    mma(sums.at(0), b, a);
    y[0] = 1.0;
}

fn main() {}
