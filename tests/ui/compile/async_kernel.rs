use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
async fn later(y: Out<f32>) {
    y[0] = 1.0;
}

fn main() {}
