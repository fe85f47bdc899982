//! Whole answers: the scheduler over golden models, with and without drafts.

use std::sync::Arc;
use std::time::Duration;

use tilekiln::gguf::File;
use tilekiln::model::Target;
use tilekiln::sample::Settings;
use tilekiln::schedule::{Event, Finish, ModelService, Refusal, Request, Service, Statistics};
use tilekiln::spec::Policy;
use tilekiln_runtime::device::Device;
use tilekiln_tests::golden::Golden;

use crate::assistants::pairs;
use crate::support::{EXACT, FAST, cases, devices, in_full, load, tokens};

/// A service with so many slots that drafts so many tokens per round.
fn service(
    device: &Arc<dyn Device>,
    files: (&File, Option<&File>),
    mode: Mode,
    slots: usize,
    drafts: usize,
) -> ModelService {
    let target: Target = load(device, files.0, files.1, mode, (slots, 24.max(slots * (drafts + 1))));
    let policy = Policy {
        max: drafts,
        min: 0,
        p_min: 0.0,
    };
    ModelService::start(target, policy, 16, &[]).unwrap()
}

type Mode = (tilekiln::model::Precision, tilekiln::kv::KvType);

fn request(prompt: &[u32], max_tokens: usize, sampling: Settings) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling,
        end_tokens: Vec::new(),
        top_logprobs: None,
    }
}

/// What came of a request.
struct Answer {
    tokens: Vec<u32>,
    finish: Finish,
    statistics: Statistics,
}

fn collect(mut ticket: tilekiln::schedule::Ticket) -> Answer {
    let mut tokens = Vec::new();
    while let Some(event) = ticket.events.blocking_recv() {
        match event {
            Event::Prompt { done, total } => assert!(done <= total && tokens.is_empty()),
            Event::Token(choice) => tokens.push(choice.token),
            Event::Finished(finish, statistics) => {
                assert_eq!(statistics.generated_tokens, tokens.len());
                return Answer {
                    tokens,
                    finish,
                    statistics,
                };
            }
            Event::Failed(reason) => panic!("{reason}"),
        }
    }
    panic!("the answer has no end");
}

fn answer(service: &ModelService, request: Request) -> Answer {
    collect(service.submit(request).unwrap())
}

/// Prompts of an assistant's golden file: inside the window, and across it.
fn prompts(golden: &Golden) -> Vec<Vec<u32>> {
    ["c0", "c1", "c2", "verify"]
        .map(|name| tokens(golden, &format!("{name}.prompt")))
        .to_vec()
}

/// (drafts per round, sequences at once, arithmetic): every depth with 1, 2 and 4 sequences, and a sample of it.
fn draft_table(full: bool) -> Vec<(usize, usize, Mode)> {
    if !full {
        return vec![(1, 4, FAST), (3, 2, EXACT), (8, 1, FAST)];
    }
    let depths = (1..=8).flat_map(|drafts| [1, 2, 4].map(|slots| (drafts, slots)));
    depths
        .flat_map(|(drafts, slots)| [EXACT, FAST].map(|mode| (drafts, slots, mode)))
        .collect()
}

