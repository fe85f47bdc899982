//! Inputs that fit together, to try the kernels of the chain on one by one.

use super::candidates::PLAN;
use super::histogram::{BINS, bin_of_logit};
use super::mass::{LOG2_E, mass_of, order_key_of};
use super::settings::SlotSettings;
use super::share::Split;
use crate::registry::prelude::*;

/// Slots of [`settings`].
const SLOTS: usize = 4;

/// Settings of slots that draw: top-k, top-p, both, neither.
fn settings_of(slot: usize) -> SlotSettings {
    SlotSettings {
        scale: SlotSettings::scale_of(0.5 + slot as f32),
        top_k: [20, 0, 40, 0][slot],
        top_p: SlotSettings::top_p_of([1.0, 0.9, 0.8, 1.0][slot]),
        seed: slot as u64,
        ..SlotSettings::GREEDY
    }
}

/// Words of all slots.
fn settings() -> Argument {
    Argument::words((0..SLOTS).flat_map(|slot| settings_of(slot).words()))
}

/// Rows of logits, and what is known of them.
struct Rows {
    rows: usize,
    cols: usize,
    chunks: usize,
    logits: Vec<f32>,
    slots: Vec<u32>,
}

impl Rows {
    fn new(split: Split, random: &mut Random) -> Self {
        let (rows, cols) = (random.size(1, 4), random.size(1, 900) * split.vector);
        Self {
            rows,
            cols,
            chunks: split.chunks(cols),
            logits: random.normals(rows * cols),
            slots: (0..rows as u32).map(|row| row % SLOTS as u32).collect(),
        }
    }

