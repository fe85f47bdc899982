//! Byte-pair merging: from characters to pieces of the vocabulary.
//!
//! Always the pair of lowest rank merges, the leftmost of several. What text can be cut into before that, without any
//! effect on the result, follows from the merge table itself: two neighbouring characters that stand side by side in no
//! piece that a merge can make never end up in one token. Text in words falls apart into words this way. What does not
//! fall apart (ten million times the same letter) is merged in windows, see [`Window`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::SPACE_CHARACTER;

const NONE: u32 = u32::MAX;
/// Marks a symbol that is a character outside of the vocabulary.
const CHARACTER: u32 = 1 << 31;
/// Segments of up to so many symbols are merged by looking through all pairs.
const SHORT: usize = 48;
/// Segments of up to so many bytes are remembered, and so many of them.
const REMEMBERED_BYTES: usize = 32;
const REMEMBERED: usize = 1 << 16;
/// Symbols of a window: few enough for their nodes to stay in the cache. Positions are u32.
const WINDOW: usize = 1 << 11;
const LARGEST_WINDOW: usize = 1 << 30;

/// ASCII and U+2581 have a place in a plain table.
const CLASSES: usize = 129;

/// What a pair of symbols becomes.
#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    result: u32,
}

const NO_MERGE: Merge = Merge {
    rank: NONE,
    result: NONE,
};

/// A line of the merge list, as token ids: left, right, result. Its place is its rank.
pub(super) type Line = Option<(u32, u32, u32)>;

/// Everything merging needs of a vocabulary.
pub(super) struct Merger {
    merges: FxHashMap<u64, Merge>,
    /// Token of a code point, in pages of 256; page 0 is empty.
    pages: Vec<u16>,
    characters: Vec<[u32; 256]>,
    /// Tokens that are runs of so many newlines.
    newlines: FxHashMap<usize, u32>,
    /// Neighbours that some merged piece contains.
    near: Box<[bool; CLASSES * CLASSES]>,
    neighbours: FxHashSet<(char, char)>,
    /// Symbols of a window at least.
    window: usize,
    order: Order,
}

/// The merges of every token with others on its right, ordered by the texts of these: those that begin alike are
/// neighbours.
struct Order {
    /// Place of each token among all tokens ordered by text.
    places: Vec<u32>,
    /// The place behind the last token that begins with the token's text.
    ends: Vec<u32>,
    /// Where the merges of each token begin in `rights`.
    starts: Vec<u32>,
    /// Place of the right token and rank.
    rights: Vec<(u32, u32)>,
}

impl Order {
    fn new(lines: &[Line], texts: &[Option<&str>]) -> Self {
        let mut by_text: Vec<u32> = (0..texts.len() as u32).collect();
        by_text.par_sort_unstable_by_key(|&id| (texts[id as usize], id));
        let mut places = vec![0; texts.len()];
        let mut ends = vec![0; texts.len()];
        // Texts that are prefixes of the next one, the longest last.
        let mut open: Vec<u32> = Vec::new();
        for (place, &id) in by_text.iter().enumerate() {
            let text = texts[id as usize].unwrap_or_default();
            while let Some(&prefix) = open.last()
                && !text.starts_with(texts[prefix as usize].unwrap_or_default())
            {
                ends[prefix as usize] = place as u32;
                open.pop();
            }
            places[id as usize] = place as u32;
            open.push(id);
        }
        for id in open {
            ends[id as usize] = texts.len() as u32;
        }
        let known = lines.iter().enumerate();
        let known = known.filter_map(|(rank, line)| line.map(|(left, right, _)| (left, right, rank as u32)));
        let mut sorted: Vec<(u32, u32, u32)> = known
            .map(|(left, right, rank)| (left, places[right as usize], rank))
            .collect();
        sorted.par_sort_unstable();
        let mut starts = vec![0; texts.len() + 1];
        for &(left, ..) in &sorted {
            starts[left as usize + 1] += 1;
        }
        for id in 0..texts.len() {
            starts[id + 1] += starts[id];
        }
        Self {
            places,
            ends,
            starts,
            rights: sorted.into_iter().map(|(_, place, rank)| (place, rank)).collect(),
        }
    }

