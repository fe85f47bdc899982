//! Tight loops over lanes. Every function here is one pass over slices that the compiler vectorises.
//!
//! An operand slice has one word (all lanes agree) or one per lane.

use super::program::{Fn1, Fn2, Fn3, W2};
use tilekiln_dsl::ir::CompareOp;

/// `f16` bits to `f32` bits, without branches.
#[inline(always)]
pub(super) fn f16_to_f32(half: u32) -> u32 {
    let sign = (half & 0x8000) << 16;
    let magnitude = (half & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent bias and normalises subnormals.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    let quiet = if magnitude > 0x0f80_0000 { 0x0040_0000 } else { 0 };
    sign | scaled | special | quiet
}

/// `f32` bits to `f16` bits, nearest even, without branches.
#[inline(always)]
pub(super) fn f32_to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let normal = magnitude.wrapping_add(0xc800_0fff).wrapping_add((magnitude >> 13) & 1) >> 13;
    // Adding 0.5 lets the adder round a subnormal result.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let bounded = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    let nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
    sign | if magnitude > 0x7f80_0000 { nan } else { bounded }
}

/// `f32` bits to `bf16` bits, nearest even.
#[inline(always)]
pub(super) fn f32_to_bf16(bits: u32) -> u32 {
    let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1) >> 16;
    let nan = (bits >> 16) | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }
}

