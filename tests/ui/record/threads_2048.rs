use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 2048)]
fn crowd(y: Out<f32>) {
    y[thread_index()] = 1.0;
}

pub fn rejected() -> KernelDef {
    crowd()
}
