//! What a request does to logits before a token is chosen: biases, and penalties for tokens that occurred.

use tilekiln_dsl::prelude::*;

use super::settings::{Chooser, SlotSettings};
use super::sort::{first_below, padded, sort_descending};
use crate::registry::prelude::*;

/// One thread per row of an output: the row's own token joins the history of its slot.
///
/// Row r of the output is row outputs\[r\] of the step. The history is indexed by position, so a token that is
/// evaluated in place of a rejected one replaces it. Slots without penalties keep no history.
#[kernel(threads = threads)]
pub fn note_tokens(
    #[shape(rows)] choosers: In<u32>,
    #[shape(rows)] outputs: In<u32>,
    #[shape(step_rows)] tokens: In<u32>,
    #[shape(step_rows)] positions: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(slots, context)] history: Out<u32>,
    rows: u32,
    context: u32,
    #[comptime] threads: usize,
) {
    let row = block_index() * threads + thread_index();
    if row < rows {
        let chooser = Chooser::of(choosers, settings, row);
        if chooser.window() > 0 {
            let step_row = outputs[row];
            history[(chooser.slot(), positions[step_row])] = tokens[step_row];
        }
    }
}

/// A token's logit behind the penalties for having occurred `count` times. Each operation rounds by itself.
#[tile_fn]
fn penalised(logit: Val<f32>, count: Val<u32>, chooser: Chooser) -> Val<f32> {
    let repetition = chooser.repetition();
    let repeated = select(logit > 0.0, logit / repetition, logit.mul_unfused(repetition));
    let often = chooser.frequency().mul_unfused(count.to::<f32>());
    repeated.sub_unfused(chooser.presence().add_unfused(often))
}

/// One block per row: adds the slot's biases, then takes the penalties of the tokens that occurred, in place.
///
/// biases\[slot\] has pairs of a token and the bits of what is added; no token twice. Tokens occurred at the row's
/// position and the `window` - 1 before it, as far as there are so many; the comptime `window` is the most that can be
/// asked for.
#[kernel(threads = threads)]
pub fn adjust_logits(
    #[shape(rows, cols)] logits: InOut<f32>,
    #[shape(rows)] choosers: In<u32>,
    #[shape(rows)] outputs: In<u32>,
    #[shape(step_rows)] positions: In<u32>,
    #[shape(slots, words)] settings: In<u32>,
    #[shape(slots, capacity, 2)] biases: In<u32>,
    #[shape(slots, context)] history: In<u32>,
    cols: u32,
    capacity: u32,
    context: u32,
    #[comptime] window: usize,
    #[comptime] threads: usize,
) {
    let row = block_index();
    let chooser = Chooser::of(choosers, settings, row);
    for entry in strided(min(chooser.biases(), capacity), threads) {
        let token = biases[(chooser.slot(), entry, 0)];
        if token < cols {
            let bias = biases[(chooser.slot(), entry, 1)].bitcast::<f32>();
            logits[(row, token)] = logits[(row, token)] + bias;
        }
    }
    let position = positions[outputs[row]];
    let count = min(min(chooser.window(), position + 1), window);
    if count > 0 {
        /// equal tokens next to each other; zeros fill up behind all tokens
        let recent = Shared::<u32>::new(window);
        let size = padded(count);
        for age in strided(size, threads) {
            let mut token = u32(0);
            if age < count {
                token = history[(chooser.slot(), position - age)];
            }
            recent[age] = token;
        }
        sort_descending(recent, size, threads);
        for place in strided(count, threads) {
            let token = recent[place];
            let is_first = place == 0 || recent[max(place, 1) - 1] != token;
            if is_first && token < cols {
                let occurs = first_below(recent, token, count) - place;
                logits[(row, token)] = penalised(logits[(row, token)], occurs, chooser);
            }
        }
    }
}

/// Slots with different windows.
fn slot_settings(slot: usize, most: u32) -> SlotSettings {
    SlotSettings {
        repetition: 1.25,
        presence: 0.5,
        frequency: 0.125,
        window: [0, 7, most][slot % 3],
        ..SlotSettings::GREEDY
    }
}

/// Registration of [`note_tokens`].
pub const NOTE: Entry = Entry {
    name: "note_tokens",
    parameters: &[choice("threads", "32", "threads per block, a multiple of 32")],
    build: |settings| Ok(note_tokens(settings.number("threads")?)),
    example: |settings, random| {
        let threads = settings.number("threads")?.max(1);
        let (rows, context) = (random.size(1, 40), random.size(60, 90));
        // every row a slot or a position of its own
        let words = |word: fn(u32) -> u32| Argument::words((0..rows as u32).map(word));
        Ok(Example {
            grid: [rows.div_ceil(threads) as u32, 1, 1],
            arguments: vec![
                words(|row| row % 3),
                words(|row| row),
                random.below(rows, 262_144),
                words(|row| row),
                Argument::words((0..3).flat_map(|slot| slot_settings(slot, 9).words())),
                Argument::output(3 * context * 4),
                Argument::U32(rows as u32),
                Argument::U32(context as u32),
            ],
        })
    },
};

/// Registration of [`adjust_logits`].
pub const ADJUST: Entry = Entry {
    name: "adjust_logits",
    parameters: &[
        choice(
            "window",
            "8192",
            "tokens that can count for penalties, a power of two up to 8192",
        ),
        choice("threads", "256", "threads per block, a multiple of 32"),
    ],
    build: |settings| {
        let window = settings.number("window")?;
        let fits = window.is_power_of_two() && window <= 8192;
        settings.require("window", fits, "a power of two up to 8192")?;
        Ok(adjust_logits(window, settings.number("threads")?))
    },
    example: |settings, random| {
        let (rows, slots, cols) = (random.size(1, 4), 3, random.size(20, 900));
        let (capacity, context) = (random.size(1, 9), random.size(70, 90));
        let most = settings.number("window")?.min(64) as u32;
        let words = (0..slots).flat_map(|slot| {
            let settings = SlotSettings {
                biases: capacity as u32,
                ..slot_settings(slot, most)
            };
            settings.words()
        });
        // each token once in a list
        let biases =
            (0..slots as u32).flat_map(|_| (0..capacity as u32).flat_map(|token| [2 * token, 1.5_f32.to_bits()]));
        Ok(Example {
            grid: [rows as u32, 1, 1],
            arguments: vec![
                random.floats("f32", rows * cols),
                random.below(rows, slots as u32),
                Argument::words(0..rows as u32),
                random.below(rows, context as u32),
                Argument::words(words),
                Argument::words(biases),
                random.below(slots * context, cols as u32),
                Argument::U32(cols as u32),
                Argument::U32(capacity as u32),
                Argument::U32(context as u32),
            ],
        })
    },
};
