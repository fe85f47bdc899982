//! Probabilities under the model, for reports.

/// How probable a token was, and which were the most probable ones.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    /// Natural logarithm of the token's probability; minus infinity for a token that cannot occur.
    pub logprob: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Logarithms of the probabilities (softmax at temperature 1, before any adjustment) of `token` and of the `top_n` most
/// probable tokens. Logits that are no numbers count as minus infinity.
pub fn log_probabilities(logits: &[f32], token: u32, top_n: usize) -> LogProbabilities {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = match best.is_finite() {
        true => logits
            .iter()
            .filter(|logit| !logit.is_nan())
            .map(|&logit| f64::from(logit - best).exp())
            .sum(),
        // several infinities share everything
        false => logits.iter().filter(|&&logit| logit == f32::INFINITY).count() as f64,
    };
    let of = |logit: f32| -> f32 {
        let difference = match (logit.is_nan() || logit == f32::NEG_INFINITY, best.is_finite()) {
            (true, _) => f64::NEG_INFINITY,
            (false, true) => f64::from(logit) - f64::from(best),
            (false, false) if logit == best => 0.0,
            (false, false) => f64::NEG_INFINITY,
        };
        match difference == f64::NEG_INFINITY {
            true => f32::NEG_INFINITY,
            false => (difference - sum.ln()) as f32,
        }
    };
    let mut top: Vec<(u32, f32)> = Vec::new();
    if top_n > 0 {
        let order = |a: &(u32, f32), b: &(u32, f32)| {
            let by_logit = b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal);
            by_logit.then(a.0.cmp(&b.0))
        };
        let room = top_n.saturating_mul(2).max(64);
        let mut worst = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            if logit > worst {
                top.push((token as u32, logit));
                if top.len() >= room {
                    top.select_nth_unstable_by(top_n - 1, order);
                    top.truncate(top_n);
                    worst = top[top_n - 1].1;
                }
            }
        }
        top.sort_unstable_by(order);
        top.truncate(top_n);
        for (_, logit) in &mut top {
            *logit = of(*logit);
        }
    }
    LogProbabilities {
        logprob: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| of(logit)),
        top,
    }
}
