use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn flat(x: In<f32>, y: Out<f32>) {
    let sums = Registers::<f32>::filled_2d(2, 4, 0.0);
    sums[1] = x[0];
    y[thread_index()] = sums[(0, 0)];
}

pub fn rejected() -> KernelDef {
    flat()
}
