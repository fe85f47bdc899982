use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 96)]
fn uneven(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(96);
    tile[thread_index()] = x[thread_index()];
    group_barrier(1);
    let own = tile[thread_index() ^ 1];
    group_barrier(2);
    group_barrier(3);
    y[thread_index()] = own;
}

pub fn rejected() -> KernelDef {
    uneven()
}
