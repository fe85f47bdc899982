//! One random number for each token.

use tilekiln_kernels::sample::settings::{STEP, mix};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). The state is all there is: a
/// copy goes on exactly as the original does, and the sequence of a seed does not change with the version of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    state: u64,
}

impl Sequence {
    pub(super) fn new(seed: u64) -> Self {
        // Seeds are small numbers; far apart after this.
        Self {
            state: mix(seed.wrapping_add(STEP)),
        }
    }

    /// Uniform over all numbers.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// The seed of a device's slot whose row at `position` draws with the next number, and each later position with the
    /// one after it: see [`SlotSettings::seed`](tilekiln_kernels::sample::settings::SlotSettings::seed).
    pub(super) fn seed_at(&self, position: usize) -> u64 {
        let next = self.state.wrapping_add(STEP);
        next.wrapping_sub(STEP.wrapping_mul(position as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_independent_of_neighbouring_seeds() {
        for stride in [0, 1] {
            // one seed many times; many seeds once
            let mut one = Sequence::new(7);
            let mut cells = [[0_u32; 16]; 16];
            let mut last = 0;
            for index in 0..160_000 {
                let number = match stride {
                    0 => one.next(),
                    _ => Sequence::new(index).next(),
                };
                let cell = (number >> 60) as usize;
                cells[last][cell] += 1;
                last = cell;
            }
            let expected = 160_000.0 / 256.0;
            let chi_square: f64 = cells
                .iter()
                .flatten()
                .map(|&n| (f64::from(n) - expected).powi(2) / expected)
                .sum();
            // 255 degrees of freedom: 5 standard deviations of the normal approximation
            assert!(chi_square < 255.0 + 5.0 * (2.0_f64 * 255.0).sqrt(), "{chi_square}");
        }
    }

    #[test]
    fn a_slot_draws_the_numbers_that_are_next() {
        let mut sequence = Sequence::new(11);
        sequence.next();
        for first in [0, 1, 500_000] {
            let seed = sequence.seed_at(first);
            let mut copy = sequence.clone();
            for position in first..first + 4 {
                let state = seed.wrapping_add(STEP.wrapping_mul(position as u64));
                assert_eq!(mix(state), copy.next());
            }
        }
    }
}
