use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn masked(x: In<f32>, y: Out<f32>) {
    y[0] = x[0] & x[1];
}

fn main() {}
