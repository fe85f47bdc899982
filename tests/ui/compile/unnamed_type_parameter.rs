use tilekiln_dsl::prelude::*;

#[derive(Clone, Copy)]
struct Mystery;

#[kernel(threads = 32)]
fn generic<Kind: 'static>(y: Out<f32>) {
    y[0] = 1.0;
}

fn table() {
    generic::<Mystery>();
}

fn main() {}
