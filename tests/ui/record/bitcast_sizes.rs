use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn reinterpreted(x: In<f32>, y: Out<u64>) {
    y[thread_index()] = x[thread_index()].bitcast::<u64>();
}

pub fn rejected() -> KernelDef {
    reinterpreted()
}
