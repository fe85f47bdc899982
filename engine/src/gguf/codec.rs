//! Encoding and decoding rows of weights on the CPU.
//!
//! For making files and for the few small tensors that are wanted as numbers; a model's weights are decoded by kernels.
//! The encoders search a handful of scales for the smallest squared error.

use half::{bf16, f16};

use super::types::TensorType;

/// Why values and bytes could not be turned into each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CodecError {
    #[error("{0} cannot be encoded or decoded here; F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K and Q6_K can")]
    Unsupported(TensorType),
    #[error("{count} {unit} are no whole number of {kind} blocks of {block}")]
    Blocks {
        count: usize,
        unit: &'static str,
        kind: TensorType,
        block: usize,
    },
    #[error("value {index} is {value}: only finite values within the range of {kind} can be encoded")]
    Range { index: usize, value: f32, kind: TensorType },
}

/// Values and bytes of a block of a type that can be computed with.
fn block(kind: TensorType) -> Result<(usize, usize), CodecError> {
    let sizes = kind.codec().and(kind.block_values().zip(kind.block_bytes()));
    sizes.ok_or(CodecError::Unsupported(kind))
}

/// Appends the values of whole blocks.
///
/// # Errors
/// When the type is not one of those with a [`TensorType::codec`], or `bytes` is no whole number of blocks.
pub fn decode(kind: TensorType, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), CodecError> {
    let (block_values, block_bytes) = block(kind)?;
    if !bytes.len().is_multiple_of(block_bytes) {
        return Err(CodecError::Blocks {
            count: bytes.len(),
            unit: "bytes",
            kind,
            block: block_bytes,
        });
    }
    let from = values.len();
    values.resize(from + bytes.len() / block_bytes * block_values, 0.0);
    let blocks = bytes.chunks_exact(block_bytes);
    for (bytes, values) in blocks.zip(values[from..].chunks_exact_mut(block_values)) {
        match kind {
            TensorType::F32 => values[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            TensorType::F16 => values[0] = half(bytes, 0),
            TensorType::BF16 => values[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            TensorType::Q8_0 => decode_q8_0(bytes, values),
            TensorType::Q4_0 => decode_centred(bytes, 2, 8, values),
            TensorType::Q5_0 => decode_centred(bytes, 6, 16, values),
            TensorType::Q4_K => decode_with_minima(bytes, 16, values),
            TensorType::Q5_K => decode_with_minima(bytes, 48, values),
            TensorType::Q6_K => decode_q6_k(bytes, values),
            _ => return Err(CodecError::Unsupported(kind)),
        }
    }
    Ok(())
}

/// Appends values as whole blocks.
///
/// # Errors
/// When the type is not one of those with a [`TensorType::codec`], `values` is no whole number of blocks, or a value
/// is not finite or too large for the type.
pub fn encode(kind: TensorType, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    let (block_values, block_bytes) = block(kind)?;
    if !values.len().is_multiple_of(block_values) {
        return Err(CodecError::Blocks {
            count: values.len(),
            unit: "values",
            kind,
            block: block_values,
        });
    }
    let limit = match kind {
        TensorType::F32 => f32::MAX,
        TensorType::BF16 => bf16::MAX.to_f32(),
        // the scale of every block type is an f16
        _ => f16::MAX.to_f32(),
    };
    if let Some(index) = values.iter().position(|value| value.is_nan() || value.abs() > limit) {
        return Err(CodecError::Range {
            index,
            value: values[index],
            kind,
        });
    }
    let from = bytes.len();
    bytes.resize(from + values.len() / block_values * block_bytes, 0);
    let blocks = values.chunks_exact(block_values);
    for (values, bytes) in blocks.zip(bytes[from..].chunks_exact_mut(block_bytes)) {
        match kind {
            TensorType::F32 => bytes.copy_from_slice(&values[0].to_le_bytes()),
            TensorType::F16 => bytes.copy_from_slice(&f16::from_f32(values[0]).to_le_bytes()),
            TensorType::BF16 => bytes.copy_from_slice(&bf16::from_f32(values[0]).to_le_bytes()),
            TensorType::Q8_0 => encode_q8_0(values, bytes),
            TensorType::Q4_0 => encode_centred(values, 2, 8, bytes),
            TensorType::Q5_0 => encode_centred(values, 6, 16, bytes),
            TensorType::Q4_K => encode_with_minima(values, 15, bytes),
            TensorType::Q5_K => encode_with_minima(values, 31, bytes),
            TensorType::Q6_K => encode_q6_k(values, bytes),
            _ => return Err(CodecError::Unsupported(kind)),
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Stores a scale and returns what it became.
fn store_half(bytes: &mut [u8], at: usize, value: f32) -> f32 {
    let stored = f16::from_f32(value);
    bytes[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// 1/x, and 0 for 0: a scale of zero makes every quant zero.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

fn nearest(x: f32, low: i32, high: i32) -> i32 {
    // a subnormal scale may have an infinite inverse; 0 times that is NaN, which becomes 0
    (x.round() as i32).clamp(low, high)
}

/// The value of largest magnitude, with its sign.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(
        0.0_f32,
        |most, &value| if value.abs() > most.abs() { value } else { most },
    )
}

fn decode_q8_0(bytes: &[u8], values: &mut [f32]) {
    let scale = half(bytes, 0);
    for (value, &quant) in values.iter_mut().zip(&bytes[2..]) {
        *value = scale * f32::from(quant as i8);
    }
}

fn encode_q8_0(values: &[f32], bytes: &mut [u8]) {
    let scale = extreme(values).abs() / 127.0;
    store_half(bytes, 0, scale);
    let inverse = inverse(scale);
    for (byte, value) in bytes[2..].iter_mut().zip(values) {
        *byte = nearest(value * inverse, -127, 127) as i8 as u8;
    }
}

/// Q4_0 and Q5_0: 32 quants around `centre`, nibbles at `quants_at`, the fifth bits of Q5_0 in front of them.
fn decode_centred(bytes: &[u8], quants_at: usize, centre: i32, values: &mut [f32]) {
    let scale = half(bytes, 0);
    let high = match centre {
        16 => u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]),
        _ => 0,
    };
    for (element, value) in values.iter_mut().enumerate() {
        let nibble = bytes[quants_at + element % 16] >> (element / 16 * 4) & 15;
        let quant = i32::from(nibble) | ((high >> element & 1) << 4) as i32;
        *value = scale * (quant - centre) as f32;
    }
}

/// The scale, rounded to f16, with which quants in `-centre..centre` come closest to the values. The grid reaches one
/// step further below zero than above, so the extreme value may take that step.
fn centred_scale(values: &[f32], centre: i32) -> f32 {
    let extreme = extreme(values);
    let scales = [
        extreme / -centre as f32,
        extreme / (-centre as f32 + 0.5),
        extreme / (centre - 1) as f32,
    ];
    let error = |scale: f32| {
        let inverse = inverse(scale);
        values
            .iter()
            .map(|&value| (scale * nearest(value * inverse, -centre, centre - 1) as f32 - value).powi(2))
            .sum::<f32>()
    };
    let rounded = scales.map(|scale| f16::from_f32(scale).to_f32());
    rounded
        .into_iter()
        .min_by(|&a, &b| error(a).total_cmp(&error(b)))
        .unwrap_or_default()
}

fn encode_centred(values: &[f32], quants_at: usize, centre: i32, bytes: &mut [u8]) {
    let scale = store_half(bytes, 0, centred_scale(values, centre));
    let inverse = inverse(scale);
    let mut high = 0_u32;
    for (element, value) in values.iter().enumerate() {
        let quant = (nearest(value * inverse, -centre, centre - 1) + centre) as u32;
        bytes[quants_at + element % 16] |= ((quant & 15) << (element / 16 * 4)) as u8;
        high |= (quant >> 4 & 1) << element;
    }
    if centre == 16 {
        bytes[2..6].copy_from_slice(&high.to_le_bytes());
    }
}

/// The 6-bit scale and minimum of sub-block `index` of Q4_K and Q5_K.
fn scale_and_minimum(packed: &[u8], index: usize) -> (u8, u8) {
    match index {
        0..4 => (packed[index] & 63, packed[index + 4] & 63),
        _ => (
            packed[index + 4] & 15 | packed[index - 4] >> 6 << 4,
            packed[index + 4] >> 4 | packed[index] >> 6 << 4,
        ),
    }
}

/// Q4_K and Q5_K: nibbles at `quants_at`; 32 bytes of fifth bits lie in front of them in Q5_K.
fn decode_with_minima(bytes: &[u8], quants_at: usize, values: &mut [f32]) {
    let (scale_step, minimum_step) = (half(bytes, 0), half(bytes, 2));
    for (index, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&bytes[4..16], index);
        let (scale, minimum) = (scale_step * f32::from(scale), minimum_step * f32::from(minimum));
        for (lane, value) in values.iter_mut().enumerate() {
            let mut quant = bytes[quants_at + index / 2 * 32 + lane] >> (index % 2 * 4) & 15;
            if quants_at == 48 {
                quant |= (bytes[16 + lane] >> index & 1) << 4;
            }
            *value = scale * f32::from(quant) - minimum;
        }
    }
}

/// Scale and minimum of 32 values so that `scale * quant - minimum`, quants up to `top`, comes close to them.
///
/// Starts from the span of the values, a little narrowed in each trial; the quants that follow give the best straight
/// line through the values.
fn fit(values: &[f32], top: i32) -> (f32, f32) {
    let low = values.iter().fold(0.0_f32, |low, &value| low.min(value));
    let high = values.iter().fold(low, |high, &value| high.max(value));
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for narrowed in [1.0, 0.95, 0.9, 0.85] {
        let (mut scale, mut minimum) = ((high - low) * narrowed / top as f32, -low * narrowed);
        for _ in 0..2 {
            let inverse = inverse(scale);
            let quants = values
                .iter()
                .map(|value| nearest((value + minimum) * inverse, 0, top) as f32);
            let (mut q, mut qq, mut x, mut qx, mut error) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for (quant, value) in quants.zip(values) {
                q += quant;
                qq += quant * quant;
                x += value;
                qx += quant * value;
                error += (scale * quant - minimum - value).powi(2);
            }
            if error < best.0 {
                best = (error, scale, minimum);
            }
            let count = values.len() as f32;
            let spread = count * qq - q * q;
            if spread <= 0.0 {
                break;
            }
            let slope = (count * qx - q * x) / spread;
            // minima are stored without a sign
            let start = (slope * q - x) / count;
            (scale, minimum) = match start < 0.0 {
                true => (qx / qq, 0.0),
                false => (slope, start),
            };
        }
    }
    (best.1, best.2)
}

fn encode_with_minima(values: &[f32], top: i32, bytes: &mut [u8]) {
    let fits: Vec<(f32, f32)> = values.chunks_exact(32).map(|part| fit(part, top)).collect();
    let scale_step = store_half(bytes, 0, fits.iter().fold(0.0_f32, |most, fit| most.max(fit.0)) / 63.0);
    let minimum_step = store_half(bytes, 2, fits.iter().fold(0.0_f32, |most, fit| most.max(fit.1)) / 63.0);
    for (index, part) in values.chunks_exact(32).enumerate() {
        let scale = nearest(fits[index].0 * inverse(scale_step), 0, 63) as u8;
        let minimum = nearest(fits[index].1 * inverse(minimum_step), 0, 63) as u8;
        let packed = &mut bytes[4..16];
        match index {
            0..4 => {
                packed[index] |= scale;
                packed[index + 4] |= minimum;
            }
            _ => {
                packed[index + 4] |= scale & 15 | minimum << 4;
                packed[index - 4] |= scale >> 4 << 6;
                packed[index] |= minimum >> 4 << 6;
            }
        }
        let (inverse, minimum) = (
            inverse(scale_step * f32::from(scale)),
            minimum_step * f32::from(minimum),
        );
        let quants_at = if top == 15 { 16 } else { 48 };
        for (lane, value) in part.iter().enumerate() {
            let quant = nearest((value + minimum) * inverse, 0, top) as u8;
            bytes[quants_at + index / 2 * 32 + lane] |= (quant & 15) << (index % 2 * 4);
            if top == 31 {
                bytes[16 + lane] |= (quant >> 4) << index;
            }
        }
    }
}

/// Where the low nibble (byte, shift) and the two high bits (byte, shift) of an element of Q6_K lie.
fn q6_k_places(element: usize) -> (usize, usize, usize, usize) {
    let (upper, inside) = (element / 128, element % 128);
    let (quarter, lane) = (inside / 32, inside % 32);
    (
        64 * upper + 32 * (quarter % 2) + lane,
        quarter / 2 * 4,
        128 + 32 * upper + lane,
        2 * quarter,
    )
}

fn decode_q6_k(bytes: &[u8], values: &mut [f32]) {
    let scale_step = half(bytes, 208);
    for (element, value) in values.iter_mut().enumerate() {
        let (low_at, low_shift, high_at, high_shift) = q6_k_places(element);
        let quant = bytes[low_at] >> low_shift & 15 | (bytes[high_at] >> high_shift & 3) << 4;
        let scale = scale_step * f32::from(bytes[192 + element / 16] as i8);
        *value = scale * f32::from(i16::from(quant) - 32);
    }
}

fn encode_q6_k(values: &[f32], bytes: &mut [u8]) {
    // finer than f16, so that scaling them by 127 below keeps them apart
    let scales: Vec<f32> = values.chunks_exact(16).map(|part| extreme(part) / -32.0).collect();
    let scale_step = store_half(bytes, 208, extreme(&scales) / -128.0);
    for (index, part) in values.chunks_exact(16).enumerate() {
        let scale = nearest(scales[index] * inverse(scale_step), -128, 127);
        bytes[192 + index] = scale as i8 as u8;
        let inverse = inverse(scale_step * scale as f32);
        for (lane, value) in part.iter().enumerate() {
            let quant = (nearest(value * inverse, -32, 31) + 32) as u8;
            let (low_at, low_shift, high_at, high_shift) = q6_k_places(16 * index + lane);
            bytes[low_at] |= (quant & 15) << low_shift;
            bytes[high_at] |= quant >> 4 << high_shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use tilekiln_tests::random::Random;
    use tilekiln_tests::reference::quant::BlockFormat;

    use super::*;

    fn reference(kind: TensorType) -> Option<BlockFormat> {
        BlockFormat::ALL.into_iter().find(|format| format.name() == kind.name())
    }

    fn computable() -> impl Iterator<Item = TensorType> {
        TensorType::known().filter(|kind| kind.codec().is_some())
    }

    #[test]
    fn decoding_is_the_references() {
        let mut random = Random::new("gguf decode");
        for format in BlockFormat::ALL {
            let kind = TensorType::named(format.name()).unwrap();
            let bytes = random.blocks(format, 50);
            let mut values = Vec::new();
            decode(kind, &bytes, &mut values).unwrap();
            let expected = format.decode(&bytes);
            assert_eq!(values.len(), expected.len());
            let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            for (index, (&value, &expected)) in values.iter().zip(&expected).enumerate() {
                // two products and a difference in f32
                let error = (f64::from(value) - expected).abs();
                assert!(
                    error <= largest * 2e-7,
                    "{kind}, value {index}: {value}, not {expected}"
                );
            }
        }
    }

    /// Errors against the width of the quants, through the decoder of the tests; and no worse than its plain encoder.
    #[test]
    fn encoded_values_come_back_close() {
        let mut random = Random::new("gguf encode");
        for kind in computable() {
            let values = random.normals(40 * 256, 0.07);
            let mut bytes = Vec::new();
            encode(kind, &values, &mut bytes).unwrap();
            let mut own = Vec::new();
            decode(kind, &bytes, &mut own).unwrap();
            let decoded: Vec<f64> = match reference(kind) {
                Some(format) => format.decode(&bytes),
                None => own.iter().map(|&value| f64::from(value)).collect(),
            };
            let loss = |decoded: &[f64]| {
                let errors = values.iter().zip(decoded).map(|(&v, d)| (f64::from(v) - d).powi(2));
                let energy: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
                (errors.sum::<f64>() / energy).sqrt()
            };
            let relative = loss(&decoded);
            let limit = match kind {
                TensorType::F32 => 0.0,
                TensorType::F16 => 3e-4,
                TensorType::BF16 => 2e-3,
                _ => 1.0,
            };
            assert!(relative <= limit, "{kind}: {relative}");
            if let Some(format) = reference(kind) {
                let plain = loss(&format.decode(&tilekiln_tests::reference::quant::encode(format, &values)));
                assert!(relative <= plain * 1.001, "{kind}: {relative}, a plain encoder {plain}");
            }
        }
    }

    #[test]
    fn hard_values_stay_finite() {
        let table: &[fn(usize) -> f32] = &[
            |_| 0.0,
            |i| if i == 3 { 65504.0 } else { 0.0 },
            |i| if i == 3 { -65504.0 } else { 1e-7 },
            |i| 1e-30 * (i as f32 - 7.0),
            |i| f32::from_bits(i as u32),
            |_| 5.0,
            |_| -5.0,
            |i| if i % 2 == 0 { 65504.0 } else { -65504.0 },
        ];
        for kind in computable() {
            for (row, value) in table.iter().enumerate() {
                let values: Vec<f32> = (0..512).map(value).collect();
                let (mut bytes, mut back) = (Vec::new(), Vec::new());
                encode(kind, &values, &mut bytes).unwrap();
                decode(kind, &bytes, &mut back).unwrap();
                let largest = extreme(&values).abs();
                for (value, back) in values.iter().zip(&back) {
                    // a step of the coarsest grid, and what an f16 scale cannot express
                    assert!(
                        (value - back).abs() <= largest / 6.0 + 1e-5,
                        "{kind}, row {row}: {value} became {back}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_encoded_is_said() {
        let mut out = Vec::new();
        let unsupported = encode(TensorType::Q3_K, &[0.0; 256], &mut out).unwrap_err();
        assert!(unsupported.to_string().contains("Q3_K"), "{unsupported}");
        let blocks = encode(TensorType::Q4_K, &[0.0; 32], &mut out).unwrap_err();
        assert!(blocks.to_string().contains("32 values"), "{blocks}");
        let blocks = decode(TensorType::Q8_0, &[0; 35], &mut Vec::new()).unwrap_err();
        assert!(blocks.to_string().contains("35 bytes"), "{blocks}");
        for value in [f32::NAN, f32::INFINITY, 70000.0] {
            let range = encode(TensorType::Q8_0, &[value; 32], &mut out).unwrap_err();
            assert!(matches!(range, CodecError::Range { index: 0, .. }), "{range}");
        }
        assert!(out.is_empty());
    }
}
