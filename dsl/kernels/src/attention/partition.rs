//! How the keys of a sequence are divided among blocks.
//!
//! The division depends on the keys' positions alone, never on how long a sequence is or what else is in a step: a
//! token's result is the same bits alone and in a batch. Chunks grow with the position, so that short contexts have
//! many small blocks and long ones few partial results: two pages each up to 64 pages, four up to 512, eight up to 1024,
//! sixteen beyond. How many blocks share a sequence's chunks is no part of the division ([`Deal`]).
//! Layers with a window have two pages a chunk. Pages of a chunk that a block works on at once are fixed by their numbers
//! as well.

use tilekiln_dsl::prelude::*;

use super::pages::PAGE;

/// `(first page, pages a chunk)` of each stretch of the division; the last one goes on.
const STRETCHES: [(usize, usize); 4] = [(0, 2), (64, 4), (512, 8), (1024, 16)];
/// Pages of a chunk in layers with a window.
const WINDOW_PAGES: usize = 2;
/// Stands for "no window".
pub const NO_WINDOW: u32 = u32::MAX;

/// Chunks before each stretch.
fn chunks_before(stretch: usize) -> usize {
    (0..stretch)
        .map(|i| (STRETCHES[i + 1].0 - STRETCHES[i].0) / STRETCHES[i].1)
        .sum()
}

/// Chunks of the first `pages` pages.
pub fn chunks_of_pages(pages: usize) -> usize {
    let stretch = STRETCHES.iter().rposition(|(first, _)| *first < pages).unwrap_or(0);
    let (first, size) = STRETCHES[stretch];
    chunks_before(stretch) + (pages - first).div_ceil(size)
}

/// Blocks along x that any step of up to `rows` rows of a sequence needs, whose rows see keys below `end`, in layers
/// with that window ([`NO_WINDOW`] for none).
pub fn chunks(end: usize, window: u32, rows: usize) -> usize {
    let pages = end.div_ceil(PAGE).max(1);
    if window == NO_WINDOW {
        return chunks_of_pages(pages);
    }
    // the first row's window may begin in the middle of a page
    let most = (window as usize + rows).div_ceil(PAGE) + 1;
    pages.min(most).div_ceil(WINDOW_PAGES) + 1
}

/// Keys that a row, or several rows of a sequence, see: positions `begin..end`.
#[derive(Clone, Copy)]
pub struct Span {
    /// First visible key.
    pub begin: Val<u32>,
    /// The one behind the last; `begin` where nothing is visible.
    pub end: Val<u32>,
}

impl Span {
    /// What one row sees: keys below `visible[row]` that are less than `window` before `positions[row]`.
    #[tile_fn]
    pub fn of_row(positions: In<u32>, visible: In<u32>, row: Val<u32>, window: Val<u32>) -> Self {
        let position = positions[row];
        let begin = select(position < window, 0u32, position - window + 1);
        let end = max(visible[row], begin);
        Self { begin, end }
    }

    /// What `rows` rows see together, which follow each other in one sequence.
    #[tile_fn]
    pub fn of_rows(
        positions: In<u32>,
        visible: In<u32>,
        first_row: Val<u32>,
        rows: Val<u32>,
        window: Val<u32>,
    ) -> Self {
        let first = Self::of_row(positions, visible, first_row, window);
        let last = Self::of_row(positions, visible, first_row + rows - 1, window);
        let begin = first.begin;
        let end = max(first.end, last.end);
        Self { begin, end }
    }
}

/// Pages `begin..end` of a chunk, cut to what the span needs.
#[derive(Clone, Copy)]
pub struct Pages {
    /// First page.
    pub begin: Val<u32>,
    /// The one behind the last.
    pub end: Val<u32>,
}

/// first page of a chunk of the division
#[device_fn]
fn first_page(chunk: Val<u32>) -> Val<u32> {
    let mut page = chunk * STRETCHES[0].1;
    for i in 1..STRETCHES.len() {
        let (start, size) = STRETCHES[i];
        let before = chunks_before(i);
        if chunk >= before {
            page = (chunk - before) * size + start;
        }
    }
    page
}

/// chunk of the division that a page is part of
#[device_fn]
fn chunk_of(page: Val<u32>) -> Val<u32> {
    let mut chunk = page / STRETCHES[0].1;
    for i in 1..STRETCHES.len() {
        let (start, size) = STRETCHES[i];
        let before = chunks_before(i);
        if page >= start {
            chunk = (page - start) / size + before;
        }
    }
    chunk
}

