//! Files that are no models, or not the right ones, and the command that writes logits.

mod support;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use support::Run;
use tilekiln::synth::{Config, Files, Model, Options};
use tilekiln_tests::golden::{Golden, shared_folder};
use tilekiln_tests::requirement::require;

/// The tiny synthetic model and its assistant.
fn tiny(folder: &Path) -> Files {
    let options = Options {
        centroids: true,
        ..Options::default()
    };
    let model = Model::new(Config::named("tiny").unwrap(), options).unwrap();
    model.write(folder, &|_| ()).unwrap()
}

/// A copy of a file with every occurrence of some bytes replaced by as many others.
fn patched(file: &Path, name: &str, from: &[u8], to: &[u8]) -> PathBuf {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(file).unwrap();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|place| bytes[*place..].starts_with(from))
        .collect();
    assert!(
        !places.is_empty(),
        "{} is not in {}",
        String::from_utf8_lossy(from),
        file.display()
    );
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to);
    }
    let path = file.with_file_name(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A metadata key in front of its u32 value, with another value.
fn with_number(key: &str, from: u32, to: u32) -> (Vec<u8>, Vec<u8>) {
    let entry = |value: u32| [key.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat();
    (entry(from), entry(to))
}

/// A metadata key in front of an array of i32, with other values.
fn with_numbers(key: &str, from: [i32; 4], to: [i32; 4]) -> (Vec<u8>, Vec<u8>) {
    let entry = |values: [i32; 4]| {
        let head = [
            key.as_bytes(),
            &9u32.to_le_bytes(),
            &5u32.to_le_bytes(),
            &4u64.to_le_bytes(),
        ]
        .concat();
        [head, values.into_iter().flat_map(i32::to_le_bytes).collect()].concat()
    };
    (entry(from), entry(to))
}

/// A tensor's name with its dims and type, with another type.
fn with_type(name: &str, dims: &[u64], from: u32, to: u32) -> (Vec<u8>, Vec<u8>) {
    let mut head = name.as_bytes().to_vec();
    head.extend((dims.len() as u32).to_le_bytes());
    head.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    let entry = |kind: u32| [head.as_slice(), &kind.to_le_bytes()].concat();
    (entry(from), entry(to))
}

#[test]
fn damaged_and_foreign_models_are_refused_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny(folder.path());
    let text = |from: &str, to: &str| (from.as_bytes().to_vec(), to.as_bytes().to_vec());
    // what is replaced, and what has to be said
    let table = [
        (
            text("blk.1.attn_q.weight", "blk.1.attn_z.weight"),
            "no tensor `blk.1.attn_q.weight`",
        ),
        (
            text("blk.0.ffn_norm.weight", "blk.0.ffn_morm.weight"),
            "no tensor `blk.0.ffn_norm.weight`",
        ),
        (
            text("gemma4.block_count", "gemma4.clock_count"),
            "no `gemma4.block_count`",
        ),
        (
            text("gemma4.embedding_length\u{4}", "gemma4.embedding_lenght\u{4}"),
            "no `gemma4.embedding_length`",
        ),
        (with_number("gemma4.attention.head_count", 4, 3), "head"),
        (with_number("gemma4.embedding_length", 128, 96), "asks for [96, 2048]"),
        (
            with_number("gemma4.attention.key_length", 128, 100),
            "has to equal the keys' 100",
        ),
        (with_number("gemma4.block_count", 6, 7), "7"),
        (with_number("gemma4.block_count", 6, 0), "at least 1"),
        (
            text("gemma4.context_length", "gemma4.expert_counter"),
            "no `gemma4.context_length`",
        ),
        // Q2_K has no kernel; of that type the rows are no whole blocks
        (
            with_type("blk.0.attn_q.weight", &[128, 256], 2, 10),
            "blk.0.attn_q.weight",
        ),
        (
            with_type("blk.0.attn_q.weight", &[128, 256], 2, 77),
            "blk.0.attn_q.weight",
        ),
    ];
    for (index, ((from, to), said)) in table.into_iter().enumerate() {
        let file = patched(&files.target, &format!("damaged-{index}.gguf"), &from, &to);
        let arguments = [
            "run",
            "-m",
            file.to_str().unwrap(),
            "-p",
            "hi",
            "-n",
            "1",
            "--device",
            "host",
        ];
        let run = Run::new(&arguments).ended(1);
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
        assert!(run.stderr.contains(&format!("damaged-{index}.gguf")), "{}", run.stderr);
    }
}

#[test]
fn assistants_have_to_belong_to_their_target() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny(folder.path());
    let key = |name: &str| format!("gemma4-assistant.{name}");
    let text = |from: &str, to: &str| (from.as_bytes().to_vec(), to.as_bytes().to_vec());
    let table = [
        (
            with_number(&key("embedding_length_out"), 128, 160),
            "backbone width is 160, the model's is 128",
        ),
        (with_number(&key("attention.key_length"), 128, 64), "64"),
        (
            with_number(&key("attention.sliding_window"), 32, 8),
            "sliding window is 8, the model's is 32",
        ),
        (
            with_numbers(&key("attention.head_count_kv"), [2, 2, 2, 1], [2, 2, 4, 1]),
            "key and value heads",
        ),
        (
            text("nextn.pre_projection.weight", "nextn.pro_projection.weight"),
            "no tensor `nextn.pre_projection.weight`",
        ),
    ];
    let run_with = |target: &Path, assistant: &Path| {
        let [target, assistant] = [target, assistant].map(|path| path.to_str().unwrap().to_owned());
        let arguments = [
            "run",
            "-m",
            &target,
            "--mtp-head",
            &assistant,
            "-p",
            "hi",
            "-n",
            "1",
            "--device",
            "host",
        ];
        Run::new(&arguments).ended(1)
    };
    for (index, ((from, to), said)) in table.into_iter().enumerate() {
        let file = patched(&files.assistant, &format!("other-{index}.gguf"), &from, &to);
        let run = run_with(&files.target, &file);
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    // the files the wrong way round
    let run = run_with(&files.target, &files.target);
    assert!(run.stderr.contains("has to be `gemma4-assistant`"), "{}", run.stderr);
    let run = run_with(&files.assistant, &files.assistant);
    assert!(run.stderr.contains("--mtp-head"), "{}", run.stderr);
}

#[test]
fn mixtures_of_experts_are_refused_clearly() {
    let Some(folder) = require("shared", shared_folder()) else {
        return;
    };
    for name in ["moe.f32.gguf", "moe.q8_0.gguf"] {
        let file = folder.join("golden/gemma4").join(name);
        let run = Run::new(&["run", "-m", file.to_str().unwrap(), "-p", "hi", "--device", "host"]).ended(1);
        assert!(
            run.stderr.contains("mixture-of-experts") && run.stderr.contains("8 experts"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn options_that_cannot_be_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny(folder.path());
    let model = files.target.to_str().unwrap();
    for (arguments, said) in [
        (
            &["run", "-m", model, "-p", "hi", "-c", "3", "-np", "2"][..],
            "larger -c",
        ),
        (
            &["run", "-m", model, "-p", "hi", "-ctk", "f16", "-ctv", "f32"],
            "f32 for both",
        ),
        (&["run", "-m", model, "-p", "hi", "-ctk", "turbo5"], "`turbo5`"),
        (&["logits", "--tokens", "2", "--out", "x"], "-m FILE"),
        (
            &["logits", "-m", model, "--tokens", "2,99999999", "--out", "x"],
            "99999999",
        ),
    ] {
        let run = Run::new(&[arguments, &["--device", "host"]].concat()).ended(2);
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
}

#[test]
fn prompts_longer_than_the_context_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny(folder.path());
    let prompt = "many words ".repeat(60);
    let model = files.target.to_str().unwrap();
    let run = Run::new(&["run", "-m", model, "-p", &prompt, "-c", "32", "--device", "host"]).ended(2);
    assert!(run.stderr.contains("tokens and a slot holds 32"), "{}", run.stderr);
}

#[test]
fn logits_are_written_as_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let files = tiny(folder.path());
    let out = folder.path().join("logits.safetensors");
    let arguments = [
        "logits",
        "-m",
        files.target.to_str().unwrap(),
        "--tokens",
        "2,1000,1001",
        "--out",
        out.to_str().unwrap(),
        "--device",
        "host",
        "--greedy",
        "2",
        "--intermediate",
        "--json",
    ];
    let summary = Run::new(&arguments).ended(0).json();
    assert_eq!(summary["tokens"], 3);
    let bytes = std::fs::read(&out).unwrap();
    let written = SafeTensors::deserialize(&bytes).unwrap();
    let vocabulary = summary["vocabulary"].as_u64().unwrap() as usize;
    for (name, shape) in [
        ("logits", vec![3, vocabulary]),
        ("greedy_logits", vec![2, vocabulary]),
        ("greedy_tokens", vec![2]),
        ("layer_out", vec![6, 3, 128]),
        ("embed", vec![3, 128]),
        ("kv_k.full", vec![1, 3, 128]),
    ] {
        assert_eq!(written.tensor(name).unwrap().shape(), shape, "{name}");
    }
}

#[test]
fn the_logits_command_agrees_with_the_reference() {
    let Some(folder) = require("shared", shared_folder()) else {
        return;
    };
    let file = folder.join("golden/gemma4/dense_keqv.q4_0.gguf");
    let golden = Golden::open("golden/gemma4/dense_keqv.q4_0.golden.safetensors").unwrap();
    let ids: Vec<String> = golden
        .i32("p0.input_ids")
        .unwrap()
        .values
        .iter()
        .map(i32::to_string)
        .collect();
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("logits.safetensors");
    let (model, out_text, ids) = (file.to_str().unwrap(), out.to_str().unwrap(), ids.join(","));
    let arguments = [
        "logits", "-m", model, "--exact", "--tokens", &ids, "--out", out_text, "--device", "host",
    ];
    let _ = Run::new(&arguments).ended(0);
    let bytes = std::fs::read(&out).unwrap();
    let written = SafeTensors::deserialize(&bytes).unwrap();
    let got = written.tensor("logits").unwrap().data().as_chunks::<4>().0.to_vec();
    let want = golden.f32("p0.logits").unwrap().values;
    assert_eq!(got.len(), want.len());
    for (got, want) in got.into_iter().map(f32::from_le_bytes).zip(want) {
        assert!((got - want).abs() <= 2e-3, "{got} {want}");
    }
}
