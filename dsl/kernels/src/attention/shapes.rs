//! Which shapes of blocks serve a pair of formats on a target.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::Target;

use super::flash::FlashShape;
use super::formats::{self, Pair};

/// Pages that a block works on at once when it decodes, best first. How a row's keys are added up depends on it, so it
/// is the same whatever the rows: the first with which the smallest shape fits.
const DECODE_PAGES: [usize; 2] = [2, 1];
/// `(tiles, teams)` of blocks that decode, fewest columns first, and of as many columns the better ones first.
const DECODE: [(usize, usize); 3] = [(1, 1), (2, 1), (1, 2)];
/// `(tiles, teams)` of blocks that take a prompt, most columns first.
const PREFILL: [(usize, usize); 4] = [(2, 2), (1, 2), (2, 1), (1, 1)];
/// Columns whose sums a warp has registers for, and those of all warps of a block together.
const WARP_COLUMNS: usize = 16;
const BLOCK_COLUMNS: usize = 128;
/// Warps of a block: 128 registers a thread. Where queries or weights are split into terms, that is too few.
const WARPS: usize = 16;

/// A shape of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The shape.
    pub shape: FlashShape,
    /// Columns of a block: rows times query heads of a KV head.
    pub columns: usize,
    /// Blocks of a multiprocessor at the same time.
    pub blocks: usize,
}

impl Chosen {
    /// Rows of a sequence that a block takes.
    pub fn rows(self, gqa: usize) -> usize {
        self.columns / gqa
    }
}

/// The shapes that a target has room for: all that is to be known of a pair of formats and a head_dim.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// For decoding, fewest columns first.
    pub decode: Vec<Chosen>,
    /// For prompts, most columns first.
    pub prefill: Vec<Chosen>,
}

impl Shapes {
    /// Those of a pair. None if there is no fast attention for it.
    pub fn of(target: &Target, pair: &Pair, head_dim: usize) -> Option<Self> {
        let [decode, prefill] = pair.flash?;
        Some(Self {
            decode: usable_to_decode(target, pair, decode, head_dim),
            prefill: usable(target, pair, prefill, 1, head_dim, &PREFILL),
        })
    }

    /// As [`decode`].
    pub fn decode(&self, gqa: usize, rows: usize) -> Option<Chosen> {
        let mut usable = self.decode.iter().filter(|chosen| chosen.columns >= gqa);
        let covering = usable.clone().find(|chosen| chosen.columns >= gqa * rows);
        covering.or(usable.next_back()).copied()
    }

    /// As [`prefill`].
    pub fn prefill(&self, gqa: usize) -> Option<Chosen> {
        self.prefill.iter().find(|chosen| chosen.columns >= gqa).copied()
    }
}

/// The shape for steps of up to `rows` rows of a sequence with `gqa` query heads a KV head: the smallest that takes all
/// rows in one group, or the largest there is; more rows are several groups. None if there is no fast attention for the
/// pair, or if the target has no room for one row.
pub fn decode(target: &Target, pair: &Pair, head_dim: usize, gqa: usize, rows: usize) -> Option<Chosen> {
    let [kernel, _] = pair.flash?;
    let decode = usable_to_decode(target, pair, kernel, head_dim);
    let prefill = Vec::new();
    Shapes { decode, prefill }.decode(gqa, rows)
}

/// The shape for prompts: the one with most columns that fits. None as in [`decode`].
pub fn prefill(target: &Target, pair: &Pair, head_dim: usize, gqa: usize) -> Option<Chosen> {
    let [_, kernel] = pair.flash?;
    let prefill = usable(target, pair, kernel, 1, head_dim, &PREFILL);
    let decode = Vec::new();
    Shapes { decode, prefill }.prefill(gqa)
}

/// The shapes that decode, one of each number of columns: with two pages at once where the target has the shared memory for
/// merging what they sum to.
fn usable_to_decode(target: &Target, pair: &Pair, kernel: fn(FlashShape) -> KernelDef, head_dim: usize) -> Vec<Chosen> {
    let with_pages = |pages: &usize| usable(target, pair, kernel, *pages, head_dim, &DECODE);
    let mut found = DECODE_PAGES.iter().map(with_pages);
    let mut shapes = found.find(|shapes| !shapes.is_empty()).unwrap_or_default();
    shapes.dedup_by_key(|chosen| chosen.columns);
    shapes
}

/// The shapes that the target has registers and shared memory for.
fn usable(
    target: &Target,
    pair: &Pair,
    kernel: fn(FlashShape) -> KernelDef,
    pages: usize,
    head_dim: usize,
    shapes: &[(usize, usize)],
) -> Vec<Chosen> {
    let width = target.fragments.columns();
    let all = shapes.iter().map(|&(tiles, teams)| FlashShape {
        head_dim,
        tiles,
        teams,
        pages,
    });
    let fast = pair.names.into_iter().filter_map(|name| formats::find(name)?.fast);
    let terms = fast.map(|format| format.terms).max().unwrap_or(1);
    let is_held = |shape: FlashShape| {
        let of_warp = shape.tiles * width;
        of_warp <= WARP_COLUMNS && of_warp * shape.warps() <= BLOCK_COLUMNS && shape.warps() * terms <= WARPS
    };
    all.filter(|shape| is_held(*shape))
        .filter_map(|shape| {
            // recording refuses what the target has no shared memory for
            let recorded = kernel(shape).record(target).ok()?;
            let (columns, blocks) = (shape.columns(width), recorded.blocks);
            Some(Chosen { shape, columns, blocks })
        })
        .collect()
}
