use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

/// n!
#[device_fn]
fn product_up_to(n: Val<u32>) -> Val<u32> {
    let mut product = u32(1);
    if n > 1 {
        product = n * product_up_to(n - 1);
    }
    product
}

#[kernel(threads = 32)]
fn factorial(y: Out<u32>) {
    y[thread_index()] = product_up_to(thread_index());
}

pub fn rejected() -> KernelDef {
    factorial()
}
