use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn compares(x: In<f32>, y: Out<f32>) {
    if x[0] == 0 {
        y[0] = 1.0;
    }
}

fn main() {}
