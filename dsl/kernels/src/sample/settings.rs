//! What a slot wants of its sampler, as words in memory.

use tilekiln_dsl::prelude::*;

use super::mass::LOG2_E;

/// Words of a slot.
pub const WORDS: usize = 12;
/// In place of a share: keep all tokens.
pub const KEEP_ALL: u32 = u32::MAX;

const SCALE: usize = 0;
const TOP_K: usize = 1;
const TOP_P: usize = 2;
const MIN_P: usize = 3;
const REPETITION: usize = 4;
const PRESENCE: usize = 5;
const FREQUENCY: usize = 6;
const WINDOW: usize = 7;
const BIASES: usize = 8;
const SEED: usize = 10;

/// Settings of one slot. Where nothing is drawn, nothing is cut either: see [`SlotSettings::GREEDY`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotSettings {
    /// log2(e) over the temperature; 0 is greedy. See [`SlotSettings::scale_of`].
    pub scale: f32,
    /// Keep so many of the best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest of the best tokens that have this share of the mass, in units of 2^-32; [`KEEP_ALL`] keeps all.
    pub top_p: u32,
    /// Keep logits that are not further below the best than this: the logarithm of min-p. Minus infinity keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred.
    pub repetition: f32,
    /// Subtracted once from the logits of tokens that occurred.
    pub presence: f32,
    /// Subtracted per occurrence.
    pub frequency: f32,
    /// How many of the last tokens count for the penalties; 0 for none.
    pub window: u32,
    /// How many entries the slot's list of biases has.
    pub biases: u32,
    /// The row at position p draws with the number mix(seed + p * [`STEP`]).
    pub seed: u64,
}

impl SlotSettings {
    /// The largest logit as it is. Rows for which nobody chooses have a slot of their own with these settings.
    pub const GREEDY: Self = Self {
        scale: 0.0,
        top_k: 0,
        top_p: KEEP_ALL,
        min_p: f32::NEG_INFINITY,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        window: 0,
        biases: 0,
        seed: 0,
    };

    /// The scale of masses at a temperature: a normal number, so that no device takes it for 0.
    pub fn scale_of(temperature: f32) -> f32 {
        if temperature > 0.0 {
            let scale = f64::from(LOG2_E) / f64::from(temperature);
            scale.clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) as f32
        } else {
            0.0
        }
    }

    /// A share as top-p takes it.
    pub fn top_p_of(share: f32) -> u32 {
        if share < 1.0 {
            (f64::from(share) * (1_u64 << 32) as f64) as u32
        } else {
            KEEP_ALL
        }
    }

    /// As they lie in memory.
    pub fn words(&self) -> [u32; WORDS] {
        let mut words = [0; WORDS];
        words[SCALE] = self.scale.to_bits();
        words[TOP_K] = self.top_k;
        words[TOP_P] = self.top_p;
        words[MIN_P] = self.min_p.to_bits();
        words[REPETITION] = self.repetition.to_bits();
        words[PRESENCE] = self.presence.to_bits();
        words[FREQUENCY] = self.frequency.to_bits();
        words[WINDOW] = self.window;
        words[BIASES] = self.biases;
        words[SEED] = self.seed as u32;
        words[SEED + 1] = (self.seed >> 32) as u32;
        words
    }
}

/// Increment of the state of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIERS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// The number of a state of SplitMix64.
pub fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(MULTIPLIERS[0]);
    state = (state ^ (state >> 27)).wrapping_mul(MULTIPLIERS[1]);
    state ^ (state >> 31)
}

/// the number of a state of SplitMix64
#[device_fn]
pub fn split_mix(state: Val<u64>) -> Val<u64> {
    let first = (state ^ (state >> 30)) * MULTIPLIERS[0];
    let second = (first ^ (first >> 27)) * MULTIPLIERS[1];
    second ^ (second >> 31)
}

/// The settings of a row's slot in memory.
#[derive(Clone, Copy)]
pub struct Chooser {
    settings: In<u32>,
    slot: Val<u32>,
}

impl Chooser {
    /// Who chooses for a row.
    #[tile_fn]
    pub fn of(choosers: In<u32>, settings: In<u32>, row: Val<u32>) -> Self {
        let slot = choosers[row];
        Self { settings, slot }
    }

    /// The slot.
    pub fn slot(&self) -> Val<u32> {
        self.slot
    }

    /// Whether a token is drawn.
    #[tile_fn]
    pub fn draws(&self) -> Val<bool> {
        self.settings[self.slot * WORDS + SCALE] != 0
    }

    /// Whether a token is drawn from what top-k or top-p leaves.
    #[tile_fn]
    pub fn cuts(&self) -> Val<bool> {
        (self.top_k() != 0) | (self.top_p() != KEEP_ALL)
    }

    /// See [`SlotSettings::scale`].
    #[tile_fn]
    pub fn scale(&self) -> Val<f32> {
        self.settings[self.slot * WORDS + SCALE].bitcast::<f32>()
    }

    /// See [`SlotSettings::top_k`].
    #[tile_fn]
    pub fn top_k(&self) -> Val<u32> {
        self.settings[self.slot * WORDS + TOP_K]
    }

    /// See [`SlotSettings::top_p`].
    #[tile_fn]
    pub fn top_p(&self) -> Val<u32> {
        self.settings[self.slot * WORDS + TOP_P]
    }

    /// See [`SlotSettings::min_p`].
    #[tile_fn]
    pub fn min_p(&self) -> Val<f32> {
        self.settings[self.slot * WORDS + MIN_P].bitcast::<f32>()
    }

    /// See [`SlotSettings::repetition`].
    #[tile_fn]
    pub fn repetition(&self) -> Val<f32> {
        self.settings[self.slot * WORDS + REPETITION].bitcast::<f32>()
    }

    /// See [`SlotSettings::presence`].
    #[tile_fn]
    pub fn presence(&self) -> Val<f32> {
        self.settings[self.slot * WORDS + PRESENCE].bitcast::<f32>()
    }

    /// See [`SlotSettings::frequency`].
    #[tile_fn]
    pub fn frequency(&self) -> Val<f32> {
        self.settings[self.slot * WORDS + FREQUENCY].bitcast::<f32>()
    }

    /// See [`SlotSettings::window`].
    #[tile_fn]
    pub fn window(&self) -> Val<u32> {
        self.settings[self.slot * WORDS + WINDOW]
    }

    /// See [`SlotSettings::biases`].
    #[tile_fn]
    pub fn biases(&self) -> Val<u32> {
        self.settings[self.slot * WORDS + BIASES]
    }

    /// The number that the row at a position draws with.
    #[tile_fn]
    pub fn number(&self, position: Val<u32>) -> Val<u64> {
        let low = self.settings[self.slot * WORDS + SEED];
        let high = self.settings[self.slot * WORDS + SEED + 1];
        let seed = low.to::<u64>() | high.to::<u64>() << 32;
        split_mix(seed + position.to::<u64>() * STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_settings_stay_numbers() {
        for (temperature, scale) in [
            (0.0, 0.0),
            (1.0, LOG2_E),
            (f32::MAX, f32::MIN_POSITIVE),
            (1e-45, f32::MAX),
        ] {
            assert_eq!(SlotSettings::scale_of(temperature), scale, "{temperature}");
        }
        for (share, top_p) in [
            (0.0, 0),
            (0.5, 1 << 31),
            (1.0 - f32::EPSILON / 2.0, u32::MAX - 255),
            (1.0, KEEP_ALL),
        ] {
            assert_eq!(SlotSettings::top_p_of(share), top_p, "{share}");
        }
    }
}
