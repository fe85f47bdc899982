use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = count)]
fn nobody(y: Out<f32>, #[comptime] count: usize) {
    y[thread_index()] = 1.0;
}

pub fn rejected() -> KernelDef {
    nobody(0)
}
