use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn sums(x: In<f32>, counts: In<i32>, y: Out<f32>) {
    let i = thread_index();
    y[i] = x[i] + counts[i];
}

fn main() {}
