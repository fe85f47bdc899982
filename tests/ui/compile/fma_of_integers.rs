use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn fused(n: u32, y: Out<u32>) {
    y[0] = fma(n, 3, 4);
}

fn main() {}
