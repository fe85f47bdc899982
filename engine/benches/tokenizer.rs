//! Encoding ten million bytes of several sorts of text, and decoding them.
//!
//! The vocabulary is made here: of the size and shape of a real one (262144 tokens, half a million merges), trained on
//! nothing, so that words of common syllables, all pairs of letters, and runs of spaces and newlines merge.

#[path = "../tests/support/vocabulary.rs"]
mod vocabulary;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tilekiln::sample::{Sampler, Settings};
use tilekiln::tokenizer::{Control, Special, Tokenizer};
use tilekiln_tests::random::Random;
use vocabulary::large_vocabulary;

const BYTES: usize = 10_000_000;

/// Texts of [`BYTES`] bytes or a little more.
fn texts() -> Vec<(&'static str, String)> {
    let mut random = Random::new("tokenizer-bench");
    let letters: Vec<char> = ('a'..='z').collect();
    let syllables = [
        "the", "ing", "er", "an", "re", "ou", "st", "qu", "ion", "le", "at", "mi", "so", "lu",
    ];
    let mut fill = |next: &mut dyn FnMut(&mut Random, &mut String)| {
        let mut text = String::with_capacity(BYTES + 64);
        while text.len() < BYTES {
            next(&mut random, &mut text);
        }
        text
    };
    let pick = |random: &mut Random, count: usize| random.integer(0..=count as i64 - 1) as usize;
    vec![
        ("a", "a".repeat(BYTES)),
        (
            "words",
            fill(&mut |random, text| {
                for _ in 0..1 + pick(random, 4) {
                    text.push_str(syllables[pick(random, syllables.len())]);
                }
                text.push_str([" ", " ", " ", ", ", ". ", "\n"][pick(random, 6)]);
            }),
        ),
        (
            "random words",
            fill(&mut |random, text| {
                for _ in 0..1 + pick(random, 12) {
                    text.push(letters[pick(random, 26)]);
                }
                text.push(' ');
            }),
        ),
        (
            "letters",
            fill(&mut |random, text| text.push(letters[pick(random, 26)])),
        ),
        ("ab", fill(&mut |random, text| text.push(letters[pick(random, 2)]))),
        ("newlines", "\n".repeat(BYTES)),
        ("spaces", " ".repeat(BYTES)),
        (
            "emoji",
            fill(&mut |random, text| text.push(['🙂', '🙃', '日', 'é', '\u{200d}'][pick(random, 5)])),
        ),
        ("<", "<".repeat(BYTES)),
        ("specials", "<|turn>".repeat(BYTES / 7 + 1)),
        ("half specials", "<|tur<|turn<turn|".repeat(BYTES / 17 + 1)),
    ]
}

fn encode(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::new(large_vocabulary()).expect("a vocabulary");
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(2));
    let texts = texts();
    for (name, text) in &texts {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| black_box(tokenizer.encode(text, Special::Parse)).len())
        });
    }
    group.finish();

    let tokens = tokenizer.encode(&texts[1].1, Special::Parse);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("words", |bencher| {
        bencher.iter(|| black_box(tokenizer.decode(&tokens, Control::Hide)).len())
    });
    group.finish();

    let mut group = criterion.benchmark_group("build");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(2));
    let vocabulary = large_vocabulary();
    group.bench_function("262144 tokens", |bencher| {
        bencher.iter_with_large_drop(|| Tokenizer::new(vocabulary.clone()).map(|tokenizer| tokenizer.len()));
    });
}

/// One token from 262144 logits.
fn sample(criterion: &mut Criterion) {
    let logits = Random::new("sampler-bench").normals(262_144, 3.0);
    let settings = Settings {
        temperature: 1.0,
        seed: Some(1),
        ..Settings::default()
    };
    let table = [
        ("greedy", Settings::default()),
        (
            "recommended (top-k 64, top-p 0.95)",
            Settings {
                top_k: 64,
                top_p: 0.95,
                ..settings.clone()
            },
        ),
        (
            "top-p 0.95",
            Settings {
                top_p: 0.95,
                ..settings.clone()
            },
        ),
        (
            "min-p 0.05",
            Settings {
                min_p: 0.05,
                ..settings.clone()
            },
        ),
        ("temperature", settings),
    ];
    let mut group = criterion.benchmark_group("sample");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    for (name, settings) in table {
        let mut sampler = Sampler::new(&settings, logits.len(), &[]).expect("settings in range");
        let mut row = logits.clone();
        group.bench_function(name, |bencher| bencher.iter(|| sampler.sample(&mut row)));
    }
    group.finish();
}

criterion_group!(benches, encode, sample);
criterion_main!(benches);
