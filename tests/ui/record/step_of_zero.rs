use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn stuck(y: Out<u32>, n: u32, #[comptime] stride: usize) {
    for i in stepped(0, n, stride) {
        y[i] = i;
    }
}

pub fn rejected() -> KernelDef {
    stuck(0)
}
