use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn backwards(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = x[thread_index() + -1];
}

pub fn rejected() -> KernelDef {
    backwards()
}
