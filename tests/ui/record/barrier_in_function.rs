use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

/// every thread's neighbour
#[device_fn]
fn neighbour(tile: Shared<f32>, value: Val<f32>) -> Val<f32> {
    tile[thread_index()] = value;
    barrier();
    tile[thread_index() ^ 1]
}

#[kernel(threads = 64)]
fn calls(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let value = x[thread_index()];
    if value > 0.0 {
        y[thread_index()] = neighbour(tile, value);
    }
}

pub fn rejected() -> KernelDef {
    calls()
}
