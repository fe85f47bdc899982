use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn padded(x: In<f16>, y: Out<f16>) {
    let tile = SharedTile::<f16>::new(16, 64, TileLayout::Padded(1));
    tile[(0, lane_index())] = x[lane_index()];
    y[lane_index()] = tile[(0, lane_index())];
}

pub fn rejected() -> KernelDef {
    padded()
}
