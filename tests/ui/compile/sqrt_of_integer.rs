use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn roots(n: u32, y: Out<u32>) {
    y[0] = n.sqrt();
}

fn main() {}
