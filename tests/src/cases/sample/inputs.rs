//! Rows of logits of every kind that is hard in some way, and slots with every combination of settings.

use tilekiln_kernels::sample::settings::SlotSettings;
use tilekiln_kernels::sample::share::Split;
use tilekiln_runtime::device::Argument;
use tilekiln_runtime::error::DeviceError;

use crate::cases::{Extent, Trial};
use crate::random::Random;
use crate::reference::sample::key;

/// Kinds of rows.
pub const KINDS: usize = 11;
/// The kind whose tokens hardly differ.
const ALIKE: usize = 2;

/// A row of that kind.
pub fn row(random: &mut Random, kind: usize, cols: usize) -> Vec<f32> {
    let mut values = random.normals(cols, 3.0);
    let few = [-1.0, -0.0, 0.0, 2.0, 2.0, f32::NEG_INFINITY];
    let any = |random: &mut Random, last: i64| few[random.integer(0..=last) as usize];
    match kind % KINDS {
        // bell-shaped
        0 => {}
        // one token far above
        1 => values[random.integer(0..=cols as i64 - 1) as usize] = 25.0,
        // hardly any difference, on both sides of zero
        ALIKE => values.iter_mut().for_each(|value| *value *= 0.02),
        // many ties, zeros of both signs
        3 => values.iter_mut().for_each(|value| *value = any(random, 4)),
        // ties among distinct values
        4 => values
            .iter_mut()
            .for_each(|value| *value = (*value * 3.0).round() / 3.0),
        // NaN of both signs and minus infinities among numbers
        5 => values.iter_mut().for_each(|value| match random.integer(0..=9) {
            0 => *value = f32::NAN,
            1 => *value = -f32::NAN,
            2 => *value = f32::NEG_INFINITY,
            _ => {}
        }),
        // nothing but minus infinity, and some NaN
        6 => values.iter_mut().for_each(|value| match random.integer(0..=3) {
            0 if cols > 1 => *value = f32::NAN,
            _ => *value = f32::NEG_INFINITY,
        }),
        // nothing but NaN
        7 => values.fill(f32::NAN),
        // infinities of both signs, NaN, numbers
        8 => values.iter_mut().for_each(|value| match random.integer(0..=30) {
            0 => *value = f32::INFINITY,
            1 => *value = f32::NAN,
            2..=5 => *value = any(random, 5),
            _ => {}
        }),
        // differences that overflow
        9 => values
            .iter_mut()
            .for_each(|value| *value = (*value * 1e38).clamp(f32::MIN, f32::MAX)),
        // all equal
        _ => values.fill(-7.5),
    }
    values
}

/// Settings that filter and draw in every combination, and greedy ones.
pub fn slots(random: &mut Random) -> Vec<SlotSettings> {
    let mut slots = vec![SlotSettings::GREEDY];
    for top_k in [0, 1, 40, 3000] {
        for top_p in [1.0, 0.9, 0.3, 0.0] {
            for min_p in [0.0_f32, 0.05] {
                let temperature = [0.3, 1.0, 2.5, 1e-30, 1e30][random.integer(0..=4) as usize];
                slots.push(SlotSettings {
                    scale: SlotSettings::scale_of(temperature),
                    top_k,
                    top_p: SlotSettings::top_p_of(top_p),
                    min_p: min_p.ln(),
                    seed: random.integer(0..=i64::MAX) as u64,
                    ..SlotSettings::GREEDY
                });
            }
        }
    }
    slots
}

/// Rows with a chooser each.
pub struct Rows {
    /// Rows.
    pub count: usize,
    /// Tokens of a row.
    pub cols: usize,
    /// How they are split.
    pub split: Split,
    /// All logits.
    pub logits: Vec<f32>,
    /// Settings of all slots.
    pub slots: Vec<SlotSettings>,
    /// Each row's slot.
    pub choosers: Vec<u32>,
}

