use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn named(n: u32, y: Out<f32>) {
    let name = if n > 3 {
        String::from("large")
    } else {
        String::from("small")
    };
    y[0] = 1.0;
}

fn main() {}
