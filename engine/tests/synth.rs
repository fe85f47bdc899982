//! Synthetic models: what is promised about them holds for the bytes in the files.

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use support::Run;
use tilekiln::gguf::{File, TensorInfo, TensorType, decode};
use tilekiln::kv::{Geometry, KvType, KvTypes};
use tilekiln::model::assistant::{DraftStart, Head};
use tilekiln::model::{LoadOptions, Phase, Precision, Row, Target, Want};
use tilekiln::synth::{CONFIGS, Config, FIRST_WORD, Files, Model, Options};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::random::{Random, seed};
use tilekiln_tests::requirement::require;

/// Options whose seed is that of this run.
fn options() -> Options {
    Options {
        seed: seed(),
        ..Options::default()
    }
}

fn written(name: &str, options: Options, folder: &Path) -> (Model, Files) {
    let model = Model::new(Config::named(name).unwrap(), options).unwrap();
    let files = model.write(folder, &|_| {}).unwrap();
    (model, files)
}

/// Rows of a tensor.
fn rows(file: &File, name: &str) -> Vec<Vec<f32>> {
    let tensor = file.need(name).unwrap();
    let mut values = Vec::new();
    decode(tensor.kind, file.bytes(tensor).unwrap(), &mut values).unwrap();
    values.chunks(tensor.dims[0]).map(<[f32]>::to_vec).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The largest value and how far the second is below it.
fn largest(values: impl Iterator<Item = f64>) -> (usize, f64) {
    let (mut best, mut second, mut at) = (f64::NEG_INFINITY, f64::NEG_INFINITY, 0);
    for (index, value) in values.enumerate() {
        assert!(value.is_finite());
        if value > best {
            (second, best, at) = (best, value, index);
        } else if value > second {
            second = value;
        }
    }
    (at, best - second)
}

/// Angle by which the blocks may turn the residual stream, as a sine: every addition is a vector of about `noise` times
/// the square root of the width, beside an embedding of unit size. Their directions are independent; taken twice.
fn turned(noise: f64, additions: usize) -> f64 {
    2.0 * noise * (additions as f64).sqrt()
}

#[test]
fn greedy_decoding_follows_the_walk_from_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let (model, files) = written("tiny", options(), folder.path());
    let file = File::open(&files.target).unwrap();
    let (embedding, output) = (rows(&file, "token_embd.weight"), rows(&file, "output.weight"));
    let config = Config::named("tiny").unwrap();
    // three additions a layer, each against two output rows
    let needed = turned(f64::from(options().noise), 3 * config.layers) * 2_f64.sqrt();
    let mut smallest = f64::INFINITY;
    for (id, row) in embedding.iter().enumerate() {
        let (next, margin) = largest(output.iter().map(|output| cosine(row, output)));
        assert_eq!(next, model.walk().next()[id] as usize, "after {id}");
        smallest = smallest.min(margin);
        // the size of the scaled embedding, which the noise is held against
        let size = (dot(row, row) / row.len() as f64 * config.width as f64).sqrt();
        assert!(size > 0.8, "embedding {id}: {size}");
    }
    println!("smallest margin {smallest:.3}, needed {needed:.3}");
    assert!(smallest > needed, "{smallest}, needed {needed}");
}

