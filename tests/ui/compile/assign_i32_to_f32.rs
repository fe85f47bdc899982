use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn assigns(n: i32, y: Out<f32>) {
    let mut sum = f32(0.0);
    sum = n;
    y[0] = sum;
}

fn main() {}
