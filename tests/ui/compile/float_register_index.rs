use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn kept(x: In<f32>, y: Out<f32>) {
    let kept = Registers::<f32>::filled(4, 0.0);
    y[0] = kept[x[0]];
}

fn main() {}