/// The pages of a block's chunk. `chunk` counts from the first one that the span needs in layers with a window, else
/// from the first of the sequence.
#[tile_fn]
pub fn chunk_pages(chunk: Val<u32>, span: Span, window: Val<u32>) -> Pages {
    let (first, last) = (span.begin / PAGE, (span.end + (PAGE - 1)) / PAGE);
    let has_window = window != NO_WINDOW;
    let in_window = (first / WINDOW_PAGES + chunk) * WINDOW_PAGES;
    let begin = select(has_window, in_window, first_page(chunk));
    let after = select(has_window, in_window + WINDOW_PAGES, first_page(chunk + 1));
    let end = min(after, last);
    Pages { begin, end }
}

/// Chunks of the division, as numbers that do not depend on the step: `begin..end` of those a span needs; the first one
/// is that of a block with x = 0.
#[derive(Clone, Copy)]
pub struct Chunks {
    /// First needed.
    pub begin: Val<u32>,
    /// The one behind the last needed.
    pub end: Val<u32>,
}

/// The chunks that a span needs.
#[tile_fn]
pub fn chunks_of_span(span: Span, window: Val<u32>) -> Chunks {
    let (first, last) = (span.begin / PAGE, (span.end + (PAGE - 1)) / PAGE);
    let has_window = window != NO_WINDOW;
    let begin = select(has_window, first / WINDOW_PAGES, 0u32);
    let needed = select(last == 0, 0u32, chunk_of(last - 1) + 1);
    let end = select(has_window, (last + (WINDOW_PAGES - 1)) / WINDOW_PAGES, needed);
    Chunks { begin, end }
}

/// How a sequence's chunks are dealt out to blocks: the last ones, which are the longest, first, and every other round the
/// other way round, so that who got a long one gets a short one next.
#[derive(Clone, Copy)]
pub struct Deal {
    /// Chunks of the sequence.
    pub chunks: Val<u32>,
    /// This block.
    pub block: Val<u32>,
    /// Blocks that share the sequence.
    pub blocks: Val<u32>,
}

impl Deal {
    /// Chunks that this block gets.
    #[tile_fn]
    pub fn rounds(&self) -> Val<u32> {
        let whole = self.chunks / self.blocks;
        let rest = self.chunks - whole * self.blocks;
        whole + (self.place(whole) < rest).to_u32()
    }

    /// The chunk of one of its rounds.
    #[tile_fn]
    pub fn chunk(&self, round: Val<u32>) -> Val<u32> {
        self.chunks - 1 - (round * self.blocks + self.place(round))
    }

    #[tile_fn]
    fn place(&self, round: Val<u32>) -> Val<u32> {
        select(round % 2 == 0, self.block, self.blocks - 1 - self.block)
    }
}

/// Blocks to deal a sequence's chunks out to, where the device has room for so many: a power of two if that leaves little
/// of it idle, because most stretches of the division have a power of two of chunks.
pub fn blocks_to_share(chunks: usize, room: usize) -> usize {
    let power = 1 << room.max(1).ilog2();
    let blocks = if 8 * power >= 7 * room { power } else { room };
    chunks.min(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks follow each other without gaps, and their number grows with the pages one by one.
    #[test]
    fn the_division_has_no_gaps() {
        let mut page = 0;
        let mut chunk = 0;
        while page < 3000 {
            let stretch = STRETCHES.iter().rposition(|(first, _)| *first <= page).unwrap_or(0);
            let size = STRETCHES[stretch].1;
            for inside in 1..=size {
                assert_eq!(chunks_of_pages(page + inside), chunk + 1, "page {page} + {inside}");
            }
            page += size;
            chunk += 1;
        }
        assert_eq!(chunks(0, NO_WINDOW, 1), 1);
    }

    #[test]
    fn blocks_are_a_power_of_two_where_that_costs_little() {
        for (chunks, room, want) in [(272, 66, 64), (272, 132, 128), (272, 100, 100), (5, 66, 5), (9, 0, 1)] {
            assert_eq!(blocks_to_share(chunks, room), want, "{chunks} chunks, room for {room}");
        }
    }

    #[test]
    fn a_window_needs_few_blocks() {
        assert_eq!(chunks(100_000, 512, 1), 6);
        assert_eq!(chunks(100, 512, 1), 2);
        assert_eq!(chunks(100_000, 512, 4), 6);
    }
}
