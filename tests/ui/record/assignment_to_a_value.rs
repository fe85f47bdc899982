use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

struct State {
    sum: Val<f32>,
}

#[kernel(threads = 32)]
fn fixed(x: In<f32>, y: Out<f32>, n: u32) {
    let mut state = State { sum: f32(0.0) };
    for i in 0..n {
        state.sum += x[i];
    }
    y[thread_index()] = state.sum;
}

pub fn rejected() -> KernelDef {
    fixed()
}
