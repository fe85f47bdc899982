//! Caches in every format on the golden models: what formats cost, that devices agree, and slots in files.

use std::sync::Arc;

use tilekiln::kv::{CacheTypes, KvPreset, KvType, KvTypes, Sequence};
use tilekiln::model::{Phase, Precision, Target, Want};
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;

use crate::support::{Case, Distance, cases, devices, in_full, load_with, rows, tokens};

/// Pairs of formats that models are evaluated with, and how far their logits may be from those of an f32 cache, relative
/// to the norm of all logits.
///
/// A format with relative error e in each key and value (16-bit floats: 2^-11 and 2^-8, rounded; blocks of 8 bits: half a
/// step of 1/127 of the largest value, 0.5 %; 4 bits: half a step of 1/8, 8 %; turbo formats: the mean error of the
/// codebooks of 4, 3 and 2 bits for normal values, 10 %, 18 % and 34 %) changes scores by e times their spread and sums of
/// values by e, less what averages out over keys. Some layers' errors add up; norms in between keep them relative. Bounds
/// are four times e, which leaves room for what these small models have of few keys.
const PAIRS: [(KvTypes, f64); 8] = [
    (KvTypes::uniform(KvType::F16), 0.002),
    (KvTypes::uniform(KvType::BF16), 0.016),
    (KvTypes::uniform(KvType::Q8_0), 0.02),
    (mixed(KvType::Q8_0, KvType::TURBO3), 0.75),
    (KvTypes::uniform(KvType::Q4_0), 0.32),
    (KvTypes::uniform(KvType::TURBO4), 0.40),
    (KvTypes::uniform(KvType::TURBO3), 0.75),
    (KvTypes::uniform(KvType::TURBO2), 1.4),
];

const fn mixed(keys: KvType, values: KvType) -> KvTypes {
    let types = CacheTypes { keys, values };
    KvTypes {
        full: types,
        sliding: types,
    }
}

/// Logits of a prompt, in chunks of 11, then of a few tokens one by one.
fn logits(device: &Arc<dyn Device>, case: &Case, how: (Precision, KvTypes), ids: &[u32]) -> Vec<f32> {
    let mut target = load_with(device, &case.file, None, how, (1, 11));
    let (prompt, rest) = ids.split_at(ids.len() - 4);
    let mut all = Vec::new();
    for (index, part) in prompt.chunks(11).enumerate() {
        all.extend(
            target
                .forward(&rows(0, index * 11, part, Want::Logits), Phase::Prompt)
                .unwrap(),
        );
    }
    for (index, token) in rest.iter().enumerate() {
        let row = rows(0, prompt.len() + index, &[*token], Want::Logits);
        all.extend(target.forward(&row, Phase::Decode).unwrap());
    }
    all.into_iter().flat_map(|output| output.logits.unwrap()).collect()
}

fn prompt(device: &Arc<dyn Device>, case: &Case) -> Vec<u32> {
    let mut ids = tokens(&case.golden, "p1.input_ids");
    if !in_full(device) {
        ids.truncate(24);
    }
    ids
}

/// Every format against a cache of f32, with everything else the same: fast attention against exact attention on the same
/// cache. And fast precision against exact precision, with the same cache.
///
/// Of the latter two things differ: the products, by the tolerance of int8, and the codes that keys and values get,
/// because int8 noise moves them across thresholds, in each layer more of them. At worst no code is left that both have
/// chosen together: two independent roundings, each as far from an f32 cache as the format costs, are sqrt(2) times that
/// far from each other.
#[test]
fn formats_cost_what_they_are_expected_to() {
    for device in devices() {
        for case in cases("gemma4") {
            let ids = prompt(&device, &case);
            let of = |precision, types| logits(&device, &case, (precision, types), &ids);
            let what = |types| format!("{:<20} {types}, {}", case.name, device.properties().name);
            let f32s = of(Precision::Exact, KvTypes::uniform(KvType::F32));
            let cost = |types, bound: f64| {
                let exact = of(Precision::Exact, types);
                let cost = Distance::between(&exact, &f32s);
                println!("{}: relative {:.4}, rms {:.3}", what(types), cost.relative, cost.rms);
                assert!(cost.relative <= bound, "{}: {cost:?}, bound {bound}", what(types));
                assert!(cost.relative > 0.0, "{}: nothing was quantised", what(types));
                (exact, cost)
            };
            for (types, bound) in PAIRS {
                let (exact, cost) = cost(types, bound);
                let distance = Distance::between(&of(Precision::Fast, types), &exact);
                let bound = 0.35 + std::f64::consts::SQRT_2 * cost.rms;
                println!(
                    "{}, fast against exact: max {:.2}, rms {:.3}",
                    what(types),
                    distance.max,
                    distance.rms
                );
                assert!(distance.rms <= bound, "{}: {distance:?}, bound {bound}", what(types));
            }
            for (_, preset) in KvPreset::ALL.into_iter().skip(1) {
                cost(preset.types(), 0.75);
            }
        }
    }
}

