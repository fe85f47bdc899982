use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

/// sum over ever larger groups
#[device_fn]
fn grows(value: Val<f32>, #[comptime] size: usize) -> Val<f32> {
    grows(value, size + 1)
}

#[kernel(threads = 32)]
fn sizes(x: In<f32>, y: Out<f32>) {
    y[thread_index()] = grows(x[thread_index()], 0);
}

pub fn rejected() -> KernelDef {
    sizes()
}
