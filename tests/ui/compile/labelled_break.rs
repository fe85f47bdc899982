use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn nested(y: Out<f32>, n: u32) {
    'outer: for i in 0..n {
        for j in 0..n {
            if j == i {
                break 'outer;
            }
            y[j] = 1.0;
        }
    }
}

fn main() {}
