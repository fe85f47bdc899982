use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn neighbours(x: In<f16>, y: Out<f16>) {
    y[lane_index()] = shuffle_xor(x[lane_index()], 1);
}

fn main() {}