    /// The lowest rank with which `left` merges with a token that begins as `right` does, or is it.
    fn lowest(&self, left: u32, right: u32) -> u32 {
        let (Some(&place), Some(&end)) = (self.places.get(right as usize), self.ends.get(right as usize)) else {
            return NONE;
        };
        let Some(&[from, to]) = self.starts.get(left as usize..).and_then(|starts| starts.first_chunk()) else {
            return NONE;
        };
        let rights = &self.rights[from as usize..to as usize];
        let first = rights.partition_point(|&(right, _)| right < place);
        let within = rights[first..].iter().take_while(|&&(right, _)| right < end);
        within.map(|&(_, rank)| rank).min().unwrap_or(NONE)
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

fn class(character: char) -> Option<usize> {
    match character {
        SPACE_CHARACTER => Some(128),
        _ if character.is_ascii() => Some(character as usize),
        _ => None,
    }
}

impl Merger {
    /// `pieces` are the tokens that text may become, with their ids; of equal texts the first counts.
    pub(super) fn new<'a>(
        pieces: impl Iterator<Item = (u32, &'a str)>,
        lines: &[Line],
        texts: &[Option<&str>],
    ) -> Self {
        let mut merger = Self {
            merges: FxHashMap::with_capacity_and_hasher(lines.len(), Default::default()),
            pages: vec![0; 0x11_0000 / 256],
            characters: vec![[NONE; 256]],
            newlines: FxHashMap::default(),
            near: Box::new([false; CLASSES * CLASSES]),
            neighbours: FxHashSet::default(),
            window: WINDOW,
            order: Order::new(lines, texts),
        };
        for (id, text) in pieces {
            let mut characters = text.chars();
            match (characters.next(), characters.next()) {
                (Some(only), None) => merger.add_character(only, id),
                (Some('\n'), Some(_)) if text.bytes().all(|byte| byte == b'\n') => {
                    merger.newlines.entry(text.len()).or_insert(id);
                }
                _ => {}
            }
        }
        for (rank, line) in lines.iter().enumerate() {
            if let Some((left, right, result)) = *line {
                let merge = Merge {
                    rank: rank as u32,
                    result,
                };
                merger.merges.entry(key(left, right)).or_insert(merge);
            }
        }
        let results: FxHashSet<u32> = lines.iter().flatten().map(|line| line.2).collect();
        let results: Vec<u32> = results.into_iter().collect();
        let gather = |results: &[u32]| {
            let mut pairs = FxHashSet::default();
            for text in results.iter().filter_map(|&id| texts[id as usize]) {
                pairs.extend(text.chars().zip(text.chars().skip(1)));
            }
            pairs
        };
        let parts: Vec<FxHashSet<(char, char)>> = results.par_chunks(1 << 14).map(gather).collect();
        for pair in parts.into_iter().flatten() {
            match (class(pair.0), class(pair.1)) {
                (Some(left), Some(right)) => merger.near[left * CLASSES + right] = true,
                _ => {
                    merger.neighbours.insert(pair);
                }
            }
        }
        merger
    }

    fn add_character(&mut self, character: char, id: u32) {
        let (page, place) = (character as usize / 256, character as usize % 256);
        if self.pages[page] == 0 {
            self.pages[page] = self.characters.len() as u16;
            self.characters.push([NONE; 256]);
        }
        let known = &mut self.characters[usize::from(self.pages[page])][place];
        if *known == NONE {
            *known = id;
        }
    }

    fn symbol(&self, character: char) -> u32 {
        let (page, place) = (character as usize / 256, character as usize % 256);
        match self.characters[usize::from(self.pages[page])][place] {
            NONE => CHARACTER | character as u32,
            id => id,
        }
    }

    fn merge(&self, left: u32, right: u32) -> Merge {
        self.merges.get(&key(left, right)).copied().unwrap_or(NO_MERGE)
    }

    /// Whether one token can cover the end of `left` and the start of `right`. Newlines and other characters are never
    /// merged with each other.
    fn may_join(&self, left: char, right: char) -> bool {
        match (left == '\n', right == '\n') {
            (true, true) => true,
            (false, false) => match (class(left), class(right)) {
                (Some(left), Some(right)) => self.near[left * CLASSES + right],
                _ => self.neighbours.contains(&(left, right)),
            },
            _ => false,
        }
    }
}

/// One run over a text: what is remembered of it, and memory that is used again.
pub(super) struct Run<'a> {
    merger: &'a Merger,
    symbols: Vec<u32>,
    window: Window,
    /// Where in the output the pieces of a segment are already.
    seen: FxHashMap<&'a str, (usize, usize)>,
}

impl<'a> Run<'a> {
    pub(super) fn new(merger: &'a Merger) -> Self {
        Self {
            merger,
            symbols: Vec::new(),
            window: Window::default(),
            seen: FxHashMap::default(),
        }
    }

