//! Choosing tokens on the first CUDA device: microseconds for all rows of a step together, as a replayed graph.
//! `cargo bench -p tilekiln --bench sampling`; without a device it says so and ends.

use std::sync::Arc;

use tilekiln::model::choice::{Choice, ChoiceInputs, ChoiceSizes, Choosing};
use tilekiln::plan::{BufferKind, BufferTable, Machine, Plan, PlanError, Size};
use tilekiln::sample::{Sampler, Settings};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_tests::random::Random;

const VOCABULARY: usize = 262_144;
const CONTEXT: usize = 16_384;
/// Rows of the largest step.
const ROWS: usize = 16;
/// Steps per sample; samples per figure.
const STEPS: u32 = 50;
const SAMPLES: usize = 9;

/// Names of settings, and the settings.
fn settings() -> Vec<(&'static str, Settings)> {
    let greedy = Settings::default();
    let sampled = Settings {
        temperature: 1.0,
        seed: Some(1),
        ..Settings::default()
    };
    let penalties = |penalty_window, settings: &Settings| Settings {
        repetition_penalty: 1.1,
        penalty_window,
        ..settings.clone()
    };
    let recommended = Settings {
        top_k: 64,
        top_p: 0.95,
        ..sampled.clone()
    };
    let top_p = Settings {
        top_p: 0.95,
        ..sampled.clone()
    };
    let large_k = Settings {
        top_k: 50_000,
        ..sampled.clone()
    };
    vec![
        ("greedy", greedy.clone()),
        (
            "greedy, one token ruled out",
            Settings {
                logit_bias: vec![(9, f32::NEG_INFINITY)],
                ..greedy.clone()
            },
        ),
        ("greedy, penalties over 64", penalties(64, &greedy)),
        ("greedy, penalties over 8192", penalties(8192, &greedy)),
        ("temperature", sampled),
        ("top-k 64, top-p 0.95", recommended.clone()),
        ("the same, penalties over 64", penalties(64, &recommended)),
        ("top-p 0.95", top_p),
        ("top-k 50000", large_k),
    ]
}

/// Rows as models give them (a few tokens stand out), and rows in which hardly any token differs from another.
fn logits(kind: &str, random: &mut Random) -> Vec<f32> {
    let mut all = Vec::new();
    for _ in 0..ROWS {
        let mut row = random.normals(VOCABULARY, 3.0);
        match kind {
            "flat" => row.iter_mut().for_each(|logit| *logit *= 0.02),
            _ => {
                for token in random.indices(30, VOCABULARY) {
                    row[token as usize] = (18.0 + 3.0 * random.normal()) as f32;
                }
            }
        }
        all.extend(row);
    }
    all
}

/// The chain with its inputs.
struct Bench {
    machine: Machine,
    choice: Choice,
    inputs: ChoiceInputs,
    plans: [Plan; Choosing::ALL.len()],
}

impl Bench {
    fn new(device: Arc<dyn Device>) -> Result<Self, PlanError> {
        let mut table = BufferTable::new(ROWS);
        let inputs = ChoiceInputs {
            logits: table.add("logits", BufferKind::Input, ROWS * VOCABULARY * 4),
            outputs: table.input("outputs"),
            tokens: table.input("tokens"),
            positions: table.input("positions"),
        };
        let sizes = ChoiceSizes {
            slots: ROWS,
            context: CONTEXT,
            rows: ROWS,
            vocabulary: VOCABULARY,
        };
        let mut choice = Choice::add(&mut table, sizes);
        let plans = Choosing::ALL.map(|choosing| {
            let mut plan = Plan::new(choosing.name());
            choice.push(&mut plan, choosing, &inputs);
            plan
        });
        let mut machine = Machine::new(device, table)?;
        machine.load(&plans)?;
        choice.reset(&machine)?;
        let rows: Vec<u32> = (0..ROWS as u32).collect();
        machine.write(inputs.outputs, &rows)?;
        machine.write(inputs.tokens, &rows)?;
        machine.write(inputs.positions, &[10_000; ROWS])?;
        Ok(Self {
            machine,
            choice,
            inputs,
            plans,
        })
    }

