//! turbo3: 128 values in 50 bytes, `scale: f16, low: u8[32] (two bits a value), high: u8[16] (one bit a value)`.

use tilekiln_dsl::prelude::*;

use super::GROUP;
use super::rotation::{SIGNS_1, SIGNS_2, ordered_sum, rotate};
use crate::registry::prelude::*;

/// Bytes of a group.
pub const BYTES: usize = 50;
/// The codebook, lowest first: close to the best one for coordinates of unit vectors in 128 dimensions.
pub const CODEBOOK: [f32; 8] = [
    -0.190685, -0.117832, -0.065717, -0.021460, 0.021460, 0.065717, 0.117832, 0.190685,
];
/// Where one codeword ends and the next begins; a value on a threshold belongs to the upper one.
pub const THRESHOLDS: [f32; 7] = [-0.154259, -0.091775, -0.043589, 0.0, 0.043589, 0.091775, 0.154259];

/// the codeword with this index
#[device_fn]
pub fn codeword(index: Val<u32>) -> Val<f32> {
    let magnitude_index = select(index < 4, 3 - index, index - 4);
    let small = select(magnitude_index == 0, f32(CODEBOOK[4]), f32(CODEBOOK[5]));
    let large = select(magnitude_index == 2, f32(CODEBOOK[6]), f32(CODEBOOK[7]));
    let magnitude = select(magnitude_index < 2, small, large);
    select(index < 4, -magnitude, magnitude)
}

/// index of the codeword next to a rotated coordinate; NaN gets the last one
#[device_fn]
fn nearest(value: Val<f32>) -> Val<u32> {
    let mut index = u32(0);
    for threshold in THRESHOLDS {
        index += (!(value < threshold)).to_u32();
    }
    index
}

/// One block of 128 threads per group: normalise, rotate, snap to the codebook, store scale and indices.
///
/// The stored scale is |x| / |codeword vector|, so that the decoded vector has the length of the original.
#[kernel(threads = GROUP)]
pub fn turbo3_encode(#[shape(groups, 128)] x: In<f32>, #[shape(groups, 50)] bytes: Out<u8>) {
    let group = block_index();
    let thread = thread_index();
    let terms = Shared::<f32>::new(GROUP);
    let indices = Shared::<u8>::new(GROUP);

    let value = x[group * GROUP + thread];
    terms[thread] = value.mul_unfused(value);
    barrier();
    let norm = ordered_sum(terms).sqrt();
    barrier();
    let inverse = select(norm > 1e-10, 1.0 / norm, f32(0.0));

    let rotated = rotate(value.mul_unfused(inverse), thread, terms, SIGNS_1, SIGNS_2);
    let index = nearest(rotated);
    indices[thread] = index;
    let snapped = codeword(index);
    terms[thread] = snapped.mul_unfused(snapped);
    barrier();
    let length = ordered_sum(terms).sqrt();

    let start = group * BYTES;
    if thread == 0 {
        let scale = select(length > 1e-10, norm / length, norm);
        bytes.store_as::<f16>(start, scale.to::<f16>());
    }
    /// two low bits of four values to a byte, high bits of eight values to a byte
    if thread < 32 {
        let mut low = u32(0);
        for j in unrolled(0..4) {
            low |= (indices[thread * 4 + j] & 3) << (j * 2);
        }
        bytes[start + 2 + thread] = low;
    }
    if thread < 16 {
        let mut high = u32(0);
        for j in unrolled(0..8) {
            high |= indices[thread * 8 + j] >> 2 << j;
        }
        bytes[start + 34 + thread] = high;
    }
}

/// One block of 128 threads per group: scale times codeword, left in the rotated domain.
#[kernel(threads = GROUP)]
pub fn turbo3_decode(#[shape(groups, 50)] bytes: In<u8>, #[shape(groups, 128)] y: Out<f32>) {
    let group = block_index();
    let thread = thread_index();
    let start = group * BYTES;
    let scale = bytes.load_as::<f16>(start).to::<f32>();
    let low = bytes[start + 2 + thread / 4] >> (thread % 4 * 2) & 3;
    let high = bytes[start + 34 + thread / 8] >> (thread % 8) & 1;
    y[group * GROUP + thread] = codeword(low | high << 2) * scale;
}

/// Registration of [`turbo3_encode`].
pub const ENCODE: Entry = Entry {
    name: "turbo3_encode",
    parameters: &[],
    build: |_| Ok(turbo3_encode()),
    example: |_, random| {
        let groups = random.size(1, 7);
        Ok(Example {
            grid: [groups as u32, 1, 1],
            arguments: vec![random.floats("f32", groups * GROUP), Argument::output(groups * BYTES)],
        })
    },
};

/// Registration of [`turbo3_decode`].
pub const DECODE: Entry = Entry {
    name: "turbo3_decode",
    parameters: &[],
    build: |_| Ok(turbo3_decode()),
    example: |_, random| {
        let groups = random.size(1, 7);
        Ok(Example {
            grid: [groups as u32, 1, 1],
            arguments: vec![random.bytes(groups * BYTES), Argument::output(groups * GROUP * 4)],
        })
    },
};
