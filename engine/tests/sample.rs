//! The sampler chain against a reference that sorts everything in f64, and its statistics against exact distributions.

use proptest::prelude::*;
use tilekiln::sample::{NoChoice, Sampler, SamplerError, Settings, log_probabilities};
use tilekiln_tests::random::Random;

/// Probabilities of all tokens after the chain, by sorting everything. `history` is what was accepted.
fn reference(logits: &[f32], settings: &Settings, suppressed: &[u32], history: &[u32]) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|&logit| logit.into()).collect();
    for &(token, bias) in &settings.logit_bias {
        logits[token as usize] += f64::from(bias);
    }
    for &token in suppressed {
        logits[token as usize] = f64::NEG_INFINITY;
    }
    let window = &history[history.len().saturating_sub(settings.penalty_window)..];
    for (token, logit) in logits.iter_mut().enumerate() {
        let count = window.iter().filter(|&&accepted| accepted as usize == token).count() as f64;
        if count > 0.0 {
            let repetition = f64::from(settings.repetition_penalty);
            *logit = if *logit > 0.0 {
                *logit / repetition
            } else {
                *logit * repetition
            };
            *logit -= f64::from(settings.presence_penalty) + count * f64::from(settings.frequency_penalty);
        }
    }
    let mut order: Vec<usize> = (0..logits.len())
        .filter(|&token| logits[token] > f64::NEG_INFINITY)
        .collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    let softmax = |order: &[usize], temperature: f64| -> Vec<f64> {
        let weights: Vec<f64> = order
            .iter()
            .map(|&t| ((logits[t] - logits[order[0]]) / temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    };
    if settings.top_k > 0 {
        order.truncate(settings.top_k);
    }
    if settings.top_p < 1.0 {
        let mut sum = 0.0;
        let probabilities = softmax(&order, 1.0);
        let enough = probabilities.iter().position(|probability| {
            sum += probability;
            sum >= f64::from(settings.top_p)
        });
        order.truncate(enough.map_or(order.len(), |last| last + 1));
    }
    if settings.min_p > 0.0 {
        let probabilities = softmax(&order, 1.0);
        let kept = probabilities
            .iter()
            .filter(|&&p| p >= f64::from(settings.min_p) * probabilities[0])
            .count();
        order.truncate(kept.max(1));
    }
    if settings.temperature == 0.0 {
        order.truncate(1);
    }
    let probabilities = softmax(&order, f64::from(settings.temperature).max(1e-6));
    let mut all = vec![0.0; logits.len()];
    for (&token, probability) in order.iter().zip(probabilities) {
        all[token] = probability;
    }
    all
}

fn sampler(settings: &Settings, vocabulary: usize) -> Sampler {
    Sampler::new(settings, vocabulary, &[]).unwrap()
}

/// Fails when draws are not from this distribution: chi-square over the tokens that are drawn often enough.
fn follows(name: &str, logits: &[f32], settings: &Settings, suppressed: &[u32], history: &[u32]) {
    const DRAWS: usize = 60_000;
    let expected = reference(logits, settings, suppressed, history);
    let mut sampler = Sampler::new(settings, logits.len(), suppressed).unwrap();
    for &token in history {
        sampler.accept(token);
    }
    let mut counts = vec![0_usize; logits.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(&mut logits.to_vec()).unwrap() as usize] += 1;
    }
    let (mut chi_square, mut degrees) = (0.0, -1.0);
    let (mut rare_count, mut rare) = (0.0, 0.0);
    for (&count, &probability) in counts.iter().zip(&expected) {
        let (count, mean) = (count as f64, probability * DRAWS as f64);
        assert!(
            probability > 0.0 || count == 0.0,
            "{name}: a token that is filtered out was drawn"
        );
        if mean >= 10.0 {
            chi_square += (count - mean).powi(2) / mean;
            degrees += 1.0;
        } else {
            rare_count += count;
            rare += mean;
        }
    }
    if rare >= 10.0 {
        chi_square += (rare_count - rare).powi(2) / rare;
        degrees += 1.0;
    }
    // five standard deviations of a chi-square variable, with its long tail
    let limit: f64 = degrees + 5.0 * (2.0 * f64::max(degrees, 1.0)).sqrt() + 10.0;
    assert!(
        chi_square < limit,
        "{name}: chi-square {chi_square:.1} over {degrees} degrees"
    );
}

