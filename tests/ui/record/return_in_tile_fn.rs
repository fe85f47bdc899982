use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[tile_fn]
fn clamped(value: Val<f32>) -> Val<f32> {
    if value < 0.0 {
        return f32(0.0);
    }
    value
}

#[kernel(threads = 32)]
fn inlined(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = clamped(x[thread_index()]);
}

pub fn rejected() -> KernelDef {
    inlined()
}