    /// Appends the pieces of a text without special tokens. Spaces count as U+2581. `unknown` appends what stands for a
    /// character outside of the vocabulary.
    pub(super) fn encode(&mut self, text: &'a str, out: &mut Vec<u32>, mut unknown: impl FnMut(char, &mut Vec<u32>)) {
        let merger = self.merger;
        let mut characters = text.char_indices().map(|(at, character)| match character {
            ' ' => (at, SPACE_CHARACTER),
            other => (at, other),
        });
        let Some((mut start, first)) = characters.next() else {
            return;
        };
        let mut last = first;
        self.symbols.clear();
        self.symbols.push(merger.symbol(first));
        loop {
            let next = characters.next();
            if let Some((_, character)) = next
                && merger.may_join(last, character)
            {
                self.symbols.push(merger.symbol(character));
                last = character;
                continue;
            }
            let end = next.map_or(text.len(), |(at, _)| at);
            self.segment(&text[start..end], out, &mut unknown);
            let Some((at, character)) = next else { return };
            start = at;
            last = character;
            self.symbols.clear();
            self.symbols.push(merger.symbol(character));
        }
    }

    /// Appends the pieces of the segment whose characters are in `symbols`.
    fn segment(&mut self, text: &'a str, out: &mut Vec<u32>, mut unknown: impl FnMut(char, &mut Vec<u32>)) {
        if let [only] = self.symbols[..] {
            push(only, out, &mut unknown);
            return;
        }
        if text.starts_with('\n')
            && let Some(&run) = self.merger.newlines.get(&text.len())
        {
            return out.push(run);
        }
        let short = text.len() <= REMEMBERED_BYTES;
        if short && let Some(&(from, to)) = self.seen.get(text) {
            return out.extend_from_within(from..to);
        }
        let from = out.len();
        let mut known = true;
        if self.symbols.len() <= SHORT {
            merge_short(self.merger, &mut self.symbols);
            for &symbol in &self.symbols {
                known &= push(symbol, out, &mut unknown);
            }
        } else {
            let mut start = 0;
            let mut size = self.merger.window;
            while start < self.symbols.len() {
                let end = (start + size).min(self.symbols.len());
                let done = self
                    .window
                    .merge(self.merger, &self.symbols[start..end], end == self.symbols.len());
                for symbol in self.window.symbols(done) {
                    known &= push(symbol, out, &mut unknown);
                }
                start += done;
                // Where little is certain, larger windows follow, so that the work stays in proportion.
                size = match done < size / 2 {
                    true => (2 * size).min(LARGEST_WINDOW),
                    false => (size / 2).max(self.merger.window),
                };
            }
        }
        // What stands for an unknown character can depend on what stands before it.
        if short && known {
            if self.seen.len() >= REMEMBERED {
                self.seen.clear();
            }
            self.seen.insert(text, (from, out.len()));
        }
    }
}

/// Appends a symbol; and says whether it is a token.
fn push(symbol: u32, out: &mut Vec<u32>, unknown: &mut impl FnMut(char, &mut Vec<u32>)) -> bool {
    if symbol & CHARACTER == 0 {
        out.push(symbol);
        return true;
    }
    if let Some(character) = char::from_u32(symbol & !CHARACTER) {
        unknown(character, out);
    }
    false
}

/// Looks through all pairs for each merge: the fastest way for a word.
fn merge_short(merger: &Merger, symbols: &mut Vec<u32>) {
    let mut pairs = [NO_MERGE; SHORT];
    for (pair, two) in pairs.iter_mut().zip(symbols.windows(2)) {
        *pair = merger.merge(two[0], two[1]);
    }
    loop {
        let count = symbols.len() - 1;
        let (mut best, mut place) = (NO_MERGE, 0);
        for (at, pair) in pairs[..count].iter().enumerate() {
            if pair.rank < best.rank {
                (best, place) = (*pair, at);
            }
        }
        if best.rank == NONE {
            return;
        }
        symbols[place] = best.result;
        symbols.remove(place + 1);
        pairs.copy_within(place + 1..count, place);
        if place > 0 {
            pairs[place - 1] = merger.merge(symbols[place - 1], symbols[place]);
        }
        if place + 1 < symbols.len() {
            pairs[place] = merger.merge(symbols[place], symbols[place + 1]);
        }
    }
}

/// A symbol of a long segment, linked to its neighbours.
#[derive(Clone, Copy)]
struct Node {
    symbol: u32,
    previous: u32,
    next: u32,
    /// Of the pair that it begins; none when it has been merged into its left neighbour.
    merge: Merge,
}

impl Node {
    /// Rank and position of its pair, if it has one: the lowest is next.
    fn turn(&self, at: u32) -> Option<u64> {
        (self.merge.rank != NONE).then_some(u64::from(self.merge.rank) << 32 | u64::from(at))
    }
}

/// Merging of a long segment, window by window.
///
/// A window ends in the midst of the segment, so what happens at its right end depends on text that is not seen yet.
/// `edge` is the first node of which that is so: at first the last one. The node left of it joins it as soon as the pair
/// that is next in turn has a higher rank than some merge of the node with a token that begins with the text of the
/// edge: by then, the two may have merged. Merges with the edge are left alone.
///
/// All other merges happen in the whole segment as they do here, in the same order. In the end the nodes left of an edge
/// with which the last of them can never merge are final, and the next window begins at the edge.
#[derive(Default)]
struct Window {
    nodes: Vec<Node>,
    /// Pairs as [`Node::turn`]: those of the start, in order, and those that merges made, the next on top. Some have
    /// changed since.
    first: Vec<u64>,
    queue: BinaryHeap<Reverse<u64>>,
    edge: u32,
    /// The node left of the edge, what it has become, and the lowest rank at which it can merge with the edge.
    watched: (u32, u32, u32),
}

impl Window {
    /// Merges these symbols. So many of them are final; all of them if no others follow.
    fn merge(&mut self, merger: &Merger, symbols: &[u32], closed: bool) -> usize {
        self.nodes.clear();
        self.nodes.extend(symbols.iter().enumerate().map(|(at, &symbol)| Node {
            symbol,
            previous: (at as u32).wrapping_sub(1),
            next: at as u32 + 1,
            merge: match symbols.get(at + 1) {
                Some(&right) => merger.merge(symbol, right),
                None => NO_MERGE,
            },
        }));
        if let Some(last) = self.nodes.last_mut() {
            last.next = NONE;
        }
        self.edge = if closed { NONE } else { symbols.len() as u32 - 1 };
        self.watched = (NONE, NONE, NONE);
        self.first.clear();
        self.first
            .extend(self.nodes.iter().zip(0..).filter_map(|(node, at)| node.turn(at)));
        self.first.sort_unstable();
        let mut first = 0;
        loop {
            let made = self.queue.peek().map(|made| made.0);
            let turn = match (self.first.get(first), made) {
                (Some(&turn), made) if made.is_none_or(|made| turn <= made) => {
                    first += 1;
                    turn
                }
                (_, Some(made)) => {
                    self.queue.pop();
                    made
                }
                (_, None) => break,
            };
            self.merge_at(merger, turn as u32, (turn >> 32) as u32);
        }
        self.yield_before(merger, NONE);
        match self.edge {
            NONE => symbols.len(),
            edge => edge as usize,
        }
    }

