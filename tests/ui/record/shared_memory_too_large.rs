use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

/// sum through shared memory
#[device_fn]
fn total(value: Val<f32>) -> Val<f32> {
    let partial = Shared::<f32>::new(32);
    partial[warp_index()] = warp_sum(value);
    barrier();
    partial[0]
}

#[kernel(threads = 128)]
fn stages(x: In<f16>, y: Out<f32>, #[comptime] count: usize) {
    let keys = SharedTile::<f16>::new(count * 64, 256, TileLayout::Swizzled);
    let values = SharedTile::<f16>::new(64, 256, TileLayout::Padded(8));
    keys[(0, thread_index())] = x[thread_index()];
    values[(0, thread_index())] = x[thread_index()];
    y[thread_index()] = total(keys[(0, 0)].to());
}

pub fn rejected() -> KernelDef {
    stages(3)
}