#[test]
fn the_assistant_predicts_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    for accept in [0.0, 0.75, 1.0] {
        let chosen = Options {
            accept,
            centroids: true,
            force: true,
            ..options()
        };
        let (model, files) = written("tiny", chosen, folder.path());
        let target = File::open(&files.target).unwrap();
        let assistant = File::open(&files.assistant).unwrap();
        let embedding = rows(&target, "token_embd.weight");
        let width = embedding[0].len();
        let projection = rows(&assistant, "nextn.pre_projection.weight");
        assert!(
            projection
                .iter()
                .all(|row| row[width..].iter().all(|&value| value == 0.0))
        );
        let output = rows(&assistant, "token_embd.weight");
        let centroids = rows(&assistant, "masked_embd_centroids.weight");
        let ordering = assistant.need("masked_embd_ordering").unwrap();
        let ordering: Vec<u32> = assistant
            .bytes(ordering)
            .unwrap()
            .chunks_exact(4)
            .map(|id| u32::from_le_bytes(id.try_into().unwrap()))
            .collect();
        assert_eq!(ordering.iter().collect::<HashSet<_>>().len(), 2048);
        let room = ordering.len() / centroids.len();
        let expected = model.walk().predictions();
        let (mut right, mut found) = (0, 0);
        for (id, row) in embedding.iter().enumerate() {
            let seen: Vec<f32> = projection.iter().map(|part| dot(&part[..width], row) as f32).collect();
            let (predicted, margin) = largest(output.iter().map(|output| cosine(&seen, output)));
            assert_eq!(predicted, expected[id] as usize, "after {id}");
            assert!(
                margin > turned(f64::from(chosen.noise), 8) * 2_f64.sqrt(),
                "{id}: {margin}"
            );
            if id >= FIRST_WORD {
                right += usize::from(expected[id] == model.walk().next()[id]);
            }
            let mut ranked: Vec<(f64, usize)> = centroids.iter().map(|row| dot(&seen, row)).zip(0..).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            let searched = ranked.iter().take(32).map(|&(_, centroid)| centroid);
            let mut candidates = searched.flat_map(|centroid| &ordering[centroid * room..(centroid + 1) * room]);
            found += usize::from(candidates.any(|&candidate| candidate == expected[id]));
        }
        let fraction = right as f64 / (2048 - FIRST_WORD) as f64;
        assert!((fraction - accept).abs() < 0.03, "{fraction}, not {accept}");
        assert!(found * 100 >= 2048 * 98, "the ordered head finds {found} of 2048");
    }
}

/// The whole engine: from random prompts longer than the window, greedy decoding follows the walk, and both heads of the
/// assistant predict what they should.
#[test]
fn the_engine_walks_the_walk() {
    let folder = tempfile::tempdir().unwrap();
    let chosen = Options {
        centroids: true,
        ..options()
    };
    let (model, files) = written("tiny", chosen, folder.path());
    let (target, assistant) = (
        File::open(&files.target).unwrap(),
        File::open(&files.assistant).unwrap(),
    );
    let mut devices: Vec<Arc<dyn Device>> = vec![Arc::new(HostDevice::new())];
    if let Some(cuda) = require("cuda", CudaDevice::open(0)) {
        devices.push(Arc::new(cuda));
    }
    let kinds = [(Precision::Exact, KvType::F32), (Precision::Fast, KvType::F16)];
    for (device, (precision, kv)) in devices.iter().flat_map(|device| kinds.map(|kind| (device, kind))) {
        let load = LoadOptions {
            precision,
            kv: KvTypes::uniform(kv),
            geometry: Geometry {
                slots: 1,
                context: 128,
                max_rows: 16,
                run: 1,
            },
            outputs: 1,
        };
        let mut engine = Target::load(&target, Some(&assistant), device.clone(), load, &mut |_| ()).unwrap();
        let mut random = Random::new("walk");
        let prompt = random.indices(41, 2048);
        let rows = |first: usize, tokens: &[u32]| -> Vec<Row> {
            let row = |(&token, position)| Row {
                token,
                slot: 0,
                position,
                want: Want::Token,
            };
            tokens.iter().zip(first as u32..).map(row).collect()
        };
        let (last, before) = prompt.split_last().unwrap();
        let mut position = 0;
        for part in before.chunks(16) {
            let mut part = rows(position, part);
            part.iter_mut().for_each(|row| row.want = Want::Nothing);
            assert_eq!(engine.forward(&part, Phase::Prompt).unwrap(), []);
            position += part.len();
        }
        let output = engine.forward(&rows(position, &[*last]), Phase::Prompt).unwrap();
        engine.keep_hidden(&[(0, 0)]).unwrap();
        position += 1;
        let mut token = output[0].token;
        assert_eq!(token, model.walk().next()[*last as usize], "after {last} of the prompt");
        let predictions = model.walk().predictions();
        let (mut found, mut drafted) = (0, 0);
        for step in 0..8 {
            let start = DraftStart {
                slot: 0,
                token,
                position: position as u32,
            };
            for head in [Head::Dense, Head::Centroids].into_iter().filter(|_| step % 2 == 0) {
                let (chains, _) = engine.draft_traced(head, &[start], 3).unwrap();
                let mut expected = token;
                for draft in &chains[0] {
                    expected = predictions[expected as usize];
                    match head {
                        Head::Dense => assert_eq!(draft.token, expected),
                        Head::Centroids => {
                            drafted += 1;
                            found += usize::from(draft.token == expected);
                            expected = draft.token;
                        }
                    }
                }
            }
            let output = engine.forward(&rows(position, &[token]), Phase::Decode).unwrap();
            engine.keep_hidden(&[(0, 0)]).unwrap();
            assert_eq!(output[0].token, model.walk().next()[token as usize], "after {token}");
            (token, position) = (output[0].token, position + 1);
        }
        assert!(
            found * 100 >= drafted * 95,
            "the ordered head finds {found} of {drafted}"
        );
    }
}

