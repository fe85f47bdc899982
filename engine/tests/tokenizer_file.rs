//! Tokenizer, template and recommended sampling of GGUF files, and `tilekiln tokenize`.

mod support;
#[path = "support/vocabulary.rs"]
mod vocabulary;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Run, command};
use tilekiln::chat::{Conversation, Template};
use tilekiln::gguf::{Bytes, File, Writer};
use tilekiln::sample::Settings;
use tilekiln::tokenizer::{Control, Kind, Special, Tokenizer, TokenizerError};
use tilekiln_tests::golden::shared_folder;
use tilekiln_tests::requirement::require;
use vocabulary::small_vocabulary;

fn number(kind: Kind) -> i32 {
    (1..=6)
        .find(|&number| Kind::from_number(number.into()) == Some(kind))
        .unwrap()
}

/// The small vocabulary as the metadata of a file, less these keys; `more` adds others.
fn parsed(without: &[&str], more: impl FnOnce(&mut Writer)) -> File {
    File::parse(written(without, more)).unwrap()
}

fn written(without: &[&str], more: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let vocabulary = small_vocabulary();
    let mut writer = Writer::new();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let wanted = |name: &str| !without.contains(&name);
    if wanted("model") {
        writer.set(&key("model"), "gemma4");
    }
    if wanted("tokens") {
        let tokens: Vec<Bytes<'_>> = vocabulary.tokens.iter().map(|token| Bytes(token)).collect();
        writer.set(&key("tokens"), &tokens);
    }
    if wanted("token_type") {
        let kinds: Vec<i32> = vocabulary.kinds.iter().map(|&kind| number(kind)).collect();
        writer.set(&key("token_type"), &kinds);
    }
    if wanted("merges") {
        let merges: Vec<Bytes<'_>> = vocabulary.merges.iter().map(|line| Bytes(line)).collect();
        writer.set(&key("merges"), &merges);
    }
    if wanted("bos_token_id") {
        writer.set(&key("bos_token_id"), &2_u32);
    }
    if wanted("eos_token_id") {
        writer.set(&key("eos_token_id"), &1_u32);
    }
    more(&mut writer);
    let mut bytes = Vec::new();
    writer.layout().unwrap().write(&mut bytes, |_, _| Ok(())).unwrap();
    bytes
}

fn golden_files(shared: &Path) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(shared.join("golden/gemma4")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|kind| kind == "gguf"))
        .collect();
    assert!(files.len() >= 7);
    files
}

