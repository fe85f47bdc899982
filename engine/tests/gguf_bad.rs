//! Damaged and hostile GGUF files: an error that names the cause, or a file that can be used; never a panic.

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use support::Run;
use tilekiln::gguf::{ErrorKind, File, TensorType, Value, ValueType, Writer};
use tilekiln_tests::random::{Random, seed};

/// Cases drawn from the seed of this run.
fn cases(count: u32) -> Config {
    Config {
        cases: count,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..Config::default()
    }
}

/// A small file with every kind of value and several kinds of tensors.
fn sample() -> Vec<u8> {
    let mut writer = Writer::with_alignment(64);
    writer
        .set("a.text", "text")
        .set("a.u8", &7_u8)
        .set("a.i64", &-7_i64)
        .set("a.f64", &0.5_f64)
        .set("a.bool", &true)
        .set("a.strings", &vec!["one", "two", "", "four"])
        .set("a.numbers", &vec![1_u32, 2, 3])
        .set("a.bools", &vec![true, false, true])
        .set("a.nested", &vec![vec![1_u16], vec![2, 3]])
        .tensor("first", &[32, 3], TensorType::Q8_0)
        .tensor("second", &[5], TensorType::F32)
        .tensor("third", &[256, 2, 2, 1], TensorType::Q4_K)
        .tensor("fourth", &[7, 3], TensorType::I32);
    let mut bytes = Vec::new();
    let fill = |tensor: &tilekiln::gguf::TensorInfo, out: &mut dyn std::io::Write| {
        out.write_all(&vec![0x5a; tensor.bytes.unwrap()])
    };
    writer.layout().unwrap().write(&mut bytes, fill).unwrap();
    bytes
}

/// Asks for everything a file says.
fn use_all(file: &File) {
    for field in file.metadata().iter() {
        let _ = (
            field.u32(),
            field.i32(),
            field.u64(),
            field.usize(),
            field.f32(),
            field.bool(),
        );
        let _ = (field.u32s(), field.i32s(), field.f32s(), field.bools());
        let _ = (field.u32_per_layer(3), field.f32_per_layer(3));
        if let Ok(strings) = field.strings() {
            assert_eq!(strings.iter().count(), strings.len());
        }
        if let Ok(text) = field.str() {
            assert!(text.len() <= file.size());
        }
        if let Value::Array(array) = field.value()
            && array.kind() != ValueType::Array
        {
            assert_eq!(array.values().count(), array.len());
        }
        assert_eq!(file.metadata().need(field.key()).unwrap().key(), field.key());
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        match file.bytes(tensor) {
            Ok(bytes) => assert_eq!(Some(bytes.len()), tensor.bytes),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::UnknownType { .. }), "{error}"),
        }
        file.will_need(tensor);
    }
}

/// Where a pattern starts.
#[track_caller]
fn find(bytes: &[u8], pattern: &str) -> usize {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern.as_bytes())
        .unwrap_or_else(|| panic!("no {pattern}"))
}

