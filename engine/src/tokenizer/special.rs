//! Finding special tokens in text.
//!
//! A vocabulary can have thousands of special tokens that start alike, and text can be full of their first bytes. The
//! finder is an Aho-Corasick automaton over the reversed texts, run from the end of the text to its start: its state
//! at a position knows the longest special token that *starts* there, so that leftmost-longest matching needs no
//! second look at any byte.

/// State of the automaton where nothing has matched.
const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// A special token found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// A special token to look for.
pub(super) struct Pattern<'a> {
    pub text: &'a str,
    pub id: u32,
    /// Looked for in every text; others only where the caller wants control tokens parsed.
    pub always: bool,
}

#[derive(Clone, Copy)]
struct Longest {
    id: u32,
    bytes: u32,
}

#[derive(Clone, Copy)]
struct State {
    /// Its transitions are `edges[first_edge..first_edge + edge_count]`, ordered by byte.
    first_edge: u32,
    edge_count: u32,
    /// The state of the longest proper suffix.
    fallback: u32,
    /// The longest pattern that ends in this state, of all and of those that are looked for in every text.
    any: Longest,
    always: Longest,
}

/// The automaton.
pub(super) struct Finder {
    root: Box<[u32; 256]>,
    states: Vec<State>,
    edges: Vec<(u8, u32)>,
}

impl Finder {
    /// Of patterns with the same text the first counts; empty ones never match.
    pub(super) fn new<'a>(patterns: impl IntoIterator<Item = Pattern<'a>>) -> Self {
        const NOTHING: Longest = Longest { id: NONE, bytes: 0 };
        let mut children: Vec<Vec<(u8, u32)>> = vec![Vec::new()];
        let mut ends: Vec<(Longest, Longest)> = vec![(NOTHING, NOTHING)];
        for pattern in patterns {
            if pattern.text.is_empty() {
                continue;
            }
            let mut state = ROOT;
            for &byte in pattern.text.as_bytes().iter().rev() {
                let next = children.len() as u32;
                let siblings = &mut children[state as usize];
                state = match siblings.binary_search_by_key(&byte, |edge| edge.0) {
                    Ok(found) => siblings[found].1,
                    Err(place) => {
                        siblings.insert(place, (byte, next));
                        children.push(Vec::new());
                        ends.push((NOTHING, NOTHING));
                        next
                    }
                };
            }
            let end = Longest {
                id: pattern.id,
                bytes: pattern.text.len() as u32,
            };
            let (any, always) = &mut ends[state as usize];
            if any.id == NONE {
                *any = end;
            }
            if pattern.always && always.id == NONE {
                *always = end;
            }
        }

        let mut finder = Self {
            root: Box::new([ROOT; 256]),
            states: Vec::with_capacity(children.len()),
            edges: Vec::with_capacity(children.len()),
        };
        for (state, edges) in children.iter().enumerate() {
            let (any, always) = ends[state];
            finder.states.push(State {
                first_edge: finder.edges.len() as u32,
                edge_count: edges.len() as u32,
                fallback: ROOT,
                any,
                always,
            });
            finder.edges.extend_from_slice(edges);
        }
        for &(byte, state) in &children[ROOT as usize] {
            finder.root[usize::from(byte)] = state;
        }
        // Breadth first, so that the state of every shorter suffix is complete.
        let mut queue: Vec<u32> = children[ROOT as usize].iter().map(|edge| edge.1).collect();
        let mut done = 0;
        while done < queue.len() {
            let state = queue[done];
            done += 1;
            let fallback = finder.states[finder.states[state as usize].fallback as usize];
            let own = &mut finder.states[state as usize];
            if own.any.id == NONE {
                own.any = fallback.any;
            }
            if own.always.id == NONE {
                own.always = fallback.always;
            }
            let suffix = own.fallback;
            for &(byte, child) in &children[state as usize] {
                finder.states[child as usize].fallback = finder.step(suffix, byte);
                queue.push(child);
            }
        }
        finder
    }

    fn step(&self, mut state: u32, byte: u8) -> u32 {
        while state != ROOT {
            let State {
                first_edge,
                edge_count,
                fallback,
                ..
            } = self.states[state as usize];
            let edges = &self.edges[first_edge as usize..][..edge_count as usize];
            if let Ok(found) = edges.binary_search_by_key(&byte, |edge| edge.0) {
                return edges[found].1;
            }
            state = fallback;
        }
        self.root[usize::from(byte)]
    }

    /// The longest special token at every place where one starts, from left to right. They can overlap.
    pub(super) fn starts(&self, text: &str, control: bool) -> Vec<Found> {
        let mut starts = Vec::new();
        let mut state = ROOT;
        for (start, &byte) in text.as_bytes().iter().enumerate().rev() {
            state = self.step(state, byte);
            if state == ROOT {
                continue;
            }
            let State { any, always, .. } = self.states[state as usize];
            let longest = if control { any } else { always };
            if longest.id != NONE {
                starts.push(Found {
                    start,
                    end: start + longest.bytes as usize,
                    id: longest.id,
                });
            }
        }
        starts.reverse();
        starts
    }

    /// The special tokens of a text from left to right, the longest where several start at once.
    pub(super) fn find(&self, text: &str, control: bool) -> Vec<Found> {
        let mut starts = self.starts(text, control);
        let mut free = 0;
        starts.retain(|found| {
            let keep = found.start >= free;
            if keep {
                free = found.end;
            }
            keep
        });
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(patterns: &[&str]) -> Finder {
        Finder::new(patterns.iter().enumerate().map(|(id, text)| Pattern {
            text,
            id: id as u32,
            always: !text.starts_with('!'),
        }))
    }

    /// Tries every pattern at every position.
    fn naive(patterns: &[&str], text: &str, control: bool) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let here = patterns
                .iter()
                .enumerate()
                .filter(|(_, p)| !p.is_empty() && (control || !p.starts_with('!')))
                .filter(|(_, p)| text.as_bytes()[at..].starts_with(p.as_bytes()))
                .max_by_key(|(id, p)| (p.len(), std::cmp::Reverse(*id)));
            match here {
                Some((id, pattern)) => {
                    found.push((at, id as u32));
                    at += pattern.len();
                }
                None => at += 1,
            }
        }
        found
    }

    #[test]
    fn the_leftmost_longest_special_token_wins() {
        let patterns = ["<a>", "a><b", "<a><", "", "!c", "!cc", "é", "<a>", "xxxxxy"];
        let texts = [
            "",
            "<a><b",
            "<a><a>",
            "<<<<a>>>>",
            "!c!cc!ccc",
            "aébé",
            "xxxxxxxxxy",
            "xxxxxyxxxxxy!",
        ];
        for text in texts {
            for control in [false, true] {
                let found: Vec<_> = finder(&patterns)
                    .find(text, control)
                    .iter()
                    .map(|f| (f.start, f.id))
                    .collect();
                assert_eq!(found, naive(&patterns, text, control), "{text:?} {control}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn it_finds_what_trying_everything_finds(
            patterns in proptest::collection::vec("[!ab<]{0,4}", 0..8),
            text in "[!ab<]{0,40}",
            control: bool,
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let found: Vec<_> = finder(&patterns).find(&text, control).iter().map(|f| (f.start, f.id)).collect();
            proptest::prop_assert_eq!(found, naive(&patterns, &text, control));
        }
    }
}
