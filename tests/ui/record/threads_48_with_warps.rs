use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 48)]
fn half_a_warp(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = warp_sum(x[thread_index()]);
}

pub fn rejected() -> KernelDef {
    half_a_warp()
}
