use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn rolled(x: In<f32>, y: Out<f32>, n: u32) {
    let kept = Registers::<f32>::filled(4, 0.0);
    for i in 0..n {
        kept[i] = x[i];
    }
    y[thread_index()] = kept[0];
}

pub fn rejected() -> KernelDef {
    rolled()
}
