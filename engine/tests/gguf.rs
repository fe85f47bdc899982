//! Reading GGUF files: what golden files say about themselves.

use std::path::PathBuf;

use tilekiln::gguf::{ErrorKind, File, TensorType, Value};
use tilekiln_tests::golden::shared_folder;
use tilekiln_tests::requirement::require;

/// Every golden model file.
fn golden_files() -> Option<Vec<PathBuf>> {
    let folder = require("shared", shared_folder())?.join("golden/gemma4");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    Some(files)
}

#[test]
fn golden_files_are_read_whole() {
    for path in golden_files().unwrap_or_default() {
        let file = File::open(&path).unwrap();
        let in_memory = File::parse(std::fs::read(&path).unwrap()).unwrap();
        let name = path.display();
        let metadata = file.metadata();
        let architecture = metadata.str("general.architecture").unwrap().unwrap();
        let layers = metadata
            .need(&format!("{architecture}.block_count"))
            .unwrap()
            .usize()
            .unwrap();
        let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap();
        assert_eq!(tokens.len(), 768, "{name}");
        assert_eq!(tokens.get(2), Some(&b"<bos>"[..]), "{name}");
        assert_eq!(tokens.get(768), None);
        let types = metadata.need("tokenizer.ggml.token_type").unwrap().i32s().unwrap();
        assert_eq!(types.len(), tokens.len(), "{name}");
        let pattern = format!("{architecture}.attention.sliding_window_pattern");
        assert_eq!(
            metadata.need(&pattern).unwrap().bools().unwrap().len(),
            layers,
            "{name}"
        );
        let heads = metadata
            .need(&format!("{architecture}.attention.head_count_kv"))
            .unwrap();
        let heads = heads.u32_per_layer(layers).unwrap();
        assert!(heads.iter().all(|&heads| (1..=8).contains(&heads)), "{name}: {heads:?}");

        let width = metadata.need(&format!("{architecture}.embedding_length")).unwrap();
        let embedding = file.need("token_embd.weight").unwrap();
        assert_eq!(embedding.dims, [width.usize().unwrap(), 768], "{name}");
        assert_eq!(file.tensors(), in_memory.tensors());
        let mut last_end = file.data_start();
        for tensor in file.tensors() {
            file.will_need(tensor);
            let bytes = file.bytes(tensor).unwrap();
            assert_eq!(Some(bytes.len()), tensor.kind.bytes(tensor.values()), "{name}");
            assert_eq!(tensor.row_bytes().unwrap() * tensor.rows(), bytes.len(), "{name}");
            assert_eq!(bytes, in_memory.bytes(tensor).unwrap(), "{name}");
            assert!(tensor.kind.codec().is_some() || tensor.kind == TensorType::I32);
            last_end = last_end.max(file.range(tensor).unwrap().end);
        }
        assert!(file.size() - last_end < file.alignment(), "{name}");
    }
}

#[test]
fn wrong_uses_are_named_with_the_file_and_the_key() {
    let Some(files) = golden_files() else { return };
    let file = File::open(&files[0]).unwrap();
    let metadata = file.metadata();
    let architecture = metadata.str("general.architecture").unwrap().unwrap().to_owned();
    let blocks = format!("{architecture}.block_count");
    let table = [
        (metadata.bool(&blocks).unwrap_err(), vec![&*blocks, "u32", "a bool"]),
        (metadata.f32(&blocks).unwrap_err(), vec![&*blocks, "u32", "a float"]),
        (
            metadata.strings(&blocks).unwrap_err(),
            vec![&*blocks, "u32", "an array of strings"],
        ),
        (
            metadata.u32("tokenizer.ggml.tokens").unwrap_err(),
            vec!["tokenizer.ggml.tokens", "an array of 768 string", "an integer"],
        ),
        (
            metadata.need("tokenizer.ggml.tokens").unwrap().u32s().unwrap_err(),
            vec!["an array of 768 string", "an array of integers"],
        ),
        (
            metadata
                .need("tokenizer.ggml.scores")
                .unwrap()
                .f32_per_layer(3)
                .unwrap_err(),
            vec!["tokenizer.ggml.scores", "768 entries, wanted 3"],
        ),
        (
            metadata.need("no.such.key").unwrap_err(),
            vec!["`no.such.key` is missing"],
        ),
        (
            file.need("no.such.tensor").unwrap_err(),
            vec!["`no.such.tensor` is missing"],
        ),
    ];
    for (error, parts) in table {
        let text = error.to_string();
        assert!(text.starts_with(&files[0].display().to_string()), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text} does not say {part}");
        }
    }
    assert!(metadata.u32("no.such.key").unwrap().is_none());
    assert!(metadata.get("no.such.key").is_none());
    let first = metadata.iter().next().unwrap();
    assert!(matches!(first.value(), Value::String(_)), "{}", first.key());

    // A tensor of one file is no tensor of another.
    let other = File::open(&files[1]).unwrap();
    let error = other.bytes(file.need("token_embd.weight").unwrap()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Foreign(_)), "{error}");
}
