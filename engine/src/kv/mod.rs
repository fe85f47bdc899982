//! Where keys and values of past positions live.
//!
//! Each layer that owns keys and values has two buffers of pages, [page, KV head, bytes of 64 positions]; a table per kind
//! of layer says which pages a slot has. Position p of a slot lies at p modulo the capacity. Full layers have room for the
//! whole context. Sliding layers keep a ring: the window, plus room for the tokens of one step, so that writing a step (or
//! taking a rejected draft back) never overwrites what is still visible.

pub mod saved;
mod types;

use tilekiln_kernels::attention::pages::PAGE;

pub use types::{CacheTypes, KvPreset, KvType, KvTypes, UnknownKvType, UnsupportedPair};

/// How much the caches hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sequences at once.
    pub slots: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Rows of the largest step.
    pub max_rows: usize,
    /// Rows of a sequence in the largest step of decoding: a token and its drafts.
    pub run: usize,
}

impl Geometry {
    /// Positions that a layer's buffers hold per slot, in whole pages: the context, or the ring of a sliding window.
    pub fn capacity(&self, window: Option<usize>) -> usize {
        let ring = window.map_or(self.context, |window| self.context.min(window + self.max_rows));
        ring.next_multiple_of(PAGE)
    }

    /// Pages per slot of such a layer.
    pub fn slot_pages(&self, window: Option<usize>) -> usize {
        self.capacity(window) / PAGE
    }
}

/// What the caches hold of one slot's sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Tokens whose keys and values are valid, by position.
    tokens: Vec<u32>,
    /// One more than the highest position written since the sequence began: rejected drafts count.
    high: usize,
}

impl Sequence {
    /// Positions that are valid.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Nothing is valid.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens at the valid positions.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// One more than the highest position ever written.
    pub fn high(&self) -> usize {
        self.high
    }

    /// A sequence whose keys and values were put back.
    pub fn restored(tokens: Vec<u32>, high: usize) -> Self {
        Self { tokens, high }
    }

    /// A step wrote these tokens behind the valid ones; they are valid now.
    pub fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.high = self.high.max(self.tokens.len());
    }

    /// Keeps the first `len` positions: what comes after was rejected or belongs to another answer.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        if self.tokens.is_empty() {
            self.high = 0;
        }
    }

    /// How much of `prompt` can be kept when the caches are `capacity` positions per sliding layer of that window.
    ///
    /// The last token of the prompt always has to be evaluated. A ring has forgotten what lies more than its capacity
    /// behind the highest position ever written, so a sequence can only be cut back so far; if it cannot, nothing is kept.
    pub fn reusable(&self, prompt: &[u32], window: usize, capacity: usize) -> usize {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let keep = same.min(prompt.len().saturating_sub(1));
        let oldest_visible = (keep + 1).saturating_sub(window);
        if oldest_visible + capacity >= self.high {
            keep
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_the_window_and_a_step() {
        let geometry = Geometry {
            slots: 1,
            context: 1000,
            max_rows: 20,
            run: 1,
        };
        assert_eq!(geometry.capacity(Some(8)), 64);
        assert_eq!(geometry.capacity(Some(100)), 128);
        assert_eq!((geometry.capacity(None), geometry.slot_pages(None)), (1024, 16));
        let small = Geometry {
            context: 24,
            ..geometry
        };
        assert_eq!(small.capacity(Some(100)), 64);
    }

    /// (valid tokens, highest position written, prompt, kept) with a window of 4 in a ring of 8.
    #[test]
    fn what_can_be_reused() {
        let tokens = |count: u32| (0..count).collect::<Vec<_>>();
        for (valid, high, prompt, kept) in [
            (0, 0, 5, 0),
            (5, 5, 5, 4),
            (5, 5, 9, 5),
            (20, 20, 30, 20),
            // position 15 sees 12..; the ring still has 12..20
            (20, 20, 16, 15),
            // position 14 sees 11.., which position 19 has overwritten
            (20, 20, 15, 0),
            (6, 20, 9, 0),
        ] {
            let sequence = Sequence {
                tokens: tokens(valid),
                high,
            };
            assert_eq!(
                sequence.reusable(&tokens(prompt), 4, 8),
                kept,
                "{valid} {high} {prompt}"
            );
        }
    }

    #[test]
    fn an_empty_sequence_has_written_nothing() {
        let mut sequence = Sequence::default();
        sequence.extend(&[1, 2, 3]);
        sequence.truncate(1);
        assert_eq!((sequence.len(), sequence.high), (1, 3));
        sequence.truncate(0);
        assert_eq!((sequence.is_empty(), sequence.high), (true, 0));
    }
}
