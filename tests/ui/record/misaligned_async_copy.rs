use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn copied(x: In<f16>, y: Out<f16>) {
    let tile = SharedTile::<f16>::new(1, 64, TileLayout::Plain);
    async_copy(tile, (0, 0), x, 4);
    async_commit();
    async_wait(0);
    barrier();
    y[thread_index()] = tile[(0, thread_index())];
}

pub fn rejected() -> KernelDef {
    copied()
}