#[test]
fn draws_follow_the_exact_distribution() {
    let mut random = Random::new("sampler-statistics");
    let logits = random.normals(301, 2.5);
    let seeded = Settings {
        seed: Some(random.integer(0..=1 << 40) as u64),
        temperature: 1.0,
        ..Settings::default()
    };
    let table: [(&str, Settings); 9] = [
        ("temperature 1", seeded.clone()),
        (
            "temperature 0.6",
            Settings {
                temperature: 0.6,
                ..seeded.clone()
            },
        ),
        (
            "temperature 2.5",
            Settings {
                temperature: 2.5,
                ..seeded.clone()
            },
        ),
        (
            "top-k",
            Settings {
                top_k: 13,
                ..seeded.clone()
            },
        ),
        (
            "top-p",
            Settings {
                top_p: 0.8,
                ..seeded.clone()
            },
        ),
        (
            "min-p",
            Settings {
                min_p: 0.07,
                ..seeded.clone()
            },
        ),
        (
            "all filters",
            Settings {
                top_k: 40,
                top_p: 0.9,
                min_p: 0.02,
                temperature: 1.7,
                ..seeded.clone()
            },
        ),
        (
            "penalties",
            Settings {
                repetition_penalty: 1.3,
                presence_penalty: 0.4,
                frequency_penalty: 0.2,
                penalty_window: 6,
                ..seeded.clone()
            },
        ),
        (
            "bias",
            Settings {
                logit_bias: vec![(5, 3.0), (7, f32::NEG_INFINITY), (5, 1.0)],
                top_k: 20,
                ..seeded.clone()
            },
        ),
    ];
    let history = [1, 5, 5, 9, 300, 5, 9, 2];
    for (name, settings) in table {
        follows(name, &logits, &settings, &[11, 300], &history);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let valid = Settings::default();
    type Change = fn(&mut Settings);
    let table: [(Change, &str); 14] = [
        (|s| s.temperature = f32::NAN, "`temperature` is NaN"),
        (
            |s| s.temperature = -0.5,
            "`temperature` is -0.5; it must be a number from 0 (greedy)",
        ),
        (|s| s.temperature = f32::INFINITY, "`temperature` is inf"),
        (|s| s.top_p = 1.5, "`top_p` is 1.5"),
        (|s| s.top_p = f32::NAN, "`top_p`"),
        (|s| s.min_p = -1.0, "`min_p`"),
        (|s| s.repetition_penalty = 0.0, "`repetition_penalty` is 0"),
        (|s| s.repetition_penalty = f32::INFINITY, "`repetition_penalty`"),
        (|s| s.presence_penalty = f32::NAN, "`presence_penalty`"),
        (|s| s.frequency_penalty = f32::NEG_INFINITY, "`frequency_penalty`"),
        (
            |s| s.logit_bias = vec![(1, 1.0), (50, 1.0)],
            "`logit_bias` names token 50; the vocabulary has 50 tokens",
        ),
        (|s| s.logit_bias = vec![(1, f32::NAN)], "`logit_bias` is NaN"),
        (|s| s.logit_bias = vec![(1, f32::INFINITY)], "`logit_bias` is inf"),
        (|s| s.temperature = f32::NEG_INFINITY, "`temperature`"),
    ];
    for (change, message) in table {
        let mut settings = valid.clone();
        change(&mut settings);
        let error = Sampler::new(&settings, 50, &[]).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(matches!(
        Sampler::new(&valid, 50, &[50]),
        Err(SamplerError::Token {
            name: "suppress_tokens",
            token: 50,
            ..
        })
    ));
    assert!(Sampler::new(&valid, 50, &[49]).is_ok());
    assert!(Sampler::new(&valid, 1 << 19, &[]).is_ok());
    let error = Sampler::new(&valid, (1 << 19) + 1, &[]).err().unwrap().to_string();
    assert_eq!(
        error,
        "the vocabulary has 524289 tokens; at most 524288 can be chosen from"
    );
}

#[test]
fn plain_greedy_is_recognised() {
    let plain = Settings::default();
    let table = [
        (plain.clone(), vec![], true),
        (
            Settings {
                top_k: 5,
                top_p: 0.1,
                min_p: 0.3,
                ..plain.clone()
            },
            vec![],
            true,
        ),
        (
            Settings {
                presence_penalty: 1.0,
                penalty_window: 0,
                ..plain.clone()
            },
            vec![],
            true,
        ),
        (
            Settings {
                logit_bias: vec![(3, 0.0)],
                ..plain.clone()
            },
            vec![],
            true,
        ),
        (plain.clone(), vec![4], false),
        (
            Settings {
                temperature: 0.1,
                ..plain.clone()
            },
            vec![],
            false,
        ),
        (
            Settings {
                repetition_penalty: 1.1,
                ..plain.clone()
            },
            vec![],
            false,
        ),
        (
            Settings {
                frequency_penalty: 0.1,
                ..plain.clone()
            },
            vec![],
            false,
        ),
        (
            Settings {
                logit_bias: vec![(3, 0.1)],
                ..plain
            },
            vec![],
            false,
        ),
    ];
    for (settings, suppressed, expected) in table {
        let sampler = Sampler::new(&settings, 10, &suppressed).unwrap();
        assert_eq!(sampler.is_plain_greedy(), expected, "{settings:?}");
    }
}

#[test]
fn odd_logits_are_handled() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let table: [(Vec<f32>, Result<u32, NoChoice>); 9] = [
        (vec![1.0, 3.0, 3.0], Ok(1)),
        (vec![nan, 1.0, nan], Ok(1)),
        (vec![-inf, -1.0], Ok(1)),
        (vec![0.0, inf, nan, inf], Ok(1)),
        (vec![-0.0, 0.0], Ok(0)),
        (vec![nan, nan], Err(NoChoice::NotANumber)),
        (vec![], Err(NoChoice::NotANumber)),
        (vec![-inf, -inf], Err(NoChoice::NothingLeft)),
        (vec![-inf, nan], Err(NoChoice::NothingLeft)),
    ];
    for (logits, expected) in table {
        let mut greedy = sampler(&Settings::default(), logits.len());
        assert_eq!(greedy.sample(&mut logits.clone()), expected, "{logits:?}");
        // nearly greedy: the same but for ties
        for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (1, 1.0, 0.0), (0, 0.5, 0.0), (2, 0.9, 0.1)] {
            let settings = Settings {
                temperature: 1e-6,
                top_k,
                top_p,
                min_p,
                ..Settings::default()
            };
            let drawn = sampler(&settings, logits.len()).sample(&mut logits.clone());
            let logit = |choice: Result<u32, NoChoice>| choice.map(|token| logits[token as usize]);
            assert_eq!(logit(drawn), logit(expected), "{logits:?} {settings:?}");
        }
    }
}