/// Shapes against the table of published models.
#[test]
fn shapes_are_the_published_ones() {
    let shapes: Vec<(&str, &str, &[usize], TensorType)> = vec![
        ("e4b", "token_embd.weight", &[2560, 262_144], TensorType::Q6_K),
        (
            "e4b",
            "per_layer_token_embd.weight",
            &[10752, 262_144],
            TensorType::Q6_K,
        ),
        ("e4b", "per_layer_model_proj.weight", &[2560, 10752], TensorType::F16),
        ("e4b", "blk.0.attn_q.weight", &[2560, 2048], TensorType::Q4_K),
        ("e4b", "blk.5.attn_q.weight", &[2560, 4096], TensorType::Q4_K),
        ("e4b", "blk.5.attn_k.weight", &[2560, 1024], TensorType::Q4_K),
        ("e4b", "blk.41.ffn_down.weight", &[10240, 2560], TensorType::Q6_K),
        ("e4b", "blk.5.ffn_down.weight", &[10240, 2560], TensorType::Q4_K),
        ("e4b", "rope_freqs.weight", &[256], TensorType::F32),
        ("e2b", "blk.14.ffn_up.weight", &[1536, 6144], TensorType::Q4_K),
        ("e2b", "blk.15.ffn_up.weight", &[1536, 12288], TensorType::Q4_K),
        ("e2b", "blk.14.attn_k.weight", &[1536, 512], TensorType::Q4_K),
        ("31b", "blk.0.attn_k.weight", &[5376, 4096], TensorType::Q4_K),
        ("31b", "blk.5.attn_k.weight", &[5376, 2048], TensorType::Q4_K),
        ("31b", "blk.5.attn_output.weight", &[16384, 5376], TensorType::Q4_K),
        ("tiny", "blk.0.attn_q.weight", &[128, 256], TensorType::Q4_0),
    ];
    let absent = [
        ("e4b", "blk.24.attn_k.weight"),
        ("e2b", "blk.15.attn_v.weight"),
        ("31b", "blk.5.attn_v.weight"),
        ("31b", "per_layer_token_embd.weight"),
    ];
    let more_bits: Vec<usize> = (0..5).chain((7..=34).step_by(3)).chain(36..42).collect();
    for config in &CONFIGS {
        let model = Model::new(config, options()).unwrap();
        let [target, assistant] = model.tensors();
        let find = |name: &str| -> Option<&TensorInfo> { target.iter().find(|tensor| *tensor.name == *name) };
        for (_, name, dims, kind) in shapes.iter().filter(|row| row.0 == config.name) {
            let tensor = find(name).unwrap_or_else(|| panic!("{} has no {name}", config.name));
            assert_eq!((&*tensor.dims, tensor.kind), (*dims, *kind), "{} {name}", config.name);
        }
        for (_, name) in absent.iter().filter(|row| row.0 == config.name) {
            assert!(find(name).is_none(), "{} has {name}", config.name);
        }
        assert_eq!(assistant.len(), 4 * 11 + 5, "{}", config.name);
        let sliding = config.sliding();
        assert!(
            !sliding[config.layers - 1] && sliding[config.layers - 2],
            "{}",
            config.name
        );
        let owning = &sliding[..config.owning_layers()];
        assert!(owning.contains(&true) && owning.contains(&false), "{}", config.name);
        // what `--help` says of the size
        let (_, said) = config.about.rsplit_once(", ").unwrap();
        let (number, unit) = said.split_once(' ').unwrap();
        let unit = f64::from(1 << if unit == "GiB" { 30 } else { 20 });
        let size = model.sizes()[0] as f64 / unit;
        let said: f64 = number.parse().unwrap();
        assert!(
            (size / said - 1.0).abs() < 0.05,
            "{}: {size} {}",
            config.name,
            config.about
        );
        if config.name == "e4b" {
            let is_more =
                |layer: &usize| find(&format!("blk.{layer}.ffn_down.weight")).unwrap().kind == TensorType::Q6_K;
            assert_eq!((0..42).filter(is_more).collect::<Vec<_>>(), more_bits);
            let gib = model.sizes()[0] as f64 / f64::from(1 << 30);
            assert!((5.3..5.6).contains(&gib), "{gib} GiB");
        }
    }
}

