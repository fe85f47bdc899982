//! Any template over any conversation, and any answer of a model.
//!
//! Up to the first zero byte: a template; nothing stands for the built-in one. Then messages as JSON. After another
//! zero byte: an answer, taken apart at once and character by character.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tilekiln::chat::{AnswerParser, AnswerPart, Conversation, Template};
use tilekiln::tokenizer::{Kind, Tokenizer, Vocabulary};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut vocabulary = Vocabulary::default();
    let special = [
        "<bos>",
        "<|turn>",
        "<turn|>",
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
    ];
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), Kind::Byte));
    let special = special.iter().map(|text| (text.to_string(), Kind::Control));
    for (text, kind) in special.chain(bytes) {
        vocabulary.tokens.push(text.into());
        vocabulary.kinds.push(kind);
    }
    Tokenizer::new(vocabulary).expect("a sound vocabulary")
});

/// Parts with neighbours of the same kind joined.
fn joined(parts: Vec<AnswerPart>) -> Vec<AnswerPart> {
    let mut all: Vec<AnswerPart> = Vec::new();
    for part in parts {
        match (all.last_mut(), part) {
            (Some(AnswerPart::Text(before)), AnswerPart::Text(more))
            | (Some(AnswerPart::Reasoning(before)), AnswerPart::Reasoning(more)) => before.push_str(&more),
            (_, part) => all.push(part),
        }
    }
    all
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let (source, messages, answer) = (parts.next(), parts.next(), parts.next());
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();

    let template = match text(source) {
        source if source.is_empty() => Ok(Template::fallback(&TOKENIZER, bytes.len() % 2 == 0)),
        source => Template::new(&source, &TOKENIZER),
    };
    match (template, serde_json::from_slice(messages.unwrap_or_default())) {
        (Ok(template), Ok(messages)) => {
            let mut conversation = Conversation::new(messages);
            conversation.enable_thinking = bytes.len() % 3 == 0;
            if let Err(error) = template.render(&conversation) {
                assert!(!error.to_string().is_empty());
            }
            if let Ok(tokens) = template.encode(&TOKENIZER, &conversation) {
                assert_eq!(tokens.first(), Some(&TOKENIZER.bos()));
            }
        }
        (Err(error), _) => assert!(!error.to_string().is_empty()),
        _ => {}
    }

    let answer = text(answer);
    let mut whole = AnswerParser::after(&text(messages));
    let mut at_once = whole.push(&answer);
    at_once.extend(whole.finish());
    let mut streamed = AnswerParser::after(&text(messages));
    let mut pieces = Vec::new();
    for character in answer.chars() {
        pieces.extend(streamed.push(character.encode_utf8(&mut [0; 4])));
    }
    pieces.extend(streamed.finish());
    assert_eq!(joined(pieces), joined(at_once), "{answer:?}");
});
