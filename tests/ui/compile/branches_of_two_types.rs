use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn chosen(n: u32, y: Out<f32>) {
    let value = if n > 3 { n } else { f32(1.0) };
    y[0] = 1.0;
}

fn main() {}
