use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn outlived(x: In<f32>, y: Out<f32>, n: u32) {
    let mut sums = Vec::new();
    for i in 0..n {
        let mut sum = x[i];
        sum += 1.0;
        sums.push(sum);
    }
    y[thread_index()] = sums[0];
}

pub fn rejected() -> KernelDef {
    outlived()
}