#[test]
fn files_are_the_same_for_the_same_seed_and_say_what_they_are() {
    let folders = [(), (), ()].map(|()| tempfile::tempdir().unwrap());
    let other = Options {
        seed: seed() ^ 1,
        ..options()
    };
    let all = [options(), options(), other];
    let files: Vec<Files> = folders
        .iter()
        .zip(all)
        .map(|(folder, options)| written("tiny", options, folder.path()).1)
        .collect();
    let bytes = |files: &Files| files.all().map(|path| std::fs::read(path).unwrap());
    assert_eq!(bytes(&files[0]), bytes(&files[1]));
    for (same, other) in bytes(&files[0]).iter().zip(bytes(&files[2])) {
        assert_ne!(*same, other);
    }
    let target = File::open(&files[0].target).unwrap();
    let metadata = target.metadata();
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("gemma4"));
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.len(), 2048);
    assert_eq!(tokens.get(106), Some(&b"<turn|>"[..]));
    assert!(tokens.get(FIRST_WORD).unwrap().starts_with("\u{2581}".as_bytes()));
    let assistant = File::open(&files[0].assistant).unwrap();
    let width = assistant
        .metadata()
        .u32("gemma4-assistant.embedding_length_out")
        .unwrap();
    assert_eq!(width, metadata.u32("gemma4.embedding_length").unwrap());
    // Random weights of different layers differ.
    let weight = |layer: usize| {
        target
            .bytes(target.need(&format!("blk.{layer}.ffn_up.weight")).unwrap())
            .unwrap()
    };
    assert_ne!(weight(0), weight(1));

    let npy = std::fs::read(&files[0].next).unwrap();
    let size = u16::from_le_bytes([npy[8], npy[9]]) as usize;
    assert_eq!((&npy[..8], (10 + size) % 64), (&b"\x93NUMPY\x01\x00"[..], 0));
    let header = str::from_utf8(&npy[10..10 + size]).unwrap();
    assert!(
        header.contains("'<i8'") && header.contains("(2048,)") && header.ends_with('\n'),
        "{header}"
    );
    let next = npy[10 + size..]
        .chunks_exact(8)
        .map(|id| i64::from_le_bytes(id.try_into().unwrap()));
    let walk = Model::new(Config::named("tiny").unwrap(), options()).unwrap();
    assert!(next.eq(walk.walk().next().iter().map(|&id| i64::from(id))));
}

#[test]
fn the_command_writes_once_and_names_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let out = out.to_str().unwrap();
    let run = Run::new(&["synth", "--config", "tiny", "--accept", "0.5", "--out", out, "--json"]).ended(0);
    let json = run.json();
    assert_eq!(
        (json["accept"].as_f64(), json["vocabulary"].as_u64()),
        (Some(0.5), Some(2048))
    );
    assert!(File::open(Path::new(json["target"].as_str().unwrap())).is_ok());
    assert!(run.stderr.contains("MiB"), "{}", run.stderr);
    let run = Run::new(&["synth", "--out", out]).ended(1);
    assert!(
        run.stderr.contains("tiny.gguf is there already; give --force"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, "");
    let run = Run::new(&["synth", "--out", out, "--force"]).ended(0);
    assert_eq!(run.stdout.lines().count(), 3);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 3);
    let file = format!("{out}/tiny.gguf");
    let table: &[(&[&str], i32, &str)] = &[
        (&["--accept", "1.5"], 2, "1.5 is not possible"),
        (&["--accept", "nan"], 2, "not possible"),
        (&["--noise", "-1"], 2, "-1"),
        (&["--noise", "inf"], 2, "not possible"),
        (&["--config", "huge"], 2, "e2b, e4b"),
        (
            &["--config", "31b", "--centroids"],
            2,
            "dense head only; --centroids works with tiny",
        ),
        (&["--out", &file], 1, "tiny.gguf"),
    ];
    for (arguments, code, part) in table {
        let run = Run::new(&[&["synth"], *arguments].concat()).ended(*code);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}
