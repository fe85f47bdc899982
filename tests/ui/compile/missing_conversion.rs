use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn positions(y: Out<f32>) {
    let i = thread_index();
    y[i] = i;
}

fn main() {}
