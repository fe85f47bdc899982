use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn carried(x: In<f32>, y: Out<f32>) {
    let mut kept = Vec::new();
    let first = x[thread_index()];
    if first > 0.0 {
        let root = first.sqrt();
        y[thread_index()] = root;
        kept.push(root);
    }
    for value in kept {
        y[thread_index() + 32] = value * 2.0;
    }
}

pub fn rejected() -> KernelDef {
    carried()
}
