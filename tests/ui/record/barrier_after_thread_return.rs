use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn guarded(x: In<f32>, y: Out<f32>, n: u32) {
    let tile = Shared::<f32>::new(64);
    if thread_index() >= n {
        return;
    }
    tile[thread_index()] = x[thread_index()];
    barrier();
    y[thread_index()] = tile[0];
}

pub fn rejected() -> KernelDef {
    guarded()
}
