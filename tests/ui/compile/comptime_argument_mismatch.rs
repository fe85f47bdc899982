use tilekiln_dsl::prelude::*;

#[kernel(threads = threads)]
fn sized(y: Out<f32>, #[comptime] threads: usize) {
    y[thread_index()] = 1.0;
}

fn table() {
    sized("256");
}

fn main() {}
