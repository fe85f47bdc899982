//! quantise_rows: exact, with groups of zeros, subnormal ones, and what is not finite.

use super::trial::{for_each, number};
use super::weights::bits;
use super::{Case, CaseError, Extent, Trial};
use crate::reference::quant::Activations;

pub(super) fn cases() -> Vec<Case> {
    [256, 96, 32]
        .into_iter()
        .map(|threads| {
            Case::new("quantise_rows", &[&format!("threads={threads}")], move |trial| {
                check(trial, threads)
            })
        })
        .collect()
}

fn check(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    let sizes = match trial.extent {
        Extent::Small => vec![1..=1, 41..=100],
        Extent::Medium => vec![1..=1, 11..=31, 501..=900],
        Extent::Large => vec![1..=1, 100_001..=130_000],
    };
    for_each(trial, sizes, |trial, groups| {
        let groups = trial.random.odd_size(groups);
        trial.shape(format!("{groups} groups"));
        let mut x = trial.random.activations(groups * 32);
        if groups > 8 {
            x[32..64].fill(0.0);
            x[33] = -0.0;
            // the scale loses bits, and vanishes
            x[64..96].fill(0.0);
            x[70..73].copy_from_slice(&[3e-43, -2e-43, 1e-43]);
            x[96..128].fill(0.0);
            x[100] = f32::from_bits(1);
            // ties
            x[128..160].fill(0.5);
            x[128..132].copy_from_slice(&[127.0, 1.5, 2.5, -126.5]);
        }
        let (words, scales) = launch(trial, threads, &x)?;
        let want = Activations::quantise(&x);
        trial.equal("quants", &words, &want.quants);
        trial.equal("bits of scales", &bits(&scales), &bits(&want.scales));

        // a group that is not finite says so in its scale, and leaves the others alone
        let broken = groups / 2 * 32;
        for (value, is_shown) in [
            (f32::NAN, (|scale: f32| scale.is_nan()) as fn(f32) -> bool),
            (-f32::NAN, |scale| scale.is_nan()),
            (f32::NEG_INFINITY, |scale| scale == f32::INFINITY),
        ] {
            let mut x = x.clone();
            x[broken + 7] = value;
            let (words, mut scales) = launch(trial, threads, &x)?;
            trial.equal("a scale that is not finite", &[is_shown(scales[groups / 2])], &[true]);
            trial.equal("its quant", &[words[broken + 7]], &[0]);
            scales[groups / 2] = want.scales[groups / 2];
            trial.equal("bits of the other scales", &bits(&scales), &bits(&want.scales));
        }
        Ok(())
    })
}

fn launch(trial: &mut Trial<'_>, threads: usize, x: &[f32]) -> Result<(Vec<i8>, Vec<f32>), CaseError> {
    let groups = x.len() / 32;
    let (words, scales) = (trial.output::<u32>(groups * 8)?, trial.output::<f32>(groups)?);
    let arguments = vec![trial.input(x)?, words.argument(), scales.argument(), number(groups)];
    trial.launch([(groups * 8).div_ceil(threads), 1, 1], arguments)?;
    let words = trial.result(&words)?;
    // four int8 to a word, first one in the low bits
    let quants = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|byte| byte as i8)
        .collect();
    Ok((quants, trial.result(&scales)?))
}
