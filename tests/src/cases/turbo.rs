//! turbo_encode and turbo_decode: byte for byte on the CPU; on a GPU with the differences that rounding excuses.

use half::f16;

use super::trial::for_each;
use super::{Case, CaseError, Extent, Trial};
use crate::golden::Golden;
use crate::reference::turbo::compare::compare;
use crate::reference::turbo::{Codec, EncodedGroup, GROUP, ScaleRange, TURBO2, TURBO3, TURBO4, TURBO4_COMPAT};
use crate::requirement::require;

/// A format of the kernels, what it must store, and the golden vectors of it.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    codec: &'static Codec,
    range: ScaleRange,
    golden: Option<&'static str>,
}

const fn format(name: &'static str, codec: &'static Codec, range: ScaleRange, golden: Option<&'static str>) -> Format {
    Format {
        name,
        codec,
        range,
        golden,
    }
}

const FORMATS: &[Format] = &[
    format("turbo2", &TURBO2, ScaleRange::Clamped, None),
    format("turbo3", &TURBO3, ScaleRange::Clamped, None),
    format("turbo4", &TURBO4, ScaleRange::Clamped, None),
    format("turbo4_first", &TURBO4_COMPAT, ScaleRange::Clamped, None),
    format("turbo2_as_first", &TURBO2, ScaleRange::Unclamped, Some("turbo2")),
    format("turbo3_as_first", &TURBO3, ScaleRange::Unclamped, Some("turbo3")),
    format("turbo4_as_first", &TURBO4_COMPAT, ScaleRange::Unclamped, Some("turbo4")),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &format in FORMATS {
        let setting = format!("format={}", format.name);
        cases.push(Case::new("turbo_encode", &[&setting], move |trial| {
            check_encode(trial, format)?;
            encode_goldens(trial, format)
        }));
        cases.push(Case::new("turbo_decode", &[&setting], move |trial| {
            check_decode(trial, format)?;
            decode_goldens(trial, format)
        }));
    }
    cases
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
fn canonical(codec: &Codec, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(codec.block_bytes) {
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

fn encode(trial: &mut Trial<'_>, codec: &Codec, x: &[f32]) -> Result<Vec<u8>, CaseError> {
    let count = x.len() / GROUP;
    let out = trial.output::<u8>(count * codec.block_bytes)?;
    let arguments = vec![trial.input(x)?, out.argument()];
    trial.launch([count, 1, 1], arguments)?;
    Ok(trial.result(&out)?)
}

fn decode(trial: &mut Trial<'_>, codec: &Codec, bytes: &[u8]) -> Result<Vec<f32>, CaseError> {
    let count = bytes.len() / codec.block_bytes;
    let out = trial.output::<f32>(count * GROUP)?;
    let arguments = vec![trial.input(bytes)?, out.argument()];
    trial.launch([count, 1, 1], arguments)?;
    Ok(trial.result(&out)?)
}

/// Bytes equal the reference's; on a GPU, or no more different than rounding excuses.
fn expect(trial: &mut Trial<'_>, codec: &Codec, got: &[u8], want: &[EncodedGroup]) {
    if trial.is_on_host() {
        let want: Vec<u8> = want.iter().flat_map(|group| group.bytes.clone()).collect();
        trial.equal("bytes", &canonical(codec, got), &canonical(codec, &want));
    } else {
        let difference = compare(codec, got, want);
        let what = format!(
            "faults ({} of {} groups differ, scales by {} steps, {} indices beside thresholds)",
            difference.differing, difference.groups, difference.scale_steps, difference.excused
        );
        trial.equal(&what, &[difference.faults.join("; ")], &[String::new()]);
    }
}

fn check_encode(trial: &mut Trial<'_>, format: Format) -> Result<(), CaseError> {
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
        let got = encode(trial, format.codec, &x)?;
        expect(trial, format.codec, &got, &format.codec.encode_groups(&x, format.range));
        Ok(())
    })
}

fn check_decode(trial: &mut Trial<'_>, format: Format) -> Result<(), CaseError> {
    let shapes = groups(trial);
    for_each(trial, shapes, |trial, count| {
        trial.shape(format!("{count} groups of random bytes"));
        // any bytes are legal; their scales are of any size, infinite and NaN included
        let bytes = trial.random.bytes(count * format.codec.block_bytes);
        let got = bits(&decode(trial, format.codec, &bytes)?);
        trial.equal("bits", &got, &bits(&format.codec.decode_row(&bytes)));
        Ok(())
    })
}

/// The golden rows of every head size, padded with zeros to whole groups as a cache does.
fn goldens(trial: &mut Trial<'_>, format: Format) -> Result<Vec<(usize, Golden)>, CaseError> {
    let Some(name) = format.golden.filter(|_| trial.extent != Extent::Small) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for dim in [64, 128, 256, 512] {
        let file = format!("golden/turboquant/{name}.safetensors");
        match require("shared", Golden::open(&file)) {
            Some(golden) => found.push((dim, golden)),
            None => break,
        }
    }
    Ok(found)
}

fn encode_goldens(trial: &mut Trial<'_>, format: Format) -> Result<(), CaseError> {
    for (dim, golden) in goldens(trial, format)? {
        let input = golden.f32(&format!("d{dim}.input"))?;
        trial.shape(format!("{} golden rows of {dim}", input.rows().len()));
        let mut x = Vec::new();
        for row in input.rows() {
            x.extend(row);
            x.resize(x.len().next_multiple_of(GROUP), 0.0);
        }
        let got = encode(trial, format.codec, &x)?;
        let bytes = golden.bytes(&format!("d{dim}.bytes"))?.values;
        if trial.is_on_host() {
            trial.equal("bytes", &got, &bytes);
        } else {
            // the goldens' bytes with the coordinates of the reference, which meets those of the goldens bit by bit
            let mut want = format.codec.encode_groups(&x, format.range);
            for (group, bytes) in want.iter_mut().zip(bytes.chunks_exact(format.codec.block_bytes)) {
                group.bytes = bytes.to_vec();
            }
            expect(trial, format.codec, &got, &want);
        }
    }
    Ok(())
}

fn decode_goldens(trial: &mut Trial<'_>, format: Format) -> Result<(), CaseError> {
    for (dim, golden) in goldens(trial, format)? {
        let bytes = golden.bytes(&format!("d{dim}.bytes"))?;
        trial.shape(format!("{} golden rows of {dim}", bytes.rows().len()));
        let got = bits(&decode(trial, format.codec, &bytes.values)?);
        trial.equal("bits", &got, &bits(&golden.f32(&format!("d{dim}.dequant"))?.values));
    }
    Ok(())
}
