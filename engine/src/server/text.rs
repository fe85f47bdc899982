//! Text on its way in and out: what the server needs of a model's language, and stop strings.

use super::request::Chat;

/// The tokens of a model and its way of conversing.
pub trait Language: Send + Sync {
    /// Tokens of a text, without `<bos>`. Control tokens written in the text are recognised where `control` is set.
    fn encode(&self, text: &str, control: bool) -> Vec<u32>;

    /// The token that begins every prompt, where the model has one.
    fn begin(&self) -> Option<u32>;

    /// Tokens that end an answer.
    fn end_tokens(&self) -> Vec<u32>;

    /// Bytes of one token; nothing where there is no such token.
    fn piece(&self, token: u32) -> Option<Vec<u8>>;

    /// Turns tokens into text, one after the other. With `markup`, what structures an answer (reasoning, calls) is part
    /// of the text, as a [`Reader`] wants it.
    fn decoder(&self, markup: bool) -> Box<dyn Decoder>;

    /// The prompt of a conversation as text.
    ///
    /// # Errors
    /// Conversations that the model's template refuses.
    fn render(&self, chat: &Chat) -> Result<String, NoPrompt>;

    /// The prompt of a conversation, `<bos>` included where the model has one.
    ///
    /// # Errors
    /// Conversations that the model's template refuses.
    fn prompt(&self, chat: &Chat) -> Result<Vec<u32>, NoPrompt>;

    /// Reads an answer to this prompt: tells text, reasoning and calls apart.
    fn reader(&self, prompt: &[u32]) -> Box<dyn Reader>;

    /// The chat template.
    fn template(&self) -> &str;
}

/// Why a conversation is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPrompt {
    /// The conversation is not what the template wants.
    #[error("{problem}")]
    Conversation {
        /// What is wrong.
        problem: String,
        /// The message it is wrong with.
        message: Option<usize>,
    },
    /// The template is at fault.
    #[error("{0}")]
    Template(String),
}

/// Tokens to text. What comes out is whole characters.
pub trait Decoder: Send {
    /// Text that this token completes.
    fn push(&mut self, token: u32) -> String;

    /// What is left at the end.
    fn finish(&mut self) -> String;
}

/// Answers of a model to what clients want to see.
pub trait Reader: Send {
    /// What a piece of text adds.
    fn push(&mut self, text: &str) -> Vec<Part>;

    /// What is left at the end.
    fn finish(&mut self) -> Vec<Part>;
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text of the answer.
    Text(String),
    /// Text of the reasoning before it.
    Reasoning(String),
    /// A function the model calls.
    Call {
        /// Its name.
        name: String,
        /// Its arguments, a JSON object.
        arguments: String,
    },
}

/// All text of tokens that are already there.
pub fn decode(language: &dyn Language, tokens: &[u32]) -> String {
    let mut decoder = language.decoder(false);
    let mut text: String = tokens.iter().map(|token| decoder.push(*token)).collect();
    text += &decoder.finish();
    text
}

/// Finds stop strings in text that comes in pieces. Holds back what may become one.
#[derive(Clone, Debug, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    longest: usize,
}

/// What a piece of text let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Text that is part of the answer.
    pub text: String,
    /// The stop string that ended it, with the number of bytes held or given that are no part of the answer.
    pub stopped: Option<(String, usize)>,
}

