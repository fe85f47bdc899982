//! Attention end to end: the matrix of formats and shapes, windows, batches, and the outputs of another implementation.
//!
//! On the CPU a sample of the matrix runs, another one with every seed; on a GPU all of it, one line a launch, into the
//! file that `TILEKILN_MATRIX` names. `TILEKILN_MATRIX_PAIRS` leaves only some pairs: `turbo3/f16,q8_0/*`.

use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use tilekiln_dsl::target::Target;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::attention::expected::Expected;
use tilekiln_tests::attention::matrix::{self, DECODED, GQA, HEAD_DIMS, Line, TOKENS};
use tilekiln_tests::attention::{Kernels, Row, Scene, Setup};
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
            kv_heads: if number % 3 == 0 && head_dim < 512 { 2 } else { 1 },
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
