use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn looked_up(x: In<f32>, y: Out<f32>) {
    let position = x[0];
    y[0] = x[position];
}

fn main() {}
