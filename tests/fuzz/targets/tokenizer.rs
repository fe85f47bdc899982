//! Texts through a small vocabulary, and vocabularies of any kind.
//!
//! The first byte chooses. Even: the rest is a text, which must come back from its tokens, at once and piece by piece.
//! Odd: the rest are the tokens and merges of a vocabulary, line by line, which must be refused or work.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tilekiln::tokenizer::{Control, Kind, Special, Tokenizer, Vocabulary};

/// All bytes, a few letters, special tokens, and merges that compete.
static SMALL: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut vocabulary = Vocabulary::default();
    let mut add = |text: &str, kind| {
        vocabulary.tokens.push(text.into());
        vocabulary.kinds.push(kind);
    };
    for special in ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<"] {
        add(special, Kind::Control);
    }
    for special in ["<|tool_call>", "<|\"|>", "ab ab"] {
        add(special, Kind::UserDefined);
    }
    add("<unk>", Kind::Unknown);
    add("<unused0>", Kind::Unused);
    for byte in 0..256 {
        add(&format!("<0x{byte:02X}>"), Kind::Byte);
    }
    for text in [
        "a",
        "b",
        "aa",
        "ab",
        "aaa",
        "aba",
        "\n",
        "\n\n",
        "\u{2581}",
        "\u{2581}a",
        "\u{e9}",
        "a\u{e9}",
    ] {
        add(text, Kind::Normal);
    }
    let merges = [
        "a b",
        "a a",
        "aa a",
        "ab a",
        "\n \n",
        "\u{2581} a",
        "a \u{e9}",
        "nothing here",
    ];
    vocabulary.merges = merges.map(|merge| merge.into()).into();
    Tokenizer::new(vocabulary).expect("a sound vocabulary")
});

fn round_trip(tokenizer: &Tokenizer, text: &str) {
    let tokens = tokenizer.encode(text, Special::Literal);
    // the character that stands for a space reads as one
    let expected = text.replace('\u{2581}', " ");
    assert_eq!(tokenizer.decode(&tokens, Control::Show), expected, "{tokens:?}");
}

fn in_pieces(tokenizer: &Tokenizer, tokens: &[u32]) {
    for control in [Control::Hide, Control::Show, Control::Markup] {
        let mut stream = tokenizer.stream_with(control);
        let mut pieces: String = tokens.iter().map(|&token| stream.push(token).to_owned()).collect();
        pieces.push_str(stream.finish());
        assert_eq!(pieces, tokenizer.decode(tokens, control));
    }
}

fn any_vocabulary(bytes: &[u8]) {
    let (numbers, lines) = bytes.split_at(bytes.len().min(8));
    let mut vocabulary = Vocabulary::default();
    for (index, line) in lines.split(|&byte| byte == b'\n').enumerate() {
        match line.strip_prefix(b"=") {
            Some(merge) => vocabulary.merges.push(merge.into()),
            None => {
                let kind = numbers.get(index % 8).map_or(1, |&number| i64::from(number % 7) + 1);
                vocabulary.kinds.extend(Kind::from_number(kind));
                vocabulary.tokens.push(line.into());
            }
        }
    }
    let number = |at: usize| numbers.get(at).map(|&number| u32::from(number % 16));
    vocabulary.bos = number(0);
    vocabulary.eos = number(1).filter(|&id| id < 12);
    vocabulary.unknown = number(2).filter(|&id| id < 12);
    vocabulary.suppressed.extend(number(3));
    match Tokenizer::new(vocabulary) {
        Ok(tokenizer) => {
            let text = String::from_utf8_lossy(lines);
            let tokens = tokenizer.encode_prompt(&text);
            assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.len()));
            in_pieces(&tokenizer, &tokens);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    if choice % 2 == 1 {
        return any_vocabulary(rest);
    }
    let text = String::from_utf8_lossy(rest);
    round_trip(&SMALL, &text);
    in_pieces(&SMALL, &SMALL.encode_with_bos(&text, Special::Parse));
    // tokens that no text has, and some that do not exist
    let tokens: Vec<u32> = rest
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |id, &byte| id * 2 + u32::from(byte)))
        .collect();
    in_pieces(&SMALL, &tokens);
});
