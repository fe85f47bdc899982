use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn pairs(x: In<f32>, y: Out<f32>, #[comptime] count: usize) {
    let sums = Registers::<f32>::filled(count / 2, 0.0);
    for i in unrolled(0..count) {
        sums[i / 2 + 1] += x[i];
    }
    y[thread_index()] = sums[0];
}

pub fn rejected() -> KernelDef {
    pairs(8)
}
