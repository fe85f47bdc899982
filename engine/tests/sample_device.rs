//! The sampler chain on devices against the sampler on the CPU: the same token for the same logits, settings and random
//! numbers, always.

use std::sync::{Arc, LazyLock, Mutex};

use proptest::prelude::*;
use tilekiln::model::choice::{Choice, ChoiceInputs, ChoiceSizes, Choosing};
use tilekiln::plan::{BufferKind, BufferTable, Machine, Plan, Size};
use tilekiln::sample::{NoChoice, Sampler, Settings};
use tilekiln_kernels::sample::{NOT_A_NUMBER, NOTHING_LEFT};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::random::Random;
use tilekiln_tests::requirement::require;

const SLOTS: usize = 3;
const CONTEXT: usize = 120;
const ROWS: usize = 2 * SLOTS * (1 + DRAFTS);
const DRAFTS: usize = 2;

/// Everything that is needed to choose, without a model.
struct Bench {
    name: String,
    machine: Machine,
    choice: Choice,
    inputs: ChoiceInputs,
    plans: [Plan; Choosing::ALL.len()],
    vocabulary: usize,
}

impl Bench {
    fn new(device: Arc<dyn Device>, vocabulary: usize) -> Self {
        let mut table = BufferTable::new(ROWS);
        let inputs = ChoiceInputs {
            logits: table.add("logits", BufferKind::Input, ROWS * vocabulary * 4),
            outputs: table.input("outputs"),
            tokens: table.input("tokens"),
            positions: table.input("positions"),
        };
        let sizes = ChoiceSizes {
            slots: SLOTS,
            context: CONTEXT,
            rows: ROWS,
            vocabulary,
        };
        let mut choice = Choice::add(&mut table, sizes);
        let plans = Choosing::ALL.map(|choosing| {
            let mut plan = Plan::new(choosing.name());
            choice.push(&mut plan, choosing, &inputs);
            plan
        });
        let name = format!("{vocabulary} tokens on {}", device.properties().name);
        let mut machine = Machine::new(device, table).unwrap();
        machine.load(&plans).unwrap();
        choice.reset(&machine).unwrap();
        Self {
            name,
            machine,
            choice,
            inputs,
            plans,
            vocabulary,
        }
    }

    /// One of each size on each device.
    fn all(sizes: &[usize]) -> Vec<Self> {
        let mut devices: Vec<Arc<dyn Device>> = vec![Arc::new(HostDevice::new())];
        if let Some(cuda) = require("cuda", CudaDevice::open(0)) {
            devices.push(Arc::new(cuda));
        }
        let benches = devices
            .iter()
            .flat_map(|device| sizes.iter().map(move |size| Self::new(device.clone(), *size)));
        benches.collect()
    }

    /// What rows choose: chooser, token, position, logits of each.
    fn choose(&mut self, rows: &[(Option<u32>, u32, usize, Vec<f32>)]) -> Vec<Result<u32, NoChoice>> {
        let machine = &mut self.machine;
        // the step has the rows in another order, and others between them
        let step_row = |row: usize| rows.len() - 1 - row;
        let step: Vec<usize> = (0..rows.len()).rev().collect();
        machine
            .write(
                self.inputs.outputs,
                &(0..rows.len()).map(|row| step_row(row) as u32).collect::<Vec<_>>(),
            )
            .unwrap();
        machine
            .write(
                self.inputs.tokens,
                &step.iter().map(|row| rows[*row].1).collect::<Vec<_>>(),
            )
            .unwrap();
        machine
            .write(
                self.inputs.positions,
                &step.iter().map(|row| rows[*row].2 as u32).collect::<Vec<_>>(),
            )
            .unwrap();
        let logits: Vec<f32> = rows.iter().flat_map(|row| row.3.iter().copied()).collect();
        machine.write(self.inputs.logits, &logits).unwrap();
        let choosers = rows.iter().map(|row| row.0);
        let choosing = self.choice.write_choosers(machine, choosers).unwrap();
        machine
            .run(&[(&self.plans[choosing.index()], &Size::of_rows(rows.len()))])
            .unwrap();
        let chosen = self.choice.chosen(machine, rows.len()).unwrap();
        let result = |token| match token {
            NOT_A_NUMBER => Err(NoChoice::NotANumber),
            NOTHING_LEFT => Err(NoChoice::NothingLeft),
            token => Ok(token),
        };
        chosen.into_iter().map(result).collect()
    }
}

