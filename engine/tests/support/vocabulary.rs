//! Vocabularies to test with, and encoding as plainly as it can be written.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::Path;

use tilekiln::tokenizer::{Kind, Vocabulary};

/// Special tokens in the order of their ids.
pub const SPECIAL: [(&str, Kind); 20] = [
    ("<pad>", Kind::Control),
    ("<eos>", Kind::Control),
    ("<bos>", Kind::Control),
    ("<unk>", Kind::Control),
    ("<mask>", Kind::Control),
    ("<|tool>", Kind::Control),
    ("<tool|>", Kind::Control),
    ("<|tool_call>", Kind::UserDefined),
    ("<tool_call|>", Kind::UserDefined),
    ("<|tool_response>", Kind::UserDefined),
    ("<tool_response|>", Kind::UserDefined),
    ("<|\"|>", Kind::UserDefined),
    ("<|think|>", Kind::Control),
    ("<|channel>", Kind::UserDefined),
    ("<channel|>", Kind::UserDefined),
    ("<|turn>", Kind::Control),
    ("<turn|>", Kind::Control),
    ("<|image>", Kind::Control),
    ("<table>", Kind::UserDefined),
    ("<unused19>", Kind::Unused),
];

/// Special tokens, runs of newlines, bytes, printable ASCII without capitals, and what these merges make.
pub fn small_vocabulary() -> Vocabulary {
    let merges = [
        "h e",
        "l l",
        "t h",
        "th e",
        "he ll",
        "hell o",
        "▁ t",
        "▁ the",
        "▁t he",
        "▁ ▁",
        "▁▁ ▁▁",
        "▁▁ ▁",
        "a a",
        "aa a",
        "aa aa",
        "aaaa aaaa",
        "a b",
        "b c",
        "ab c",
        "a bc",
        "bc d",
        "🙂 🙂",
        "< |",
        "1 2",
        "12 3",
    ];
    let mut vocabulary = Vocabulary::default();
    let mut push = |text: String, kind: Kind| {
        if !vocabulary.tokens.contains(&text.clone().into_bytes()) {
            vocabulary.tokens.push(text.into_bytes());
            vocabulary.kinds.push(kind);
        }
    };
    for (text, kind) in SPECIAL {
        push(text.to_owned(), kind);
    }
    for count in 1..=8 {
        push("\n".repeat(count), Kind::Normal);
    }
    for byte in 0..=255 {
        push(format!("<0x{byte:02X}>"), Kind::Byte);
    }
    push("▁".to_owned(), Kind::Normal);
    push("🙂".to_owned(), Kind::Normal);
    for letter in ('!'..='~').filter(|letter| !letter.is_ascii_uppercase()) {
        push(letter.to_string(), Kind::Normal);
    }
    for line in merges {
        push(line.replace(' ', ""), Kind::Normal);
    }
    let newlines = (2..=8).flat_map(|count| (1..count).map(move |left| (left, count - left)));
    let newlines = newlines.map(|(left, right)| format!("{} {}", "\n".repeat(left), "\n".repeat(right)));
    let merges = newlines.chain(merges.map(str::to_owned));
    vocabulary.merges = merges.map(String::into_bytes).collect();
    vocabulary.bos = Some(2);
    vocabulary.eos = Some(1);
    vocabulary.unknown = Some(3);
    vocabulary
}