#[test]
fn the_tokenizer_of_every_golden_file_passes_every_golden_case() {
    let Some(shared) = require("shared", shared_folder()) else {
        return;
    };
    let cases = std::fs::read_to_string(shared.join("golden/gemma4/tokenizer_cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let mut seen = 0;
    for path in golden_files(&shared) {
        let file = File::open(&path).unwrap();
        if file.metadata().get("tokenizer.ggml.tokens").is_none() {
            continue;
        }
        seen += 1;
        let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(
                tokenizer.encode(text, Special::Parse),
                ids,
                "{}: {text:?}",
                path.display()
            );
            let decoded = case["decoded"].as_str().unwrap();
            assert_eq!(
                tokenizer.decode(&ids, Control::Show),
                decoded,
                "{}: {text:?}",
                path.display()
            );
        }
        let id = |text: &str| tokenizer.id_of(text).unwrap();
        let mut ends = [id("<eos>"), id("<turn|>"), id("<|tool_response>")];
        ends.sort_unstable();
        assert_eq!(tokenizer.end_of_generation(), ends);
        assert_eq!(
            (tokenizer.len(), tokenizer.bos(), tokenizer.eos()),
            (768, id("<bos>"), Some(id("<eos>")))
        );

        let template = Template::from_gguf(file.metadata(), &tokenizer).unwrap();
        let conversation = Conversation::new(vec![json!({"role": "user", "content": " hello "})]);
        let prompt = "<bos><|turn>user\nhello<turn|>\n<|turn>model\n";
        if !template.is_builtin() {
            assert_eq!(template.render(&conversation).unwrap(), prompt);
            assert_eq!(
                template.encode(&tokenizer, &conversation).unwrap(),
                tokenizer.encode(prompt, Special::Parse)
            );
        }
    }
    assert!(seen >= 7);
}

#[test]
fn damaged_tokenizers_are_refused_by_key() {
    type Change = fn(&mut Writer);
    let none: Change = |_| {};
    let table: [(&str, Change, &str); 14] = [
        ("model", none, "`tokenizer.ggml.model` is missing"),
        ("tokens", none, "`tokenizer.ggml.tokens` is missing"),
        ("token_type", none, "`tokenizer.ggml.token_type` is missing"),
        ("merges", none, "`tokenizer.ggml.merges` is missing"),
        (
            "model",
            |w| {
                w.set("tokenizer.ggml.model", "llama");
            },
            "is `llama`; only `gemma4`",
        ),
        (
            "model",
            |w| {
                w.set("tokenizer.ggml.model", &7_u32);
            },
            "`tokenizer.ggml.model` is",
        ),
        (
            "tokens",
            |w| {
                w.set("tokenizer.ggml.tokens", &Vec::<String>::new());
            },
            "the vocabulary is empty",
        ),
        (
            "tokens",
            |w| {
                w.set("tokenizer.ggml.tokens", &vec![1_u32]);
            },
            "`tokenizer.ggml.tokens` is",
        ),
        (
            "token_type",
            |w| {
                w.set("tokenizer.ggml.token_type", &vec![1_i32; 3]);
            },
            "token_type` has 3; one type",
        ),
        (
            "token_type",
            |w| {
                w.set("tokenizer.ggml.token_type", &vec![9_i32]);
            },
            "token 0 has type 9",
        ),
        (
            "token_type",
            |w| {
                w.set("tokenizer.ggml.token_type", "x");
            },
            "`tokenizer.ggml.token_type` is",
        ),
        (
            "bos_token_id",
            |w| {
                w.set("tokenizer.ggml.bos_token_id", &9999_u32);
            },
            "bos_token_id` names token 9999",
        ),
        (
            "eos_token_id",
            |w| {
                w.set("tokenizer.ggml.eos_token_id", &-7_i32);
            },
            "`tokenizer.ggml.eos_token_id` is -7",
        ),
        (
            "",
            |w| {
                w.set("tokenizer.ggml.suppress_tokens", &vec![9999_i32]);
            },
            "suppress_tokens` names token 9999",
        ),
    ];
    for (without, change, message) in table {
        let file = parsed(&[without], change);
        let error = Tokenizer::from_gguf(file.metadata())
            .err()
            .unwrap_or_else(|| panic!("{message}"));
        assert!(error.to_string().contains(message), "{error}");
    }
    let file = parsed(&["bos_token_id", "eos_token_id"], |w| {
        w.set("tokenizer.ggml.eos_token_id", &u32::MAX)
            .set("tokenizer.ggml.suppress_tokens", &vec![4_i32]);
    });
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.suppressed()),
        (2, None, &[4_u32][..])
    );
    let broken = parsed(&["model"], none);
    assert!(matches!(
        Tokenizer::from_gguf(broken.metadata()),
        Err(TokenizerError::Metadata(_))
    ));
}

#[test]
fn files_without_a_template_get_the_one_for_their_size() {
    let table = [
        (Some(256_u32), "<|turn>model\n"),
        (Some(0), "<channel|>"),
        (None, "<channel|>"),
    ];
    for (width, end) in table {
        let file = parsed(&[], |writer| {
            writer.set("general.architecture", "gemma4");
            if let Some(width) = width {
                writer.set("gemma4.embedding_length_per_layer_input", &width);
            }
        });
        let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
        let template = Template::from_gguf(file.metadata(), &tokenizer).unwrap();
        let prompt = template
            .render(&Conversation::new(vec![json!({"role": "user", "content": "a"})]))
            .unwrap();
        assert!(template.is_builtin() && prompt.ends_with(end), "{width:?}: {prompt}");
    }
    let file = parsed(&[], |writer| {
        writer.set("tokenizer.chat_template", &7_u32);
    });
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let error = Template::from_gguf(file.metadata(), &tokenizer)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("`tokenizer.chat_template` is"), "{error}");
}

#[test]
fn recommended_sampling_is_read() {
    let greedy = Settings::default();
    let file = parsed(&[], |_| {});
    assert_eq!(Settings::recommended(file.metadata()).unwrap(), greedy);
    let file = parsed(&[], |writer| {
        writer
            .set("general.sampling.top_k", &64_i32)
            .set("general.sampling.top_p", &0.95_f32);
        writer.set("general.sampling.temp", &0.7_f32);
    });
    let settings = Settings::recommended(file.metadata()).unwrap();
    assert_eq!((settings.temperature, settings.top_k, settings.top_p), (0.7, 64, 0.95));
    let file = parsed(&[], |writer| {
        writer.set("general.sampling.top_k", &-1_i32);
    });
    let settings = Settings::recommended(file.metadata()).unwrap();
    assert_eq!((settings.temperature, settings.top_k, settings.top_p), (1.0, 0, 1.0));
    let file = parsed(&[], |writer| {
        writer.set("general.sampling.temp", "hot");
    });
    assert!(
        Settings::recommended(file.metadata())
            .err()
            .unwrap()
            .to_string()
            .contains("general.sampling.temp")
    );
}

struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.gguf"), written(&[], |_| {})).unwrap();
        Self { folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("model.gguf").to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::new(&[&["tokenize", "-m", &self.path()], arguments].concat())
    }
}

#[test]
fn the_command_shows_tokens() {
    let model = Model::new();
    let tokenizer = Tokenizer::new(small_vocabulary()).unwrap();
    let ids = |text: &str, special| {
        let ids: Vec<String> = tokenizer.encode(text, special).iter().map(u32::to_string).collect();
        ids.join(",") + "\n"
    };
    let text = "hello the<turn|>\n";
    let with_bos = format!("2,{}", ids(text, Special::Parse));
    assert_eq!(model.run(&["--ids", text]).ended(0).stdout, with_bos);
    assert_eq!(
        model.run(&["--ids", "--no-bos", text]).ended(0).stdout,
        ids(text, Special::Parse)
    );
    let literal = model.run(&["--ids", "--no-bos", "--no-special", text]).ended(0);
    assert_eq!(literal.stdout, ids(text, Special::Literal));

    let pieces = model.run(&["--pieces", text]).ended(0).stdout;
    assert_eq!(
        pieces.lines().collect::<Vec<_>>(),
        ["\"<bos>\"", "\"hello\"", "\"▁the\"", "\"<turn|>\"", "\"\\n\""]
    );
    let table = model.run(&[text]).ended(0).stdout;
    assert!(table.contains("      2  \"<bos>\"\n"), "{table}");
    let json = model.run(&["--json", text]).ended(0).json();
    assert_eq!(json["count"], 5);
    assert_eq!(json["tokens"][1]["piece"], "hello");

    let twice = model.run(&["--ids", "<bos>a"]).ended(0);
    assert!(
        twice.stdout.starts_with("2,2,") && twice.stderr.contains("two"),
        "{}",
        twice.stderr
    );

    // from a file and from standard input
    let path = model.folder.path().join("text");
    std::fs::write(&path, text).unwrap();
    assert_eq!(
        model.run(&["--ids", "--file", path.to_str().unwrap()]).ended(0).stdout,
        with_bos
    );
    let mut child = command(&["tokenize", "-m", &model.path(), "--ids"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, with_bos.as_bytes());
}

#[test]
fn the_command_decodes() {
    let model = Model::new();
    let ids = model.run(&["--ids", "hello <turn|>"]).ended(0).stdout;
    assert_eq!(
        model.run(&["--decode", ids.trim()]).ended(0).stdout,
        "<bos>hello <turn|>\n"
    );
    assert_eq!(
        model.run(&["--no-special", "--decode", ids.trim()]).ended(0).stdout,
        "hello \n"
    );
    assert_eq!(
        model.run(&["--json", "--decode", "2"]).ended(0).json(),
        json!({"text": "<bos>"})
    );
}

#[test]
fn wrong_uses_of_the_command_are_explained() {
    let model = Model::new();
    let path = model.path();
    let not_text = model.folder.path().join("binary");
    std::fs::write(&not_text, b"ab\xff").unwrap();
    let not_text = not_text.to_str().unwrap();
    let table: [(&[&str], i32, &str); 9] = [
        (&["tokenize", "a"], 2, "--model"),
        (&["tokenize", "-m", "missing.gguf", "a"], 1, "missing.gguf"),
        (&["tokenize", "-m", not_text, "a"], 1, "not a GGUF file"),
        (
            &["tokenize", "-m", &path, "--file", "missing.txt"],
            1,
            "cannot read missing.txt",
        ),
        (
            &["tokenize", "-m", &path, "--file", not_text],
            1,
            "is not UTF-8: byte 2",
        ),
        (
            &["tokenize", "-m", &path, "--file", not_text, "a"],
            2,
            "cannot be used with",
        ),
        (&["tokenize", "-m", &path, "--decode", "1,x"], 2, "invalid value 'x'"),
        (
            &["tokenize", "-m", &path, "--decode", "99999"],
            2,
            "token 99999 does not exist; the vocabulary has",
        ),
        (
            &["tokenize", "-m", &path, "--ids", "--pieces", "a"],
            2,
            "cannot be used with",
        ),
    ];
    for (arguments, code, message) in table {
        let run = Run::new(arguments).ended(code);
        assert!(run.stderr.contains(message), "{arguments:?}: {}", run.stderr);
    }
}
