use tilekiln_dsl::prelude::*;

struct Layer;

impl Layer {
    #[kernel(threads = 32)]
    fn run(&self, y: Out<f32>) {
        y[0] = 1.0;
    }
}

fn main() {}
