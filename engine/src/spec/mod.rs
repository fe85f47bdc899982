//! Speculative decoding: how many tokens to draft, and which drafts an evaluation of the target confirms.
//!
//! Drafts are picked greedily, so comparing the target's own choices with them one by one is lossless: what is emitted
//! is what plain decoding would have emitted, for greedy choices and for sampled ones.

use crate::model::assistant::Draft;

/// How much is drafted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Tokens per round at most; 0 never drafts.
    pub max: usize,
    /// A round with fewer drafts is a plain step.
    pub min: usize,
    /// A chain ends in front of a token that the assistant gives less probability.
    pub p_min: f32,
}

impl Policy {
    /// Never drafts.
    pub const NONE: Self = Self {
        max: 0,
        min: 0,
        p_min: 0.0,
    };

    /// Drafts that a sequence has room for: `valid` positions of a context are taken, `remaining` tokens are wanted.
    pub fn limit(&self, valid: usize, context: usize, remaining: usize) -> usize {
        let room = context.saturating_sub(valid + 2);
        self.max.min(room).min(remaining.saturating_sub(1))
    }

    /// The drafts of a chain that are worth an evaluation.
    pub fn cut(&self, chain: &[Draft], limit: usize) -> Vec<u32> {
        let likely = chain
            .iter()
            .take(limit)
            .take_while(|draft| draft.probability >= self.p_min);
        let tokens: Vec<u32> = likely.map(|draft| draft.token).collect();
        if tokens.len() < self.min { Vec::new() } else { tokens }
    }
}

/// What an evaluation of drafts gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The target's choices: the confirmed drafts and one more, or fewer where an end token is among them.
    pub emitted: Vec<u32>,
    /// Drafts that the target would have chosen, too.
    pub accepted: usize,
}

/// Compares drafts with the target's choices. `pick(i)` chooses from row i of the evaluation, which saw the newest
/// token and the first i drafts; it is called in order, once per emitted token.
///
/// # Errors
/// Those of `pick`.
pub fn verify<E>(
    drafts: &[u32],
    mut pick: impl FnMut(usize) -> Result<u32, E>,
    is_end: impl Fn(u32) -> bool,
) -> Result<Verdict, E> {
    let mut emitted = Vec::with_capacity(drafts.len() + 1);
    let mut accepted = 0;
    for row in 0..=drafts.len() {
        let token = pick(row)?;
        emitted.push(token);
        let confirmed = drafts.get(row) == Some(&token);
        accepted += usize::from(confirmed);
        if !confirmed || is_end(token) {
            break;
        }
    }
    Ok(Verdict { emitted, accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (drafts, the target's choices, emitted, accepted); 9 is the end token.
    #[test]
    fn drafts_are_confirmed_up_to_the_first_difference() {
        for (drafts, choices, emitted, accepted) in [
            (vec![], vec![5], vec![5], 0),
            (vec![5, 6], vec![5, 6, 7], vec![5, 6, 7], 2),
            (vec![5, 6], vec![5, 8, 7], vec![5, 8], 1),
            (vec![5, 6], vec![4, 6, 7], vec![4], 0),
            (vec![5, 9, 6], vec![5, 9, 6, 7], vec![5, 9], 2),
            (vec![5, 6], vec![9, 6, 7], vec![9], 0),
            (vec![5], vec![5, 9], vec![5, 9], 1),
        ] {
            let verdict = verify(&drafts, |row| Ok::<_, ()>(choices[row]), |token| token == 9).unwrap();
            assert_eq!((verdict.emitted, verdict.accepted), (emitted, accepted), "{drafts:?}");
        }
    }

    #[test]
    fn a_failing_choice_ends_the_round() {
        let verdict = verify(&[1, 2], |row| if row == 1 { Err("broken") } else { Ok(1) }, |_| false);
        assert_eq!(verdict, Err("broken"));
    }

    #[test]
    fn room_limits_drafts() {
        let policy = Policy {
            max: 4,
            min: 0,
            p_min: 0.0,
        };
        for (valid, context, remaining, limit) in [
            (10, 100, 50, 4),
            (95, 100, 50, 3),
            (98, 100, 50, 0),
            (100, 100, 50, 0),
            (10, 100, 3, 2),
            (10, 100, 1, 0),
            (10, 100, 0, 0),
        ] {
            assert_eq!(
                policy.limit(valid, context, remaining),
                limit,
                "{valid} {context} {remaining}"
            );
        }
    }

    #[test]
    fn unlikely_and_short_chains_are_dropped() {
        let chain = [0.9, 0.5, 0.8].map(|probability| Draft { token: 3, probability });
        for (min, p_min, limit, kept) in [
            (0, 0.0, 3, 3),
            (0, 0.0, 2, 2),
            (0, 0.6, 3, 1),
            (2, 0.6, 3, 0),
            (0, 0.95, 3, 0),
        ] {
            let policy = Policy { max: 3, min, p_min };
            assert_eq!(policy.cut(&chain, limit).len(), kept, "{min} {p_min} {limit}");
        }
    }
}
