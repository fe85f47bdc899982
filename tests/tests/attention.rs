//! Attention end to end: the matrix of formats and shapes, windows, batches, and the outputs of another implementation.
//!
//! On the CPU a sample of the matrix runs, another one with every seed; on a GPU all of it, one line a launch, into the
//! file that `TILEKILN_MATRIX` names. `TILEKILN_MATRIX_PAIRS` leaves only some pairs: `turbo3/f16,q8_0/*`.

use std::io::Write as _;
use std::time::{Instant, SystemTime};

use tilekiln_dsl::target::Target;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::attention::matrix::{self, DECODED, GQA, HEAD_DIMS, Line, TOKENS};
use tilekiln_tests::attention::{Kernels, Row, Scene, Setup};
use tilekiln_tests::cases::CaseError;
use tilekiln_tests::random::{Random, SEED_VARIABLE, seed};
use tilekiln_tests::requirement::require;

const FILE: &str = "TILEKILN_MATRIX";
const PAIRS: &str = "TILEKILN_MATRIX_PAIRS";

/// The seed of this run: the one that was asked for, else a new one, which is printed.
fn fresh_seed(test: &str) -> u64 {
    let fresh = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |time| u64::from(time.subsec_nanos()) + time.as_secs());
    let chosen = match std::env::var(SEED_VARIABLE) {
        Ok(_) => seed(),
        Err(_) => fresh,
    };
    say(&format!("{test}: again with {SEED_VARIABLE}={chosen}"));
    chosen
}

/// Past the test harness, which keeps what `println!` says in a test that passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Fails with everything that is wrong.
fn conclude(lines: &[Line], errors: Vec<String>) {
    let faults: Vec<String> = lines.iter().filter_map(Line::fault).chain(errors).collect();
    assert!(!lines.is_empty(), "nothing was compared");
    assert!(
        faults.is_empty(),
        "{} of {} cells are wrong\n{}",
        faults.len(),
        lines.len(),
        faults[..faults.len().min(20)].join("\n")
    );
}

/// A scene for one cell or a few, and the cells of it.
fn cells(
    kernels: &Kernels<'_>,
    setup: Setup,
    random: &mut Random,
    wanted: &[(usize, usize)],
) -> Result<Vec<Line>, String> {
    let name = format!("{setup:?} for {}", kernels.target.name);
    let describe = |error| format!("{name}: {error}");
    let scene = Scene::new(kernels, setup, random).map_err(describe)?;
    let [flash, exact] = matrix::references(&scene).map_err(describe)?;
    let run = |&(gqa, tokens): &(usize, usize)| matrix::run(&scene, &flash, Some(&exact), gqa, tokens);
    wanted.iter().map(run).collect::<Result<_, _>>().map_err(describe)
}

fn run_all(target: &str, device: &dyn Device, all: Vec<(Setup, Vec<(usize, usize)>)>, seed: u64) {
    let target = Target::named(target).expect("the target exists");
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for (number, (setup, wanted)) in all.into_iter().enumerate() {
        let kernels = Kernels::new(device, target);
        let mut random = Random::with_seed(seed, &format!("scene {number}"));
        match cells(&kernels, setup, &mut random, &wanted) {
            Ok(found) => lines.extend(found),
            Err(error) => errors.push(error),
        }
    }
    let name = device.properties().name.replace(',', "");
    say(&format!(
        "{}\n{}",
        matrix::HEADER,
        matrix::csv(&name, target.name, &lines)
    ));
    conclude(&lines, errors);
}

/// Every pair once, with head dims, GQA ratios and tokens in turn, so that all of each occur; from a random start on.
fn sample(random: &mut Random) -> Vec<(Setup, Vec<(usize, usize)>)> {
    let start = random.integer(0..=1000) as usize;
    let scene = |number: usize, pair: [&'static str; 2]| {
        let head_dim = HEAD_DIMS[(number + start) % HEAD_DIMS.len()];
        let gqa = GQA[(number + start / 3) % GQA.len()];
        // long prompts cost the CPU much: fewer of them, of small heads
        let tokens = match number % 16 {
            15 if head_dim <= 128 => [64, 257][number / 16 % 2],
            _ => TOKENS[(number / 2 + start) % 6],
        };
        let gqa = if tokens > DECODED { gqa.min(3) } else { gqa };
        let keys = random.odd_size(tokens.max(30)..=tokens.max(30) + 190);
        let setup = Setup {
            pair,
            head_dim,
            kv_heads: if number.is_multiple_of(3) && head_dim < 512 {
                2
            } else {
                1
            },
            window: None,
            lengths: vec![keys],
            most_gqa: gqa,
            most_rows: tokens,
        };
        (setup, vec![(gqa, tokens)])
    };
    let mut pairs = matrix::pairs();
    // which pair meets which shape changes with the seed
    let turn = start % pairs.len();
    pairs.rotate_left(turn);
    let mut scene = scene;
    let mut all: Vec<_> = pairs
        .into_iter()
        .enumerate()
        .map(|(number, pair)| scene(number, pair))
        .collect();
    // the two longest, so that they are there whatever the order
    for (pair, tokens, head_dim) in [(["f16", "turbo3"], 64, 128), (["turbo3", "q8_0"], 257, 64)] {
        let setup = Setup {
            pair,
            head_dim,
            kv_heads: 1,
            window: None,
            lengths: vec![tokens + 34],
            most_gqa: 3,
            most_rows: tokens,
        };
        all.push((setup, vec![(3, tokens)]));
    }
    all
}

