use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn silent(x: In<f32>) {
    let tile = Shared::<f32>::new(32);
    tile[thread_index()] = x[thread_index()];
}

pub fn rejected() -> KernelDef {
    silent()
}