    /// Sets all slots up and returns what has to be done for them.
    fn prepare(&mut self, settings: &Settings, rows: usize) -> Result<Plan, PlanError> {
        let tokens = Random::new("history").indices(10_000, VOCABULARY);
        for slot in 0..rows {
            let sampler = Sampler::new(settings, VOCABULARY, &[]).expect("settings that can be used");
            self.choice.set(&self.machine, slot, &sampler, 9_999, &tokens)?;
        }
        let choosers = (0..rows as u32).map(Some);
        let choosing = self.choice.write_choosers(&self.machine, choosers)?;
        Ok(self.plans[choosing.index()].clone())
    }

    /// Median, least and most microseconds of a plan.
    fn measure(&mut self, plan: &Plan, rows: usize) -> Result<[f64; 3], PlanError> {
        let mut samples = Vec::new();
        for sample in 0..=SAMPLES {
            let device = self.machine.device().clone();
            let start = device.mark()?;
            for _ in 0..STEPS {
                self.machine.run(&[(plan, &Size::of_rows(rows))])?;
            }
            let end = device.mark()?;
            let time = device.elapsed(&start, &end)?.as_secs_f64() * 1e6 / f64::from(STEPS);
            // the first round warms up
            if sample > 0 {
                samples.push(time);
            }
        }
        samples.sort_by(f64::total_cmp);
        Ok([samples[SAMPLES / 2], samples[0], samples[SAMPLES - 1]])
    }
}

fn run(device: CudaDevice) -> Result<(), PlanError> {
    println!(
        "{}, {VOCABULARY} tokens, microseconds a step\n",
        device.properties().name
    );
    println!("| logits | settings | 1 row | 4 rows | 16 rows |");
    println!("| --- | --- | ---: | ---: | ---: |");
    let mut bench = Bench::new(Arc::new(device))?;
    for kind in ["as models give them", "flat"] {
        let logits = logits(kind, &mut Random::new(kind));
        for (name, settings) in settings() {
            let mut cells = Vec::new();
            for rows in [1, 4, ROWS] {
                // penalties have changed them
                bench.machine.write(bench.inputs.logits, &logits)?;
                let plan = bench.prepare(&settings, rows)?;
                let [median, least, most] = bench.measure(&plan, rows)?;
                cells.push(format!("{median:.1} ({least:.1} to {most:.1})"));
            }
            println!("| {kind} | {name} | {} |", cells.join(" | "));
        }
    }
    stages(&mut bench)
}

/// Each launch of a draw by itself.
fn stages(bench: &mut Bench) -> Result<(), PlanError> {
    println!("\n| launch, top-k 64, top-p 0.95 | 1 row | 16 rows |");
    println!("| --- | ---: | ---: |");
    let logits = logits("as models give them", &mut Random::new("stages"));
    bench.machine.write(bench.inputs.logits, &logits)?;
    let settings = Settings {
        temperature: 1.0,
        top_k: 64,
        top_p: 0.95,
        seed: Some(1),
        ..Settings::default()
    };
    let plan = bench.prepare(&settings, ROWS)?;
    // what each launch reads is what the others have left
    bench.machine.run(&[(&plan, &Size::of_rows(ROWS))])?;
    for stage in &plan.stages {
        let alone = plan.only(stage);
        let [one, ..] = bench.measure(&alone, 1)?;
        let [all, ..] = bench.measure(&alone, ROWS)?;
        println!("| {} | {one:.1} | {all:.1} |", stage.label);
    }
    Ok(())
}

fn main() {
    let device = match CudaDevice::open(0) {
        Ok(device) => device,
        Err(error) => return println!("no CUDA device: {error}"),
    };
    if let Err(error) = run(device) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
