//! Choosing tokens, by sorting everything.
//!
//! What the kernels of a row do is defined in whole numbers, so the results have to be equal, not close. Only what a
//! logit weighs is taken from the library ([`mass_of`]), whose own test holds it to 2^x in f64.

use tilekiln_kernels::sample::mass::{LOG2_E, mass_of};
use tilekiln_kernels::sample::settings::{KEEP_ALL, SlotSettings};
use tilekiln_kernels::sample::{NOT_A_NUMBER, NOTHING_LEFT};

/// Bins of a histogram, and how many nats below the best each begins.
pub fn bin_starts() -> Vec<f32> {
    let halves = (0..16).map(|bin| bin as f32 / 2.0);
    let ones = (8..16).map(|nats| nats as f32);
    let twos = (16..32).step_by(2).map(|nats| nats as f32);
    halves.chain(ones).chain(twos).collect()
}

/// The bin of a logit: the last one that begins at its distance from the best or nearer.
pub fn bin(logit: f32, best: f32) -> usize {
    let distance = if logit == best { 0.0 } else { best - logit };
    bin_starts().iter().rposition(|start| *start <= distance).unwrap_or(0)
}

/// A number that orders logits: 2^31 for zero, one more for each larger float, one less for each smaller one, beginning
/// below 0; 0 for what is no number.
pub fn key(logit: f32) -> u32 {
    let magnitude = logit.abs().to_bits();
    match logit {
        _ if logit.is_nan() => 0,
        _ if logit >= 0.0 => (1 << 31) + magnitude,
        _ => (1 << 31) - 1 - magnitude,
    }
}

/// Tokens that can be chosen, best first: by logit, then by token.
pub fn ranked(logits: &[f32]) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..logits.len())
        .filter(|&token| logits[token] > f32::NEG_INFINITY)
        .collect();
    // a stable sort: equal logits stay in the order of tokens
    tokens.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal));
    tokens
}

/// What a token weighs at temperature 1.
pub fn plain_mass(logit: f32, best: f32) -> u64 {
    mass_of(logit, best, LOG2_E)
}

/// The part of a total that top-p asks for; at least something.
pub fn asked(top_p: u32, total: u64) -> u64 {
    let part = u128::from(top_p) * u128::from(total) / (1 << 32);
    (part as u64).max(1)
}

/// Whether top-k leaves out a token of so many.
pub fn is_limited(settings: &SlotSettings, tokens: usize) -> bool {
    settings.top_k > 0 && (settings.top_k as usize) < tokens
}

/// How many of the ranked tokens top-k and then top-p keep.
pub fn kept_by_rank(logits: &[f32], ranked: &[usize], settings: &SlotSettings) -> usize {
    let Some(&best) = ranked.first() else { return 0 };
    let mut kept = ranked.len();
    if is_limited(settings, kept) {
        kept = settings.top_k as usize;
    }
    if settings.top_p != KEEP_ALL {
        let masses: Vec<u64> = ranked[..kept]
            .iter()
            .map(|&token| plain_mass(logits[token], logits[best]))
            .collect();
        let wanted = asked(settings.top_p, masses.iter().sum());
        let mut sum = 0;
        let reached = masses.iter().position(|mass| {
            sum += mass;
            sum >= wanted
        });
        kept = reached.map_or(kept, |last| last + 1);
    }
    kept
}

/// Whether min-p keeps a logit.
pub fn is_probable(logit: f32, best: f32, settings: &SlotSettings) -> bool {
    logit == best || logit - best >= settings.min_p
}

/// The chosen token, or a code.
pub fn choose(logits: &[f32], settings: &SlotSettings, number: u64) -> u32 {
    let ranked = ranked(logits);
    let Some(&best) = ranked.first() else {
        return match logits.iter().all(|logit| logit.is_nan()) {
            true => NOT_A_NUMBER,
            false => NOTHING_LEFT,
        };
    };
    if settings.scale == 0.0 {
        return best as u32;
    }
    let best = logits[best];
    let mut kept = ranked[..kept_by_rank(logits, &ranked, settings)].to_vec();
    kept.retain(|&token| is_probable(logits[token], best, settings));
    kept.sort_unstable();
    let masses: Vec<u64> = kept
        .iter()
        .map(|&token| mass_of(logits[token], best, settings.scale))
        .collect();
    let total: u128 = masses.iter().map(|&mass| u128::from(mass)).sum();
    let target = (u128::from(number) * total) >> 64;
    let mut sum = 0;
    let found = masses.iter().position(|&mass| {
        sum += u128::from(mass);
        sum > target
    });
    found.map_or(NOTHING_LEFT, |place| kept[place] as u32)
}

/// Logits behind biases, then penalties for the tokens of `recent`. Each operation rounds by itself, in f32.
pub fn adjust(logits: &mut [f32], settings: &SlotSettings, biases: &[(u32, f32)], recent: &[u32]) {
    for &(token, bias) in biases {
        logits[token as usize] += bias;
    }
    for (token, logit) in logits.iter_mut().enumerate() {
        let count = recent.iter().filter(|&&occurred| occurred as usize == token).count();
        if count == 0 {
            continue;
        }
        *logit = match *logit > 0.0 {
            true => *logit / settings.repetition,
            false => *logit * settings.repetition,
        };
        let often = settings.frequency * count as f32;
        *logit -= settings.presence + often;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_contiguous() {
        let starts = bin_starts();
        assert_eq!(
            (starts.len(), starts[16], starts[24], starts[31]),
            (32, 8.0, 16.0, 30.0)
        );
        assert!(starts.is_sorted());
        assert_eq!([bin(3.0, 3.0), bin(2.49, 3.0), bin(-100.0, 3.0)], [0, 1, 31]);
        assert_eq!([bin(f32::INFINITY, f32::INFINITY), bin(0.0, f32::INFINITY)], [0, 31]);
    }

    #[test]
    fn hand_made_rows() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let greedy = SlotSettings::GREEDY;
        let sampled = SlotSettings {
            scale: LOG2_E,
            ..greedy
        };
        let two = SlotSettings { top_k: 2, ..sampled };
        let half = SlotSettings {
            top_p: 1 << 31,
            ..sampled
        };
        let (first, last) = (0, u64::MAX);
        // two halves of all numbers, one for each of two equal tokens
        let middle = 1 << 63;
        for (logits, settings, number, token) in [
            (vec![1.0, 3.0, 3.0], greedy, last, 1),
            (vec![nan, nan], sampled, 0, NOT_A_NUMBER),
            (vec![nan, -inf], sampled, 0, NOTHING_LEFT),
            (vec![3.0, 3.0], sampled, middle - 1, 0),
            (vec![3.0, 3.0], sampled, middle, 1),
            (vec![1.0, 1.0, 1.0], two, last, 1),
            (vec![1.0, 2.0, 1.0], two, last, 1),
            (vec![1.0, 2.0, 1.0], two, first, 0),
            (vec![0.0, 5.0, 0.0], half, first, 1),
            (vec![1.0, 1.0, 1.0, 1.0], half, last, 1),
            (vec![0.0, inf, 0.0, inf], sampled, first, 1),
            (vec![0.0, inf, 0.0, inf], sampled, last, 3),
        ] {
            assert_eq!(choose(&logits, &settings, number), token, "{logits:?} {settings:?}");
        }
    }
}
