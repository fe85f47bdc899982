use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn behind(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(32);
    tile[thread_index()] = x[thread_index()];
    barrier();
    y[thread_index()] = tile[32];
}

pub fn rejected() -> KernelDef {
    behind()
}
