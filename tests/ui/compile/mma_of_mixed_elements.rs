use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<f32>) {
    let left = SharedTile::<f16>::new(16, 64, TileLayout::Swizzled);
    let right = SharedTile::<bf16>::new(16, 64, TileLayout::Swizzled);
    let a = OperandA::load(left, 0, 0);
    let b = OperandB::load(right, 0, 0);
    let sums = Accumulators::zeros(1);
    mma(sums.at(0), a, b);
    y[0] = 1.0;
}

fn main() {}
