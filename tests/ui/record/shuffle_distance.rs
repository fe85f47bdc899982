use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn far(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = shuffle_xor(x[thread_index()], 32);
}

pub fn rejected() -> KernelDef {
    far()
}