impl StopFilter {
    /// Looks for any of these.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        let stops: Vec<String> = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        Self {
            stops,
            held: String::new(),
            longest,
        }
    }

    /// Takes the next piece. After a stop nothing more is to be given.
    pub fn push(&mut self, piece: &str) -> Passed {
        if self.stops.is_empty() {
            return Passed {
                text: piece.to_string(),
                stopped: None,
            };
        }
        self.held += piece;
        // The earliest end wins, as if characters had come one by one; of several that end there, the longest.
        let found = self
            .stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop.as_str())
                    .map(|start| (start + stop.len(), start, stop))
            })
            .min_by_key(|(end, start, _)| (*end, *start));
        if let Some((_, start, stop)) = found {
            let stop = stop.clone();
            let dropped = self.held.len() - start;
            self.held.truncate(start);
            return Passed {
                text: std::mem::take(&mut self.held),
                stopped: Some((stop, dropped)),
            };
        }
        let keep = self.undecided();
        let rest = self.held.split_off(self.held.len() - keep);
        Passed {
            text: std::mem::replace(&mut self.held, rest),
            stopped: None,
        }
    }

    /// What was held back for a stop string that did not come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end that may be the start of a stop string.
    fn undecided(&self) -> usize {
        let most = self.held.len().min(self.longest.saturating_sub(1));
        let tail = self.held.as_bytes();
        (1..=most)
            .rev()
            .find(|length| {
                let end = &tail[tail.len() - length..];
                self.stops
                    .iter()
                    .any(|stop| stop.len() > *length && stop.as_bytes().starts_with(end))
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// Everything that pieces let through, and the stop.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut filter = filter(stops);
        let mut passed = Vec::new();
        for piece in pieces {
            let step = filter.push(piece);
            passed.push(step.text);
            if let Some((stop, _)) = step.stopped {
                return (passed, Some(stop));
            }
        }
        passed.push(filter.finish());
        (passed, None)
    }

    #[test]
    fn stop_strings_across_pieces() {
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
            Option<&'static str>,
        );
        let table: &[Case] = &[
            (&[], &["a", "b"], &["a", "b", ""], None),
            (
                &["END"],
                &["the ", "E", "N", "D of"],
                &["the ", "", "", ""],
                Some("END"),
            ),
            (&["END"], &["the E", "NOUGH"], &["the ", "ENOUGH", ""], None),
            (&["END"], &["the E", "EN", "D"], &["the ", "E", ""], Some("END")),
            (&["END"], &["xEN"], &["x", "EN"], None),
            (
                &["\n\n", "stop"],
                &["a\n", "b\n", "\nc"],
                &["a", "\nb", ""],
                Some("\n\n"),
            ),
            (&["aab"], &["aa", "aab"], &["", "aa"], Some("aab")),
            (&["ab", "b"], &["a", "b"], &["", ""], Some("ab")),
            (&["larger one", "on"], &["larger o", "ne"], &["", "larger "], Some("on")),
            (&["ö"], &["zw", "ölf"], &["zw", ""], Some("ö")),
            (&["€x"], &["1€", " or €x"], &["1", "€ or "], Some("€x")),
        ];
        for (stops, pieces, passed, stopped) in table {
            let (text, stop) = run(stops, pieces);
            assert_eq!(text, *passed, "{stops:?} {pieces:?}");
            assert_eq!(stop.as_deref(), *stopped, "{stops:?} {pieces:?}");
        }
    }

    #[test]
    fn what_is_dropped_is_counted() {
        let mut filter = filter(&["END"]);
        assert_eq!(filter.push("aE").text, "a");
        let passed = filter.push("ND, and more");
        assert_eq!(passed.stopped, Some(("END".to_string(), "END, and more".len())));
    }

    proptest! {
        /// However text is cut, what passes is the text before the first stop string.
        #[test]
        fn cuts_do_not_matter(text in "[abcé]{0,40}", cuts in proptest::collection::vec(0usize..40, 0..12), stops in proptest::collection::vec("[abcé]{1,4}", 0..4)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let singles: Vec<&str> = characters.iter().map(String::as_str).collect();
            let (expected, stop) = run(&stops, &singles);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(characters.len())).chain([0, characters.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|cut| characters[cut[0]..cut[1]].concat()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (passed, stopped) = run(&stops, &pieces);
            prop_assert_eq!(passed.concat(), expected.concat());
            prop_assert_eq!(&stopped, &stop);
            // against a definition that knows no pieces
            let ends = stops.iter().filter_map(|stop| text.find(stop).map(|at| at + stop.len())).min();
            prop_assert_eq!(ends.is_some(), stop.is_some());
            if stopped.is_none() {
                prop_assert_eq!(passed.concat(), text);
            }
        }
    }
}
