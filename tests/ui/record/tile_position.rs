use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn corner(x: In<f32>, y: Out<f32>) {
    let tile = SharedTile::<f32>::new(4, 32, TileLayout::Plain);
    tile[(thread_index() % 4, 0)] = x[thread_index()];
    barrier();
    y[thread_index()] = tile[(4, thread_index())];
}

pub fn rejected() -> KernelDef {
    corner()
}
