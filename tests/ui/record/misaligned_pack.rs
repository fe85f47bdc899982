use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn shifted(x: In<f32>, y: Out<f32>) {
    for i in unrolled(0..4) {
        let four = x.load_as::<Pack<f32, 4>>(i * 4 + 2);
        y[i] = four.component(0);
    }
}

pub fn rejected() -> KernelDef {
    shifted()
}
