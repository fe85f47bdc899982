use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn thirds(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = group_sum(x[thread_index()], 3);
}

pub fn rejected() -> KernelDef {
    thirds()
}
