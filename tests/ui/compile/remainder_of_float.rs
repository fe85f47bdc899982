use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn wrapped(x: In<f32>, y: Out<f32>) {
    y[0] = x[0] % 2.0;
}

fn main() {}
