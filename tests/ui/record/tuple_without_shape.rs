use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn shapeless(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = x[(block_index(), thread_index())];
}

pub fn rejected() -> KernelDef {
    shapeless()
}