#[test]
fn greedy_answers_are_the_same_with_drafts() {
    for device in devices() {
        let full = in_full(&device);
        let count = if full { 24 } else { 9 };
        for (case, layouts, target) in pairs() {
            let prompts = prompts(&case.golden);
            let plain = |mode| -> Vec<Vec<u32>> {
                let plain = service(&device, (&target, None), mode, 1, 0);
                let greedy = |prompt| answer(&plain, request(prompt, count, Settings::default())).tokens;
                prompts.iter().map(|prompt| greedy(prompt)).collect()
            };
            let plain = [EXACT, FAST].map(|mode| (mode, plain(mode)));
            for (drafts, slots, mode) in draft_table(full) {
                let (_, want) = plain.iter().find(|(of, _)| *of == mode).unwrap();
                let service = service(&device, (&target, layouts.first()), mode, slots, drafts);
                let requests = prompts.iter().map(|prompt| request(prompt, count, Settings::default()));
                let tickets: Vec<_> = requests.map(|request| service.submit(request).unwrap()).collect();
                for (ticket, want) in tickets.into_iter().zip(want) {
                    let got = collect(ticket);
                    let what = format!("{}, {drafts} drafts, {slots} slots, {mode:?}", case.name);
                    assert_eq!(&got.tokens, want, "{what}");
                    let Statistics {
                        drafted,
                        accepted,
                        rounds,
                        ..
                    } = got.statistics;
                    assert!(
                        drafted > 0 && accepted <= drafted && rounds + accepted + 1 == count,
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn sampled_answers_are_the_same_with_drafts() {
    for device in devices() {
        for (case, layouts, target) in pairs() {
            let sampling = Settings {
                temperature: 0.9,
                top_k: 40,
                top_p: 0.95,
                repetition_penalty: 1.1,
                seed: Some(7),
                ..Settings::default()
            };
            let prompts = prompts(&case.golden);
            let plain = service(&device, (&target, None), EXACT, 1, 0);
            let drafting = service(&device, (&target, layouts.first()), EXACT, 2, 3);
            let count = if in_full(&device) { 24 } else { 8 };
            for prompt in &prompts[..2] {
                let want = answer(&plain, request(prompt, count, sampling.clone())).tokens;
                let got = answer(&drafting, request(prompt, count, sampling.clone())).tokens;
                assert_eq!(got, want, "{}", case.name);
            }
        }
    }
}

/// Requests that report logarithms of probabilities are answered by the sampler on the CPU, others by the device.
#[test]
fn answers_are_the_same_wherever_tokens_are_chosen() {
    let sampled = Settings {
        temperature: 1.2,
        seed: Some(99),
        ..Settings::default()
    };
    let table = [
        Settings {
            frequency_penalty: 0.4,
            penalty_window: usize::MAX,
            ..Settings::default()
        },
        Settings {
            top_p: 0.8,
            presence_penalty: 0.5,
            penalty_window: 5,
            ..sampled.clone()
        },
        Settings {
            top_k: 30,
            min_p: 0.01,
            logit_bias: vec![(5, 4.0), (9, f32::NEG_INFINITY), (5, 1.5)],
            ..sampled.clone()
        },
        sampled,
        Settings::default(),
    ];
    for device in devices() {
        let Some((case, layouts, target)) = pairs().into_iter().next() else {
            return;
        };
        let prompts = prompts(&case.golden);
        let count = if in_full(&device) { 24 } else { 8 };
        let target = load(&device, &target, layouts.first(), EXACT, (2, 24));
        let policy = Policy {
            max: 3,
            min: 0,
            p_min: 0.0,
        };
        // a token that greedy answers would have
        let suppressed = tokens(&case.golden, "c0.last_token");
        let service = ModelService::start(target, policy, 16, &suppressed).unwrap();
        for (settings, prompt) in table.iter().zip(prompts.iter().cycle()) {
            let mut reported = request(prompt, count, settings.clone());
            reported.top_logprobs = Some(0);
            // both at once, in one step
            let tickets = [request(prompt, count, settings.clone()), reported].map(|request| service.submit(request));
            let [chosen, reported] = tickets.map(|ticket| collect(ticket.unwrap()).tokens);
            assert_eq!(chosen, reported, "{} {settings:?}", case.name);
            assert!(!chosen.contains(&suppressed[0]), "{}", case.name);
        }
    }
}

#[test]
fn answers_follow_the_reference_and_reuse_what_is_cached() {
    for device in devices() {
        for case in cases("gemma4") {
            let service = service(&device, (&case.file, None), EXACT, 2, 0);
            let prompts: &[&str] = if in_full(&device) { &["p0", "p1"] } else { &["p0"] };
            for prompt in prompts {
                let ids = tokens(&case.golden, &format!("{prompt}.input_ids"));
                let want = tokens(&case.golden, &format!("{prompt}.greedy_tokens"));
                for reused in [0, ids.len() - 1] {
                    let got = answer(&service, request(&ids, want.len(), Settings::default()));
                    assert_eq!(got.tokens, want, "{} {prompt}", case.name);
                    assert_eq!(got.finish, Finish::MaxTokens);
                    assert_eq!(got.statistics.prompt_tokens, ids.len());
                    // p0 and p1 may begin alike
                    assert!(got.statistics.reused_tokens >= reused, "{} {prompt}", case.name);
                }
            }
        }
    }
}

#[test]
fn requests_end_as_they_should() {
    let Some(case) = cases("gemma4").into_iter().next() else {
        return;
    };
    for device in devices() {
        let service = service(&device, (&case.file, None), EXACT, 1, 0);
        let ids = tokens(&case.golden, "p0.input_ids");
        let greedy = tokens(&case.golden, "p0.greedy_tokens");
        let plain = |max_tokens| request(&ids, max_tokens, Settings::default());

        let nothing = answer(&service, plain(0));
        assert_eq!((nothing.tokens.len(), nothing.finish), (0, Finish::MaxTokens));

        let mut ending = plain(16);
        ending.end_tokens = vec![greedy[3]];
        let first = greedy.iter().position(|token| *token == greedy[3]).unwrap();
        let ended = answer(&service, ending);
        assert_eq!(
            (ended.tokens.as_slice(), ended.finish),
            (&greedy[..=first], Finish::EndToken)
        );

        let full = answer(&service, plain(100_000));
        assert_eq!(full.finish, Finish::ContextFull);
        // the last token is chosen at the last position and needs none of its own
        assert_eq!(full.tokens.len(), service.status().context - ids.len() + 1);

        let mut asked = plain(3);
        asked.top_logprobs = Some(2);
        let mut ticket = service.submit(asked).unwrap();
        while let Some(event) = ticket.events.blocking_recv() {
            if let Event::Token(choice) = event {
                assert_eq!(choice.top.len(), 2);
                assert_eq!(choice.logprob, Some(choice.top[0].1));
                assert!(
                    choice.top[0].0 == choice.token && choice.top[0].1 >= choice.top[1].1 && choice.top[0].1 <= 0.0
                );
            }
        }

        // what one request makes impossible is its own failure
        let mut impossible = plain(4);
        impossible.sampling.logit_bias = (0..768).map(|token| (token, f32::NEG_INFINITY)).collect();
        let other = service.submit(plain(4)).unwrap();
        let mut ticket = service.submit(impossible).unwrap();
        let mut events = std::iter::from_fn(|| ticket.events.blocking_recv());
        assert!(events.any(|event| matches!(event, Event::Failed(reason) if reason.contains("ruled out"))));
        assert_eq!(collect(other).tokens, greedy[..4]);

        // dropping a ticket makes room
        drop(service.submit(plain(100_000)).unwrap());
        assert_eq!(answer(&service, plain(2)).tokens, greedy[..2]);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((service.status().busy, service.status().waiting), (0, 0));

        let context = service.status().context;
        let refused = |prompt: &[u32]| service.submit(request(prompt, 1, Settings::default())).unwrap_err();
        assert_eq!(refused(&[]), Refusal::Empty);
        assert_eq!(
            refused(&vec![2; context]),
            Refusal::TooLong {
                prompt: context,
                context
            }
        );
        assert_eq!(
            refused(&[2, 768]),
            Refusal::UnknownToken {
                token: 768,
                vocabulary: 768
            }
        );
    }
}
