use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

thread_local! {
    static KEPT: std::cell::Cell<Option<Val<f32>>> = const { std::cell::Cell::new(None) };
}

/// adds what its caller has left behind
#[device_fn]
fn plus_kept(value: Val<f32>) -> Val<f32> {
    match KEPT.get() {
        Some(kept) => value + kept,
        None => value,
    }
}

#[kernel(threads = 32)]
fn smuggled(x: In<f32>, y: Out<f32>) {
    let value = x[thread_index()];
    KEPT.set(Some(value));
    y[thread_index()] = plus_kept(value);
}

pub fn rejected() -> KernelDef {
    smuggled()
}
