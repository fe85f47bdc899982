use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn early(x: In<f32>, y: Out<f32>, #[comptime] rounds: usize) {
    let mut sum = f32(0.0);
    for i in 0..rounds {
        let value = x[i];
        if value < 0.0 {
            break;
        }
        sum += value;
    }
    y[thread_index()] = sum;
}

pub fn rejected() -> KernelDef {
    early(4)
}
