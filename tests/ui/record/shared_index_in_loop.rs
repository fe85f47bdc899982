use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn windows(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(32);
    tile[thread_index()] = x[thread_index()];
    barrier();
    let mut sum = f32(0.0);
    for i in unrolled(0..8) {
        sum += tile[i * 5];
    }
    y[thread_index()] = sum;
}

pub fn rejected() -> KernelDef {
    windows()
}
