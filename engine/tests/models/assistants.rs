//! Assistants against the golden drafts.

use std::sync::Arc;

use tilekiln::gguf::File;
use tilekiln::model::assistant::{DraftStart, Head};
use tilekiln::model::{Phase, Target, Want};
use tilekiln::spec::{Verdict, verify};
use tilekiln_runtime::device::Device;

use crate::support::{Case, Distance, EXACT, cases, devices, in_full, load, open, rows, tokens};

/// The target that an assistant's golden file was made with: the f32 or BF16 one, or its own type.
fn target_of(assistant: &str) -> File {
    let (family, kind) = assistant.split_once("_assistant.").unwrap();
    let folder = crate::support::folder().unwrap();
    let kinds = [kind, "bf16", "f32"];
    let found = kinds
        .into_iter()
        .find(|kind| folder.join(format!("{family}.{kind}.gguf")).exists());
    open(&format!("{family}.{}", found.unwrap()))
}

/// Assistants of the golden folder whose target is no mixture of experts, each with the file of its older layout where
/// there is one.
pub fn pairs() -> Vec<(Case, Vec<File>, File)> {
    let mut pairs = Vec::new();
    for case in cases("gemma4-assistant") {
        let target = target_of(&case.name);
        if target.metadata().u64("gemma4.expert_count").unwrap().unwrap_or(0) > 0 {
            continue;
        }
        let legacy = format!("{}_legacy", case.name);
        let mut layouts = vec![open(&case.name)];
        if crate::support::folder()
            .unwrap()
            .join(format!("{legacy}.gguf"))
            .exists()
        {
            layouts.push(open(&legacy));
        }
        pairs.push((case, layouts, target));
    }
    pairs
}

/// Evaluates a prompt and keeps the hidden vector of its last position.
fn prefill(target: &mut Target, slot: u32, prompt: &[u32]) -> u32 {
    let mut all = rows(slot, 0, prompt, Want::Nothing);
    all.last_mut().unwrap().want = Want::Token;
    let mut next = 0;
    let mut last = 0;
    for part in all.chunks(target.options().geometry.max_rows) {
        let outputs = target.forward(part, Phase::Prompt).unwrap();
        next = outputs.last().map_or(next, |output| output.token);
        last = part.len() - 1;
    }
    target.keep_hidden(&[(slot, last)]).unwrap();
    next
}

#[test]
fn drafts_are_those_of_the_reference() {
    for device in devices() {
        for (case, layouts, target_file) in pairs() {
            for assistant in &layouts {
                let mut target = load(&device, &target_file, Some(assistant), EXACT, (2, 16));
                for prompt in ["c0", "c1", "c2"] {
                    check_chain(&mut target, &case, prompt, &device);
                }
            }
        }
    }
}

fn check_chain(target: &mut Target, case: &Case, prompt: &str, device: &Arc<dyn Device>) {
    let golden = &case.golden;
    let ids = tokens(golden, &format!("{prompt}.prompt"));
    let what = format!("{} {prompt} on {}", case.name, device.properties().name);
    let token = prefill(target, 1, &ids);
    assert_eq!(
        [token].as_slice(),
        tokens(golden, &format!("{prompt}.last_token")),
        "{what}"
    );
    let start = DraftStart {
        slot: 1,
        token,
        position: ids.len() as u32,
    };
    for (head, name) in [(Head::Dense, "dense"), (Head::Centroids, "ordered")] {
        let Ok(want_logits) = golden.f32(&format!("{prompt}.{name}.draft_logits")) else {
            assert_eq!(name, "ordered", "{what}");
            continue;
        };
        let want_next = golden.f32(&format!("{prompt}.{name}.h_next")).unwrap();
        let (drafts, traces) = target.draft_traced(head, &[start], want_next.shape[0]).unwrap();
        let drafted: Vec<u32> = drafts[0].iter().map(|draft| draft.token).collect();
        assert_eq!(
            drafted,
            tokens(golden, &format!("{prompt}.{name}.draft_tokens")),
            "{what} {name}"
        );
        let mut centroids = Vec::new();
        for ((trace, want), next) in traces.iter().zip(want_logits.rows()).zip(want_next.rows()) {
            Distance::between(&trace.next, next).assert_exact(&format!("{what} {name} next hidden vector"));
            let mut scores = trace.scores.clone();
            if let Some(candidates) = &trace.candidates {
                // the reference fills in what is no candidate
                let least = scores.iter().copied().fold(f32::INFINITY, f32::min);
                let mut all = vec![least - 1.0; want.len()];
                for (candidate, score) in candidates.iter().zip(&scores) {
                    all[*candidate as usize] = *score;
                }
                scores = all;
                centroids.extend(trace.centroids.clone().unwrap());
            }
            Distance::between(&scores, want).assert_exact(&format!("{what} {name} scores"));
        }
        if head == Head::Centroids {
            assert_eq!(
                centroids,
                tokens(golden, &format!("{prompt}.ordered.top_centroids")),
                "{what}"
            );
        }
        for draft in &drafts[0] {
            assert!(draft.probability > 0.0 && draft.probability <= 1.0, "{what}: {draft:?}");
        }
    }
}