/// The vocabulary of a `tokenizer.json`, with the kinds that a converter gives its tokens.
pub fn golden_vocabulary(path: &Path) -> Vocabulary {
    let file = std::fs::read_to_string(path).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let model = &file["model"];
    let entries = model["vocab"].as_object().unwrap();
    let mut tokens = vec![Vec::new(); entries.len()];
    for (text, id) in entries {
        tokens[id.as_u64().unwrap() as usize] = text.clone().into_bytes();
    }
    let special: Vec<&str> = file["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|added| added["content"].as_str().unwrap())
        .collect();
    let kinds = tokens.iter().map(|token| {
        let text = std::str::from_utf8(token).unwrap();
        match special.contains(&text) {
            true if ["channel", "tool_", "\""].iter().any(|part| text.contains(part)) => Kind::UserDefined,
            true => Kind::Control,
            false if text.starts_with("<0x") => Kind::Byte,
            false => Kind::Normal,
        }
    });
    let kinds = kinds.collect();
    let merges = model["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()).into_bytes());
    Vocabulary {
        merges: merges.collect(),
        tokens,
        kinds,
        bos: Some(2),
        eos: Some(1),
        unknown: Some(3),
        ..Vocabulary::default()
    }
}

/// Encodes with special tokens parsed. Tries every special token at every place and looks for the best pair in the
/// whole text before each merge.
pub fn naive_encode(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    let texts: Vec<&str> = vocabulary
        .tokens
        .iter()
        .map(|token| std::str::from_utf8(token).unwrap())
        .collect();
    let specials = texts.iter().zip(&vocabulary.kinds).enumerate();
    let specials: Vec<(u32, &str)> = specials
        .filter(|(_, (_, kind))| matches!(kind, Kind::Control | Kind::UserDefined))
        .map(|(id, (text, _))| (id as u32, *text))
        .collect();
    let ids: HashMap<&str, u32> = texts
        .iter()
        .enumerate()
        .rev()
        .map(|(id, text)| (*text, id as u32))
        .collect();
    let ranks: HashMap<(&str, &str), usize> = vocabulary
        .merges
        .iter()
        .enumerate()
        .rev()
        .map(|(rank, line)| (std::str::from_utf8(line).unwrap().split_once(' ').unwrap(), rank))
        .collect();

    let mut out = Vec::new();
    let mut fragment = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let here = specials.iter().filter(|(_, special)| rest.starts_with(special));
        match here.max_by_key(|(_, special)| special.len()) {
            Some((id, special)) => {
                naive_merge(&fragment, &ids, &ranks, &mut out);
                fragment.clear();
                out.push(*id);
                rest = &rest[special.len()..];
            }
            None => {
                fragment.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    naive_merge(&fragment, &ids, &ranks, &mut out);
    out
}

fn naive_merge(fragment: &str, ids: &HashMap<&str, u32>, ranks: &HashMap<(&str, &str), usize>, out: &mut Vec<u32>) {
    let mut pieces: Vec<String> = fragment.chars().map(|c| c.to_string().replace(' ', "▁")).collect();
    loop {
        let pairs = pieces.windows(2).enumerate();
        let known = pairs.filter_map(|(at, pair)| Some((ranks.get(&(pair[0].as_str(), pair[1].as_str()))?, at)));
        let Some((_, at)) = known.min() else { break };
        let right = pieces.remove(at + 1);
        pieces[at].push_str(&right);
    }
    for piece in pieces {
        match ids.get(piece.as_str()) {
            Some(&id) => out.push(id),
            None => out.extend(piece.bytes().map(|byte| ids[format!("<0x{byte:02X}>").as_str()])),
        }
    }
}

/// As large as a published vocabulary: 262144 tokens, and all ways in which two tokens make a third as merges (about
/// half a million). Pieces are runs of newlines and spaces, and letters, pairs, triples and longer strings of syllables
/// with and without a space in front, the shorter ones first.
pub fn large_vocabulary() -> Vocabulary {
    const TOKENS: usize = 262_144;
    let mut vocabulary = small_vocabulary();
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        known.insert(token.clone(), id);
    }
    let add = |text: String, known: &mut HashMap<Vec<u8>, usize>, vocabulary: &mut Vocabulary| {
        let text = text.into_bytes();
        if vocabulary.tokens.len() < TOKENS && !known.contains_key(&text) {
            known.insert(text.clone(), vocabulary.tokens.len());
            vocabulary.tokens.push(text);
            vocabulary.kinds.push(Kind::Normal);
        }
    };
    for character in ('A'..='Z').chain('à'..='ÿ').chain('一'..='龥') {
        add(character.to_string(), &mut known, &mut vocabulary);
    }
    for count in 2..=31 {
        for text in ["\n", "▁", "a"] {
            add(text.repeat(count), &mut known, &mut vocabulary);
        }
    }
    let syllables = [
        "the", "ing", "er", "an", "re", "ou", "st", "qu", "ion", "le", "at", "mi", "so", "lu",
    ];
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let join = |left: &[String], right: &[String]| -> Vec<String> {
        left.iter()
            .flat_map(|l| right.iter().map(move |r| format!("{l}{r}")))
            .collect()
    };
    let pairs = join(&letters, &letters);
    let triples = join(&pairs, &letters);
    let syllables: Vec<String> = syllables.map(String::from).to_vec();
    let words = join(&syllables, &syllables);
    let sentences = join(&words, &syllables);
    let fours = join(&pairs, &pairs);
    for group in [&pairs, &triples, &words, &sentences, &fours] {
        for space in ["", "▁"] {
            for text in group {
                add(format!("{space}{text}"), &mut known, &mut vocabulary);
            }
        }
    }
    // The rank of a merge is that of what it makes.
    vocabulary.merges.clear();
    for token in &vocabulary.tokens {
        let Ok(text) = std::str::from_utf8(token) else { continue };
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        for (left, right) in cuts {
            if known.contains_key(left.as_bytes()) && known.contains_key(right.as_bytes()) {
                vocabulary.merges.push(format!("{left} {right}").into_bytes());
            }
        }
    }
    vocabulary
}
