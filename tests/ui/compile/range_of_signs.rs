use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn steps(first: i32, last: u32, y: Out<f32>) {
    for i in first..last {
        y[0] = 1.0;
    }
}

fn main() {}
