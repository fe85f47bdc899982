//! Byte-pair merging: from characters to pieces of the vocabulary.
//!
//! Always the pair of lowest rank merges, the leftmost of several. What text can be cut into before that, without any
//! effect on the result, follows from the merge table itself: two neighbouring characters that stand side by side in no
//! piece that a merge can make never end up in one token. Text in words falls apart into words this way. What does not
//! fall apart (ten million times the same letter) goes through a queue whose cost does not depend on the length.

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
/// Positions are u32; no text is longer in practice.
const LONGEST_SEGMENT: usize = 1 << 30;

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
    long: Long,
    /// Where in the output the pieces of a segment are already.
    seen: FxHashMap<&'a str, (usize, usize)>,
}

impl<'a> Run<'a> {
    pub(super) fn new(merger: &'a Merger) -> Self {
        Self {
            merger,
            symbols: Vec::new(),
            long: Long::default(),
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
                && self.symbols.len() < LONGEST_SEGMENT
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
            self.long.merge(self.merger, &self.symbols);
            let mut at = 0;
            while let Some(node) = self.long.nodes.get(at as usize) {
                known &= push(node.symbol, out, &mut unknown);
                at = node.next;
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

/// Positions where a pair of one rank begins.
#[derive(Default)]
struct Bucket {
    /// Those known before the rank's turn came; sorted then.
    early: Vec<u32>,
    done: usize,
    open: bool,
    /// Those that came after its turn had begun: only where a merge makes a pair of lower rank than its own.
    late: BinaryHeap<Reverse<u32>>,
}

impl Bucket {
    fn push(&mut self, position: u32) {
        match self.open {
            false => self.early.push(position),
            true => self.late.push(Reverse(position)),
        }
    }

    fn pop(&mut self) -> Option<u32> {
        match (self.early.get(self.done).copied(), self.late.peek().map(|late| late.0)) {
            (Some(early), late) if late.is_none_or(|late| early <= late) => {
                self.done += 1;
                Some(early)
            }
            (_, Some(late)) => {
                self.late.pop();
                Some(late)
            }
            (_, None) => None,
        }
    }
}

/// Merging of a long segment: one bucket of positions for each rank that occurs, ranks in a heap. A rank's positions
/// come up from left to right, so memory is read in order, and no position is sifted through a heap of all others.
#[derive(Default)]
struct Long {
    nodes: Vec<Node>,
    buckets: FxHashMap<u32, Bucket>,
    ranks: BinaryHeap<Reverse<u32>>,
}

impl Long {
    fn merge(&mut self, merger: &Merger, symbols: &[u32]) {
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
        for at in 0..self.nodes.len() as u32 {
            self.queue(at);
        }
        while let Some(Reverse(rank)) = self.ranks.pop() {
            let Some(mut bucket) = self.buckets.remove(&rank) else {
                continue;
            };
            if !bucket.open {
                bucket.open = true;
                bucket.early.sort_unstable();
            }
            while let Some(at) = bucket.pop() {
                let lowest = self.merge_at(merger, at, rank);
                if lowest < rank {
                    // What this merge made comes first.
                    self.buckets.insert(rank, bucket);
                    self.ranks.push(Reverse(rank));
                    break;
                }
            }
        }
    }

    fn queue(&mut self, at: u32) {
        let rank = self.nodes[at as usize].merge.rank;
        if rank == NONE {
            return;
        }
        let ranks = &mut self.ranks;
        let bucket = self.buckets.entry(rank).or_insert_with(|| {
            ranks.push(Reverse(rank));
            Bucket::default()
        });
        bucket.push(at);
    }

    /// Merges the pair that begins at `at` if it still has this rank. Gives the lowest rank that came of it.
    ///
    /// A pair never comes back: merging makes symbols of more bytes. So a position whose pair has the rank it was
    /// queued with is the very pair that was queued, and no merge makes a pair of its own rank.
    fn merge_at(&mut self, merger: &Merger, at: u32, rank: u32) -> u32 {
        let left = self.nodes[at as usize];
        if left.merge.rank != rank {
            return NONE;
        }
        let right = self.nodes[left.next as usize];
        self.nodes[left.next as usize].merge = NO_MERGE;
        let after = match self.nodes.get_mut(right.next as usize) {
            Some(after) => {
                after.previous = at;
                merger.merge(left.merge.result, after.symbol)
            }
            None => NO_MERGE,
        };
        self.nodes[at as usize] = Node {
            symbol: left.merge.result,
            next: right.next,
            merge: after,
            ..left
        };
        self.queue(at);
        let mut lowest = after.rank;
        if let Some(before) = self.nodes.get_mut(left.previous as usize) {
            before.merge = merger.merge(before.symbol, left.merge.result);
            lowest = lowest.min(before.merge.rank);
            self.queue(left.previous);
        }
        lowest
    }
}
