use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn accumulates(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    y[i] += x[i];
}

fn main() {}
