use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn leaves(y: Out<f32>, n: u32) {
    for i in 0..n {
        y[i] = 1.0;
        break;
        y[i] = 2.0;
    }
}

fn main() {}