/// The same model with the same cache formats on the CPU and on a GPU.
///
/// In f32 arithmetic devices differ by the last bits of sums and of exponentials (the bound of the golden files, 5e-5),
/// and where a value lies so close to a threshold that these bits choose its code: a part of about 1e-6 / 0.3 of all
/// values, a step of the codebook each. Among the some ten thousand cached values of these prompts that is rarely one.
/// Where values are whole steps of 8 bits, two of them change an attended vector by 2 / sqrt(values per head * keys) < 1 %.
/// In a turbo format one code is a step of up to 0.08 in a group of length 1 (turbo3; 0.045 between the codes near zero),
/// and the first key is attended alone: half of it is the bound.
#[test]
fn devices_agree_in_every_format() {
    let all = devices();
    let host: Arc<dyn Device> = Arc::new(HostDevice::new());
    for device in all
        .iter()
        .filter(|device| device.properties().target.name != host.properties().target.name)
    {
        for case in cases("gemma4") {
            let mut ids = tokens(&case.golden, "p1.input_ids");
            ids.truncate(24);
            for (types, _) in PAIRS {
                let on = |device: &Arc<dyn Device>| logits(device, &case, (Precision::Exact, types), &ids);
                let (here, there) = (on(device), on(&host));
                let distance = Distance::between(&here, &there);
                println!(
                    "{:<20} {types}, {} against the CPU: max {:.2e}, relative {:.2e}",
                    case.name,
                    device.properties().name,
                    distance.max,
                    distance.relative
                );
                let is_turbo = types.to_string().contains("turbo");
                let bound = if is_turbo { 4e-2 } else { 1e-2 };
                assert!(distance.relative <= bound, "{} {types}: {distance:?}", case.name);
            }
        }
    }
}

/// Saved and restored, a slot goes on with the same bits, in another slot as well; files of other formats are refused.
#[test]
fn slots_go_to_files_and_back() {
    let Some(case) = cases("gemma4").into_iter().next() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for device in devices() {
        let ids = prompt(&device, &case);
        let (types, other) = (KvTypes::uniform(KvType::TURBO3), KvTypes::uniform(KvType::F16));
        let load = |types| load_with(&device, &case.file, None, (Precision::Fast, types), (2, 32));
        let (last, before) = ids.split_last().unwrap();
        let next = |target: &mut Target, slot| {
            let row = rows(slot, before.len(), &[*last], Want::Logits);
            target.forward(&row, Phase::Decode).unwrap().remove(0).logits
        };
        let path = folder.path().join("slot.bin");
        let mut target = load(types);
        target
            .forward(&rows(0, 0, before, Want::Nothing), Phase::Prompt)
            .unwrap();
        let mut sequence = Sequence::default();
        sequence.extend(before);
        target.save_slot(0, &sequence, &path).unwrap();
        let expected = next(&mut target, 0);

        let mut fresh = load(types);
        let restored = fresh.restore_slot(1, &path).unwrap();
        assert_eq!((restored.tokens(), restored.high()), (before, before.len()));
        assert!(
            next(&mut fresh, 1) == expected,
            "the restored slot goes on with other bits"
        );

        let refused = load(other)
            .restore_slot(0, &path)
            .expect_err("another format")
            .to_string();
        assert!(
            refused.contains("format of keys") && refused.contains("turbo3"),
            "{refused}"
        );
    }
}
