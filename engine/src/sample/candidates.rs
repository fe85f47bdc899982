//! Filtering tokens and drawing one.

use std::cmp::Ordering;

use super::Settings;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// Better first: by logit, then by token. Logits are numbers here.
fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    let by_logit = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
    by_logit.then(a.token.cmp(&b.token))
}

/// Tokens that are still in question; the memory is used again for every token.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// How many of the list are the best ones, in order.
    sorted: usize,
    weights: Vec<f64>,
}

impl Candidates {
    /// Filters and draws with `number` in [0, 1). `best` is the largest logit and not minus infinity.
    pub(super) fn choose(&mut self, logits: &[f32], best: f32, settings: &Settings, number: f64) -> u32 {
        let min_p = settings.min_p;
        // Without top-p between them, top-k and min-p keep the same tokens in any order: those below the threshold
        // need no sorting.
        let threshold = match min_p > 0.0 && best.is_finite() {
            true => f64::from(best) + f64::from(min_p).ln(),
            false => f64::NEG_INFINITY,
        };
        let early = match settings.top_p < 1.0 {
            true => f64::NEG_INFINITY,
            false => threshold,
        };
        match settings.top_k {
            k if k > 0 && k < logits.len() => self.gather_top(logits, best, early, k),
            _ => self.gather(logits, best, early),
        }
        if settings.top_p < 1.0 {
            self.keep_probable(best, settings.top_p.into());
            self.list.retain(|candidate| f64::from(candidate.logit) >= threshold);
        }
        self.draw(best, settings.temperature.into(), number)
    }

    fn gather(&mut self, logits: &[f32], best: f32, threshold: f64) {
        self.list.clear();
        self.sorted = 0;
        let candidates = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| eligible(**logit, best, threshold));
        self.list.extend(candidates.map(|(token, &logit)| Candidate {
            logit,
            token: token as u32,
        }));
    }

    /// The best `k`, sorted. One pass: what is below the worst of `k` seen so far is not even stored.
    fn gather_top(&mut self, logits: &[f32], best: f32, threshold: f64, k: usize) {
        let list = &mut self.list;
        list.clear();
        let room = k.saturating_mul(2).max(64);
        let mut worst = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            // Of equal logits the earlier tokens are better, and those are there already.
            if logit <= worst || !eligible(logit, best, threshold) {
                continue;
            }
            list.push(Candidate {
                logit,
                token: token as u32,
            });
            if list.len() >= room {
                list.select_nth_unstable_by(k - 1, better_first);
                list.truncate(k);
                worst = list[k - 1].logit;
            }
        }
        list.sort_unstable_by(better_first);
        list.truncate(k);
        self.sorted = list.len();
    }

    /// Keeps the smallest number of best candidates that have at least this much of all their probability.
    fn keep_probable(&mut self, best: f32, share: f64) {
        let total: f64 = self
            .list
            .iter()
            .map(|candidate| weight(candidate.logit, best, 1.0))
            .sum();
        let mut sum = 0.0;
        let mut kept = 0;
        while kept < self.list.len() {
            if kept == self.sorted {
                self.sort_more();
            }
            sum += weight(self.list[kept].logit, best, 1.0);
            kept += 1;
            if sum >= share * total {
                break;
            }
        }
        self.list.truncate(kept);
    }

    /// Sorts as many again as are sorted: few are needed as a rule.
    fn sort_more(&mut self) {
        let rest = &mut self.list[self.sorted..];
        let more = (4 * self.sorted).max(256).min(rest.len());
        if more < rest.len() {
            rest.select_nth_unstable_by(more, better_first);
        }
        rest[..more].sort_unstable_by(better_first);
        self.sorted += more;
    }

    fn draw(&mut self, best: f32, temperature: f64, number: f64) -> u32 {
        let weights = self.list.iter().map(|c| weight(c.logit, best, temperature));
        self.weights.clear();
        self.weights.extend(weights);
        let target = number * self.weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let mut last = 0;
        for (candidate, &weight) in self.list.iter().zip(&self.weights) {
            if weight > 0.0 {
                sum += weight;
                last = candidate.token;
                if sum > target {
                    break;
                }
            }
        }
        last
    }
}

/// Whether a token can be chosen at all and is not below the threshold. Where a logit is infinite, it and its like are
/// all that count.
fn eligible(logit: f32, best: f32, threshold: f64) -> bool {
    match best == f32::INFINITY {
        true => logit == best,
        // false for what is no number
        false => logit > f32::NEG_INFINITY && f64::from(logit) >= threshold,
    }
}

/// Probability over that of the best.
fn weight(logit: f32, best: f32, temperature: f64) -> f64 {
    match logit == best {
        true => 1.0,
        false => ((f64::from(logit) - f64::from(best)) / temperature).exp(),
    }
}
