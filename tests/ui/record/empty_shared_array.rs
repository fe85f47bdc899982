use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn nothing(y: Out<f32>, #[comptime] len: usize) {
    let tile = Shared::<f32>::new(len);
    tile[thread_index()] = 1.0;
    y[thread_index()] = tile[thread_index()];
}

pub fn rejected() -> KernelDef {
    nothing(0)
}
