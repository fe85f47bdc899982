use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn cube(#[shape(rows, cols)] x: In<f32>, y: Out<f32>, rows: u32, cols: u32) {
    y[thread_index()] = x[(block_index() % rows, thread_index() % cols, 0)];
}

pub fn rejected() -> KernelDef {
    cube()
}
