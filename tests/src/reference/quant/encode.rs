//! Simple valid encoders: round to nearest in a grid spanned by each block's extremes. They make test weights with the
//! statistics of real ones; they do not search for the best grid, as file writers do.

use half::f16;

use super::decode::BlockFormat;

/// Weight blocks for `values`. Q8_0 is the format's own encoder (d = max|x|/127, q = x·(1/d) rounded half away from
/// zero, with the 1/d of the unrounded d); the others are valid, not optimal.
///
/// # Panics
/// When `values` is not a whole number of blocks or not finite.
pub fn encode(format: BlockFormat, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(values.len())];
    assert!(values.iter().all(|value| value.is_finite()), "weights must be finite");
    for (block, values) in bytes
        .chunks_exact_mut(format.bytes())
        .zip(values.chunks_exact(format.elements()))
    {
        match format {
            BlockFormat::Q8_0 => encode_q8_0(block, values),
            BlockFormat::Q4_0 | BlockFormat::Q5_0 => encode_centred(format, block, values),
            BlockFormat::Q4_K | BlockFormat::Q5_K => encode_with_minima(format, block, values),
            BlockFormat::Q6_K => encode_q6_k(block, values),
        }
    }
    bytes
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Stores a scale as f16 and returns what was stored.
fn store_scale(block: &mut [u8], offset: usize, scale: f32) -> f32 {
    let scale = f16::from_f32(scale.min(f16::MAX.to_f32()));
    block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
    scale.to_f32()
}

/// Nearest multiple of `step`, within limits; zero when there is no step.
fn nearest(value: f32, step: f32, low: i32, high: i32) -> i32 {
    if step == 0.0 {
        0.clamp(low, high)
    } else {
        ((value / step).round() as i32).clamp(low, high)
    }
}

fn encode_q8_0(block: &mut [u8], values: &[f32]) {
    let scale = largest(values) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    store_scale(block, 0, scale);
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
}

fn encode_centred(format: BlockFormat, block: &mut [u8], values: &[f32]) {
    let (centre, quants_at) = if format == BlockFormat::Q4_0 { (8, 2) } else { (16, 6) };
    let step = store_scale(block, 0, largest(values) / (centre - 1) as f32);
    let mut high_bits = 0_u32;
    for (element, &value) in values.iter().enumerate() {
        let quant = (nearest(value, step, -centre, centre - 1) + centre) as u32;
        block[quants_at + element % 16] |= ((quant & 15) << (element / 16 * 4)) as u8;
        high_bits |= (quant >> 4 & 1) << element;
    }
    if format == BlockFormat::Q5_0 {
        block[2..6].copy_from_slice(&high_bits.to_le_bytes());
    }
}

fn encode_with_minima(format: BlockFormat, block: &mut [u8], values: &[f32]) {
    let top = if format == BlockFormat::Q4_K { 15 } else { 31 };
    let spans: Vec<(f32, f32)> = values
        .chunks_exact(32)
        .map(|part| {
            let low = part.iter().fold(0.0_f32, |low, &value| low.min(value));
            let high = part.iter().fold(low, |high, &value| high.max(value));
            ((high - low) / top as f32, -low)
        })
        .collect();
    let scale_step = store_scale(block, 0, spans.iter().fold(0.0_f32, |a, span| a.max(span.0)) / 63.0);
    let minimum_step = store_scale(block, 2, spans.iter().fold(0.0_f32, |a, span| a.max(span.1)) / 63.0);
    for (index, part) in values.chunks_exact(32).enumerate() {
        let scale = nearest(spans[index].0, scale_step, 0, 63) as u8;
        let minimum = nearest(spans[index].1, minimum_step, 0, 63) as u8;
        store_scale_and_minimum(&mut block[4..16], index, scale, minimum);
        for (lane, &value) in part.iter().enumerate() {
            let lifted = value + minimum_step * f32::from(minimum);
            let quant = nearest(lifted, scale_step * f32::from(scale), 0, top) as u8;
            let (quants_at, shift) = (if top == 15 { 16 } else { 48 }, index % 2 * 4);
            block[quants_at + index / 2 * 32 + lane] |= (quant & 15) << shift;
            if top == 31 {
                block[16 + lane] |= (quant >> 4) << index;
            }
        }
    }
}

fn store_scale_and_minimum(packed: &mut [u8], index: usize, scale: u8, minimum: u8) {
    if index < 4 {
        packed[index] |= scale;
        packed[index + 4] |= minimum;
    } else {
        packed[index + 4] |= scale & 15 | (minimum & 15) << 4;
        packed[index - 4] |= scale >> 4 << 6;
        packed[index] |= minimum >> 4 << 6;
    }
}

fn encode_q6_k(block: &mut [u8], values: &[f32]) {
    let steps: Vec<f32> = values.chunks_exact(16).map(|part| largest(part) / 31.0).collect();
    let scale_step = store_scale(block, 208, largest(&steps) / 127.0);
    for (index, part) in values.chunks_exact(16).enumerate() {
        let scale = nearest(steps[index], scale_step, 0, 127);
        block[192 + index] = scale as u8;
        for (lane, &value) in part.iter().enumerate() {
            let quant = (nearest(value, scale_step * scale as f32, -32, 31) + 32) as u8;
            let element = 16 * index + lane;
            let (half, inside) = (element / 128, element % 128);
            let (quarter, column) = (inside / 32, inside % 32);
            block[64 * half + 32 * (quarter % 2) + column] |= (quant & 15) << (quarter / 2 * 4);
            block[128 + 32 * half + column] |= quant >> 4 << (2 * quarter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Relative root-mean-square error of a round trip, against what the width of the quants lets expect for normal
    /// values: a step of about 2·2.2σ / levels, uniform error step/√12, and some waste in the coarse scales.
    #[test]
    fn round_trips_lose_what_their_bits_say() {
        let table = [
            (BlockFormat::Q8_0, 0.008),
            (BlockFormat::Q6_K, 0.025),
            (BlockFormat::Q5_K, 0.05),
            (BlockFormat::Q5_0, 0.05),
            (BlockFormat::Q4_K, 0.10),
            (BlockFormat::Q4_0, 0.11),
        ];
        let mut random = Random::new("encode round trip");
        for (format, limit) in table {
            let values = random.normals(40 * format.elements(), 0.07);
            let decoded = format.decode(&encode(format, &values));
            let error: f64 = values
                .iter()
                .zip(&decoded)
                .map(|(&v, d)| (f64::from(v) - d).powi(2))
                .sum();
            let energy: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            let relative = (error / energy).sqrt();
            assert!(relative < limit && relative > limit / 4.0, "{format}: {relative}");
        }
    }

    #[test]
    fn zero_blocks_decode_to_zero() {
        for format in BlockFormat::ALL {
            let bytes = encode(format, &vec![0.0; format.elements()]);
            assert!(format.decode(&bytes).iter().all(|&weight| weight == 0.0), "{format}");
        }
    }

    #[test]
    fn values_on_the_grid_survive() {
        let values: Vec<f32> = (0..32)
            .map(|i| (i as f32 - 16.0) * 8.0 - 0.0)
            .map(|v| v.clamp(-127.0, 127.0))
            .collect();
        let decoded = BlockFormat::Q8_0.decode(&encode(BlockFormat::Q8_0, &values));
        assert_eq!(decoded, values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    }
}
