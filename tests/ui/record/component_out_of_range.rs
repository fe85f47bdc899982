use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn fifth(x: In<f32>, y: Out<f32>) {
    let four = x.load_as::<Pack<f32, 4>>(thread_index() * 4);
    y[thread_index()] = four.component(4);
}

pub fn rejected() -> KernelDef {
    fifth()
}