/// Windows shorter than the sequences, whose rings wrap, and several sequences of different lengths in one step.
fn windows_and_batches(random: &mut Random) -> Vec<(Setup, Vec<(usize, usize)>)> {
    let pairs = matrix::pairs();
    let mut all = Vec::new();
    for number in 0..14 {
        let gqa = GQA[number % GQA.len()];
        let tokens = [1, 4, 3, 16, 2, 8, 33][(number + number / 7) % 7];
        let window = (number < 9).then(|| random.odd_size(1..=70));
        let slots = if number < 5 { 1 } else { 3 };
        let setup = Setup {
            pair: pairs[random.integer(0..=48) as usize],
            head_dim: HEAD_DIMS[(number + number / 4) % 4],
            kv_heads: 1 + number % 2,
            window,
            lengths: (0..slots)
                .map(|_| random.odd_size(tokens + 10..=tokens + 220))
                .collect(),
            most_gqa: gqa,
            most_rows: tokens,
        };
        all.push((setup, vec![(gqa, tokens)]));
    }
    all
}

#[test]
fn a_sample_of_the_matrix_on_the_host_for_sm_90() {
    let seed = fresh_seed("sample for sm_90");
    let all = sample(&mut Random::with_seed(seed, "sample"));
    run_all("sm_90", &HostDevice::new(), all, seed);
}

#[test]
fn a_sample_of_the_matrix_on_the_host_for_gfx1150() {
    let seed = fresh_seed("sample for gfx1150");
    let all = sample(&mut Random::with_seed(seed, "sample gfx1150"));
    run_all("gfx1150", &HostDevice::new(), all, seed);
}

#[test]
fn windows_and_batches_on_the_host() {
    let seed = fresh_seed("windows and batches");
    for target in ["sm_90", "gfx1150"] {
        let all = windows_and_batches(&mut Random::with_seed(seed, target));
        run_all(target, &HostDevice::new(), all, seed);
    }
}

#[test]
fn windows_and_batches_on_cuda() {
    let Some(device) = require("cuda", CudaDevice::open(0)) else {
        return;
    };
    let seed = fresh_seed("windows and batches");
    let all = windows_and_batches(&mut Random::with_seed(seed, "cuda"));
    run_all(device.properties().target.name, &device, all, seed);
}

