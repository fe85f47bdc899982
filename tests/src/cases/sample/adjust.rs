//! note_tokens, adjust_logits.

use tilekiln_kernels::sample::settings::SlotSettings;

use super::inputs::{KINDS, row};
use crate::cases::trial::{Word, for_each, number};
use crate::cases::{Case, CaseError, Extent, Trial};
use crate::random::Random;
use crate::reference::sample::adjust;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for threads in [32, 96] {
        cases.push(Case::new(
            "note_tokens",
            &[&format!("threads={threads}")],
            move |trial| check_note(trial, threads),
        ));
    }
    for (window, threads) in [(8192, 256), (64, 96), (1, 32)] {
        let settings = [format!("window={window}"), format!("threads={threads}")];
        cases.push(Case::new(
            "adjust_logits",
            &[&settings[0], &settings[1]],
            move |trial| check_adjust(trial, window),
        ));
    }
    cases
}

/// Slots with penalties over different numbers of tokens; the first one has none.
fn slots(random: &mut Random, windows: &[usize]) -> Vec<SlotSettings> {
    let mut slots = vec![SlotSettings::GREEDY];
    for window in windows {
        let mut number = |low: f64| (low + random.uniform()) as f32;
        slots.push(SlotSettings {
            repetition: number(0.7),
            presence: number(-0.5),
            frequency: number(-0.5),
            window: *window as u32,
            ..SlotSettings::GREEDY
        });
    }
    slots
}

fn words(slots: &[SlotSettings]) -> Vec<u32> {
    slots.iter().flat_map(|slot| slot.words()).collect()
}

fn check_note(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    for_each(trial, vec![1..=1, 31..=37, 101..=143], |trial, count| {
        let rows = trial.random.odd_size(count);
        let context = trial.random.odd_size(200..=300);
        trial.shape(format!("{rows} rows"));
        let slots = slots(&mut trial.random, &[1, 64]);
        // the step has other rows, too; no two rows are at one place
        let step_rows = rows + 5;
        let outputs: Vec<u32> = (3..rows as u32 + 3).collect();
        let tokens = trial.random.indices(step_rows, 1 << 18);
        let choosers = trial.random.indices(rows, slots.len());
        let positions: Vec<u32> = (40..40 + step_rows as u32).collect();
        let mut want = vec![<u32 as Word>::POISON; slots.len() * context];
        for (&slot, &row) in choosers.iter().zip(&outputs) {
            if slots[slot as usize].window > 0 {
                want[slot as usize * context + positions[row as usize] as usize] = tokens[row as usize];
            }
        }
        let history = trial.output::<u32>(want.len())?;
        let arguments = vec![
            trial.input(&choosers)?,
            trial.input(&outputs)?,
            trial.input(&tokens)?,
            trial.input(&positions)?,
            trial.input(&words(&slots))?,
            history.argument(),
            number(rows),
            number(context),
        ];
        trial.launch([rows.div_ceil(threads), 1, 1], arguments)?;
        let got = trial.result(&history)?;
        trial.equal("history", &got, &want);
        Ok(())
    })
}

/// Bits, with one pattern for all NaN.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |value: &f32| if value.is_nan() { u32::MAX } else { value.to_bits() };
    values.iter().map(bits).collect()
}

fn check_adjust(trial: &mut Trial<'_>, most: usize) -> Result<(), CaseError> {
    // tokens; positions of a slot
    let shapes = match trial.extent {
        Extent::Small => vec![(280..=400, 70..=80)],
        Extent::Medium => vec![(1..=1, 11..=31), (2800..=4000, 300..=500)],
        Extent::Large => vec![(1..=1, 11..=31), (262_000..=262_200, 9_000..=10_000)],
    };
    for_each(trial, shapes, |trial, (cols, context)| {
        let cols = trial.random.odd_size(cols);
        let context = trial.random.odd_size(context);
        let rows = 2 * KINDS + 3;
        trial.shape(format!("{rows} rows of {cols}"));
        let random = &mut trial.random;
        let windows: Vec<usize> = [1, 7, 64, 100, usize::MAX]
            .iter()
            .map(|window| *window.min(&most).min(&context))
            .collect();
        let mut slots = slots(random, &windows);
        // each token once in a list, in no order
        let capacity = 7.min(cols);
        let mut lists = Vec::new();
        for settings in &mut slots {
            settings.biases = random.integer(0..=capacity as i64) as u32;
            let start = random.integer(0..=cols as i64 - 1) as usize;
            let list = (0..capacity).map(|entry| ((start + entry) % cols) as u32);
            let biases: Vec<(u32, f32)> = list
                .map(|token| match random.integer(0..=3) {
                    0 => (token, f32::NEG_INFINITY),
                    _ => (token, random.normal() as f32),
                })
                .collect();
            lists.push(biases);
        }
        // few different tokens, so that many occur more than once
        let few = random.indices(29, cols);
        let history: Vec<u32> = random
            .indices(slots.len() * context, few.len())
            .iter()
            .map(|place| few[*place as usize])
            .collect();
        let logits: Vec<f32> = (0..rows).flat_map(|kind| row(random, kind, cols)).collect();
        let choosers = random.indices(rows, slots.len());
        let positions = random.indices(rows, context);
        let outputs: Vec<u32> = (0..rows as u32).rev().collect();

        let mut want = logits.clone();
        for (place, row) in want.chunks_exact_mut(cols).enumerate() {
            let slot = choosers[place] as usize;
            let position = positions[outputs[place] as usize] as usize;
            let behind = slot * context + position + 1;
            let recent = (slots[slot].window as usize).min(position + 1);
            let biases = &lists[slot][..slots[slot].biases as usize];
            adjust(row, &slots[slot], biases, &history[behind - recent..behind]);
        }
        let pairs: Vec<u32> = lists
            .concat()
            .iter()
            .flat_map(|(token, bias)| [*token, bias.to_bits()])
            .collect();
        let adjusted = trial.in_out(&logits)?;
        let arguments = vec![
            adjusted.argument(),
            trial.input(&choosers)?,
            trial.input(&outputs)?,
            trial.input(&positions)?,
            trial.input(&words(&slots))?,
            trial.input(&pairs)?,
            trial.input(&history)?,
            number(cols),
            number(capacity),
            number(context),
        ];
        trial.launch([rows, 1, 1], arguments)?;
        let got = trial.result(&adjusted)?;
        trial.equal("bits of logits", &bits(&got), &bits(&want));
        Ok(())
    })
}
