//! Targets against the golden logits, exact and fast.

use tilekiln::model::config::LayerKind;
use tilekiln::model::{Phase, Target, Want};
use tilekiln_tests::golden::Golden;

use crate::support::{Case, Distance, EXACT, FAST, argmax, cases, devices, in_full, load, rows, tokens};

/// Logits of all positions, evaluated in chunks.
fn logits(target: &mut Target, slot: u32, prompt: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for first in (0..prompt.len()).step_by(chunk) {
        let part = &prompt[first..(first + chunk).min(prompt.len())];
        let outputs = target
            .forward(&rows(slot, first, part, Want::Logits), Phase::Prompt)
            .unwrap();
        all.extend(outputs.into_iter().map(|output| output.logits.unwrap()));
    }
    all
}

#[test]
fn exact_logits_are_those_of_the_reference() {
    for device in devices() {
        for Case { name, file, golden } in cases("gemma4") {
            // chunks that are smaller than the prompts and no divisor of anything
            let mut target = load(&device, &file, None, EXACT, (2, 13));
            let mut worst = Distance::default();
            for (slot, prompt) in [(0, "p0"), (1, "p1"), (0, "p2")] {
                let what = format!("{name} {prompt} on {}", device.properties().name);
                let ids = tokens(&golden, &format!("{prompt}.input_ids"));
                let want = golden.f32(&format!("{prompt}.logits")).unwrap();
                let got = logits(&mut target, slot, &ids, 13);
                let distance = Distance::between(&got.concat(), &want.values);
                distance.assert_exact(&what);
                for (position, (got, want)) in got.iter().zip(want.rows()).enumerate() {
                    assert_eq!(argmax(got), argmax(want), "{what}, position {position}");
                }
                if prompt != "p2" {
                    follow_greedily(&mut target, &golden, (slot, prompt), &ids, &what);
                }
                if distance.max > worst.max {
                    worst = distance;
                }
            }
            println!(
                "{name:<20} exact, {}: max {:.1e}, relative {:.1e}",
                device.properties().name,
                worst.max,
                worst.relative
            );
        }
    }
}

/// Continues a prompt whose keys are in the cache; tokens and logits have to be those of the reference.
fn follow_greedily(target: &mut Target, golden: &Golden, (slot, prompt): (u32, &str), ids: &[u32], what: &str) {
    let want_tokens = tokens(golden, &format!("{prompt}.greedy_tokens"));
    let want_logits = golden.f32(&format!("{prompt}.greedy_logits")).unwrap();
    // the last prompt token again: the same step gives the same answer
    let last = ids.len() - 1;
    let mut next = target
        .forward(&rows(slot, last, &ids[last..], Want::Token), Phase::Decode)
        .unwrap()[0]
        .token;
    for (step, want) in want_logits.rows().enumerate() {
        assert_eq!(next, want_tokens[step], "{what}, greedy token {step}");
        let output = target
            .forward(&rows(slot, ids.len() + step, &[next], Want::Logits), Phase::Decode)
            .unwrap()
            .remove(0);
        let got = output.logits.unwrap();
        Distance::between(&got, want).assert_exact(&format!("{what}, greedy logits {step}"));
        next = output.token;
        assert_eq!(next, argmax(&got));
    }
}

#[test]
fn intermediate_results_are_those_of_the_reference() {
    for device in devices() {
        for Case { name, file, golden } in cases("gemma4") {
            let what = |name: &str, part: &str| format!("{name} {part} on {}", device.properties().name);
            let mut target = load(&device, &file, None, EXACT, (1, 64));
            let ids = tokens(&golden, "p0.input_ids");
            let count = ids.len().min(6);
            let (_, trace) = target.trace(&rows(0, 0, &ids[..count], Want::Logits)).unwrap();
            let compare = |part: &str, got: &[f32]| {
                let want = golden.f32(&format!("p0.{part}")).unwrap();
                Distance::between(got, &want.values).assert_exact(&what(&name, part));
            };
            compare("embed", &trace.embed);
            compare("layer_out", &trace.layers.concat());
            compare("final_norm", &trace.hidden);
            if target.config().ple > 0 {
                compare("ple", &trace.ple);
            }
            for (kind, label) in [(LayerKind::Sliding, "sliding"), (LayerKind::Full, "full")] {
                let (keys, values) = target.cached(kind, 0, count).unwrap();
                compare(&format!("kv_k.{label}"), &keys);
                compare(&format!("kv_v.{label}"), &values);
            }
        }
    }
}

#[test]
fn fast_logits_are_within_the_tolerance_of_int8() {
    for device in devices() {
        for Case { name, file, golden } in cases("gemma4") {
            let mut target = load(&device, &file, None, FAST, (2, 32));
            let (mut equal, mut count) = (0, 0);
            for reference in ["logits", "cpu_ref_logits"] {
                for (slot, prompt) in [(0, "p0"), (1, "p1")] {
                    let ids = tokens(&golden, &format!("{prompt}.input_ids"));
                    let want = golden.f32(&format!("{prompt}.{reference}")).unwrap();
                    let got = logits(&mut target, slot, &ids, 32);
                    let distance = Distance::between(&got.concat(), &want.values);
                    let best = got.iter().zip(want.rows());
                    let agreeing = best.filter(|(got, want)| argmax(got) == argmax(want)).count();
                    println!(
                        "{name:<20} fast, {}, {prompt} against {reference}: max {:.2}, rms {:.3}, argmax {agreeing}/{}",
                        device.properties().name,
                        distance.max,
                        distance.rms,
                        got.len()
                    );
                    assert!(distance.rms <= 0.35, "{name} {prompt} {reference}: {distance:?}");
                    if reference == "logits" {
                        equal += agreeing;
                        count += got.len();
                    }
                }
            }
            assert!(
                equal * 10 >= count * 9,
                "{name}: argmax agrees at {equal} of {count} positions"
            );
        }
    }
}

/// The invariant that verification of drafts rests on.
#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    for device in devices() {
        for Case { name, file, golden } in cases("gemma4") {
            let mut ids = tokens(&golden, "p1.input_ids");
            if !in_full(&device) {
                ids.truncate(18);
            }
            for mode in [EXACT, FAST] {
                let mut target = load(&device, &file, None, mode, (3, 32));
                let together = logits(&mut target, 0, &ids, 32);
                for (slot, chunk) in [(1, 1), (2, 3)] {
                    let apart = logits(&mut target, slot, &ids, chunk);
                    assert!(together == apart, "{name}: chunks of 32 and of {chunk} differ");
                }
            }
        }
    }
}
