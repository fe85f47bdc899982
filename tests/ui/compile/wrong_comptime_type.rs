use tilekiln_dsl::prelude::*;

struct Shape {
    rows: usize,
}

#[kernel(threads = 32)]
fn shaped(y: Out<f32>, #[comptime] shape: Shape) {
    y[shape.rows] = 1.0;
}

fn main() {}
