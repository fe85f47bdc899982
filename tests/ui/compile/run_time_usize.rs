use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn sized(y: Out<f32>, count: usize) {
    y[count] = 1.0;
}

fn main() {}
