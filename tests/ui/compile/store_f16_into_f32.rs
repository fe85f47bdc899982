use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn copies(x: In<f16>, y: Out<f32>) {
    let i = thread_index();
    y[i] = x[i];
}

fn main() {}
