//! Filtering tokens and drawing one.
//!
//! The same whole numbers as on a device ([`tilekiln_kernels::sample`]), so the same token.

use std::cmp::Ordering;

use tilekiln_kernels::sample::mass::{LOG2_E, fraction_of_total, mass_of, part_of_total};
use tilekiln_kernels::sample::settings::{KEEP_ALL, SlotSettings};

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
    masses: Vec<u64>,
}

impl Candidates {
    /// Filters and draws. `best` is the largest logit and not minus infinity.
    pub(super) fn choose(&mut self, logits: &[f32], best: f32, settings: &SlotSettings, number: u64) -> u32 {
        let cuts_by_mass = settings.top_p != KEEP_ALL;
        // Without top-p between them, top-k and min-p keep the same tokens in any order: those that min-p leaves out
        // need no sorting.
        let min_p = if cuts_by_mass {
            f32::NEG_INFINITY
        } else {
            settings.min_p
        };
        match settings.top_k as usize {
            k if k > 0 && k < logits.len() => self.gather_top(logits, best, min_p, k),
            _ => self.gather(logits, best, min_p),
        }
        if cuts_by_mass {
            self.keep_probable(best, settings.top_p);
            let probable = |candidate: &Candidate| is_probable(candidate.logit, best, settings.min_p);
            self.list.retain(probable);
        }
        // draws go through tokens in their own order; a list without a sorted part has it already
        if self.sorted > 0 {
            self.list.sort_unstable_by_key(|candidate| candidate.token);
        }
        self.draw(best, settings.scale, number)
    }

    fn gather(&mut self, logits: &[f32], best: f32, min_p: f32) {
        self.list.clear();
        self.sorted = 0;
        let candidates = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| is_eligible(**logit, best, min_p));
        self.list.extend(candidates.map(|(token, &logit)| Candidate {
            logit,
            token: token as u32,
        }));
    }

    /// The best `k`, sorted. One pass: what is below the worst of `k` seen so far is not even stored.
    fn gather_top(&mut self, logits: &[f32], best: f32, min_p: f32, k: usize) {
        let list = &mut self.list;
        list.clear();
        let room = k.saturating_mul(2).max(64);
        let mut worst = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            // Of equal logits the earlier tokens are better, and those are there already.
            if logit <= worst || !is_eligible(logit, best, min_p) {
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

    /// Keeps the smallest number of best candidates that have at least this share of all their mass.
    fn keep_probable(&mut self, best: f32, share: u32) {
        let mass = |candidate: &Candidate| mass_of(candidate.logit, best, LOG2_E);
        let total = self.list.iter().map(mass).sum();
        let wanted = part_of_total(share, total).max(1);
        let mut sum = 0;
        let mut kept = 0;
        while kept < self.list.len() && sum < wanted {
            if kept == self.sorted {
                self.sort_more();
            }
            sum += mass(&self.list[kept]);
            kept += 1;
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

    fn draw(&mut self, best: f32, scale: f32, number: u64) -> u32 {
        let masses = self.list.iter().map(|c| mass_of(c.logit, best, scale));
        self.masses.clear();
        self.masses.extend(masses);
        let target = fraction_of_total(number, self.masses.iter().sum());
        let mut sum = 0;
        let found = self.masses.iter().position(|mass| {
            sum += mass;
            sum > target
        });
        // the best token is there and weighs something, so one is found
        found.map_or(0, |place| self.list[place].token)
    }
}

/// Whether a token can be chosen at all and min-p keeps it.
fn is_eligible(logit: f32, best: f32, min_p: f32) -> bool {
    logit > f32::NEG_INFINITY && is_probable(logit, best, min_p)
}

/// Whether min-p keeps a logit.
fn is_probable(logit: f32, best: f32, min_p: f32) -> bool {
    logit == best || logit - best >= min_p
}
