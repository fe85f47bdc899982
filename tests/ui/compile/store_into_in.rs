use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn backwards(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    x[i] = 1.0;
    y[i] = 2.0;
}

fn main() {}
