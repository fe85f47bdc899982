use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn counts(x: In<f32>, y: Out<f32>) {
    let above = x[0] > 0.0;
    y[0] = x[0] + above;
}

fn main() {}
