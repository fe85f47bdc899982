use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn third(x: In<f16>, y: Out<f32>, #[comptime] count: usize) {
    let tile = SharedTile::<f16>::new(16, 64, TileLayout::Swizzled);
    tile[(0, lane_index())] = x[lane_index()];
    barrier();
    let a = OperandA::load(tile, 0, 0);
    let b = OperandB::load(tile, 0, 0);
    let sums = Accumulators::zeros(count);
    for i in unrolled(0..count + 1) {
        mma(sums.at(i), a, b);
    }
    sums.at(0).each(|element, value| {
        y[element.row * 16 + element.column] = value;
    });
}

pub fn rejected() -> KernelDef {
    third(2)
}
