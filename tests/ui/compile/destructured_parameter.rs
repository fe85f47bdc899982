use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn pairs((x, y): (In<f32>, Out<f32>)) {
    y[0] = x[0];
}

fn main() {}