#[test]
fn penalties_count_the_last_tokens_only() {
    let settings = Settings {
        presence_penalty: 10.0,
        penalty_window: 2,
        ..Settings::default()
    };
    let mut sampler = sampler(&settings, 3);
    let choose = |sampler: &mut Sampler| sampler.sample(&mut [3.0, 2.0, 1.0]).unwrap();
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let token = choose(&mut sampler);
        sampler.accept(token);
        chosen.push(token);
    }
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_copy_goes_on_as_the_original_and_a_seed_repeats() {
    let mut random = Random::new("sampler-copies");
    let settings = Settings {
        temperature: 1.0,
        frequency_penalty: 0.3,
        seed: Some(3),
        ..Settings::default()
    };
    let rows: Vec<Vec<f32>> = (0..40).map(|_| random.normals(200, 1.0)).collect();
    let run = |sampler: &mut Sampler, rows: &[Vec<f32>]| -> Vec<u32> {
        rows.iter()
            .map(|row| {
                let token = sampler.sample(&mut row.clone()).unwrap();
                sampler.accept(token);
                token
            })
            .collect()
    };
    let mut original = sampler(&settings, 200);
    let first = run(&mut original, &rows[..20]);
    let mut copy = original.clone();
    let second = run(&mut original, &rows[20..]);
    assert_eq!(run(&mut copy, &rows[20..]), second);
    assert_eq!(
        run(&mut sampler(&settings, 200), &rows),
        [first.clone(), second].concat()
    );
    let other = Settings {
        seed: Some(4),
        ..settings.clone()
    };
    assert_ne!(run(&mut sampler(&other, 200), &rows[..20]), first);
    // no seed: another sequence each time
    let unseeded = Settings { seed: None, ..settings };
    assert_ne!(
        run(&mut sampler(&unseeded, 200), &rows),
        run(&mut sampler(&unseeded, 200), &rows)
    );
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    let mut random = Random::new("log-probabilities");
    let mut logits = random.normals(1001, 4.0);
    logits[17] = f32::NAN;
    logits[18] = f32::NEG_INFINITY;
    let best = logits
        .iter()
        .copied()
        .filter(|l| !l.is_nan())
        .map(f64::from)
        .fold(f64::MIN, f64::max);
    let sum: f64 = logits
        .iter()
        .filter(|l| !l.is_nan())
        .map(|&l| (f64::from(l) - best).exp())
        .sum();
    let exact = |token: usize| f64::from(logits[token]) - best - sum.ln();
    for token in [0, 500, 1000] {
        let found = log_probabilities(&logits, token as u32, 5);
        assert!((f64::from(found.logprob) - exact(token)).abs() < 1e-5);
        assert_eq!(found.top.len(), 5);
        assert!(found.top.is_sorted_by(|a, b| a.1 >= b.1));
        for &(token, logprob) in &found.top {
            assert!((f64::from(logprob) - exact(token as usize)).abs() < 1e-5);
        }
    }
    let all = log_probabilities(&logits, 17, 5000);
    assert_eq!(all.logprob, f32::NEG_INFINITY);
    assert_eq!(all.top.len(), 999);
    let total: f64 = all.top.iter().map(|&(_, logprob)| f64::from(logprob).exp()).sum();
    assert!((total - 1.0).abs() < 1e-4, "{total}");
    let odd = [f32::INFINITY, 0.0, f32::INFINITY];
    assert_eq!(log_probabilities(&odd, 2, 1).logprob, 0.5_f32.ln());
    assert_eq!(log_probabilities(&odd, 1, 9).logprob, f32::NEG_INFINITY);
    assert_eq!(log_probabilities(&[], 0, 3).top, []);
    assert_eq!(log_probabilities(&[f32::NAN; 3], 0, 3).logprob, f32::NEG_INFINITY);
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (
        prop_oneof![Just(1.0_f32), 0.2..3.0_f32],
        prop_oneof![Just(0), 1..80_usize],
        prop_oneof![Just(1.0_f32), 0.0..1.0_f32],
        prop_oneof![Just(0.0_f32), 0.0..1.0_f32],
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, min_p, seed)| Settings {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: Some(seed),
            ..Settings::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every choice is one that the reference can make, and the tokens that it cannot make are never chosen. Values are
    /// coarse, so that many are equal.
    #[test]
    fn choices_are_among_those_of_the_reference(
        logits in proptest::collection::vec((-20..20_i32).prop_map(|n| n as f32 / 3.0), 1..400),
        settings in any_settings(),
    ) {
        let expected = reference(&logits, &settings, &[], &[]);
        // a filter's border is where rounding decides
        let border = |token: usize| {
            let near = |s: &Settings| reference(&logits, s, &[], &[])[token] > 0.0;
            let wide = Settings {
                top_p: (settings.top_p + 1e-5).min(1.0),
                min_p: settings.min_p * (1.0 - 1e-5),
                ..settings.clone()
            };
            near(&wide)
        };
        let mut sampler = sampler(&settings, logits.len());
        for _ in 0..20 {
            let token = sampler.sample(&mut logits.clone()).unwrap() as usize;
            prop_assert!(expected[token] > 0.0 || border(token), "token {} with {:?}", token, settings);
        }
    }

    #[test]
    fn no_logits_panic(
        mut logits in proptest::collection::vec(any::<f32>(), 0..300),
        settings in any_settings(),
        accepted in proptest::collection::vec(any::<u32>(), 0..20),
    ) {
        let settings = Settings { repetition_penalty: 1.2, penalty_window: 5, ..settings };
        let mut sampler = sampler(&settings, logits.len());
        for token in accepted {
            sampler.accept(token);
        }
        if let Ok(token) = sampler.sample(&mut logits) {
            prop_assert!(!logits[token as usize].is_nan());
        }
        log_probabilities(&logits, 3, 7);
    }
}
