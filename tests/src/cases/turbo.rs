//! turbo3_encode and turbo3_decode: byte for byte.

use half::f16;

use super::trial::for_each;
use super::{Case, CaseError, Extent, Trial};
use crate::golden::Golden;
use crate::reference::turbo::{EncodedGroup, GROUP, ScaleRange, TURBO3};
use crate::requirement::require;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("turbo3_encode", &[], |trial| {
            check_encode(trial)?;
            encode_goldens(trial)
        }),
        Case::new("turbo3_decode", &[], |trial| {
            check_decode(trial)?;
            decode_goldens(trial)
        }),
    ]
}

fn groups(trial: &mut Trial<'_>) -> Vec<usize> {
    let ranges = match trial.extent {
        Extent::Small => vec![1..=1, 11..=13],
        Extent::Medium => vec![1..=1, 11..=61, 121..=200],
        Extent::Large => vec![1..=1, 11..=61, 9000..=9500],
    };
    ranges.into_iter().map(|range| trial.random.odd_size(range)).collect()
}

/// Bytes of groups; the payload of a NaN scale is nobody's business.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(TURBO3.block_bytes) {
        if f16::from_le_bytes([block[0], block[1]]).is_nan() {
            block[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        }
    }
    bytes
}

/// Bits of values, all NaN alike.
fn bits(values: &[f32]) -> Vec<u32> {
    values
        .iter()
        .map(|value| if value.is_nan() { f32::NAN } else { *value }.to_bits())
        .collect()
}

fn encode(trial: &mut Trial<'_>, x: &[f32]) -> Result<Vec<u8>, CaseError> {
    let count = x.len() / GROUP;
    let out = trial.output::<u8>(count * TURBO3.block_bytes)?;
    let arguments = vec![trial.input(x)?, out.argument()];
    trial.launch([count, 1, 1], arguments)?;
    Ok(trial.result(&out)?)
}

fn decode(trial: &mut Trial<'_>, bytes: &[u8]) -> Result<Vec<f32>, CaseError> {
    let count = bytes.len() / TURBO3.block_bytes;
    let out = trial.output::<f32>(count * GROUP)?;
    let arguments = vec![trial.input(bytes)?, out.argument()];
    trial.launch([count, 1, 1], arguments)?;
    Ok(trial.result(&out)?)
}

fn check_encode(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    let shapes = groups(trial);
    for_each(trial, shapes, |trial, count| {
        trial.shape(format!("{count} groups"));
        let mut x = trial.random.activations(count * GROUP);
        // groups that are hard: zeros, tiny, almost too large for the scale, too large, damaged
        for (number, group) in x.chunks_exact_mut(GROUP).enumerate().skip(1) {
            match number {
                1 => group.fill(0.0),
                2 => group.iter_mut().for_each(|value| *value *= 1e-13),
                3 => group.iter_mut().for_each(|value| *value *= 1e-6),
                4 => group.fill(5780.0),
                5 => group.fill(-1e5),
                6 => group[77] = f32::NAN,
                7 => group[0] = f32::NEG_INFINITY,
                8 => group[127] = 1e30,
                9 => group.iter_mut().for_each(|value| *value = value.signum()),
                _ => {}
            }
        }
        let got = canonical(&encode(trial, &x)?);
        let groups: Vec<EncodedGroup> = TURBO3.encode_groups(&x, ScaleRange::Unclamped);
        let want: Vec<u8> = groups.into_iter().flat_map(|group| group.bytes).collect();
        trial.equal("bytes", &got, &canonical(&want));
        Ok(())
    })
}

fn check_decode(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    let shapes = groups(trial);
    for_each(trial, shapes, |trial, count| {
        trial.shape(format!("{count} groups of random bytes"));
        // any bytes are legal; their scales are of any size, infinite and NaN included
        let bytes = trial.random.bytes(count * TURBO3.block_bytes);
        let got = bits(&decode(trial, &bytes)?);
        trial.equal("bits", &got, &bits(&TURBO3.decode_row(&bytes)));
        Ok(())
    })
}

/// The golden rows of every head size, padded with zeros to whole groups as a cache does.
fn goldens(trial: &mut Trial<'_>) -> Result<Vec<(usize, Golden)>, CaseError> {
    if trial.extent == Extent::Small {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for dim in [64, 128, 256, 512] {
        match require("shared", Golden::open("golden/turboquant/turbo3.safetensors")) {
            Some(golden) => found.push((dim, golden)),
            None => break,
        }
    }
    Ok(found)
}

fn encode_goldens(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    for (dim, golden) in goldens(trial)? {
        let input = golden.f32(&format!("d{dim}.input"))?;
        trial.shape(format!("{} golden rows of {dim}", input.rows().len()));
        let mut x = Vec::new();
        for row in input.rows() {
            x.extend(row);
            x.resize(x.len().next_multiple_of(GROUP), 0.0);
        }
        let got = encode(trial, &x)?;
        trial.equal("bytes", &got, &golden.bytes(&format!("d{dim}.bytes"))?.values);
    }
    Ok(())
}

fn decode_goldens(trial: &mut Trial<'_>) -> Result<(), CaseError> {
    for (dim, golden) in goldens(trial)? {
        let bytes = golden.bytes(&format!("d{dim}.bytes"))?;
        trial.shape(format!("{} golden rows of {dim}", bytes.rows().len()));
        let got = bits(&decode(trial, &bytes.values)?);
        trial.equal("bits", &got, &bits(&golden.f32(&format!("d{dim}.dequant"))?.values));
    }
    Ok(())
}
