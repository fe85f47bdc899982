use tilekiln_dsl::prelude::*;

#[kernel]
fn sized(y: Out<f32>) {
    y[thread_index()] = 1.0;
}

fn main() {}
