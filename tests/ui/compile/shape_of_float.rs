use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn shaped(#[shape(rows, cols)] x: In<f32>, y: Out<f32>, rows: u32, cols: f32) {
    y[0] = x[(0, 1)];
}

fn main() {}