/// A row's bits are the same in groups of 1, 4 and 16 rows, whatever shape of block that takes, alone and beside rows of
/// other slots; so are attend_exact's.
fn invariance(target: &str, device: &dyn Device, pairs: &[[&'static str; 2]], seed: u64) {
    let target = Target::named(target).expect("the target exists");
    let kernels = Kernels::new(device, target);
    for (number, &pair) in pairs.iter().enumerate() {
        let (head_dim, gqa) = (HEAD_DIMS[number % 4], [3, 1, 4, 2][number % 4]);
        let mut random = Random::with_seed(seed, &format!("invariance {number}"));
        let setup = Setup {
            pair,
            head_dim,
            kv_heads: 1,
            window: (number % 2 == 1).then_some(61),
            lengths: vec![
                random.odd_size(100..=200),
                random.odd_size(20..=100),
                random.odd_size(100..=300),
            ],
            most_gqa: gqa,
            most_rows: 16,
        };
        let name = format!("{setup:?} for {}", target.name);
        let fail = |error: CaseError| -> String { format!("{name}: {error}") };
        let scene = Scene::new(&kernels, setup, &mut random).unwrap_or_else(|error| panic!("{}", fail(error)));
        let bits = |rows: &[Row], per: usize, columns: usize| -> Vec<u32> {
            let chosen = scene.shapes.decode(gqa, columns).expect("a shape for one row");
            let got = scene.decode(rows, gqa, chosen, per.min(chosen.rows(gqa)));
            let got = got.unwrap_or_else(|error| panic!("{}", fail(error)));
            got.into_iter().map(f32::to_bits).collect()
        };
        let rows = scene.last_rows(0, 16);
        let alone: Vec<u32> = rows.iter().flat_map(|&row| bits(&[row], 1, 1)).collect();
        assert!(
            alone.iter().any(|&bits| bits != 0) && alone.iter().all(|&bits| f32::from_bits(bits).is_finite()),
            "{name}"
        );
        for per in [1, 4, 16] {
            assert_eq!(bits(&rows, per, per), alone, "{name}: groups of {per}");
        }
        let among: Vec<Row> = [scene.last_rows(2, 3), rows.clone(), scene.last_rows(1, 16)].concat();
        let each = alone.len() / 16;
        let together = bits(&among, 4, 4);
        assert_eq!(together[3 * each..19 * each], alone, "{name}: among other slots");
        // and they are right
        let [flash, _] = matrix::references(&scene).unwrap_or_else(|error| panic!("{}", fail(error)));
        let got: Vec<f32> = together.into_iter().map(f32::from_bits).collect();
        let errors = flash.compare(&among, gqa, &got);
        assert!(errors.fault.is_empty(), "{name}: {}", errors.fault);
    }
}

const INVARIANT: [[&str; 2]; 8] = [
    ["turbo3", "turbo3"],
    ["f16", "f16"],
    ["q8_0", "turbo4"],
    ["bf16", "q4_0"],
    ["turbo2", "bf16"],
    ["q4_0", "q8_0"],
    ["turbo4", "turbo2"],
    ["f16", "turbo3"],
];

#[test]
fn rows_do_not_depend_on_others_on_the_host() {
    let seed = fresh_seed("invariance");
    for target in ["sm_90", "gfx1150"] {
        invariance(target, &HostDevice::new(), &INVARIANT, seed);
    }
}

#[test]
fn rows_do_not_depend_on_others_on_cuda() {
    let Some(device) = require("cuda", CudaDevice::open(0)) else {
        return;
    };
    let seed = fresh_seed("invariance");
    invariance(device.properties().target.name, &device, &INVARIANT, seed);
}

/// The pairs that the environment asks for, all without it: `k/v`, with `*` for every format.
fn wanted_pairs() -> Vec<[&'static str; 2]> {
    let Ok(wanted) = std::env::var(PAIRS) else {
        return matrix::pairs();
    };
    let is_wanted = |pair: &[&str; 2]| {
        wanted.split(',').any(|entry| {
            let (k, v) = entry.trim().split_once('/').unwrap_or((entry.trim(), "*"));
            (k == "*" || k == pair[0]) && (v == "*" || v == pair[1])
        })
    };
    matrix::pairs().into_iter().filter(is_wanted).collect()
}

/// All cells of a pair, with what could not be run.
fn cells_of_pair(kernels: &Kernels<'_>, pair: [&'static str; 2], seed: u64) -> (Vec<Line>, Vec<String>) {
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    let wanted: Vec<(usize, usize)> = GQA.iter().flat_map(|&gqa| TOKENS.map(|tokens| (gqa, tokens))).collect();
    for head_dim in HEAD_DIMS {
        let mut random = Random::with_seed(seed, &format!("{pair:?} {head_dim}"));
        let setup = Setup {
            pair,
            head_dim,
            kv_heads: 2,
            window: None,
            lengths: vec![random.odd_size(300..=620)],
            most_gqa: 16,
            most_rows: 257,
        };
        match cells(kernels, setup, &mut random, &wanted) {
            Ok(found) => lines.extend(found),
            Err(error) => errors.push(error),
        }
    }
    (lines, errors)
}

#[test]
fn the_whole_matrix_on_cuda() {
    let Some(device) = require("cuda", CudaDevice::open(0)) else {
        return;
    };
    let target = device.properties().target.clone();
    let seed = fresh_seed("matrix");
    let pairs = wanted_pairs();
    let path = std::env::var(FILE).unwrap_or_else(|_| "attention-matrix.csv".to_owned());
    let mut file = std::fs::File::create(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut write = |text: &str| {
        file.write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    };
    write(&format!("{}\n", matrix::HEADER));
    let name = device.properties().name.replace(',', "");
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    let start = Instant::now();
    // a few pairs at a time, so that all cores compile and a table is there whatever happens
    for batch in pairs.chunks(7) {
        let kernels = Kernels::new(&device, &target);
        let defs = batch
            .iter()
            .flat_map(|&pair| HEAD_DIMS.map(|head_dim| (pair, head_dim)));
        let defs: Vec<_> = defs
            .filter_map(|(pair, head_dim)| matrix::kernels(&target, pair, head_dim))
            .flatten()
            .collect();
        if let Err(error) = kernels.load(defs) {
            errors.push(format!("{batch:?}: {error}"));
            continue;
        }
        let compiled = start.elapsed().as_secs();
        for loaded in kernels.all().iter().filter(|loaded| loaded.resources.spills > 0) {
            say(&format!("{} spills {} bytes", loaded.symbol, loaded.resources.spills));
        }
        for &pair in batch {
            let (found, failed) = cells_of_pair(&kernels, pair, seed);
            write(&matrix::csv(&name, target.name, &found));
            lines.extend(found);
            errors.extend(failed);
        }
        let (count, done) = (kernels.all().len(), start.elapsed().as_secs());
        say(&format!(
            "{batch:?}: {count} kernels by {compiled} s, cells by {done} s"
        ));
    }
    let cells = pairs.len() * HEAD_DIMS.len() * GQA.len() * TOKENS.len();
    let worst = lines
        .iter()
        .flat_map(|line| line.runs.iter().map(move |run| (line, run)))
        .max_by(|a, b| a.1.2.ratio.total_cmp(&b.1.2.ratio));
    say(&matrix::summary(&lines));
    say(&format!("{} of {cells} cells; the worst: {worst:?}", lines.len()));
    if lines.len() != cells {
        errors.push(format!("{} cells of {cells}", lines.len()));
    }
    conclude(&lines, errors);
}
