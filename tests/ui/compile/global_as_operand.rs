use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(x: In<f16>, y: Out<f32>) {
    let a = OperandA::load(x, 0, 0);
    y[0] = 1.0;
}

fn main() {}