    /// What the first `count` symbols have become.
    fn symbols(&self, count: usize) -> impl Iterator<Item = u32> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize).filter(|_| (at as usize) < count)?;
            at = node.next;
            Some(node.symbol)
        })
    }

    /// Moves the edge left over nodes that may have merged with it at a rank below this.
    fn yield_before(&mut self, merger: &Merger, rank: u32) {
        while let Some(edge) = self.nodes.get(self.edge as usize)
            && let Some(before) = self.nodes.get(edge.previous as usize)
        {
            if (self.watched.0, self.watched.1) != (edge.previous, before.symbol) {
                let lowest = merger.order.lowest(before.symbol, edge.symbol);
                self.watched = (edge.previous, before.symbol, lowest);
            }
            if self.watched.2 >= rank {
                return;
            }
            self.edge = edge.previous;
        }
    }

    /// Merges the pair that begins at `at` if it still has this rank and is certain.
    ///
    /// A pair never comes back: merging makes symbols of more bytes. So a position whose pair has the rank it was
    /// queued with is the very pair that was queued.
    fn merge_at(&mut self, merger: &Merger, at: u32, rank: u32) {
        if self.nodes[at as usize].merge.rank != rank {
            return;
        }
        self.yield_before(merger, rank);
        let left = self.nodes[at as usize];
        if left.next >= self.edge {
            return;
        }
        let right = self.nodes[left.next as usize];
        self.nodes[left.next as usize].merge = NO_MERGE;
        let mut merged = Node {
            symbol: left.merge.result,
            next: right.next,
            merge: NO_MERGE,
            ..left
        };
        if let Some(after) = self.nodes.get_mut(right.next as usize) {
            after.previous = at;
            merged.merge = merger.merge(merged.symbol, after.symbol);
        }
        self.nodes[at as usize] = merged;
        self.queue.extend(merged.turn(at).map(Reverse));
        if let Some(before) = self.nodes.get_mut(left.previous as usize) {
            before.merge = merger.merge(before.symbol, merged.symbol);
            self.queue.extend(before.turn(left.previous).map(Reverse));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges by looking through the whole text before each merge.
    fn naive(lines: &[Line], mut symbols: Vec<u32>) -> Vec<u32> {
        loop {
            let pairs = symbols.windows(2).enumerate();
            let found = pairs.filter_map(|(at, pair)| {
                let rank = lines
                    .iter()
                    .position(|line| line.is_some_and(|(l, r, _)| (l, r) == (pair[0], pair[1])))?;
                Some((rank, at))
            });
            let Some((rank, at)) = found.min() else { return symbols };
            symbols.remove(at + 1);
            symbols[at] = lines[rank].map_or(NONE, |line| line.2);
        }
    }

    /// Merges of pieces over few letters, in any order: long chains of effects, in both directions.
    fn lines(texts: &mut Vec<String>, pairs: &[(String, String)]) -> Vec<Line> {
        let mut id = |text: &str| match texts.iter().position(|known| known == text) {
            Some(id) => id as u32,
            None => {
                texts.push(text.to_owned());
                texts.len() as u32 - 1
            }
        };
        let lines = pairs
            .iter()
            .map(|(left, right)| Some((id(left), id(right), id(&format!("{left}{right}")))));
        lines.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn windows_change_nothing(
            pairs in proptest::collection::vec(("[ab]{1,3}", "[ab]{1,3}"), 1..16),
            text in "[ab]{49,200}|a{49,200}|(ab){30,60}|(aab){20,60}|c?(b|aa){40,60}",
            window in 2..60_usize,
        ) {
            let mut texts: Vec<String> = vec!["a".to_owned(), "b".to_owned()];
            let lines = lines(&mut texts, &pairs);
            let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
            let pieces = texts.iter().zip(0..).filter_map(|(text, id)| text.map(|text| (id, text)));
            let mut merger = Merger::new(pieces, &lines, &texts);
            merger.window = window;
            // every boundary stays, so that the text is one segment
            merger.near.fill(true);
            let mut out = Vec::new();
            Run::new(&merger).encode(&text, &mut out, |character, out| out.push(CHARACTER | character as u32));
            let symbols = text.chars().map(|character| merger.symbol(character)).collect();
            prop_assert_eq!(out, naive(&lines, symbols));
        }
    }
}
