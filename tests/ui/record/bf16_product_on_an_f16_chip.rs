use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(x: In<bf16>, y: Out<f32>) {
    let tile = SharedTile::<bf16>::new(16, 64, TileLayout::Swizzled);
    tile[(0, lane_index())] = x[lane_index()];
    barrier();
    let a = OperandA::load(tile, 0, 0);
    let b = OperandB::load(tile, 0, 0);
    let sum = Accumulators::zeros(1);
    mma(sum.at(0), a, b);
    sum.at(0).each(|element, value| {
        y[element.row * 16 + element.column] = value;
    });
}

pub fn rejected() -> KernelDef {
    product()
}
