//! The right answer: a permutation that greedy decoding follows, and where the assistant goes wrong.

use super::random::Random;
use super::vocabulary::FIRST_WORD;

/// One big cycle through all words, in random order. Tokens that are no words lead into it.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The token after each token.
    next: Vec<u32>,
    /// The word before each word; ids that are no words have none, and hold themselves.
    previous: Vec<u32>,
    /// The word whose successor the assistant predicts at each word: itself where it is right.
    predicted_as: Vec<u32>,
}

impl Walk {
    /// A walk over `vocabulary` tokens of which the assistant predicts the fraction `accept`.
    pub(super) fn new(vocabulary: usize, accept: f64, seed: u64) -> Self {
        let mut order: Vec<u32> = (FIRST_WORD as u32..vocabulary as u32).collect();
        Random::new(seed, "order", 0).shuffle(&mut order);
        let words = order.len();
        let mut next: Vec<u32> = (0..vocabulary).map(|id| (FIRST_WORD + id * 7 % words) as u32).collect();
        let mut previous: Vec<u32> = (0..vocabulary as u32).collect();
        for (index, &id) in order.iter().enumerate() {
            let after = order[(index + 1) % words];
            next[id as usize] = after;
            previous[after as usize] = id;
        }
        let mut predicted_as: Vec<u32> = (0..vocabulary as u32).collect();
        let mut random = Random::new(seed, "rejected", 0);
        let mut rejected: Vec<u32> = rejected(words, accept, &mut random).map(|at| order[at]).collect();
        random.shuffle(&mut rejected);
        // Each takes the place of another. One alone has no other and stays right.
        for (index, &id) in rejected.iter().enumerate() {
            predicted_as[id as usize] = rejected[(index + 1) % rejected.len()];
        }
        Self {
            next,
            previous,
            predicted_as,
        }
    }

    /// The token that follows each token under greedy decoding.
    pub fn next(&self) -> &[u32] {
        &self.next
    }

    /// The word that leads to a word; an id that is no word leads nowhere and gives itself.
    pub(super) fn previous(&self, id: usize) -> usize {
        self.previous[id] as usize
    }

    /// The word that stands for a token: itself, or the word with the same successor.
    pub(super) fn word(&self, id: usize) -> usize {
        match id < FIRST_WORD {
            true => self.previous(self.next[id] as usize),
            false => id,
        }
    }

    /// The word whose embedding stands in the assistant's table for the successor of `word`.
    pub(super) fn predicted_as(&self, word: usize) -> usize {
        self.predicted_as[word] as usize
    }

    /// What the assistant predicts after each token.
    pub fn predictions(&self) -> Vec<u32> {
        let mut predictions = self.next.clone();
        for word in FIRST_WORD..self.next.len() {
            predictions[self.predicted_as(word)] = self.next[word];
        }
        for id in 0..FIRST_WORD {
            predictions[id] = predictions[self.word(id)];
        }
        predictions
    }
}

/// Positions along the walk where the assistant is wrong.
///
/// Runs of right predictions are geometric, as they are between independent draws, but their quantiles follow the golden
/// ratio, which fills the unit interval evenly from any point on. So a run of a few hundred tokens already shows the
/// acceptance that was asked for, for drafts of any length.
fn rejected(words: usize, accept: f64, random: &mut Random) -> impl Iterator<Item = usize> {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let mut quantile = random.uniform();
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        quantile = (quantile + GOLDEN) % 1.0;
        // 0 to 1, so an acceptance of 0 gives runs of 0 and one of 1 gives no end; 1 - quantile is never 0
        let run = (1.0 - quantile).ln() / accept.ln();
        let position = if accept < 1.0 {
            at.saturating_add(run as usize)
        } else {
            words
        };
        at = position.saturating_add(1);
        (position < words).then_some(position)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_is_one_cycle_over_all_words() {
        let walk = Walk::new(2048, 0.75, 9);
        let mut seen = vec![false; 2048];
        let mut id = FIRST_WORD as u32;
        for _ in FIRST_WORD..2048 {
            assert!(!std::mem::replace(&mut seen[id as usize], true));
            assert_eq!(walk.previous(walk.next()[id as usize] as usize), id as usize);
            id = walk.next()[id as usize];
        }
        assert_eq!(id, FIRST_WORD as u32);
        assert!(walk.next().iter().all(|&next| next >= FIRST_WORD as u32));
        for id in 0..FIRST_WORD {
            assert_eq!(walk.next()[id], walk.next()[walk.word(id)]);
        }
    }

    /// Acceptance of the first draft over 256 tokens, for drafts of several lengths.
    #[test]
    fn short_stretches_show_the_acceptance() {
        // 0.9 has 26 runs in 256 tokens
        let table = [
            (0.0, 0.0),
            (0.25, 0.03),
            (0.5, 0.03),
            (0.75, 0.03),
            (0.9, 0.05),
            (1.0, 0.0),
        ];
        for (accept, limit) in table {
            let walk = Walk::new(262_144, accept, 4);
            let predictions = walk.predictions();
            let right: usize = (FIRST_WORD..262_144)
                .filter(|&id| predictions[id] == walk.next()[id])
                .count();
            let fraction = right as f64 / (262_144 - FIRST_WORD) as f64;
            assert!((fraction - accept).abs() < 0.005, "{accept}: {fraction}");
            for drafts in [1, 2, 3, 8] {
                for start in 0..8 {
                    let mut token = (start * 20_000 + FIRST_WORD) as u32;
                    let (mut rounds, mut accepted, mut emitted) = (0_u32, 0_u32, 0);
                    while emitted < 256 {
                        let mut matches = 0;
                        while matches < drafts && predictions[token as usize] == walk.next()[token as usize] {
                            token = walk.next()[token as usize];
                            matches += 1;
                        }
                        token = walk.next()[token as usize];
                        rounds += 1;
                        accepted += u32::from(matches > 0);
                        emitted += matches + 1;
                    }
                    let measured = f64::from(accepted) / f64::from(rounds);
                    assert!(
                        (measured - accept).abs() <= limit,
                        "{accept}, {drafts} drafts: {measured}"
                    );
                }
            }
        }
    }
}
