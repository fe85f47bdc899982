//! Kernels with a defect each, for trying the sanitizer: `tilekiln check --planted` has to find every one of them.
//!
//! They pass rustc and the recording checks, as real defects do.

use tilekiln_dsl::prelude::*;

use crate::registry::prelude::*;

/// A kernel and the name of what the sanitizer has to find in it.
pub struct Planted {
    /// The kernel.
    pub entry: &'static Entry,
    /// Name of the finding.
    pub finding: &'static str,
}

/// Neighbours read each other's value without a barrier in between.
#[kernel(threads = 64)]
pub fn planted_missing_barrier(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let i = thread_index();
    tile[i] = x[i];
    y[i] = tile[(i + 32) % 64];
}

/// All threads store to one element.
#[kernel(threads = 64)]
pub fn planted_race(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let i = thread_index();
    tile[i / 2] = x[i];
    barrier();
    y[i] = tile[i / 2];
}

/// Half of the threads go past a barrier that depends on a value promised to be the same for all.
#[kernel(threads = 64)]
pub fn planted_divergent_barrier(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    let is_early = assume_uniform(i) < 32;
    if is_early {
        barrier();
    }
    y[i] = x[i];
}

/// The last thread reads one element past the end.
#[kernel(threads = 64)]
pub fn planted_read_past_end(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    y[i] = x[i] + x[i + 1];
}

/// The first thread of a block stores in front of the buffer.
#[kernel(threads = 64)]
pub fn planted_write_before_start(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    y[i - 1] = x[i];
}

/// A stride that is right for 32 threads runs past the end of shared memory with 64.
#[kernel(threads = 64)]
pub fn planted_shared_past_end(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let i = thread_index();
    tile[i * 2] = x[i];
    barrier();
    y[i] = tile[i * 2];
}

/// Only the even elements are stored before all are read.
#[kernel(threads = 64)]
pub fn planted_uninitialised_shared(x: In<f32>, y: Out<f32>) {
    let tile = Shared::<f32>::new(64);
    let i = thread_index();
    if i % 2 == 0 {
        tile[i] = x[i];
    }
    barrier();
    y[i] = tile[63 - i];
}

/// A shuffle from a lane that depends on the data, with half of the warp switched off.
#[kernel(threads = 64)]
pub fn planted_divergent_shuffle(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    let mut value = x[i];
    if value > 0.0 {
        value = shuffle(value, lane_index() + 1);
    }
    y[i] = value;
}

/// A tile is read before its asynchronous copy is waited for.
#[kernel(threads = 64)]
pub fn planted_copy_not_waited(x: In<f32>, y: Out<f32>) {
    let tile = SharedTile::<f32>::new(4, 16, TileLayout::Plain);
    let i = thread_index();
    if i < 16 {
        async_copy(tile, (i / 4, i % 4 * 4), x, i * 4);
    }
    async_commit();
    barrier();
    y[i] = tile[(i / 16, i % 16)];
}

/// 16 bytes are read from an address that is a multiple of four only.
#[kernel(threads = 64)]
pub fn planted_misaligned(x: In<f32>, y: Out<f32>) {
    let i = thread_index();
    let four = x.load_as::<Pack<f32, 4>>(i % 60);
    y[i] = four.component(0);
}

fn example(_: &Settings, random: &mut Random) -> Result<Example, super::registry::SettingError> {
    Ok(Example {
        grid: [1, 1, 1],
        arguments: vec![random.floats("f32", 64), Argument::output(64 * 4)],
    })
}

macro_rules! planted {
    ($($kernel:ident => $finding:literal,)*) => {
        /// All of them.
        pub const PLANTED: &[Planted] = &[$(Planted {
            entry: &Entry {
                name: stringify!($kernel),
                parameters: &[],
                build: |_| Ok($kernel()),
                example,
            },
            finding: $finding,
        }),*];
    };
}
planted! {
    planted_missing_barrier => "shared-race",
    planted_race => "shared-race",
    planted_divergent_barrier => "divergent-barrier",
    planted_read_past_end => "out-of-bounds-read",
    planted_write_before_start => "out-of-bounds-write",
    planted_shared_past_end => "out-of-bounds-shared",
    planted_uninitialised_shared => "uninitialised-shared",
    planted_divergent_shuffle => "divergent-warp-operation",
    planted_copy_not_waited => "async-not-waited",
    planted_misaligned => "misaligned",
}
