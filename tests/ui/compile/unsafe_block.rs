use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn raw(y: Out<f32>) {
    unsafe {
        y[0] = 1.0;
    }
}

fn main() {}
