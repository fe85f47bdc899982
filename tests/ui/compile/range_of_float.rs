use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn steps(end: f32, y: Out<f32>) {
    for i in 0..end {
        y[0] = 1.0;
    }
}

fn main() {}
