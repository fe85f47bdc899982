use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn wide(x: In<f64>, y: Out<f32>) {
    y[0] = 1.0;
}

fn main() {}
