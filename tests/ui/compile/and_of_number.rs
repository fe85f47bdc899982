use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn truthy(n: u32, y: Out<f32>) {
    if n && n > 3 {
        y[0] = 1.0;
    }
}

fn main() {}
