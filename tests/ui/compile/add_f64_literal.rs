use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn halves(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    y[i] = x[i] + 0.5f64;
}

fn main() {}
