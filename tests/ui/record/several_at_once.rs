use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn careless(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let kept = Registers::<f32>::filled(2, 0.0);
    kept[lane_index()] = x[thread_index()];
    if thread_index() < 32 {
        barrier();
    }
    let far = shuffle_down(kept[0], 40);
    y[thread_index()] = far + tile[64];
}

pub fn rejected() -> KernelDef {
    careless()
}
