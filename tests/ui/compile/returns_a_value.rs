use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn total(x: In<f32>) -> Val<f32> {
    x[0]
}

fn main() {}
