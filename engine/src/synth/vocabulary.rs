//! A vocabulary in the manner of Gemma 4: special tokens, bytes, single characters, and words of two or three syllables
//! that text and tokens translate into each other exactly.

/// Ids below this are special tokens, bytes, characters and parts of words; all others are whole words.
pub const FIRST_WORD: usize = 1000;

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
const NORMAL: i32 = 1;

/// Ids of the published vocabulary.
const SPECIAL: &[(usize, &str, i32)] = &[
    (0, "<pad>", CONTROL),
    (1, "<eos>", CONTROL),
    (2, "<bos>", CONTROL),
    (3, "<unk>", CONTROL),
    (4, "<mask>", CONTROL),
    (46, "<|tool>", CONTROL),
    (47, "<tool|>", CONTROL),
    (48, "<|tool_call>", USER_DEFINED),
    (49, "<tool_call|>", USER_DEFINED),
    (50, "<|tool_response>", USER_DEFINED),
    (51, "<tool_response|>", USER_DEFINED),
    (52, "<|\"|>", USER_DEFINED),
    (98, "<|think|>", CONTROL),
    (100, "<|channel>", USER_DEFINED),
    (101, "<channel|>", USER_DEFINED),
    (105, "<|turn>", CONTROL),
    (106, "<turn|>", CONTROL),
    (107, "\n", NORMAL),
    (108, "\n\n", NORMAL),
    (SPACE, "\u{2581}", NORMAL),
];

/// Placeholders of media, at ids of our own: the published ones are words here.
const MEDIA: &[(usize, &str)] = &[(980, "<|image|>"), (981, "<|audio|>"), (982, "<|video|>")];

/// Ids that a model may list as never to be sampled.
pub(super) const SUPPRESSED: [i32; 3] = [980, 981, 982];

const BYTES: usize = 238;
const SPACE: usize = 494;
const CHARACTERS: usize = 500;
const SYLLABLES: usize = 600;
const SPACED_SYLLABLES: usize = 700;

const CONSONANTS: [char; 14] = ['b', 'd', 'f', 'g', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'z'];
const VOWELS: [char; 5] = ['a', 'e', 'i', 'o', 'u'];
const COUNT: usize = CONSONANTS.len() * VOWELS.len();

/// Tokens, their types and merges.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<i32>,
    pub(super) merges: Vec<String>,
}

fn syllable(index: usize) -> String {
    let (consonant, vowel) = (index / VOWELS.len(), index % VOWELS.len());
    [CONSONANTS[consonant % CONSONANTS.len()], VOWELS[vowel]]
        .iter()
        .collect()
}

/// Word `index` in two parts: what it is merged from.
fn word(index: usize) -> (String, String) {
    match index.checked_sub(COUNT * COUNT) {
        None => (format!("\u{2581}{}", syllable(index / COUNT)), syllable(index % COUNT)),
        Some(longer) => {
            let (first, second) = word(longer / COUNT);
            (first + &second, syllable(longer % COUNT))
        }
    }
}

impl Vocabulary {
    /// A vocabulary of `size` tokens, at least [`FIRST_WORD`].
    pub(super) fn new(size: usize) -> Self {
        let mut tokens: Vec<String> = (0..size).map(|id| format!("<unused{id}>")).collect();
        let mut types = vec![UNUSED; size];
        let mut merges = vec!["\n \n".to_owned()];
        let mut set = |id: usize, text: String, kind: i32| {
            if let (Some(token), Some(slot)) = (tokens.get_mut(id), types.get_mut(id)) {
                (*token, *slot) = (text, kind);
            }
        };
        for &(id, text, kind) in SPECIAL {
            set(id, text.into(), kind);
        }
        for &(id, text) in MEDIA {
            set(id, text.into(), CONTROL);
        }
        for byte in 0..256 {
            set(BYTES + byte, format!("<0x{byte:02X}>"), BYTE);
        }
        for (offset, character) in ('!'..='~').enumerate() {
            set(CHARACTERS + offset, character.into(), NORMAL);
        }
        for index in 0..COUNT {
            let text = syllable(index);
            let mut letters = text.chars().map(String::from);
            merges.push(letters.by_ref().collect::<Vec<_>>().join(" "));
            set(SYLLABLES + index, text, NORMAL);
        }
        for index in 0..COUNT {
            let text = syllable(index);
            merges.push(format!("\u{2581} {text}"));
            set(SPACED_SYLLABLES + index, format!("\u{2581}{text}"), NORMAL);
        }
        for id in FIRST_WORD..size {
            let (first, last) = word(id - FIRST_WORD);
            merges.push(format!("{first} {last}"));
            set(id, first + &last, NORMAL);
        }
        Self { tokens, types, merges }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tokens_are_unique_and_every_merge_makes_one() {
        for size in [2048, 8192, 262_144] {
            let vocabulary = Vocabulary::new(size);
            let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
            assert_eq!((tokens.len(), vocabulary.types.len()), (size, size));
            let mut made = HashSet::new();
            for merge in &vocabulary.merges {
                let (left, right) = merge.split_once(' ').unwrap();
                assert!(tokens.contains(left) && tokens.contains(right), "{merge}");
                assert!(tokens.contains(&*format!("{left}{right}")), "{merge}");
                assert!(made.insert(format!("{left}{right}")), "{merge} twice");
            }
            // every word can be made
            assert!(vocabulary.tokens[FIRST_WORD..].iter().all(|word| made.contains(word)));
        }
    }
}
