use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn halves(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    tile[thread_index()] = x[thread_index()];
    let width = thread_index() / 2;
    if width < 16 {
        barrier();
    }
    y[thread_index()] = tile[63 - thread_index()];
}

pub fn rejected() -> KernelDef {
    halves()
}