    fn best(&self, row: usize) -> f32 {
        let row = &self.logits[row * self.cols..][..self.cols];
        row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    fn grid(&self) -> [u32; 3] {
        [self.chunks as u32, self.rows as u32, 1]
    }

    fn logits(&self) -> Argument {
        Argument::words(self.logits.iter().map(|logit| logit.to_bits()))
    }

    fn choosers(&self) -> Argument {
        Argument::words(self.slots.iter().copied())
    }

    /// The best key of each row in place of that of each chunk.
    fn best_keys(&self) -> Argument {
        let keys = (0..self.rows).flat_map(|row| vec![order_key_of(self.best(row)); self.chunks]);
        Argument::words(keys)
    }

    /// For each chunk of each row, what `of` says of its logits and the row.
    fn per_chunk<T>(&self, split: Split, of: impl Fn(&[f32], usize) -> T) -> Vec<T> {
        let rows = self.logits.chunks(self.cols).enumerate();
        rows.flat_map(|(row, logits)| logits.chunks(split.chunk).map(move |chunk| (row, chunk)))
            .map(|(row, chunk)| of(chunk, row))
            .collect()
    }

    fn histograms(&self, split: Split) -> (Vec<u32>, Vec<u64>) {
        let histograms = self.per_chunk(split, |chunk, row| {
            let best = self.best(row);
            let mut bins = [(0, 0); BINS];
            for logit in chunk {
                let (count, mass) = &mut bins[bin_of_logit(*logit, best) as usize];
                *count += 1;
                *mass += mass_of(*logit, best, LOG2_E);
            }
            bins
        });
        histograms.into_iter().flatten().unzip()
    }
}

/// A launch of `chunk_histogram`.
pub(super) fn histogram(settings_given: &Settings, random: &mut Random) -> Result<Example, SettingError> {
    let rows = Rows::new(Split::of(settings_given)?, random);
    Ok(Example {
        grid: rows.grid(),
        arguments: vec![
            rows.logits(),
            rows.choosers(),
            settings(),
            rows.best_keys(),
            Argument::output(rows.rows * rows.chunks * BINS * 4),
            Argument::output(rows.rows * rows.chunks * BINS * 8),
            Argument::U32(rows.cols as u32),
        ],
    })
}

/// A launch of `chunk_candidates`.
pub(super) fn candidates(settings_given: &Settings, random: &mut Random) -> Result<Example, SettingError> {
    let split = Split::of(settings_given)?;
    let rows = Rows::new(split, random);
    let (counts, masses) = rows.histograms(split);
    Ok(Example {
        grid: rows.grid(),
        arguments: vec![
            rows.logits(),
            rows.choosers(),
            settings(),
            rows.best_keys(),
            Argument::words(counts),
            Argument::wide_words(masses),
            Argument::output(rows.rows * rows.cols * 4),
            Argument::output(rows.rows * PLAN * 8),
            Argument::U32(rows.cols as u32),
        ],
    })
}

/// A launch of `sampling_cut`: everything is a candidate.
pub(super) fn cut(random: &mut Random) -> Example {
    let split = Split {
        chunk: 1024,
        vector: 1,
        threads: 128,
    };
    let rows = Rows::new(split, random);
    let plan = |row: usize| {
        let logits = &rows.logits[row * rows.cols..][..rows.cols];
        let total: u64 = logits.iter().map(|logit| mass_of(*logit, rows.best(row), LOG2_E)).sum();
        let top_k = settings_of(row % SLOTS).top_k as usize;
        let rank = if top_k < rows.cols { top_k } else { 0 };
        [rows.cols as u64, rank as u64, 0, total]
    };
    Example {
        grid: [rows.rows as u32, 1, 1],
        arguments: vec![
            rows.choosers(),
            settings(),
            rows.best_keys(),
            Argument::wide_words((0..rows.rows).flat_map(plan)),
            Argument::words(rows.logits.iter().map(|logit| order_key_of(*logit))),
            Argument::output(rows.rows * 8),
            Argument::U32(rows.cols as u32),
            Argument::U32(rows.chunks as u32),
        ],
    }
}

/// Cuts at the best token of each row: only it and its equals are left.
fn cuts(rows: &Rows) -> Argument {
    Argument::words((0..rows.rows).flat_map(|row| [order_key_of(rows.best(row)), 1]))
}

/// A launch of `chunk_mass`.
pub(super) fn mass(settings_given: &Settings, random: &mut Random) -> Result<Example, SettingError> {
    let rows = Rows::new(Split::of(settings_given)?, random);
    Ok(Example {
        grid: rows.grid(),
        arguments: vec![
            rows.logits(),
            rows.choosers(),
            settings(),
            rows.best_keys(),
            cuts(&rows),
            Argument::output(rows.rows * rows.chunks * 8),
            Argument::output(rows.rows * rows.chunks * 4),
            Argument::U32(rows.cols as u32),
        ],
    })
}

/// A launch of `draw_token`.
pub(super) fn draw(settings_given: &Settings, random: &mut Random) -> Result<Example, SettingError> {
    let split = Split::of(settings_given)?;
    let rows = Rows::new(split, random);
    let is_cut = |row: usize| settings_of(row % SLOTS).top_k > 0 || row % SLOTS == 1;
    let masses = rows.per_chunk(split, |chunk, row| {
        let scale = settings_of(row % SLOTS).scale;
        let masses = chunk.iter().map(|logit| mass_of(*logit, rows.best(row), scale));
        if is_cut(row) { 0 } else { masses.sum() }
    });
    let ties = rows.per_chunk(split, |chunk, row| {
        let ties = chunk.iter().filter(|logit| **logit == rows.best(row)).count();
        if is_cut(row) { ties as u32 } else { 0 }
    });
    let tokens = rows.per_chunk(split, |_, _| 0);
    Ok(Example {
        grid: [rows.rows as u32, 1, 1],
        arguments: vec![
            rows.logits(),
            rows.choosers(),
            Argument::words(0..rows.rows as u32),
            random.below(rows.rows, 1000),
            settings(),
            rows.best_keys(),
            Argument::words(tokens),
            cuts(&rows),
            Argument::wide_words(masses),
            Argument::words(ties),
            Argument::output(rows.rows * 4),
            Argument::U32(rows.cols as u32),
            Argument::U32(rows.chunks as u32),
        ],
    })
}
