use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 64)]
fn ring(x: In<u8>, y: Out<u32>) {
    let ring = CopyRing::new(2, 3, 100);
    ring.fetch(0, x, warp_index() * 100, 96);
    ring.wait(0, 0);
    y[thread_index()] = ring.tiles.load_as::<u32>(ring.start_of(0));
}

pub fn rejected() -> KernelDef {
    ring()
}
