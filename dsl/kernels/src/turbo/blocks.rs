//! The interchange format: blocks of 128 values, `scale: f16, low: u8[32] (two bits a value)` and, for turbo3,
//! `high: u8[16] (one bit a value)`; turbo4 is `scale: f16, reserved: u16, nibbles: u8[64]`.

use tilekiln_dsl::prelude::*;

use super::GROUP;
use super::format::{
    Turbo2, Turbo2AsFirst, Turbo3, Turbo3AsFirst, Turbo4, Turbo4AsFirst, Turbo4First, TurboFormat, codeword,
};
use super::snap::snap;
use crate::registry::prelude::*;

/// One block of 128 threads per group: normalise, rotate, snap to the codebook, store scale and indices.
#[kernel(threads = GROUP)]
pub fn turbo_encode<Format: TurboFormat>(
    #[shape(groups, 128)] x: In<f32>,
    #[shape(groups, block_bytes)] bytes: Out<u8>,
) {
    let group = block_index();
    let thread = thread_index();
    let terms = Shared::<f32>::new(GROUP);
    let indices = Shared::<u8>::new(GROUP);

    let snapped = snap::<Format>(x[group * GROUP + thread], thread, terms);
    indices[thread] = snapped.index;
    barrier();

    let start = group * Format::block_bytes();
    if thread == 0 {
        bytes.store_as::<f16>(start, snapped.scale.to::<f16>());
    }
    if Format::BITS == 4 {
        if thread == 0 {
            bytes.store_as::<u16>(start + 2, u32(0));
        }
        if thread < 64 {
            bytes[start + 4 + thread] = indices[thread * 2] | indices[thread * 2 + 1] << 4;
        }
    } else {
        /// two low bits of four values to a byte
        if thread < 32 {
            let mut low = u32(0);
            for j in unrolled(0..4) {
                low |= (indices[thread * 4 + j] & 3) << (j * 2);
            }
            bytes[start + 2 + thread] = low;
        }
    }
    if Format::BITS == 3 {
        /// high bits of eight values to a byte
        if thread < 16 {
            let mut high = u32(0);
            for j in unrolled(0..8) {
                high |= indices[thread * 8 + j] >> 2 << j;
            }
            bytes[start + 34 + thread] = high;
        }
    }
}

/// One block of 128 threads per group: scale times codeword, left in the rotated domain.
#[kernel(threads = GROUP)]
pub fn turbo_decode<Format: TurboFormat>(
    #[shape(groups, block_bytes)] bytes: In<u8>,
    #[shape(groups, 128)] y: Out<f32>,
) {
    let group = block_index();
    let thread = thread_index();
    let start = group * Format::block_bytes();
    let scale = bytes.load_as::<f16>(start).to::<f32>();
    let mut index = u32(0);
    if Format::BITS == 4 {
        index = bytes[start + 4 + thread / 2] >> (thread % 2 * 4) & 15;
    } else {
        index = bytes[start + 2 + thread / 4] >> (thread % 4 * 2) & 3;
    }
    if Format::BITS == 3 {
        index |= (bytes[start + 34 + thread / 8] >> (thread % 8) & 1) << 2;
    }
    y[group * GROUP + thread] = codeword::<Format>(index) * scale;
}

/// A format and the kernels it makes.
struct Kernels {
    name: &'static str,
    bytes: fn() -> usize,
    encode: fn() -> KernelDef,
    decode: fn() -> KernelDef,
}

impl Kernels {
    const fn of<Format: TurboFormat>() -> Self {
        Self {
            name: Format::NAME,
            bytes: Format::block_bytes,
            encode: turbo_encode::<Format>,
            decode: turbo_decode::<Format>,
        }
    }
}

/// Every format: a new one is a line here.
const FORMATS: &[Kernels] = &[
    Kernels::of::<Turbo2>(),
    Kernels::of::<Turbo3>(),
    Kernels::of::<Turbo4>(),
    Kernels::of::<Turbo4First>(),
    Kernels::of::<Turbo2AsFirst>(),
    Kernels::of::<Turbo3AsFirst>(),
    Kernels::of::<Turbo4AsFirst>(),
];

fn named(settings: &Settings) -> Result<&'static Kernels, SettingError> {
    let name = settings.text("format")?;
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        settings.unsupported("format", name, &known)
    })
}

const FORMAT: Parameter = choice(
    "format",
    "turbo3",
    "TurboQuant format; `_as_first`: byte by byte as first implemented",
);

/// Registration of [`turbo_encode`].
pub const ENCODE: Entry = Entry {
    name: "turbo_encode",
    parameters: &[FORMAT],
    build: |settings| Ok((named(settings)?.encode)()),
    example: |settings, random| {
        let groups = random.size(1, 7);
        Ok(Example {
            grid: [groups as u32, 1, 1],
            arguments: vec![
                random.floats("f32", groups * GROUP),
                Argument::output(groups * (named(settings)?.bytes)()),
            ],
        })
    },
};

/// Registration of [`turbo_decode`].
pub const DECODE: Entry = Entry {
    name: "turbo_decode",
    parameters: &[FORMAT],
    build: |settings| Ok((named(settings)?.decode)()),
    example: |settings, random| {
        let groups = random.size(1, 7);
        Ok(Example {
            grid: [groups as u32, 1, 1],
            arguments: vec![
                random.bytes(groups * (named(settings)?.bytes)()),
                Argument::output(groups * GROUP * 4),
            ],
        })
    },
};
