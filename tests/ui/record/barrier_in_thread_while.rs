use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn shrinks(y: InOut<u32>) {
    let mut left = y[thread_index()];
    while left > 0 {
        left = left / 2;
        barrier();
    }
    y[thread_index()] = left;
}

pub fn rejected() -> KernelDef {
    shrinks()
}
