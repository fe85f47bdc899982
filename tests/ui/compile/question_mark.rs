use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn parsed(y: Out<f32>, #[comptime] count: &'static str) {
    let count: usize = count.parse()?;
    y[count] = 1.0;
}

fn main() {}
