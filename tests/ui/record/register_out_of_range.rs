use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn five(x: In<f32>, y: Out<f32>) {
    let kept = Registers::<f32>::filled(4, 0.0);
    kept[4] = x[0];
    y[thread_index()] = kept[0];
}

pub fn rejected() -> KernelDef {
    five()
}