/// Rows of logits of a kind that is hard in some way.
fn logits(random: &mut Random, count: usize) -> Vec<f32> {
    let mut values = random.normals(count, 3.0);
    let few = [-1.0, -0.0, 0.0, 2.0, 2.0, f32::NEG_INFINITY, f32::INFINITY];
    let any = |random: &mut Random, last: i64| few[random.integer(0..=last) as usize];
    match random.integer(0..=13) {
        0 => values.iter_mut().for_each(|value| *value *= 0.02),
        1 => values.iter_mut().for_each(|value| *value = any(random, 4)),
        2 => values
            .iter_mut()
            .for_each(|value| *value = (*value * 3.0).round() / 3.0),
        3 => values.iter_mut().for_each(|value| match random.integer(0..=5) {
            0 => *value = f32::NAN,
            1 => *value = f32::NEG_INFINITY,
            _ => {}
        }),
        4 => values.fill(f32::NEG_INFINITY),
        5 => values.fill(f32::NAN),
        6 => values.iter_mut().for_each(|value| match random.integer(0..=40) {
            0 => *value = any(random, 6),
            1 => *value = f32::NAN,
            _ => {}
        }),
        7 => values
            .iter_mut()
            .for_each(|value| *value = (*value * 1e38).clamp(f32::MIN, f32::MAX)),
        8 => values.fill(1.25),
        9 => values.iter_mut().for_each(|value| *value = any(random, 5)),
        10 => values[random.integer(0..=count as i64 - 1) as usize] = 30.0,
        _ => {}
    }
    values
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let filters = (
        prop_oneof![Just(0.0_f32), Just(1.0), 0.1..3.0_f32, Just(1e-30), Just(1e30)],
        prop_oneof![Just(0), 1..60_usize, Just(700), Just(100_000)],
        prop_oneof![Just(1.0_f32), 0.0..1.0_f32, 0.9..1.0_f32],
        prop_oneof![Just(0.0_f32), 0.0..1.0_f32, Just(1.0)],
        any::<u64>(),
    );
    let penalties = (
        prop_oneof![Just(1.0_f32), 0.5..2.0_f32],
        prop_oneof![Just(0.0_f32), -2.0..2.0_f32],
        prop_oneof![Just(0.0_f32), -1.0..1.0_f32],
        prop_oneof![Just(0), 1..100_usize, Just(usize::MAX)],
    );
    let bias = prop_oneof![Just(f32::NEG_INFINITY), Just(0.0), -5.0..5.0_f32];
    let biases = proptest::collection::vec((0..997_u32, bias), 0..12);
    (filters, penalties, biases).prop_map(|(filters, penalties, logit_bias)| {
        let (temperature, top_k, top_p, min_p, seed) = filters;
        let (repetition_penalty, presence_penalty, frequency_penalty, penalty_window) = penalties;
        Settings {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias,
            seed: Some(seed),
        }
    })
}

/// A slot's request: its sampler, its tokens so far.
struct Sequence {
    sampler: Sampler,
    tokens: Vec<u32>,
}

/// A round: every slot's newest token and drafts, rows that nobody chooses for between them. Compares all rows, those
/// behind a rejected draft too, then takes over what is confirmed.
fn round(bench: &mut Bench, random: &mut Random, sequences: &mut [Sequence]) -> Result<(), TestCaseError> {
    let vocabulary = bench.vocabulary;
    let mut rows = Vec::new();
    let mut want = Vec::new();
    let mut confirmed = Vec::new();
    for (slot, sequence) in sequences.iter().enumerate() {
        let mut sampler = sequence.sampler.clone();
        let last = sequence.tokens.len() - 1;
        let mut token = sequence.tokens[last];
        let mut is_confirmed = true;
        let mut emitted = Vec::new();
        for row in 0..=DRAFTS {
            let logits = logits(random, vocabulary);
            let chosen = sampler.clone().sample(&mut logits.clone());
            rows.push((Some(slot as u32), token, last + row, logits.clone()));
            want.push(chosen);
            // some drafts are right
            let draft = match chosen {
                Ok(chosen) if random.integer(0..=1) == 0 => chosen,
                _ => random.integer(0..=vocabulary as i64 - 1) as u32,
            };
            if is_confirmed && let Ok(chosen) = chosen {
                emitted.push(chosen);
            }
            is_confirmed &= chosen == Ok(draft);
            sampler.follow(draft);
            token = draft;
        }
        confirmed.push(emitted);
        if random.integer(0..=1) == 0 {
            let plain = logits(random, vocabulary);
            want.push(
                Sampler::new(&Settings::default(), vocabulary, &[])
                    .unwrap()
                    .sample(&mut plain.clone()),
            );
            rows.push((None, 0, 0, plain));
        }
    }
    let got = bench.choose(&rows);
    prop_assert_eq!(&got, &want, "{}", bench.name);
    for (sequence, emitted) in sequences.iter_mut().zip(confirmed) {
        for token in emitted {
            sequence.sampler.follow(token);
            sequence.tokens.push(token);
        }
    }
    Ok(())
}

