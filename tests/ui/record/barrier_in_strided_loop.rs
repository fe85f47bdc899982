use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn strides(x: In<f32>, y: Out<f32>, n: u32) {
    let tile = Shared::<f32>::new(64);
    for i in strided(n, 64) {
        tile[thread_index()] = x[i];
        barrier();
        y[i] = tile[63 - thread_index()];
    }
}

pub fn rejected() -> KernelDef {
    strides()
}