/// Replaces bytes `offset` after the end of `name`.
fn patch(bytes: &mut [u8], name: &str, offset: usize, with: &[u8]) {
    let at = find(bytes, name) + name.len() + offset;
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Replaces the first bytes of a name.
fn rename(bytes: &mut [u8], name: &str, with: &[u8]) {
    let at = find(bytes, name);
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// The fuzzer starts from the same file. `TILEKILN_BLESS=1` rewrites it.
#[test]
fn the_fuzzers_seed_is_the_sample() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/gguf/sample.gguf");
    if std::env::var_os("TILEKILN_BLESS").is_some() {
        std::fs::write(&path, sample()).unwrap();
    }
    assert!(
        std::fs::read(&path).unwrap() == sample(),
        "{} is not the sample",
        path.display()
    );
}

#[test]
fn the_sample_is_sound() {
    let file = File::parse(sample()).unwrap();
    use_all(&file);
    assert_eq!(
        (file.alignment(), file.tensors().len(), file.metadata().len()),
        (64, 4, 10)
    );
    let metadata = file.metadata();
    assert_eq!(metadata.str("a.text").unwrap(), Some("text"));
    assert_eq!(metadata.u32("a.u8").unwrap(), Some(7));
    assert_eq!(metadata.need("a.i64").unwrap().i32().unwrap(), -7);
    assert_eq!(metadata.f32("a.f64").unwrap(), Some(0.5));
    let strings: Vec<&[u8]> = metadata.strings("a.strings").unwrap().unwrap().iter().collect();
    assert_eq!(strings, [&b"one"[..], b"two", b"", b"four"]);
    assert_eq!(metadata.need("a.bools").unwrap().bools().unwrap(), [true, false, true]);
    assert_eq!(metadata.need("a.numbers").unwrap().u32_per_layer(3).unwrap(), [1, 2, 3]);
    assert_eq!(metadata.need("a.u8").unwrap().u32_per_layer(2).unwrap(), [7, 7]);
}

/// Wrong uses of sound values: the key, what is there, what was wanted.
#[test]
fn getters_say_what_is_there_and_what_was_wanted() {
    let file = File::parse(sample()).unwrap();
    let metadata = file.metadata();
    let field = |key| metadata.need(key).unwrap();
    let table = [
        (
            metadata.u32("a.text").unwrap_err(),
            "`a.text` is a string, wanted an integer",
        ),
        (metadata.str("a.u8").unwrap_err(), "`a.u8` is a u8, wanted a string"),
        (metadata.u64("a.i64").unwrap_err(), "`a.i64` is -7, which does not fit"),
        (metadata.f32("a.u8").unwrap_err(), "`a.u8` is a u8, wanted a float"),
        (metadata.bool("a.u8").unwrap_err(), "`a.u8` is a u8, wanted a bool"),
        (
            metadata.strings("a.numbers").unwrap_err(),
            "an array of 3 u32, wanted an array of strings",
        ),
        (
            field("a.strings").f32s().unwrap_err(),
            "an array of 4 string, wanted an array of floats",
        ),
        (field("a.u8").u32s().unwrap_err(), "`a.u8` is a u8, wanted an array"),
        (field("a.nested").u32s().unwrap_err(), "an array of 2 array"),
        (
            field("a.numbers").u32_per_layer(42).unwrap_err(),
            "`a.numbers` has 3 entries, wanted 42",
        ),
        (metadata.need("b").unwrap_err(), "`b` is missing"),
        (file.need("b").unwrap_err(), "tensor `b` is missing"),
    ];
    for (error, part) in table {
        assert!(error.to_string().contains(part), "{error}\nnot: {part}");
    }
    assert_eq!(metadata.u32("b").unwrap(), None);
}

/// One kind of damage and what the error says about it.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), &'a [&'a str]);

#[test]
fn damage_is_named() {
    let huge = (1_u64 << 62).to_le_bytes();
    let u32_at = |value: u32| value.to_le_bytes();
    // Offsets in a tensor's description: count of dimensions, dimensions, type, offset.
    let table: &[Damage<'_>] = &[
        ("empty", &|b| b.clear(), &["not a GGUF file", "empty"]),
        ("magic", &|b| b[0] = b'X', &["not a GGUF file", "58 47 55 46"]),
        ("version 1", &|b| b[4] = 1, &["version 1", "2 and 3"]),
        ("version 99", &|b| b[4] = 99, &["version 99"]),
        (
            "big-endian",
            &|b| b[4..8].copy_from_slice(&[0, 0, 0, 3]),
            &["big-endian", "convert"],
        ),
        (
            "tensor count",
            &|b| b[8..16].copy_from_slice(&huge),
            &["number of tensors", "byte 8", "damaged"],
        ),
        (
            "key count",
            &|b| b[16..24].copy_from_slice(&huge),
            &["number of metadata keys", "byte 16", "damaged"],
        ),
        ("one key more", &|b| b[16] += 1, &[]),
        ("one key less", &|b| b[16] -= 1, &[]),
        (
            "key length",
            &|b| b[24..32].copy_from_slice(&huge),
            &["metadata key 0", "byte 32", "cut short or damaged"],
        ),
        (
            "key text",
            &|b| rename(b, "a.text", b"\xff"),
            &["metadata key at byte", "not UTF-8"],
        ),
        (
            "value type",
            &|b| patch(b, "a.text", 0, &u32_at(13)),
            &["`a.text`", "value type 13", "does not exist"],
        ),
        (
            "string length",
            &|b| patch(b, "a.text", 4, &huge),
            &["the text of `a.text`", "cut short or damaged"],
        ),
        (
            "bool",
            &|b| patch(b, "a.bool", 4, &[2]),
            &["`a.bool`", "is 2", "neither 0 nor 1"],
        ),
        (
            "bool in an array",
            &|b| patch(b, "a.bools", 17, &[9]),
            &["`a.bools`", "is 9"],
        ),
        (
            "array type",
            &|b| patch(b, "a.numbers", 4, &u32_at(77)),
            &["`a.numbers`", "value type 77"],
        ),
        (
            "array count",
            &|b| patch(b, "a.numbers", 8, &huge),
            &["number of entries of `a.numbers`", "damaged"],
        ),
        (
            "string in an array",
            &|b| patch(b, "a.strings", 16, &huge),
            &["entry 0 of `a.strings`"],
        ),
        ("another key", &|b| rename(b, "a.text", b"b"), &[]),
        (
            "duplicate keys",
            &|b| rename(b, "a.f64", b"a.i64"),
            &["`a.i64`", "twice"],
        ),
        (
            "alignment 0",
            &|b| patch(b, "general.alignment", 4, &u32_at(0)),
            &["`general.alignment` is 0", "power of two"],
        ),
        (
            "alignment 48",
            &|b| patch(b, "general.alignment", 4, &u32_at(48)),
            &["`general.alignment` is 48"],
        ),
        (
            "alignment float",
            &|b| patch(b, "general.alignment", 0, &u32_at(6)),
            &["`general.alignment` is an f32"],
        ),
        (
            "alignment 128",
            &|b| patch(b, "general.alignment", 4, &u32_at(128)),
            &[],
        ),
        (
            "huge alignment",
            &|b| patch(b, "general.alignment", 4, &u32_at(1 << 31)),
            &["`second`", "multiple of the alignment 2147483648"],
        ),
        (
            "duplicate tensor",
            &|b| rename(b, "third", b"first"),
            &["`first`", "twice"],
        ),
        (
            "tensor name",
            &|b| rename(b, "first", b"\xc0"),
            &["tensor name at byte", "not UTF-8"],
        ),
        (
            "no dimensions",
            &|b| patch(b, "second", 0, &u32_at(0)),
            &["`second`", "0 dimensions", "1 to 4"],
        ),
        (
            "five dimensions",
            &|b| patch(b, "second", 0, &u32_at(5)),
            &["`second`", "5 dimensions"],
        ),
        (
            "a dimension of 0",
            &|b| patch(b, "second", 4, &0_u64.to_le_bytes()),
            &["`second`", "none may be 0"],
        ),
        (
            "a huge dimension",
            &|b| patch(b, "second", 4, &huge),
            &["`second`", "more bytes than memory"],
        ),
        (
            "huge dimensions",
            &|b| patch(b, "first", 12, &huge),
            &["`first`", "more bytes than memory"],
        ),
        (
            "half a block",
            &|b| patch(b, "first", 4, &33_u64.to_le_bytes()),
            &["`first`", "33", "Q8_0", "blocks of 32"],
        ),
        (
            "a long dimension",
            &|b| patch(b, "fourth", 12, &99_u64.to_le_bytes()),
            &["`fourth`", "ends at byte", "cut short"],
        ),
        (
            "misaligned",
            &|b| patch(b, "second", 16, &1_u64.to_le_bytes()),
            &["`second`", "alignment 64"],
        ),
        (
            "overlap",
            &|b| patch(b, "second", 16, &64_u64.to_le_bytes()),
            &["`first`", "`second`", "overlap"],
        ),
        (
            "same place",
            &|b| patch(b, "second", 16, &0_u64.to_le_bytes()),
            &["overlap"],
        ),
        (
            "past the end",
            &|b| patch(b, "second", 16, &(1_u64 << 40).to_le_bytes()),
            &["`second`", "ends at byte", "cut short"],
        ),
        (
            "an offset that overflows",
            &|b| patch(b, "second", 16, &(u64::MAX - 63).to_le_bytes()),
            &["`second`", "ends at byte"],
        ),
        (
            "cut by a byte",
            &|b| b.truncate(b.len() - 1),
            &["`fourth`", "cut short", "fetch it again"],
        ),
        ("cut in a tensor", &|b| b.truncate(b.len() - 600), &["cut short"]),
    ];
    for (name, damage, parts) in table {
        let mut bytes = sample();
        damage(&mut bytes);
        match File::parse(bytes) {
            Ok(file) => {
                assert!(parts.is_empty(), "{name}: was read");
                use_all(&file);
            }
            Err(error) => {
                let text = error.to_string();
                for part in *parts {
                    assert!(text.contains(part), "{name}: {text}\nnot: {part}");
                }
            }
        }
    }
}

#[test]
fn a_tensor_of_unknown_type_is_an_error_when_it_is_needed() {
    let mut bytes = sample();
    patch(&mut bytes, "second", 12, &250_u32.to_le_bytes());
    let file = File::parse(bytes).unwrap();
    use_all(&file);
    let tensor = file.need("second").unwrap();
    assert_eq!((tensor.kind, tensor.bytes), (TensorType::Unknown(250), None));
    let error = file.bytes(tensor).unwrap_err().to_string();
    assert!(error.contains("`second` has type id 250"), "{error}");
    assert!(error.contains("quantise") && error.contains("Q4_K"), "{error}");
    assert!(file.bytes(file.need("third").unwrap()).is_ok());
}

#[test]
fn arrays_nest_only_so_deep() {
    let mut writer = Writer::new();
    writer.set("deep", &vec![vec![vec![vec![1_u8]]]]);
    let mut bytes = Vec::new();
    writer.layout().unwrap().write(&mut bytes, |_, _| Ok(())).unwrap();
    assert!(File::parse(bytes).is_ok());
    writer.set("deeper", &vec![vec![vec![vec![vec![1_u8]]]]]);
    let error = writer.layout().unwrap_err().to_string();
    assert!(error.contains("`deeper`") && error.contains("deeper than 4"), "{error}");
}

/// What people give by mistake, and what they read.
#[test]
fn other_files_are_recognised() {
    let safetensors = [&16_u64.to_le_bytes()[..], b"{\"__metadata__\":"].concat();
    let table: &[(&[u8], &str, &str)] = &[
        (b"", "empty", "fetch"),
        (b"GG", "47 47", "fetch"),
        (b"GGU", "47 47 55", "fetch"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        (b"\n <!DOCTYPE HTML><html>", "HTML page", "fetch"),
        (b"<html lang=en>", "HTML page", "fetch"),
        (b"<?xml version='1.0'?><Error/>", "XML", "fetch"),
        (&safetensors, "safetensors", "convert"),
        (b"PK\x03\x04....", "ZIP", "convert"),
        (b"\x80\x02}q\x00", "pickle", "convert"),
        (b"\x1f\x8b\x08\x00", "gzip", "decompress"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd", "decompress"),
        (b"tjgg\x03\x00\x00\x00", "before GGUF", "convert"),
        (b"lmgg\x03\x00\x00\x00", "before GGUF", "convert"),
        (b"{\"error\":\"not found\"}", "JSON", "fetch"),
        (b"FUGG\x00\x00\x00\x03", "big-endian", "convert"),
        (b"\x7fELF", "7f 45 4c 46", "fetch"),
    ];
    for (bytes, what, remedy) in table {
        let error = File::parse(bytes.to_vec()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(remedy), "{what}: {error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = sample();
    for size in 0..bytes.len() {
        let error = File::parse(&bytes[..size]).expect_err("a cut file");
        let text = error.to_string();
        let cut = ["cut short", "damaged", "empty", "not a GGUF file"];
        assert!(
            cut.iter().any(|part| text.contains(part)),
            "cut to {size} bytes: {text}"
        );
    }
}

/// Every single bit, and thousands of random sets of changes.
#[test]
fn flipped_bits_never_panic() {
    let sound = sample();
    let header = File::parse(&sound[..]).unwrap().data_start();
    let mut loaded = 0;
    for bit in 0..header * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(file) = File::parse(bytes) {
            use_all(&file);
            loaded += 1;
        }
    }
    // a changed letter of a name is no damage that can be seen; a changed length is
    assert!(loaded > header && loaded < header * 7, "{loaded} of {}", header * 8);
    let mut random = Random::new("flipped bits");
    for _ in 0..20_000 {
        let mut bytes = sound.clone();
        for _ in 0..random.integer(1..=6) {
            let at = random.integer(0..=header as i64 - 1) as usize;
            bytes[at] = random.integer(0..=255) as u8;
        }
        let size = match random.integer(0..=4) {
            0 => random.integer(0..=bytes.len() as i64) as usize,
            _ => bytes.len(),
        };
        if let Ok(file) = File::parse(&bytes[..size]) {
            use_all(&file);
        }
    }
}

#[test]
fn files_that_cannot_be_opened_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.gguf");
    let text = File::open(&missing).unwrap_err().to_string();
    assert!(text.contains("missing.gguf: cannot be read"), "{text}");
    let text = File::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("folder"), "{text}");
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, "").unwrap();
    let text = File::open(&empty).unwrap_err().to_string();
    assert!(text.contains("empty.gguf: not a GGUF file: it is empty"), "{text}");
}

#[test]
fn inspect_reports_damage_and_shows_what_can_be_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let name = path.to_str().unwrap();
    let mut bytes = sample();
    patch(&mut bytes, "second", 12, &250_u32.to_le_bytes());
    // a terminal must not obey a file
    rename(&mut bytes, "a.text", b"\x1b");
    std::fs::write(&path, &bytes).unwrap();
    let run = Run::new(&["inspect", name]).ended(0);
    for part in [
        "unknown type 250",
        "a.strings",
        "string[4]",
        "\"one\", \"two\", \"\", \"four\"",
        "256 x 2 x 2 x 1",
    ] {
        assert!(run.stdout.contains(part), "{part} is not in\n{}", run.stdout);
    }
    assert!(
        run.stdout.contains("note: 1 tensors of type unknown type 250"),
        "{}",
        run.stdout
    );
    assert!(!run.stdout.contains('\u{1b}'));
    let json = Run::new(&["inspect", "--json", name]).ended(0).json();
    assert_eq!(json["tensors"][1]["bytes"], serde_json::Value::Null);
    assert_eq!(json["metadata"][6]["value"][3], "four");
    let metadata = Run::new(&["inspect", "--metadata", name]).ended(0);
    assert!(!metadata.stdout.contains("fourth"));
    let tensors = Run::new(&["inspect", "--tensors", name]).ended(0);
    assert!(!tensors.stdout.contains("a.strings"));

    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let run = Run::new(&["inspect", name]).ended(1);
    assert!(
        run.stderr.contains(name) && run.stderr.contains("cut short"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, "");
    Run::new(&["inspect"]).ended(2);
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = File::parse(bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_header_never_panic(
        tensors in 0_u64..6,
        keys in 0_u64..6,
        small in prop::collection::vec(prop_oneof![4 => 0_u8..16, 1 => any::<u8>(), 3 => Just(0_u8)], 0..400),
    ) {
        let mut bytes = b"GGUF\x03\x00\x00\x00".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend(small);
        if let Ok(file) = File::parse(bytes) {
            use_all(&file);
        }
    }

    #[test]
    fn what_is_described_is_what_is_read(
        alignment in 0_u32..8,
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
        numbers in prop::collection::vec(any::<i64>(), 0..9),
        float in any::<f64>(),
        tensors in prop::collection::vec((prop::collection::vec(1_usize..4, 1..=4), 0_usize..40, any::<u8>()), 0..7),
    ) {
        let mut writer = Writer::with_alignment(1 << alignment);
        let strings: Vec<_> = texts.iter().map(|text| tilekiln::gguf::Bytes(text)).collect();
        writer.set("texts", &strings).set("numbers", &numbers).set("float", &float);
        let kinds: Vec<TensorType> = TensorType::known().collect();
        let mut expected = Vec::new();
        for (index, (dims, kind, fill)) in tensors.iter().enumerate() {
            let kind = kinds[kind % kinds.len()];
            let mut dims = dims.clone();
            dims[0] *= kind.block_values().unwrap();
            writer.tensor(&format!("tensor {index}"), &dims, kind);
            expected.push((dims, kind, *fill));
        }
        let layout = writer.layout().unwrap();
        let mut bytes = Vec::new();
        let mut fills = expected.iter().map(|(_, _, fill)| *fill);
        layout.write(&mut bytes, |tensor, out| out.write_all(&vec![fills.next().unwrap(); tensor.bytes.unwrap()])).unwrap();
        prop_assert_eq!(bytes.len(), layout.size());

        let file = File::parse(bytes.clone()).unwrap();
        use_all(&file);
        let read: Vec<&[u8]> = file.metadata().strings("texts").unwrap().unwrap().iter().collect();
        prop_assert_eq!(read, texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let Value::Array(array) = file.metadata().need("numbers").unwrap().value() else { panic!("no array") };
        let read: Vec<i128> = array.values().map(|value| value.integer().unwrap()).collect();
        prop_assert_eq!(read, numbers.iter().map(|&number| i128::from(number)).collect::<Vec<_>>());
        let read = file.metadata().need("float").unwrap().value().float().unwrap();
        prop_assert_eq!(read.to_bits(), float.to_bits());
        prop_assert_eq!(file.tensors().len(), expected.len());
        for (tensor, (dims, kind, fill)) in file.tensors().iter().zip(&expected) {
            prop_assert_eq!((&tensor.dims, tensor.kind), (dims, *kind));
            prop_assert!(tensor.offset.is_multiple_of(1 << alignment));
            prop_assert!(file.bytes(tensor).unwrap().iter().all(|byte| byte == fill));
        }

        // The same file written at places, last tensor first.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.gguf");
        let output = layout.create(&path).unwrap();
        for (tensor, (_, _, fill)) in layout.tensors().iter().zip(&expected).rev() {
            let bytes = vec![*fill; tensor.bytes.unwrap()];
            let (front, back) = bytes.split_at(bytes.len() / 2);
            output.write_at(tensor, front.len(), back).unwrap();
            output.write_at(tensor, 0, front).unwrap();
            prop_assert!(output.write_at(tensor, 1, &bytes).is_err());
        }
        prop_assert!(!path.exists());
        output.finish().unwrap();
        prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

/// What a writer must not describe, and tensors that are not written as described.
#[test]
fn a_writer_refuses_what_a_reader_would() {
    type Describe = fn(&mut Writer);
    let table: &[(Describe, &str)] = &[
        (|w| _ = w.set("k", &1_u8).set("k", &2_u8), "`k`"),
        (
            |w| _ = w.tensor("t", &[4], TensorType::F32).tensor("t", &[4], TensorType::F32),
            "`t`",
        ),
        (|w| _ = w.tensor("t", &[], TensorType::F32), "0 dimensions"),
        (|w| _ = w.tensor("t", &[1, 1, 1, 1, 1], TensorType::F32), "5 dimensions"),
        (|w| _ = w.tensor("t", &[0], TensorType::F32), "none may be 0"),
        (|w| _ = w.tensor("t", &[33], TensorType::Q8_0), "blocks of 32"),
        (
            |w| _ = w.tensor("t", &[usize::MAX, 2], TensorType::F32),
            "more bytes than memory",
        ),
        (|w| _ = w.tensor("t", &[usize::MAX / 4, 1], TensorType::F32), "`t`"),
        (|w| _ = w.tensor("t", &[4], TensorType::Unknown(99)), "type id 99"),
        (|w| *w = Writer::with_alignment(0), "`general.alignment` is 0"),
        (|w| *w = Writer::with_alignment(24), "`general.alignment` is 24"),
    ];
    for (describe, part) in table {
        let mut writer = Writer::new();
        describe(&mut writer);
        let error = writer.layout().expect_err(part).to_string();
        assert!(error.contains(part), "{error}\nnot: {part}");
    }
    let mut writer = Writer::new();
    writer.tensor("t", &[4], TensorType::F32);
    let layout = writer.layout().unwrap();
    for size in [0, 15, 17] {
        let error = layout
            .write(&mut Vec::new(), |_, out| out.write_all(&vec![0; size]))
            .unwrap_err();
        assert!(
            size < 16 && error.to_string().contains("`t`") || error.to_string().contains("more"),
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    drop(layout.create(&folder.path().join("file.gguf")).unwrap());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "a dropped file is removed"
    );
}