fn answers(bench: &mut Bench, settings: &[Settings], seed: u64) -> Result<(), TestCaseError> {
    let mut random = Random::with_seed(seed, "sample-device");
    let mut sequences = Vec::new();
    for (slot, settings) in settings.iter().enumerate() {
        let suppressed = [3, slot as u32 + 10];
        let mut sampler = Sampler::new(settings, bench.vocabulary, &suppressed).unwrap();
        let length = random.integer(1..=70) as usize;
        // few different tokens, so that penalties count more than one
        let tokens = random.indices(length, 20);
        tokens.iter().for_each(|token| sampler.accept(*token));
        bench
            .choice
            .set(&bench.machine, slot, &sampler, length - 1, &tokens)
            .unwrap();
        prop_assert!(bench.choice.fits(&sampler, CONTEXT));
        sequences.push(Sequence { sampler, tokens });
    }
    for _ in 0..3 {
        round(bench, &mut random, &mut sequences)?;
    }
    Ok(())
}

/// Vocabularies that are one chunk and several, with and without loads of four.
static BENCHES: LazyLock<Mutex<Vec<Bench>>> = LazyLock::new(|| Mutex::new(Bench::all(&[997, 3100])));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn devices_choose_what_the_sampler_chooses(
        settings in proptest::collection::vec(any_settings(), SLOTS),
        seed in any::<u64>(),
    ) {
        for bench in BENCHES.lock().unwrap().iter_mut() {
            answers(bench, &settings, seed)?;
        }
    }
}

/// As large as vocabularies are.
#[test]
fn a_large_vocabulary() {
    let sampled = Settings {
        temperature: 1.0,
        seed: Some(5),
        ..Settings::default()
    };
    let table = [
        Settings {
            top_k: 64,
            top_p: 0.95,
            ..sampled.clone()
        },
        Settings {
            top_p: 0.9,
            temperature: 0.7,
            ..sampled.clone()
        },
        // more than one block can sort
        Settings {
            top_k: 30_000,
            top_p: 0.999,
            ..sampled.clone()
        },
        Settings {
            min_p: 0.02,
            repetition_penalty: 1.3,
            ..sampled.clone()
        },
        sampled,
        Settings {
            presence_penalty: 0.7,
            ..Settings::default()
        },
    ];
    for mut bench in Bench::all(&[262_144]) {
        let is_host = bench.name.contains("CPU");
        for (index, settings) in table.chunks(SLOTS).enumerate() {
            let seeds = if is_host { 0..1 } else { 0..40 };
            for seed in seeds {
                answers(&mut bench, settings, 100 * seed + index as u64).unwrap();
            }
        }
    }
}

#[test]
fn what_a_slot_has_no_room_for_is_left_to_the_cpu() {
    let bench = Bench::new(Arc::new(HostDevice::new()), 262_144);
    let sampler = |biases: u32, window: usize| {
        let settings = Settings {
            logit_bias: (0..biases).map(|token| (token, 1.0)).collect(),
            presence_penalty: 1.0,
            penalty_window: window,
            ..Settings::default()
        };
        Sampler::new(&settings, bench.vocabulary, &[]).unwrap()
    };
    for (biases, window, position, fits) in [
        (0, 64, 100_000, true),
        (4096, 64, 0, true),
        (4097, 64, 0, false),
        (0, 8192, 100_000, true),
        (0, 8193, 100_000, false),
        (0, usize::MAX, 8191, true),
        (0, usize::MAX, 8192, false),
    ] {
        let what = (biases, window, position);
        assert_eq!(bench.choice.fits(&sampler(biases, window), position), fits, "{what:?}");
    }
}
