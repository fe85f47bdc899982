//! The tokenizer against goldens, against plain references, and on text of every sort.

#[path = "support/vocabulary.rs"]
mod vocabulary;

use proptest::prelude::*;
use tilekiln::tokenizer::{Control, Kind, Special, Tokenizer, TokenizerError, Vocabulary};
use tilekiln_tests::golden::shared_folder;
use tilekiln_tests::random::Random;
use tilekiln_tests::requirement::require;
use vocabulary::{golden_vocabulary, naive_encode, small_vocabulary};

fn small() -> Tokenizer {
    Tokenizer::new(small_vocabulary()).unwrap()
}

#[test]
fn every_golden_case_is_encoded_and_decoded() {
    let Some(shared) = require("shared", shared_folder()) else {
        return;
    };
    let tokenizer = Tokenizer::new(golden_vocabulary(&shared.join("golden/gemma4/tokenizer.json"))).unwrap();
    let cases = std::fs::read_to_string(shared.join("golden/gemma4/tokenizer_cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() >= 20);
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let tokens = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let ids = tokens("ids");
        assert_eq!(tokenizer.encode(text, Special::Parse), ids, "{text:?}");
        assert_eq!(
            tokenizer.encode_with_bos(text, Special::Parse),
            tokens("ids_with_bos"),
            "{text:?}"
        );
        assert_eq!(
            tokenizer.decode(&ids, Control::Show),
            case["decoded"].as_str().unwrap(),
            "{text:?}"
        );
    }
}

#[test]
fn a_prompt_begins_with_one_bos() {
    let tokenizer = small();
    let bos = tokenizer.bos();
    let text = tokenizer.encode("ab", Special::Literal);
    let with_bos = [&[bos], text.as_slice()].concat();
    assert_eq!(tokenizer.encode_prompt("ab"), with_bos);
    assert_eq!(tokenizer.encode_prompt("<bos>ab"), with_bos);
    assert_eq!(tokenizer.encode_prompt(""), [bos]);
    assert_eq!(
        tokenizer.encode_with_bos("<bos>ab", Special::Parse),
        [&[bos], with_bos.as_slice()].concat()
    );
}

#[test]
fn control_tokens_are_parsed_on_request_and_user_defined_ones_always() {
    let tokenizer = small();
    let id = |text: &str| tokenizer.id_of(text).unwrap();
    let parsed = tokenizer.encode("<|turn><|channel>a<turn|>", Special::Parse);
    assert_eq!(parsed, [id("<|turn>"), id("<|channel>"), id("a"), id("<turn|>")]);
    let literal = tokenizer.encode("<|turn><|channel>a<turn|>", Special::Literal);
    assert!(literal.contains(&id("<|channel>")));
    assert!(!literal.contains(&id("<|turn>")) && !literal.contains(&id("<turn|>")));
    assert_eq!(tokenizer.decode(&literal, Control::Hide), "<|turn><|channel>a<turn|>");
}

#[test]
fn control_tokens_show_as_asked() {
    let tokenizer = small();
    let tokens = tokenizer.encode("<bos>a<|tool>b<|channel>c", Special::Parse);
    let table = [
        (Control::Hide, "ab<|channel>c"),
        (Control::Show, "<bos>a<|tool>b<|channel>c"),
        (Control::Markup, "ab<|channel>c"),
    ];
    for (control, text) in table {
        assert_eq!(tokenizer.decode(&tokens, control), text, "{control:?}");
    }

    // A file that makes every special token a control token.
    let mut vocabulary = small_vocabulary();
    for kind in &mut vocabulary.kinds {
        if *kind == Kind::UserDefined {
            *kind = Kind::Control;
        }
    }
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(tokenizer.decode(&tokens, Control::Hide), "abc");
    assert_eq!(tokenizer.decode(&tokens, Control::Markup), "ab<|channel>c");
}

#[test]
fn incomplete_and_wrong_bytes_become_one_replacement_each() {
    let tokenizer = small();
    let byte = |byte: u8| tokenizer.id_of(&format!("<0x{byte:02X}>")).unwrap();
    let a = tokenizer.id_of("a").unwrap();
    let bytes = |text: &str| -> Vec<u32> { text.bytes().map(byte).collect() };
    let table: [(Vec<u32>, &str); 7] = [
        (bytes("é🙂"), "é🙂"),
        (bytes("🙂")[..3].to_vec(), "\u{fffd}\u{fffd}\u{fffd}"),
        ([&bytes("🙂")[..3], &[a]].concat(), "\u{fffd}\u{fffd}\u{fffd}a"),
        (vec![byte(0xff), byte(b'x'), byte(0x80)], "\u{fffd}x\u{fffd}"),
        ([&bytes("🙂")[..2], &bytes("🙂")].concat(), "\u{fffd}\u{fffd}🙂"),
        (vec![a, u32::MAX, a], "a\u{fffd}a"),
        ([&bytes("é")[..1], &[tokenizer.bos()], &bytes("é")[1..]].concat(), "é"),
    ];
    for (tokens, text) in table {
        assert_eq!(tokenizer.decode(&tokens, Control::Hide), text, "{tokens:?}");
        let mut stream = tokenizer.stream();
        let mut streamed: String = tokens.iter().map(|&token| stream.push(token).to_owned()).collect();
        streamed.push_str(stream.finish());
        assert_eq!(streamed, text, "{tokens:?}");
        assert_eq!(stream.finish(), "", "nothing is left");
    }
}

#[test]
fn ends_of_generation_are_found_by_their_texts() {
    let tokenizer = small();
    let texts: Vec<_> = tokenizer
        .end_of_generation()
        .iter()
        .map(|&id| tokenizer.token_text(id).unwrap().into_owned())
        .collect();
    assert_eq!(texts, ["<eos>", "<|tool_response>", "<turn|>"]);

    let mut vocabulary = small_vocabulary();
    vocabulary.tokens.push(b"</s>".to_vec());
    vocabulary.kinds.push(Kind::UserDefined);
    vocabulary.eos = Some(vocabulary.tokens.len() as u32 - 1);
    vocabulary.ends = vec![3];
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let ends = tokenizer.end_of_generation();
    assert!(
        !ends.contains(&tokenizer.id_of("</s>").unwrap()) && ends.contains(&3),
        "{ends:?}"
    );
}

#[test]
fn vocabularies_that_do_not_fit_together_are_refused() {
    type Change = fn(&mut Vocabulary);
    let table: [(Change, &str); 7] = [
        (|v| v.tokens.clear(), "empty"),
        (|v| v.kinds.truncate(5), "has 5; one type a token"),
        (
            |v| v.bos = Some(100_000),
            "`tokenizer.ggml.bos_token_id` names token 100000",
        ),
        (
            |v| v.eos = Some(u32::MAX),
            "`tokenizer.ggml.eos_token_id` names token 4294967295",
        ),
        (|v| v.unknown = Some(100_000), "unknown_token_id"),
        (|v| v.suppressed = vec![1, 100_000], "suppress_tokens"),
        (
            |v| {
                v.bos = None;
                v.tokens[2] = b"<start>".to_vec();
            },
            "no token is spelled `<bos>`",
        ),
    ];
    for (change, message) in table {
        let mut vocabulary = small_vocabulary();
        change(&mut vocabulary);
        let error = Tokenizer::new(vocabulary).err().unwrap();
        assert!(error.to_string().contains(message), "{error}");
    }
    assert!(matches!(
        Tokenizer::new(Vocabulary::default()),
        Err(TokenizerError::Empty)
    ));
}

#[test]
fn merges_that_cannot_be_used_are_left_out() {
    let mut vocabulary = small_vocabulary();
    let expected = Tokenizer::new(vocabulary.clone())
        .unwrap()
        .encode("hello  abc\n\nthe", Special::Parse);
    let lines: [&[u8]; 9] = [
        b"",
        b" ",
        b"a",
        b"a ",
        b" a",
        b"q zz",
        b"<| turn>",
        b"\xff \xfe",
        b"< 0x41>",
    ];
    vocabulary.merges.splice(0..0, lines.map(<[u8]>::to_vec));
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(tokenizer.encode("hello  abc\n\nthe", Special::Parse), expected);
    let tokens = tokenizer.encode("<|turn>", Special::Literal);
    assert!(!tokens.contains(&tokenizer.id_of("<|turn>").unwrap()));
}

#[test]
fn characters_without_bytes_are_unknown_once_in_a_row() {
    let mut vocabulary = small_vocabulary();
    for kind in &mut vocabulary.kinds {
        if *kind == Kind::Byte {
            *kind = Kind::Normal;
        }
    }
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let unknown = tokenizer.id_of("<unk>").unwrap();
    let a = tokenizer.id_of("a").unwrap();
    assert_eq!(
        tokenizer.encode("日本a語日本a", Special::Parse),
        [unknown, a, unknown, a]
    );
}

#[test]
fn long_segments_merge_as_plain_merging_does() {
    let vocabulary = small_vocabulary();
    let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
    let mut random = Random::new("tokenizer-long");
    let alphabets = ["a", "ab", "abc\n", "abcdehlo ", "\n", " ", "a🙂日", "<|turn>a"];
    for alphabet in alphabets {
        let letters: Vec<char> = alphabet.chars().collect();
        for _ in 0..20 {
            let length = random.integer(1..=400) as usize;
            let text: String = random
                .indices(length, letters.len())
                .iter()
                .map(|&i| letters[i as usize])
                .collect();
            assert_eq!(
                tokenizer.encode(&text, Special::Parse),
                naive_encode(&vocabulary, &text),
                "{text:?}"
            );
        }
    }
}

/// Merge lists in any order, so that merges make pairs of lower rank than their own.
fn any_merges() -> impl Strategy<Value = Vocabulary> {
    let piece = "[abc]{1,3}";
    proptest::collection::vec((piece, piece), 0..24).prop_map(|pairs| {
        let mut vocabulary = small_vocabulary();
        vocabulary.merges.clear();
        for (left, right) in pairs {
            for text in [left.clone(), right.clone(), format!("{left}{right}")] {
                if !vocabulary.tokens.contains(&text.clone().into_bytes()) {
                    vocabulary.tokens.push(text.into_bytes());
                    vocabulary.kinds.push(Kind::Normal);
                }
            }
            vocabulary.merges.push(format!("{left} {right}").into_bytes());
        }
        vocabulary
    })
}

proptest! {
    #[test]
    fn text_comes_back(text in any::<String>()) {
        let tokenizer = small();
        let tokens = tokenizer.encode(&text, Special::Parse);
        prop_assert_eq!(tokenizer.decode(&tokens, Control::Show), text.replace('\u{2581}', " "));
        let literal = tokenizer.encode(&text, Special::Literal);
        prop_assert_eq!(tokenizer.decode(&literal, Control::Hide), text.replace('\u{2581}', " "));
    }

    #[test]
    fn text_with_special_tokens_comes_back(
        parts in proptest::collection::vec(
            prop_oneof!["<bos>", "<\\|turn>", "<turn\\|>", "<\\|channel>", "[<|>a]{0,3}", "\n{1,12}", " {1,5}", ".{0,3}"],
            0..20,
        ),
    ) {
        let tokenizer = small();
        let text = parts.concat();
        let tokens = tokenizer.encode(&text, Special::Parse);
        prop_assert_eq!(tokenizer.decode(&tokens, Control::Show), text.replace('\u{2581}', " "));
        prop_assert_eq!(&tokens, &naive_encode(&small_vocabulary(), &text));
    }

    #[test]
    fn streams_are_decoding_in_whole_characters(tokens in proptest::collection::vec(0u32..420, 0..60)) {
        let tokenizer = small();
        for control in [Control::Hide, Control::Show, Control::Markup] {
            let mut stream = tokenizer.stream_with(control);
            let mut streamed = String::new();
            for &token in &tokens {
                streamed.push_str(stream.push(token));
            }
            streamed.push_str(stream.finish());
            prop_assert_eq!(&streamed, &tokenizer.decode(&tokens, control));
        }
    }

    #[test]
    fn any_merge_list_merges_as_plain_merging_does(vocabulary in any_merges(), text in "[abc]{0,120}") {
        let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, Special::Parse), naive_encode(&vocabulary, &text));
    }

    #[test]
    fn no_vocabulary_panics(
        tokens in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..20),
        kinds in proptest::collection::vec(1i64..=6, 0..20),
        merges in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..10),
        bos in 0u32..20,
        text in any::<String>(),
        decoded in proptest::collection::vec(any::<u32>(), 0..10),
    ) {
        let kinds = kinds.into_iter().filter_map(Kind::from_number).collect();
        let vocabulary = Vocabulary { tokens, kinds, merges, bos: Some(bos), ..Vocabulary::default() };
        if let Ok(tokenizer) = Tokenizer::new(vocabulary) {
            let tokens = tokenizer.encode_with_bos(&text, Special::Parse);
            tokenizer.decode(&tokens, Control::Show);
            tokenizer.decode(&decoded, Control::Markup);
            tokenizer.encode_prompt(&text);
        }
    }
}
