use tilekiln_dsl::prelude::*;

/// the first of a few
#[device_fn]
fn first(x: In<f32>, count: usize) -> Val<f32> {
    x[count]
}

#[kernel(threads = 32)]
fn reads(x: In<f32>, y: Out<f32>) {
    y[0] = first(x, 3);
}

fn main() {}