impl Rows {
    /// Rows of all kinds and so many more, of a number of tokens in a range.
    pub fn new(trial: &mut Trial<'_>, split: Split, (more, cols): (usize, std::ops::RangeInclusive<usize>)) -> Self {
        let cols = trial.random.odd_size(cols) * split.vector;
        let count = KINDS + more;
        trial.shape(format!("{count} rows of {cols}"));
        let random = &mut trial.random;
        let slots = slots(random);
        let logits = (0..count).flat_map(|kind| row(random, kind, cols)).collect();
        let choosers = random.indices(count, slots.len());
        Self {
            count,
            cols,
            split,
            logits,
            slots,
            choosers,
        }
    }

    /// Rows of tokens that hardly differ, of which top-k leaves out the last few.
    pub fn alike(trial: &mut Trial<'_>, split: Split, cols: std::ops::RangeInclusive<usize>) -> Self {
        let cols = trial.random.odd_size(cols) * split.vector;
        let count = 4;
        trial.shape(format!("{count} rows of {cols} that are alike"));
        let random = &mut trial.random;
        let slots = (0..count).map(|_| SlotSettings {
            scale: SlotSettings::scale_of(1.0),
            top_k: (cols as i64 - random.integer(0..=16)) as u32,
            ..SlotSettings::GREEDY
        });
        Self {
            count,
            cols,
            split,
            slots: slots.collect(),
            logits: (0..count).flat_map(|_| row(random, ALIKE, cols)).collect(),
            choosers: (0..count as u32).collect(),
        }
    }

    /// Shapes: rows beyond one of each kind; loads of a row.
    pub fn shapes(extent: Extent, split: Split) -> Vec<(usize, std::ops::RangeInclusive<usize>)> {
        let loads = |tokens: usize| tokens / split.vector;
        match extent {
            Extent::Small => vec![(0, 1..=1), (0, loads(280)..=loads(480))],
            Extent::Medium => vec![(0, 1..=1), (KINDS, 11..=31), (25, loads(2_800)..=loads(9_000))],
            Extent::Large => vec![
                (0, 1..=1),
                (300, 11..=31),
                (60, loads(5_000)..=loads(9_000)),
                (22, loads(262_000)..=loads(262_200)),
            ],
        }
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.logits[row * self.cols..][..self.cols]
    }

    /// The settings of a row's slot.
    pub fn settings(&self, row: usize) -> &SlotSettings {
        &self.slots[self.choosers[row] as usize]
    }

    /// Chunks of a row.
    pub fn chunks(&self) -> usize {
        self.split.chunks(self.cols)
    }

    /// The chunks of a row.
    pub fn chunks_of(&self, row: usize) -> impl Iterator<Item = &[f32]> {
        self.row(row).chunks(self.split.chunk)
    }

    /// A row's best logit; minus infinity where none can be chosen.
    pub fn best(&self, row: usize) -> f32 {
        self.row(row).iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The best key of each chunk of each row.
    pub fn best_keys(&self) -> Vec<u32> {
        let best = |chunk: &[f32]| chunk.iter().map(|logit| key(*logit)).max().unwrap_or(0);
        (0..self.count).flat_map(|row| self.chunks_of(row).map(best)).collect()
    }

    /// Logits, choosers and settings as launch arguments.
    ///
    /// # Errors
    /// Those of the device.
    pub fn arguments(&self, trial: &Trial<'_>) -> Result<[Argument; 3], DeviceError> {
        let words: Vec<_> = self.slots.iter().map(SlotSettings::words).collect();
        Ok([
            trial.input(&self.logits)?,
            trial.input(&self.choosers)?,
            trial.input(&words.concat())?,
        ])
    }
}

/// Splits with their settings: what the engine uses, and one that goes round more often.
pub fn splits(threads: usize) -> Vec<(Split, Vec<String>)> {
    [(4096, 4, threads), (96, 1, 32)]
        .into_iter()
        .map(|(chunk, vector, threads)| {
            let split = Split { chunk, vector, threads };
            let pairs = [("chunk", chunk), ("vector", vector), ("threads", threads)];
            (split, pairs.map(|(key, value)| format!("{key}={value}")).to_vec())
        })
        .collect()
}