#[test]
fn sequences_are_drafted_for_together_as_apart() {
    for device in devices() {
        for (case, layouts, target_file) in pairs() {
            let mut target = load(&device, &target_file, layouts.first(), EXACT, (3, 16));
            let starts: Vec<DraftStart> = [("c0", 2), ("c1", 0), ("c2", 1)]
                .into_iter()
                .map(|(prompt, slot)| {
                    let ids = tokens(&case.golden, &format!("{prompt}.prompt"));
                    DraftStart {
                        slot,
                        token: prefill(&mut target, slot, &ids),
                        position: ids.len() as u32,
                    }
                })
                .collect();
            let together = target.draft(&starts, 4).unwrap();
            let apart: Vec<_> = starts
                .iter()
                .map(|start| target.draft(&[*start], 4).unwrap().remove(0))
                .collect();
            assert_eq!(together, apart, "{}", case.name);
        }
    }
}

/// One round: evaluates the newest token with its drafts at `position`, keeps the confirmed part.
fn round(target: &mut Target, slot: u32, position: usize, newest: u32, drafts: &[u32]) -> (Verdict, Vec<f32>) {
    let batch: Vec<u32> = std::iter::once(newest).chain(drafts.iter().copied()).collect();
    let outputs = target
        .forward(&rows(slot, position, &batch, Want::Token), Phase::Decode)
        .unwrap();
    let verdict = verify(drafts, |row| Ok::<_, ()>(outputs[row].token), |_| false).unwrap();
    let hidden = target.hidden(verdict.accepted).unwrap();
    target.keep_hidden(&[(slot, verdict.accepted)]).unwrap();
    (verdict, hidden)
}

#[test]
fn forced_drafts_are_accepted_as_far_as_they_are_right() {
    for device in devices() {
        for (case, layouts, target_file) in pairs() {
            let golden = &case.golden;
            let mut target = load(&device, &target_file, layouts.first(), EXACT, (1, 16));
            let prompt = tokens(golden, "verify.prompt");
            for right in 0..4 {
                let what = format!("{}, {right} right, on {}", case.name, device.properties().name);
                let newest = prefill(&mut target, 0, &prompt);
                assert_eq!([newest].as_slice(), tokens(golden, "verify.last_token"), "{what}");
                let drafts = tokens(golden, &format!("verify.{right}.draft"));
                let (verdict, hidden) = round(&mut target, 0, prompt.len(), newest, &drafts);
                assert_eq!(verdict.accepted, right, "{what}");
                assert_eq!(
                    verdict.emitted,
                    tokens(golden, &format!("verify.{right}.emitted")),
                    "{what}"
                );
                let want = golden.f32(&format!("verify.{right}.h_after")).unwrap();
                Distance::between(&hidden, &want.values).assert_exact(&what);
            }
        }
    }
}

#[test]
fn rounds_are_those_of_the_reference() {
    for device in devices() {
        for (case, layouts, target_file) in pairs() {
            let golden = &case.golden;
            let mut target = load(&device, &target_file, layouts.first(), EXACT, (1, 16));
            for (head, name) in [(Head::Dense, "dense"), (Head::Centroids, "ordered")] {
                for prompt in ["c0", "c1", "c2"] {
                    let run = format!("spec.{name}.{prompt}");
                    let Ok(want_drafts) = golden.i32(&format!("{run}.drafts")) else {
                        assert_eq!(name, "ordered", "{}", case.name);
                        continue;
                    };
                    let what = format!("{} {run} on {}", case.name, device.properties().name);
                    let ids = tokens(golden, &format!("{prompt}.prompt"));
                    let mut emitted = vec![prefill(&mut target, 0, &ids)];
                    let mut accepted = Vec::new();
                    let rounds = if in_full(&device) { want_drafts.rows().len() } else { 3 };
                    for want in want_drafts.rows().take(rounds) {
                        let newest = *emitted.last().unwrap();
                        let position = ids.len() + emitted.len() - 1;
                        let start = DraftStart {
                            slot: 0,
                            token: newest,
                            position: position as u32,
                        };
                        let (chains, _) = target.draft_traced(head, &[start], want.len()).unwrap();
                        let drafts: Vec<u32> = chains[0].iter().map(|draft| draft.token).collect();
                        assert_eq!(
                            drafts,
                            want.iter().map(|token| *token as u32).collect::<Vec<_>>(),
                            "{what}"
                        );
                        let (verdict, _) = round(&mut target, 0, position, newest, &drafts);
                        accepted.push(verdict.accepted as u32);
                        emitted.extend(verdict.emitted);
                    }
                    assert_eq!(accepted, tokens(golden, &format!("{run}.accepted"))[..rounds], "{what}");
                    let want = tokens(golden, &format!("{run}.emitted"));
                    let common = want.len().min(emitted.len());
                    assert_eq!(emitted[..common], want[..common], "{what}");
                }
            }
        }
    }
}
