//! The rotation R = D(s2) · H128/√128 · D(s1): fixed signs, Hadamard butterflies, fixed signs.

use tilekiln_dsl::prelude::*;

use super::GROUP;

/// First signs: bit i of the 128 is set where s1\[i\] = -1, lowest word first.
pub const SIGNS_1: [u32; 4] = [0xe46a_0359, 0x42f8_5949, 0xa4c6_3bbb, 0x49f2_50a9];
/// Second signs, likewise.
pub const SIGNS_2: [u32; 4] = [0x16ac_ee90, 0x3f62_8fdc, 0xb7a5_357a, 0xbea5_6562];
/// 1/√128, rounded to f32.
pub const NORMALISE: f32 = 0.088_388_346;

/// minus the value where the bit is set
#[device_fn]
pub fn with_sign(value: Val<f32>, signs: Val<u32>, bit: Val<u32>) -> Val<f32> {
    (value.bitcast::<u32>() ^ (signs >> bit & 1) << 31).bitcast::<f32>()
}

/// Word `word` (0 to 3) of a sign pattern.
#[tile_fn]
pub fn word_of(signs: [u32; 4], word: Val<u32>) -> Val<u32> {
    let upper = select::<u32>(word == 2, signs[2], signs[3]);
    let lower = select::<u32>(word == 0, signs[0], signs[1]);
    select(word < 2, lower, upper)
}

/// Rotates groups of 128 values, one value a thread; the threads of a group follow each other. All sums are rounded one
/// by one, in the order the format fixes, so that stored bytes do not depend on the device. `exchange` holds one value a
/// thread; who uses it again needs a barrier first.
#[tile_fn]
pub fn rotate(value: Val<f32>, thread: Val<u32>, exchange: Shared<f32>, first: [u32; 4], second: [u32; 4]) -> Val<f32> {
    let lane = lane_index();
    let mut coordinate = with_sign(value, word_of(first, thread / 32 % 4), lane);
    /// butterflies within a warp: the lower lane gets the sum, the upper one the difference
    for distance in [1, 2, 4, 8, 16] {
        let other = shuffle_xor(coordinate, distance);
        coordinate = butterfly(coordinate, other, side(thread, distance));
    }
    /// butterflies between warps: both at once, for which a thread repeats what the one 64 away adds
    exchange[thread] = coordinate;
    barrier();
    let others = [32, 64, 96].map(|distance: u32| exchange[thread ^ distance]);
    let of_32 = side(thread, 32);
    let own = butterfly(coordinate, others[0], of_32);
    let other = butterfly(others[1], others[2], of_32);
    coordinate = butterfly(own, other, side(thread, 64));
    let factor = with_sign(f32(NORMALISE), word_of(second, thread / 32 % 4), lane);
    coordinate.mul_unfused(factor)
}

/// As [`rotate`], with the 128 values of a group in one warp, four of them that follow each other in each lane: the same
/// sums, without shared memory.
#[tile_fn]
pub fn rotate_quads(values: Registers<f32>, first: [u32; 4], second: [u32; 4]) {
    let lane = lane_index();
    let first_bit = lane % 8 * 4;
    let signs = word_of(first, lane / 8);
    for i in 0..4 {
        values[i] = with_sign(values[i], signs, first_bit + i);
    }
    for distance in [1, 2] {
        for low in (0..4).filter(|low: &usize| low & distance == 0) {
            let (own, other) = (values[low], values[low + distance]);
            values[low] = own.add_unfused(other);
            values[low + distance] = own.sub_unfused(other);
        }
    }
    for distance in [1, 2, 4, 8, 16] {
        let own_side = side(lane, distance);
        for i in 0..4 {
            let other = shuffle_xor(values[i], distance);
            values[i] = butterfly(values[i], other, own_side);
        }
    }
    let signs = word_of(second, lane / 8);
    for i in 0..4 {
        let factor = with_sign(f32(NORMALISE), signs, first_bit + i);
        values[i] = Val::<f32>::mul_unfused(values[i], factor);
    }
}

/// Half a butterfly: the sum of the two for the lower one (`side` 1), what the upper one (-1) has less than the other for the
/// upper one. The product is exact, so that one instruction rounds once, as a sum or a difference does.
fn butterfly(own: Val<f32>, other: Val<f32>, side: Val<f32>) -> Val<f32> {
    fma(own, side, other)
}

/// Which half of a butterfly over `distance` a thread has: 1 for the lower one, -1 for the upper one.
#[tile_fn]
fn side(thread: Val<u32>, distance: usize) -> Val<f32> {
    select(thread & distance == 0, f32(1.0), f32(-1.0))
}

/// Sum over the 128 values of this thread's group in order, each thread computing all of it: the format fixes the order.
#[tile_fn]
pub fn ordered_sum(terms: Shared<f32>, thread: Val<u32>) -> Val<f32> {
    let first = thread / GROUP * GROUP;
    let mut sum = f32(0.0);
    /// unrolled fully, all loads go in front, to more registers than there are
    for i in unrolled_by(8, 0..GROUP / 4) {
        let four = terms.load_as::<Pack<f32, 4>>(first + i * 4);
        for j in 0..4 {
            sum = sum.add_unfused(four.component(j));
        }
    }
    sum
}
