//! Random caches to try attention kernels on.

use super::formats::{self, Format};
use super::pages::PAGE;
use crate::registry::prelude::*;

/// Tokens of an example that are stored in a cache.
pub(super) struct Stored {
    pub tokens: usize,
    pub kv_heads: usize,
    pub slot_pages: usize,
    /// Consecutive ones of one slot, across the end of a page and of the ring.
    pub positions: Argument,
    pub slots: Argument,
    pub page_table: Argument,
    /// Both caches.
    pub caches: [Argument; 2],
}

impl Stored {
    /// Random sizes, positions and a slot among three.
    pub fn draw(settings: &Settings, random: &mut Random) -> Result<Self, SettingError> {
        let head_dim = formats::head_dim(settings)?;
        let (tokens, kv_heads, slot_pages) = (random.size(1, 5), random.size(1, 3), random.size(1, 2));
        let pages = 3 * slot_pages;
        let first = random.size(0, 140);
        let slot = random.size(0, 2);
        let formats = formats::sides(settings)?;
        Ok(Self {
            tokens,
            kv_heads,
            slot_pages,
            positions: Cache::words(first..first + tokens),
            slots: Cache::words((0..tokens).map(|_| slot)),
            page_table: Cache::words((0..pages).rev()),
            caches: formats.map(|format| Argument::output(pages * kv_heads * (format.page_bytes)(head_dim))),
        })
    }
}

/// Sizes of an example, and what follows from them: one sequence, its last rows being looked at.
pub(super) struct Cache {
    pub rows: usize,
    pub kv_heads: usize,
    pub gqa: usize,
    pub head_dim: usize,
    /// Keys of the sequence.
    pub keys: usize,
    /// Entries of a row of the page table.
    pub slot_pages: usize,
    slots: usize,
    slot: usize,
    formats: [&'static Format; 2],
}

impl Cache {
    /// Random sizes.
    pub fn draw(settings: &Settings, random: &mut Random) -> Result<Self, SettingError> {
        let rows = random.size(1, 4);
        let keys = random.size(rows, 150);
        let slots = 2;
        Ok(Self {
            rows,
            kv_heads: random.size(1, 2),
            gqa: random.size(1, 3),
            head_dim: formats::head_dim(settings)?,
            keys,
            slot_pages: keys.div_ceil(PAGE) + random.size(0, 1),
            slots,
            slot: random.size(0, slots - 1),
            formats: formats::sides(settings)?,
        })
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.kv_heads * self.gqa
    }

    fn words(values: impl Iterator<Item = usize>) -> Argument {
        Argument::Input(values.flat_map(|value| (value as u32).to_le_bytes()).collect())
    }

    fn first(&self) -> usize {
        self.keys - self.rows
    }

    /// Queries, both caches, the page table.
    pub fn start(&self, random: &mut Random) -> Vec<Argument> {
        let q = random.floats("f32", self.rows * self.heads() * self.head_dim);
        self.behind(q, random)
    }

    /// Prepared queries, both caches, the page table.
    pub fn start_fast(&self, random: &mut Random) -> Vec<Argument> {
        let words = self.formats[0].fast.map_or(1, |fast| fast.query_words(self.head_dim));
        let q = random.halves(2 * self.rows * self.heads() * words);
        self.behind(q, random)
    }

    fn behind(&self, q: Argument, random: &mut Random) -> Vec<Argument> {
        let pages = self.slots * self.slot_pages;
        let mut cache = |format: &Format| {
            let count = pages * self.kv_heads;
            let bytes = (format.page_bytes)(self.head_dim) * count;
            random.halves(bytes / 2)
        };
        let [k, v] = self.formats.map(&mut cache);
        vec![q, k, v, Self::words((0..pages).rev())]
    }

    /// The slot of each row.
    pub fn row_slots(&self) -> Argument {
        Self::words((0..self.rows).map(|_| self.slot))
    }

    /// All rows as one group.
    pub fn row_groups(&self) -> Argument {
        Self::words([0, self.rows, self.slot].into_iter())
    }

    /// Positions of the rows: the last ones.
    pub fn positions(&self) -> Argument {
        Self::words(self.first()..self.keys)
    }

    /// Keys before and including their own.
    pub fn visible(&self) -> Argument {
        Self::words(self.first() + 1..self.keys + 1)
    }

    /// heads, gqa, slot_pages, window.
    pub fn scalars(&self, window: u32) -> [Argument; 4] {
        [self.heads() as u32, self.gqa as u32, self.slot_pages as u32, window].map(Argument::U32)
    }
}
