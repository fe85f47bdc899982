//! One random number for each token.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). The state is all there is: a
/// copy goes on exactly as the original does, and the sequence of a seed does not change with the version of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    state: u64,
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Sequence {
    pub(super) fn new(seed: u64) -> Self {
        // Seeds are small numbers; far apart after this.
        Self {
            state: mix(seed.wrapping_add(STEP)),
        }
    }

    /// Uniform in [0, 1).
    pub(super) fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(STEP);
        (mix(self.state) >> 11) as f64 / (1_u64 << 53) as f64
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
                assert!((0.0..1.0).contains(&number));
                let cell = (number * 16.0) as usize;
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
}
