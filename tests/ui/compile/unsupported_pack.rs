use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn three(x: In<f32>, y: Out<f32>) {
    let chunk = x.load_as::<Pack<f32, 3>>(0);
    y[0] = 1.0;
}

fn main() {}
