//! The rotation R = D(s2) · H128/√128 · D(s1): fixed signs, Hadamard butterflies, fixed signs.

use tilekiln_dsl::prelude::*;

use super::GROUP;

/// First signs: bit i of the 128 is set where s1\[i\] = -1, lowest word first.
pub const SIGNS_1: [u32; 4] = [0xe46a_0359, 0x42f8_5949, 0xa4c6_3bbb, 0x49f2_50a9];
/// Second signs, likewise.
pub const SIGNS_2: [u32; 4] = [0x16ac_ee90, 0x3f62_8fdc, 0xb7a5_357a, 0xbea5_6562];
/// 1/√128, rounded to f32.
pub const NORMALISE: f32 = 0.088_388_346;

/// minus the value where the bit of this thread is set
#[device_fn]
fn with_sign(value: Val<f32>, signs: Val<u32>) -> Val<f32> {
    select(signs >> lane_index() & 1 == 1, -value, value)
}

/// The words of the two sign patterns that belong to this warp.
#[tile_fn]
fn word_of_warp(signs: [u32; 4]) -> Val<u32> {
    let warp = warp_index();
    select(
        warp == 0,
        signs[0],
        select::<u32>(warp == 1, signs[1], select::<u32>(warp == 2, signs[2], signs[3])),
    )
}

/// Rotates a group that 128 threads hold, one value each. All sums are rounded one by one, in the order the format
/// fixes, so that stored bytes do not depend on the device. `exchange` holds 128 values.
#[tile_fn]
pub fn rotate(value: Val<f32>, thread: Val<u32>, exchange: Shared<f32>, first: [u32; 4], second: [u32; 4]) -> Val<f32> {
    let mut coordinate = with_sign(value, word_of_warp(first));
    /// butterflies within a warp: the lower lane gets the sum, the upper one the difference
    for distance in [1, 2, 4, 8, 16] {
        let other = shuffle_xor(coordinate, distance);
        coordinate = select(
            thread & distance == 0,
            coordinate.add_unfused(other),
            other.sub_unfused(coordinate),
        );
    }
    /// butterflies between warps
    for distance in [32, 64] {
        exchange[thread] = coordinate;
        barrier();
        let other = exchange[thread ^ distance];
        barrier();
        coordinate = select(
            thread & distance == 0,
            coordinate.add_unfused(other),
            other.sub_unfused(coordinate),
        );
    }
    let factor = with_sign(f32(NORMALISE), word_of_warp(second));
    coordinate.mul_unfused(factor)
}

/// Sum over the group's 128 values in order, each thread computing all of it: the format fixes the order.
#[tile_fn]
pub fn ordered_sum(terms: Shared<f32>) -> Val<f32> {
    let mut sum = f32(0.0);
    for i in device_range(0, GROUP) {
        sum = sum.add_unfused(terms[i]);
    }
    sum
}
