//! Sorting in shared memory. Source: Batcher, "Sorting networks and their applications" (1968), the bitonic network.

use tilekiln_dsl::prelude::*;

/// The power of two that is not below `count`.
#[tile_fn]
pub fn padded(count: Val<u32>) -> Val<u32> {
    let mut size = u32(1);
    while size < count {
        size = size << 1;
    }
    size
}

/// Sorts the first `size` keys, largest first; `size` is a power of two and the same for all threads. Begins and ends
/// with a barrier.
#[tile_fn]
pub fn sort_descending(keys: Shared<u32>, size: Val<u32>, #[comptime] threads: usize) {
    barrier();
    let mut run = u32(2);
    while run <= size {
        let mut distance = run >> 1;
        while distance > 0 {
            for pair in strided(size >> 1, threads) {
                let low = pair * 2 - (pair & (distance - 1));
                let (a, b) = (keys[low], keys[low + distance]);
                /// runs go down and up in turns
                if (a < b) == ((low & run) == 0) {
                    keys[low] = b;
                    keys[low + distance] = a;
                }
            }
            barrier();
            distance = distance >> 1;
        }
        run = run << 1;
    }
}

/// The first place up to `end` whose key is below a value, in keys that are sorted, largest first.
#[tile_fn]
pub fn first_below(keys: Shared<u32>, value: Val<u32>, end: Val<u32>) -> Val<u32> {
    let mut low = u32(0);
    let mut high = end;
    while low < high {
        let middle = (low + high) >> 1;
        if keys[middle] < value {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
