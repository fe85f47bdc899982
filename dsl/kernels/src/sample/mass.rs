//! Order and weight of logits, bit for bit the same on every device and on the CPU.

use tilekiln_dsl::prelude::*;

/// The best token weighs 2 to this power. So a token may be 30 nats below the best before it weighs nothing.
pub const MASS_BITS: u32 = 44;
/// Tokens whose masses fit a `u64` together.
pub const MOST_TOKENS: u32 = 1 << (63 - MASS_BITS);
/// log2(e): octaves of a nat. The scale of masses at temperature 1.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The key of minus infinity. Tokens that can be chosen have a larger one.
pub const LOWEST_KEY: u32 = 0x007f_ffff;
/// 2^-x for x in [0, 1), lowest power first: the polynomial of least relative error (2.1e-9) that is 1 at 0.
const POWERS: [f32; 7] = [
    1.0,
    -0.693_147_06,
    0.240_224_36,
    -0.055_490_76,
    0.009_579_18,
    -0.001_274_748_4,
    0.000_109_023_25,
];
/// Bits of the mantissa that the polynomial gives.
const MANTISSA_BITS: u32 = 24;

/// a number that is larger for better logits; 0 for NaN; zeros of both signs are the same
#[device_fn]
pub fn order_key(logit: Val<f32>) -> Val<u32> {
    let bits = select(logit == 0.0, 0u32, logit.bitcast::<u32>());
    let key = select(bits >> 31 == 1, !bits, bits | 0x8000_0000u32);
    select((bits & 0x7fff_ffff) <= 0x7f80_0000u32, key, 0u32)
}

/// the logit of a key
#[device_fn]
pub fn key_logit(key: Val<u32>) -> Val<f32> {
    select(key >> 31 == 1, key & 0x7fff_ffff, !key).bitcast::<f32>()
}

/// weight of a logit that is not above the best: 2^44 * 2^(scale * (logit - best)), rounded down
#[device_fn]
pub fn mass(logit: Val<f32>, best: Val<f32>, scale: Val<f32>) -> Val<u64> {
    let octaves = best.sub_unfused(logit).mul_unfused(scale);
    let whole = octaves.floor();
    let part = octaves.sub_unfused(whole);
    let mut power = f32(POWERS[6]);
    for exponent in (0..6).rev() {
        power = power.mul_unfused(part).add_unfused(POWERS[exponent]);
    }
    let mantissa = (power * (1 << MANTISSA_BITS) as f32).to::<u32>();
    let shifted = mantissa.to::<u64>() << (MASS_BITS - MANTISSA_BITS) >> min(whole.to::<u32>(), 63);
    let below = select(octaves < MASS_BITS as f32, shifted, 0u64);
    select(logit == best, 1u64 << MASS_BITS, below)
}

/// What [`order_key`] gives, on the CPU.
pub fn order_key_of(logit: f32) -> u32 {
    let bits = if logit == 0.0 { 0 } else { logit.to_bits() };
    match (logit.is_nan(), bits >> 31) {
        (true, _) => 0,
        (false, 1) => !bits,
        (false, _) => bits | 0x8000_0000,
    }
}

/// What [`mass`] gives, on the CPU. Rust never fuses a product and a sum.
pub fn mass_of(logit: f32, best: f32, scale: f32) -> u64 {
    if logit == best {
        return 1 << MASS_BITS;
    }
    let octaves = (best - logit) * scale;
    if octaves < MASS_BITS as f32 {
        let whole = octaves.floor();
        let part = octaves - whole;
        let coefficients = POWERS[..6].iter().rev();
        let power = coefficients.fold(POWERS[6], |power, coefficient| power * part + coefficient);
        let mantissa = (power * (1 << MANTISSA_BITS) as f32) as u32;
        u64::from(mantissa) << (MASS_BITS - MANTISSA_BITS) >> whole as u32
    } else {
        0
    }
}

/// a part of a total in units of 2^-32, rounded down
#[device_fn]
pub fn part_of(share: Val<u32>, total: Val<u64>) -> Val<u64> {
    let parts = share.to::<u64>();
    parts * (total >> 32) + (parts * (total & 0xffff_ffffu64) >> 32)
}

/// a part of a total in units of 2^-64, rounded down
#[device_fn]
pub fn fraction_of(number: Val<u64>, total: Val<u64>) -> Val<u64> {
    let high = number >> 32;
    let low = number & 0xffff_ffffu64;
    let total_high = total >> 32;
    let total_low = total & 0xffff_ffffu64;
    let carried = (low * total_low >> 32) + (high * total_low & 0xffff_ffffu64) + (low * total_high & 0xffff_ffffu64);
    high * total_high + (high * total_low >> 32) + (low * total_high >> 32) + (carried >> 32)
}

/// What [`part_of`] gives, on the CPU.
pub fn part_of_total(share: u32, total: u64) -> u64 {
    ((u128::from(share) * u128::from(total)) >> 32) as u64
}

/// What [`fraction_of`] gives, on the CPU.
pub fn fraction_of_total(number: u64, total: u64) -> u64 {
    ((u128::from(number) * u128::from(total)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_are_powers_of_two() {
        // every fraction of an octave that 20 bits can tell, at several depths
        let mut worst = 0.0_f64;
        let mut last = u64::MAX;
        for step in 0..1 << 20 {
            let octaves = step as f32 / (1 << 20) as f32;
            let mass = mass_of(-octaves, 0.0, 1.0);
            let exact = 2.0_f64.powf(f64::from(MASS_BITS) - f64::from(octaves));
            worst = worst.max((mass as f64 / exact - 1.0).abs());
            assert!(mass <= last, "not monotone at {octaves}");
            last = mass;
        }
        // seven roundings of at most half a unit of 2^-24, the polynomial, and rounding down
        assert!(worst < 4.0 * 2.0_f64.powi(-24), "{worst:e}");
        for (logit, best, scale, mass) in [
            (0.0, 0.0, 1.0, 1 << 44),
            (-0.0, 0.0, 1e30, 1 << 44),
            (-1.0, 0.0, 1.0, 1 << 43),
            (-43.0, 0.0, 1.0, 2),
            (-44.0, 0.0, 1.0, 0),
            (f32::NAN, 0.0, 1.0, 0),
            (f32::NEG_INFINITY, 0.0, 1.0, 0),
            (f32::MIN, f32::MAX, 1.0, 0),
            (f32::INFINITY, f32::INFINITY, 1.0, 1 << 44),
            (0.0, f32::INFINITY, 1.0, 0),
            (0.0, 1.0, f32::MAX, 0),
            (-5.0, 5.0, f32::MIN_POSITIVE, (1 << 44)),
        ] {
            assert_eq!(mass_of(logit, best, scale), mass, "{logit} {best} {scale}");
        }
    }

    #[test]
    fn keys_order_as_logits_do() {
        let logits = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(logits.is_sorted_by(|a, b| order_key_of(*a) < order_key_of(*b)));
        assert_eq!(order_key_of(f32::NEG_INFINITY), LOWEST_KEY);
        assert_eq!(order_key_of(-0.0), order_key_of(0.0));
        assert_eq!([order_key_of(f32::NAN), order_key_of(-f32::NAN)], [0, 0]);
    }

    #[test]
    fn parts_are_rounded_down() {
        let total = (1 << 62) + 12_345;
        assert_eq!(part_of_total(u32::MAX, total), total - total.div_ceil(1 << 32));
        assert_eq!(fraction_of_total(u64::MAX, total), total - 1);
        assert_eq!((part_of_total(0, total), fraction_of_total(0, total)), (0, 0));
    }
}