/// x·y+z rounded to odd in f64: the product is exact there, and rounding to odd makes a second rounding harmless.
#[inline(always)]
fn sum_to_odd(x: f32, y: f32, z: f32) -> f64 {
    let product = f64::from(x) * f64::from(y);
    let addend = f64::from(z);
    let sum = product + addend;
    let back = sum - product;
    let lost = (product - (sum - back)) + (addend - back);
    let bits = sum.to_bits();
    let inexact = (lost > 0.0) | (lost < 0.0);
    // Away from zero where what was lost has the sum's sign, towards zero otherwise.
    let outwards = (lost > 0.0) == (sum > 0.0);
    let odd = if outwards {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    f64::from_bits(if inexact & (bits & 1 == 0) { odd } else { bits })
}

/// x·y+z rounded once.
#[inline(always)]
pub(super) fn fused(x: f32, y: f32, z: f32) -> f32 {
    sum_to_odd(x, y, z) as f32
}

#[inline(always)]
fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
fn h(bits: u32) -> f32 {
    f32::from_bits(f16_to_f32(bits))
}

#[inline(always)]
fn b(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[inline(always)]
fn to_h(x: f32) -> u32 {
    f32_to_f16(x.to_bits())
}

#[inline(always)]
fn to_b(x: f32) -> u32 {
    f32_to_bf16(x.to_bits())
}

/// The smaller; a NaN loses against a number.
#[inline(always)]
pub(super) fn min(x: f32, y: f32) -> f32 {
    if x < y || y.is_nan() { x } else { y }
}

/// The larger; a NaN loses against a number.
#[inline(always)]
pub(super) fn max(x: f32, y: f32) -> f32 {
    if x > y || y.is_nan() { x } else { y }
}

#[inline(always)]
fn each1(d: &mut [u32], a: &[u32], f: impl Fn(u32) -> u32) {
    if let [x] = a {
        d.fill(f(*x));
    } else {
        for (d, x) in d.iter_mut().zip(a) {
            *d = f(*x);
        }
    }
}

#[inline(always)]
fn each2(d: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(u32, u32) -> u32) {
    match (a, b) {
        ([x], [y]) => d.fill(f(*x, *y)),
        (a, [y]) => {
            let y = *y;
            for (d, x) in d.iter_mut().zip(a) {
                *d = f(*x, y);
            }
        }
        ([x], b) => {
            let x = *x;
            for (d, y) in d.iter_mut().zip(b) {
                *d = f(x, *y);
            }
        }
        (a, b) => {
            for ((d, x), y) in d.iter_mut().zip(a).zip(b) {
                *d = f(*x, *y);
            }
        }
    }
}

#[inline(always)]
fn each3(d: &mut [u32], a: &[u32], b: &[u32], c: &[u32], f: impl Fn(u32, u32, u32) -> u32) {
    match (a, b, c) {
        ([x], [y], [z]) => d.fill(f(*x, *y, *z)),
        (a, [y], c) if a.len() > 1 && c.len() > 1 => {
            let y = *y;
            for ((d, x), z) in d.iter_mut().zip(a).zip(c) {
                *d = f(*x, y, *z);
            }
        }
        (a, b, c) if a.len() > 1 && b.len() > 1 && c.len() > 1 => {
            for (((d, x), y), z) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = f(*x, *y, *z);
            }
        }
        (a, b, c) => {
            let at = |s: &[u32], lane: usize| if let [one] = s { *one } else { s[lane] };
            for (lane, d) in d.iter_mut().enumerate() {
                *d = f(at(a, lane), at(b, lane), at(c, lane));
            }
        }
    }
}

/// One function of one word over all lanes.
#[rustfmt::skip]
pub(super) fn map1(function: Fn1, d: &mut [u32], a: &[u32]) {
    match function {
        Fn1::NegI => each1(d, a, |x| 0u32.wrapping_sub(x)),
        Fn1::NegF32 => each1(d, a, |x| x ^ 0x8000_0000),
        Fn1::NegF16 | Fn1::NegBf16 => each1(d, a, |x| x ^ 0x8000),
        Fn1::NotBits => each1(d, a, |x| !x),
        Fn1::NotBool => each1(d, a, |x| x ^ 1),
        Fn1::AbsI => each1(d, a, |x| (x as i32).wrapping_abs() as u32),
        Fn1::AbsF32 => each1(d, a, |x| x & 0x7fff_ffff),
        Fn1::AbsHalf => each1(d, a, |x| x & 0x7fff),
        Fn1::Sqrt => each1(d, a, |x| f(x).sqrt().to_bits()),
        Fn1::Rsqrt => each1(d, a, |x| ((1.0 / f64::from(f(x)).sqrt()) as f32).to_bits()),
        Fn1::Exp2 => each1(d, a, |x| f(x).exp2().to_bits()),
        Fn1::Exp2Flushed => each1(d, a, |x| {
            let power = f(x).exp2();
            if power < f32::MIN_POSITIVE { 0 } else { power.to_bits() }
        }),
        Fn1::Log2 => each1(d, a, |x| f(x).log2().to_bits()),
        Fn1::Sin => each1(d, a, |x| f(x).sin().to_bits()),
        Fn1::Cos => each1(d, a, |x| f(x).cos().to_bits()),
        Fn1::Tanh => each1(d, a, |x| f(x).tanh().to_bits()),
        Fn1::Round => each1(d, a, |x| f(x).round_ties_even().to_bits()),
        Fn1::Floor => each1(d, a, |x| f(x).floor().to_bits()),
        Fn1::I32ToF32 => each1(d, a, |x| (x as i32 as f32).to_bits()),
        Fn1::U32ToF32 => each1(d, a, |x| (x as f32).to_bits()),
        Fn1::F32ToI32 => each1(d, a, |x| f(x) as i32 as u32),
        Fn1::F32ToU32 => each1(d, a, |x| f(x) as u32),
        Fn1::F16ToF32 => each1(d, a, f16_to_f32),
        Fn1::F32ToF16 => each1(d, a, f32_to_f16),
        Fn1::Bf16ToF32 => each1(d, a, |x| x << 16),
        Fn1::F32ToBf16 => each1(d, a, f32_to_bf16),
        Fn1::ToBool => each1(d, a, |x| u32::from(x != 0)),
        Fn1::F32ToBool => each1(d, a, |x| u32::from(f(x) != 0.0)),
        Fn1::SignExtend8 => each1(d, a, |x| x as i8 as i32 as u32),
        Fn1::SignExtend16 => each1(d, a, |x| x as i16 as i32 as u32),
        Fn1::ZeroExtend8 => each1(d, a, |x| x & 0xff),
        Fn1::ZeroExtend16 => each1(d, a, |x| x & 0xffff),
        Fn1::High16 => each1(d, a, |x| x >> 16),
        Fn1::SignWord => each1(d, a, |x| ((x as i32) >> 31) as u32),
    }
}

/// One function of two words over all lanes. Integer division by zero gives 0 here; it is reported before.
#[rustfmt::skip]
pub(super) fn map2(function: Fn2, d: &mut [u32], a: &[u32], c: &[u32]) {
    let signed = |x: u32| x as i32;
    match function {
        Fn2::AddI => each2(d, a, c, u32::wrapping_add),
        Fn2::SubI => each2(d, a, c, u32::wrapping_sub),
        Fn2::MulI => each2(d, a, c, u32::wrapping_mul),
        Fn2::DivI => each2(d, a, c, |x, y| if y == 0 { 0 } else { signed(x).wrapping_div(signed(y)) as u32 }),
        Fn2::DivU => each2(d, a, c, |x, y| x.checked_div(y).unwrap_or(0)),
        Fn2::RemI => each2(d, a, c, |x, y| if y == 0 { 0 } else { signed(x).wrapping_rem(signed(y)) as u32 }),
        Fn2::RemU => each2(d, a, c, |x, y| x.checked_rem(y).unwrap_or(0)),
        Fn2::And => each2(d, a, c, |x, y| x & y),
        Fn2::Or => each2(d, a, c, |x, y| x | y),
        Fn2::Xor => each2(d, a, c, |x, y| x ^ y),
        Fn2::Shl => each2(d, a, c, u32::wrapping_shl),
        Fn2::ShrI => each2(d, a, c, |x, y| signed(x).wrapping_shr(y) as u32),
        Fn2::ShrU => each2(d, a, c, u32::wrapping_shr),
        Fn2::MinI => each2(d, a, c, |x, y| signed(x).min(signed(y)) as u32),
        Fn2::MinU => each2(d, a, c, u32::min),
        Fn2::MaxI => each2(d, a, c, |x, y| signed(x).max(signed(y)) as u32),
        Fn2::MaxU => each2(d, a, c, u32::max),
        Fn2::AddF => each2(d, a, c, |x, y| (f(x) + f(y)).to_bits()),
        Fn2::SubF => each2(d, a, c, |x, y| (f(x) - f(y)).to_bits()),
        Fn2::MulF => each2(d, a, c, |x, y| (f(x) * f(y)).to_bits()),
        Fn2::DivF => each2(d, a, c, |x, y| (f(x) / f(y)).to_bits()),
        Fn2::RemF => each2(d, a, c, |x, y| (f(x) % f(y)).to_bits()),
        Fn2::MinF => each2(d, a, c, |x, y| min(f(x), f(y)).to_bits()),
        Fn2::MaxF => each2(d, a, c, |x, y| max(f(x), f(y)).to_bits()),
        Fn2::AddH => each2(d, a, c, |x, y| to_h(h(x) + h(y))),
        Fn2::SubH => each2(d, a, c, |x, y| to_h(h(x) - h(y))),
        Fn2::MulH => each2(d, a, c, |x, y| to_h(h(x) * h(y))),
        Fn2::DivH => each2(d, a, c, |x, y| to_h(h(x) / h(y))),
        Fn2::MinH => each2(d, a, c, |x, y| to_h(min(h(x), h(y)))),
        Fn2::MaxH => each2(d, a, c, |x, y| to_h(max(h(x), h(y)))),
        Fn2::AddB => each2(d, a, c, |x, y| to_b(b(x) + b(y))),
        Fn2::SubB => each2(d, a, c, |x, y| to_b(b(x) - b(y))),
        Fn2::MulB => each2(d, a, c, |x, y| to_b(b(x) * b(y))),
        Fn2::DivB => each2(d, a, c, |x, y| to_b(b(x) / b(y))),
        Fn2::MinB => each2(d, a, c, |x, y| to_b(min(b(x), b(y)))),
        Fn2::MaxB => each2(d, a, c, |x, y| to_b(max(b(x), b(y)))),
        Fn2::Eq => each2(d, a, c, |x, y| u32::from(x == y)),
        Fn2::Ne => each2(d, a, c, |x, y| u32::from(x != y)),
        Fn2::LtI => each2(d, a, c, |x, y| u32::from(signed(x) < signed(y))),
        Fn2::LeI => each2(d, a, c, |x, y| u32::from(signed(x) <= signed(y))),
        Fn2::GtI => each2(d, a, c, |x, y| u32::from(signed(x) > signed(y))),
        Fn2::GeI => each2(d, a, c, |x, y| u32::from(signed(x) >= signed(y))),
        Fn2::LtU => each2(d, a, c, |x, y| u32::from(x < y)),
        Fn2::LeU => each2(d, a, c, |x, y| u32::from(x <= y)),
        Fn2::GtU => each2(d, a, c, |x, y| u32::from(x > y)),
        Fn2::GeU => each2(d, a, c, |x, y| u32::from(x >= y)),
        Fn2::EqF => each2(d, a, c, |x, y| u32::from(f(x) == f(y))),
        Fn2::NeF => each2(d, a, c, |x, y| u32::from(f(x) != f(y))),
        Fn2::LtF => each2(d, a, c, |x, y| u32::from(f(x) < f(y))),
        Fn2::LeF => each2(d, a, c, |x, y| u32::from(f(x) <= f(y))),
        Fn2::GtF => each2(d, a, c, |x, y| u32::from(f(x) > f(y))),
        Fn2::GeF => each2(d, a, c, |x, y| u32::from(f(x) >= f(y))),
        Fn2::EqH => each2(d, a, c, |x, y| u32::from(h(x) == h(y))),
        Fn2::NeH => each2(d, a, c, |x, y| u32::from(h(x) != h(y))),
        Fn2::LtH => each2(d, a, c, |x, y| u32::from(h(x) < h(y))),
        Fn2::LeH => each2(d, a, c, |x, y| u32::from(h(x) <= h(y))),
        Fn2::GtH => each2(d, a, c, |x, y| u32::from(h(x) > h(y))),
        Fn2::GeH => each2(d, a, c, |x, y| u32::from(h(x) >= h(y))),
        Fn2::Pack16 => each2(d, a, c, |x, y| (x & 0xffff) | (y << 16)),
    }
}

#[inline(always)]
pub fn dot4(x: u32, y: u32, sum: u32, signed: bool) -> u32 {
    let byte = |word: u32, i: u32| word >> (8 * i);
    let mut total = sum as i32;
    for i in 0..4 {
        let left = if signed {
            i32::from(byte(x, i) as i8)
        } else {
            i32::from(byte(x, i) as u8)
        };
        total = total.wrapping_add(left * i32::from(byte(y, i) as i8));
    }
    total as u32
}

#[inline(always)]
fn byte_permute(low: u32, high: u32, selector: u32) -> u32 {
    let both = u64::from(low) | (u64::from(high) << 32);
    (0..4).fold(0, |word, i| {
        let pick = (selector >> (4 * i)) & 7;
        word | (((both >> (8 * pick)) as u32 & 0xff) << (8 * i))
    })
}

/// One function of three words over all lanes.
pub(super) fn map3(function: Fn3, d: &mut [u32], x: &[u32], y: &[u32], z: &[u32]) {
    match function {
        Fn3::FmaF32 => each3(d, x, y, z, |x, y, z| fused(f(x), f(y), f(z)).to_bits()),
        // The f16 product is exact in f32, the sum is not: go through the fused form.
        Fn3::FmaF16 => each3(d, x, y, z, |x, y, z| to_h(fused_odd(h(x), h(y), h(z)))),
        Fn3::FmaBf16 => each3(d, x, y, z, |x, y, z| to_b(fused_odd(b(x), b(y), b(z)))),
        Fn3::Select => each3(d, x, y, z, |x, y, z| {
            let mask = 0u32.wrapping_sub(x);
            (y & mask) | (z & !mask)
        }),
        Fn3::Dot4Signed => each3(d, x, y, z, |x, y, z| dot4(x, y, z, true)),
        Fn3::Dot4Unsigned => each3(d, x, y, z, |x, y, z| dot4(x, y, z, false)),
        Fn3::BytePermute => each3(d, x, y, z, byte_permute),
    }
}

/// x·y+z as an `f32` that rounds to 16 bits as if nothing had been rounded before (rounded to odd).
#[inline(always)]
fn fused_odd(x: f32, y: f32, z: f32) -> f32 {
    let exact = sum_to_odd(x, y, z);
    let near = exact as f32;
    let back = f64::from(near);
    let bits = near.to_bits();
    let outwards = (exact > back) == (back > 0.0);
    let odd = if outwards {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    let inexact = (exact > back) | (exact < back);
    f32::from_bits(if inexact & (bits & 1 == 0) & (back != 0.0) {
        odd
    } else {
        bits
    })
}

#[inline(always)]
fn at(slice: &[u32], lane: usize) -> u32 {
    if let [one] = slice {
        *one
    } else {
        slice.get(lane).copied().unwrap_or(0)
    }
}

/// A 64-bit word from its planes.
#[inline(always)]
pub(super) fn wide(planes: [&[u32]; 2], lane: usize) -> u64 {
    u64::from(at(planes[0], lane)) | (u64::from(at(planes[1], lane)) << 32)
}

/// One function of two 64-bit words over all lanes.
pub(super) fn wide2(function: W2, d: [&mut [u32]; 2], x: [&[u32]; 2], y: [&[u32]; 2]) {
    let [low, high] = d;
    let mut run = |f: &dyn Fn(u64, u64) -> u64| {
        for (lane, (low, high)) in low.iter_mut().zip(high.iter_mut()).enumerate() {
            let result = f(wide(x, lane), wide(y, lane));
            *low = result as u32;
            *high = (result >> 32) as u32;
        }
    };
    match function {
        W2::Add => run(&u64::wrapping_add),
        W2::Sub => run(&u64::wrapping_sub),
        W2::Mul => run(&u64::wrapping_mul),
        W2::Div => run(&|x, y| x.checked_div(y).unwrap_or(0)),
        W2::Rem => run(&|x, y| x.checked_rem(y).unwrap_or(0)),
        W2::And => run(&|x, y| x & y),
        W2::Or => run(&|x, y| x | y),
        W2::Xor => run(&|x, y| x ^ y),
        W2::Shl => run(&|x, y| x.wrapping_shl(y as u32)),
        W2::Shr => run(&|x, y| x.wrapping_shr(y as u32)),
        W2::Min => run(&u64::min),
        W2::Max => run(&u64::max),
    }
}

/// Compares 64-bit words.
pub(super) fn wide_compare(op: CompareOp, d: &mut [u32], x: [&[u32]; 2], y: [&[u32]; 2]) {
    for (lane, d) in d.iter_mut().enumerate() {
        let (x, y) = (wide(x, lane), wide(y, lane));
        *d = u32::from(match op {
            CompareOp::Eq => x == y,
            CompareOp::Ne => x != y,
            CompareOp::Lt => x < y,
            CompareOp::Le => x <= y,
            CompareOp::Gt => x > y,
            CompareOp::Ge => x >= y,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_f16_becomes_the_same_f32() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let found = f32::from_bits(f16_to_f32(u32::from(bits)));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn rounding_to_16_bits_agrees_with_half() {
        let mut state = 0x9e37_79b9_u32;
        for step in 0..4_000_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Every second case near the range of f16, so that ties and subnormals occur.
            let bits = if step % 2 == 0 {
                state
            } else {
                (state & 0x8fff_ffff) | 0x3000_0000
            };
            let bits = if step % 3 == 0 { bits & !0xfff } else { bits };
            let x = f32::from_bits(bits);
            if x.is_nan() {
                assert!(f16::from_bits(f32_to_f16(bits) as u16).is_nan());
                assert!(bf16::from_bits(f32_to_bf16(bits) as u16).is_nan());
                continue;
            }
            assert_eq!(f32_to_f16(bits), u32::from(f16::from_f32(x).to_bits()), "{x:e}");
            assert_eq!(f32_to_bf16(bits), u32::from(bf16::from_f32(x).to_bits()), "{x:e}");
        }
    }

    #[test]
    fn fused_is_rounded_once() {
        let mut state = 7u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for step in 0..2_000_000 {
            let narrow = |bits: u32| f32::from_bits((bits & 0x83ff_ffff) | 0x3c00_0000);
            let (x, y, z) = (next(), next(), next());
            let (x, y, z) = if step % 2 == 0 {
                (f32::from_bits(x), f32::from_bits(y), f32::from_bits(z))
            } else {
                (narrow(x), narrow(y), narrow(z) * 2f32.powi(-(step % 40)))
            };
            let (found, expected) = (fused(x, y, z), x.mul_add(y, z));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{x:e} * {y:e} + {z:e}: {found:e}, not {expected:e}"
            );
        }
    }
}
