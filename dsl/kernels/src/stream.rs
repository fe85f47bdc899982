//! Reading memory as fast as it goes: the measure of what other kernels reach.

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// Loads of 16 bytes that a thread has in flight.
const IN_FLIGHT: usize = 4;

/// Reads `quads` times four words, each once: the sum of all that a thread reads (modulo 2^32) goes to its own place.
///
/// As many blocks as fill the device; a thread's loads are 16 bytes wide and lie beside its neighbour's. Nothing but the
/// sums is written, so the time of a launch over a buffer that is larger than all caches is that of the memory.
#[kernel(threads = threads)]
pub fn stream_read(
    #[shape(quads, 4)] x: In<u32>,
    #[shape(blocks, threads)] sums: Out<u32>,
    quads: u32,
    blocks: u32,
    #[comptime] threads: usize,
) {
    let reader = block_index() * threads + thread_index();
    let stride = blocks * threads;
    let mut sum = u32(0);
    for first in stepped(reader, quads, stride * IN_FLIGHT) {
        for part in unrolled(0..IN_FLIGHT) {
            /// past the end the last four again, which do not count
            let index = first + part * stride;
            let four = x.load_as::<Pack<u32, 4>>(min(index, quads - 1) * 4);
            let words = four.component(0) + four.component(1) + four.component(2) + four.component(3);
            sum += select(index < quads, words, 0u32);
        }
    }
    sums[reader] = sum;
}

/// Registration of [`stream_read`].
pub const ENTRY: Entry = Entry {
    name: "stream_read",
    parameters: &[choice("threads", "256", "threads per block, a multiple of 32")],
    build: |settings| Ok(stream_read(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?;
        let (blocks, quads) = (random.size(1, 3), random.size(1, 4000));
        Ok(Example {
            grid: [blocks as u32, 1, 1],
            arguments: vec![
                random.bytes(quads * 16),
                Argument::output(blocks * threads * 4),
                Argument::U32(quads as u32),
                Argument::U32(blocks as u32),
            ],
        })
    },
};
