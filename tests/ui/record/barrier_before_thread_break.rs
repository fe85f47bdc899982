use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn searches(x: In<f32>, y: Out<f32>, n: u32) {
    for i in 0..n {
        barrier();
        if x[i * 64 + thread_index()] > 0.0 {
            break;
        }
    }
    y[thread_index()] = 1.0;
}

pub fn rejected() -> KernelDef {
    searches()
}
