//! Flash attention over pages, in two shapes made of the same pieces: decoding splits the keys over blocks and leaves
//! partial results to [`combine`](super::combine), prompts take many queries at once and finish in one block.
//!
//! Sources: Dao et al., "FlashAttention" (2022); Dao et al., "Flash-Decoding" (2023); the online softmax is Milakov and
//! Gimelshein, "Online normalizer calculation for softmax" (2018).
//!
//! Both products are taken transposed: keys, and the values of a head, are the 16 rows of the left operand, queries its
//! columns. A unit of the cache is decoded in registers into that operand, nothing of it goes through shared memory.
//! Four warps share a page of 64 keys: each scores 16 of them, then all scores meet in shared memory, and each takes its
//! part of the values. Queries of one block are the rows of up to `columns / gqa` tokens of one sequence, times the query
//! heads that share a KV head: all of them use one read of keys and values.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Scales, UnitShape};
use super::examples::Cache;
use super::finish::{Totals, hand_out};
use super::formats::{self, HEAD_DIM, K, V};
use super::pages::{PAGE, Side, UNIT};
use super::partition::{Deal, NO_WINDOW, Pages, Span, chunk_pages, chunks, chunks_of_span};
use super::queries::load_queries;
use super::rotate_back::rotate_back;
use super::scores::{Keys, Sight, score_unit};
use super::values::{Running, Values, add_values};
use crate::registry::prelude::*;

/// Warps that share a page.
pub const TEAM: usize = 4;
/// log2(e): queries are multiplied by it, because exponentials are taken to base 2.
pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Below every score: stands for "not visible" without the infinities that would make NaN.
pub(super) const LOWEST: f32 = -1e30;
/// Where the highest score starts: below every score that is visible, far above what is not.
pub(super) const START: f32 = -1e29;

/// Words of a page's units up to which all of them are loaded ahead.
const FEW_WORDS: usize = 32;
/// As [`FEW_WORDS`] for prompts whose warps have several column tiles, and registers for hardly anything beside their sums.
const FEW_WORDS_OF_TILES: usize = 24;
/// Bits of a value from which on a format is wide: a lane's part of a unit is 32 words then.
const WIDE_BITS: usize = 16;
/// Registers of a multiprocessor, and of a thread at most.
const REGISTERS: usize = 65_536;
const MOST_REGISTERS: usize = 255;

/// When a block loads keys and values that are many words a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loads {
    /// A part of them before their turn: a few blocks have a multiprocessor each, and latency counts.
    Ahead,
    /// When they are needed: there are other blocks to go on with.
    InTurn,
}

/// The comptime shape of an attention kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Comptime)]
pub struct FlashShape {
    /// Values per head.
    pub head_dim: usize,
    /// Column tiles of a warp: how many matrix instructions' columns of queries.
    pub tiles: usize,
    /// Teams of four warps, each with column tiles of its own.
    pub teams: usize,
    /// Pages that a block works on at once, each with teams of its own.
    pub pages: usize,
}

impl FlashShape {
    /// Warps of a block.
    pub fn warps(self) -> usize {
        TEAM * self.teams * self.pages
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        32 * self.warps()
    }

    /// Blocks that are to fit on a multiprocessor: 16 warps leave 128 registers a thread, which more columns exceed, formats
    /// whose queries or weights are split into terms, and what a block that decodes loads ahead in wide formats.
    fn blocks<K: KvCodec, V: KvCodec>(self, loads: Loads) -> usize {
        let is_wide = [K::BITS, V::BITS]
            .iter()
            .any(|bits| bits.iter().sum::<usize>() >= WIDE_BITS);
        // decoding scales of blocks takes more registers than scales that weights are multiplied by
        let has_blocks = self.head_dim >= 256 && [K::SCALES, V::SCALES].contains(&Scales::Block);
        let warps = match (self.tiles, K::TERMS.max(V::TERMS)) {
            (1, 1) if (is_wide || has_blocks) && loads == Loads::Ahead => 8,
            (1, 1) => 16,
            (_, 1) => 12,
            _ => 8,
        };
        (warps / self.warps()).max(1)
    }

    /// Whether a block that decodes goes on with another chunk after its first. Those of one column tile start and end while
    /// others of the multiprocessor are at work; with more there is one at a time, and nothing else meanwhile.
    pub fn goes_on(self) -> bool {
        self.tiles * self.teams > 1
    }

    /// Whether warps without a page of their own let it be. Others take the last page again, which counts for nothing: a
    /// branch keeps more alive than the largest heads have registers for.
    fn has_registers_to_branch(self) -> bool {
        self.head_dim < 512 && !self.goes_on()
    }

    /// Of a page's units of `words` words a lane, how many it loads ahead: all of those of few words, and of others a part
    /// that the registers next to `sums` products leave room for, with 64 for all else and as much for the other side.
    fn ahead<K: KvCodec, V: KvCodec>(self, loads: Loads, units: usize, words: usize, sums: usize) -> usize {
        let layout = target().fragments;
        let few = match loads {
            Loads::InTurn if self.tiles > 1 => FEW_WORDS_OF_TILES,
            _ => FEW_WORDS,
        };
        if units * words <= few {
            return units;
        }
        if loads == Loads::InTurn || layout.k_parts() == 1 {
            return 0;
        }
        let threads = self.threads() * self.blocks::<K, V>(loads);
        let registers = (REGISTERS / threads).min(MOST_REGISTERS);
        let room = registers.saturating_sub(64 + sums * layout.column_accumulators()) / 2;
        let fits = |count: &usize| units.is_multiple_of(*count) && count * words <= room;
        (1..=units).rev().find(fits).unwrap_or(0)
    }

    /// Columns of a block: queries times query heads of the KV head, on a target with so many columns an instruction.
    pub fn columns(self, columns: usize) -> usize {
        self.tiles * self.teams * columns
    }
}

/// Everything a block's pieces need to know.
#[derive(Clone)]
pub(super) struct Block {
    pub shape: FlashShape,
    pub keys: UnitShape,
    pub values: UnitShape,
    /// Columns of one tile.
    pub width: usize,
    /// First row of the step, and rows.
    pub first_row: Val<u32>,
    pub rows: Val<u32>,
    pub heads: Val<u32>,
    pub gqa: Val<u32>,
    pub kv_head: Val<u32>,
    /// Which of the pages at once this warp works on, its team among those of the page, and its place in the team.
    pub turn: Val<u32>,
    pub team: Val<u32>,
    pub member: Val<u32>,
}

impl Block {
    /// Column tiles of the block.
    pub fn all_tiles(&self) -> usize {
        self.shape.tiles * self.shape.teams
    }

    /// The block, as if its warps' columns were not known yet: what was computed from them in front of a loop is computed again
    /// behind it, where keeping it would cost a register that sums need.
    #[tile_fn]
    pub fn anew(&self) -> Self {
        Self {
            team: in_register(self.team),
            ..self.clone()
        }
    }

    /// Columns of the block.
    pub fn columns(&self) -> usize {
        self.all_tiles() * self.width
    }

    /// Tiles of 16 of a unit's values.
    pub fn value_tiles(&self) -> usize {
        self.values.places.dims / UNIT
    }

    /// Units of a page of which one warp takes the values.
    pub fn value_units(&self) -> usize {
        self.values.groups.min(TEAM)
    }

    /// Words of a query column in one step along k.
    pub fn step_words(&self) -> usize {
        target().fragments.words_per_row(2)
    }

    /// Steps along k in one unit of keys.
    pub fn key_steps(&self) -> usize {
        self.keys.places.dims / 16
    }

    /// The word of `queries` at which what a lane needs for a pair of steps starts.
    #[tile_fn]
    pub fn query_word(&self, term: usize, tile: Val<u32>, group: Val<u32>, pair: Val<u32>, lane: Val<u32>) -> Val<u32> {
        let pairs = self.key_steps() / 2;
        let lanes = self.width * target().fragments.k_parts();
        let units = (tile + term * self.all_tiles()) * self.keys.groups + group;
        ((units * pairs + pair) * lanes + lane) * (2 * self.step_words())
    }
}

/// Where a block is: its rows, their sequence, and what they see.
#[derive(Clone)]
struct Place {
    block: Block,
    span: Span,
    slot: Val<u32>,
}

/// The place of this block of a KV head: z is the group of rows.
#[tile_fn]
fn place<K: KvCodec, V: KvCodec>(
    kv_head: Val<u32>,
    row_groups: In<u32>,
    positions: In<u32>,
    visible: In<u32>,
    heads: Val<u32>,
    gqa: Val<u32>,
    window: Val<u32>,
    #[comptime] shape: FlashShape,
) -> Place {
    let group = block_index_z();
    let first_row = row_groups[group * 3];
    let rows = row_groups[group * 3 + 1];
    let slot = row_groups[group * 3 + 2];
    let span = Span::of_rows(positions, visible, first_row, rows, window);
    let block = Block {
        shape,
        keys: UnitShape::here::<K>(Side::Key, shape.head_dim),
        values: UnitShape::here::<V>(Side::Value, shape.head_dim),
        width: target().fragments.columns(),
        first_row,
        rows,
        heads,
        gqa,
        kv_head,
        turn: warp_index() / (TEAM * shape.teams),
        team: warp_index() / TEAM % shape.teams,
        member: warp_index() % TEAM,
    };
    Place { block, span, slot }
}

/// What a warp has summed over its pages.
#[derive(Clone, Copy)]
pub(super) struct Attended {
    pub running: Running,
    /// [tiles of values, column tiles]
    pub sums: Products<f32>,
}

/// What a block needs for all chunks that it attends to.
struct Work {
    queries: Shared<u32>,
    scores: SharedTile<f32>,
    keys: Keys,
    values: Values,
    first_entry: Val<u32>,
    slot_pages: Val<u32>,
    /// The entry of the page whose turn is next, of which keys are on their way.
    entry: Registers<u32>,
    loads: Loads,
}

impl Work {
    /// Waits for the launches in front, loads the queries and keys of the first pages.
    #[tile_fn]
    fn begin<K: KvCodec, V: KvCodec>(
        place: &Place,
        q: In<u32>,
        cache_k: In<u8>,
        page_table: In<u32>,
        slot_pages: Val<u32>,
        first: Pages,
        loads: Loads,
    ) -> Self {
        let block = &place.block;
        let (tiles, columns, at_once) = (block.shape.tiles, block.columns(), block.shape.pages);
        let queries = Shared::<u32>::new(K::TERMS * columns * block.keys.groups * block.keys.places.dims / 2);
        // two rounds of pages, so that warps may be a round apart
        let scores = SharedTile::<f32>::new(2 * at_once * columns, PAGE, TileLayout::Padded(4));
        let first_entry = place.slot * slot_pages;
        let entry = Registers::<u32>::undefined(1);
        entry[0] = page_table[first_entry + page_of_turn(block, first) % slot_pages];
        let sums = block.value_tiles() * tiles;
        let keys_ahead = block
            .shape
            .ahead::<K, V>(loads, block.keys.groups, block.keys.words(), sums);
        let values_ahead = block
            .shape
            .ahead::<K, V>(loads, block.value_units(), block.values.words(), sums);
        let keys = Keys::new::<K>(block, keys_ahead);
        // what is split into terms takes the registers of a second unit
        let values = Values::new::<V>(block, values_ahead, K::TERMS.max(V::TERMS) > 1);
        /// what a step's rows are is known before the launches in front have ended
        wait_for_prerequisites();
        let first_keys = block.keys.page(entry[0], block.heads / block.gqa, block.kv_head);
        for group in unrolled(0..keys.ahead) {
            keys.fetch::<K>(block, cache_k, first_keys, group, group);
        }
        load_queries::<K>(block, queries, q);
        Self {
            queries,
            scores,
            keys,
            values,
            first_entry,
            slot_pages,
            entry,
            loads,
        }
    }

    /// Attends to some pages of the block's sequence; keys of the first of `after`, if any, are loaded meanwhile.
    #[tile_fn]
    fn attend<K: KvCodec, V: KvCodec>(
        &self,
        place: &Place,
        cache_k: In<u8>,
        cache_v: In<u8>,
        page_table: In<u32>,
        sight: Sight,
        pages: Pages,
        after: Option<Pages>,
    ) -> Attended {
        let block = &place.block;
        let (tiles, columns, at_once) = (block.shape.tiles, block.columns(), block.shape.pages);
        let kv_heads = block.heads / block.gqa;
        let highest = Registers::<f32>::filled(tiles, START);
        let total = Registers::<f32>::filled(tiles, 0.0);
        let running = Running { highest, total };
        let sums = Products::<f32>::zeros(block.value_tiles() * tiles);
        let mut first_after = None;
        if let Some(after) = after {
            let page = page_of_turn(block, after);
            first_after = Some(page);
        }
        let entry = self.entry;
        barrier();
        for round in stepped(pages.begin, pages.end, at_once) {
            /// past the last page that page again, all of whose keys count as behind the end
            let page = round + block.turn;
            let mut next_page = min(page + at_once, pages.end - 1);
            if let Some(after) = first_after {
                next_page = select(round + at_once >= pages.end, after, next_page);
            }
            let next_entry = page_table[self.first_entry + next_page % self.slot_pages];
            let first_column = (round / at_once % 2 * at_once + block.turn) * columns;
            let keys_start = block.keys.page(entry[0], kv_heads, block.kv_head);
            let values_start = block.values.page(entry[0], kv_heads, block.kv_head);
            let next_keys = block.keys.page(next_entry, kv_heads, block.kv_head);
            let score = || {
                if self.loads == Loads::Ahead {
                    self.values.fetch_ahead::<V>(block, cache_v, values_start);
                }
                score_unit::<K>(
                    block,
                    self.scores,
                    first_column,
                    self.queries,
                    &self.keys,
                    cache_k,
                    keys_start,
                    page * PAGE,
                    sight,
                );
                if self.loads == Loads::InTurn {
                    self.values.fetch_ahead::<V>(block, cache_v, values_start);
                }
            };
            let weigh = || {
                add_values::<V>(
                    block,
                    running,
                    sums,
                    self.scores,
                    first_column,
                    &self.values,
                    cache_v,
                    values_start,
                    |unit| fetch_in_turn::<K>(block, &self.keys, cache_k, next_keys, unit),
                );
            };
            if at_once > 1 && block.shape.has_registers_to_branch() {
                /// where pages have ended, warps leave the others to theirs
                let is_here = page < pages.end;
                if is_here {
                    score();
                }
                group_barrier(TEAM);
                if is_here {
                    weigh();
                }
            } else {
                score();
                group_barrier(TEAM);
                weigh();
            }
            entry[0] = next_entry;
        }
        Attended { running, sums }
    }
}

/// The first of some pages that this warp works on: the last one where there are fewer than at once.
#[tile_fn]
fn page_of_turn(block: &Block, pages: Pages) -> Val<u32> {
    min(pages.begin + block.turn, pages.end - 1)
}

/// Loads the groups of the next page's keys whose turn it is after a unit of values.
#[tile_fn]
fn fetch_in_turn<K: KvCodec>(block: &Block, keys: &Keys, cache_k: In<u8>, page: Val<u64>, unit: Val<u32>) {
    let (groups, units) = (block.keys.groups, block.value_units());
    if groups == units && keys.ahead == groups {
        keys.fetch::<K>(block, cache_k, page, unit, unit);
    } else if keys.ahead > 0 {
        /// after the last unit all that are loaded ahead
        if unit == units - 1 {
            for group in unrolled(0..keys.ahead) {
                keys.fetch::<K>(block, cache_k, page, group, group);
            }
        }
    }
}

/// Attention of a few rows of a sequence to chunks of its keys, one by one: weighted sums, highest scores (to base 2) and sums of
/// powers.
///
/// Blocks: x over KV heads, y over the chunks of keys of a sequence (see `partition`), of which there are at most `chunks`,
/// or as few as one where blocks of that shape go on with another one; z over groups of rows. A group is
/// `row_groups\[z\] = (first row, rows, slot)`, rows that follow each other in one sequence; `rows * gqa` columns at most.
/// Row r sees keys j < visible\[r\] that are less than `window` before positions\[r\] (0xffffffff: all). Queries are those
/// of `prepare_queries`. Results stay in the domain of the values:
/// `flash_combine` rotates them back. Chunks that no row sees are left as they are. Batch invariance: a row's results
/// depend on its own query and keys only, not on how many blocks share its chunks.
#[kernel(threads = shape.threads(), blocks = shape.blocks::<K, V>(Loads::Ahead))]
pub fn flash_decode<K: KvCodec, V: KvCodec>(
    #[shape(rows, heads, terms, words)] q: In<u32>,
    #[shape(pages, kv_heads, page_bytes)] cache_k: In<u8>,
    #[shape(pages, kv_heads, page_bytes)] cache_v: In<u8>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(groups, 3)] row_groups: In<u32>,
    #[shape(rows)] positions: In<u32>,
    #[shape(rows)] visible: In<u32>,
    #[shape(groups, kv_heads, chunks, columns, stored)] partial: Out<f32>,
    #[shape(groups, kv_heads, chunks, columns, 2)] worth: Out<f32>,
    heads: u32,
    gqa: u32,
    slot_pages: u32,
    window: u32,
    chunks: u32,
    #[comptime] shape: FlashShape,
) {
    trigger_dependents();
    let place = place::<K, V>(block_index(), row_groups, positions, visible, heads, gqa, window, shape);
    let needed = chunks_of_span(place.span, window);
    let deal = Deal {
        chunks: needed.end - needed.begin,
        block: block_index_y(),
        blocks: grid_size_y(),
    };
    let block = &place.block;
    let sight = Sight::of(block, positions, visible, window);
    let columns = block.columns();
    let stored = block.values.groups * block.values.places.dims;
    let waiting = Shared::<u32>::new(2);
    let attend = |work: &Work, chunk: Val<u32>, pages: Pages, after: Option<Pages>| {
        /// what is needed behind all pages waits in memory, because all registers are needed for sums
        if thread_index() == 0 {
            waiting[0] = chunk;
            waiting[1] = block.rows * gqa;
        }
        let attended = work.attend::<K, V>(&place, cache_k, cache_v, page_table, sight, pages, after);
        let (chunk, used) = (waiting[0], waiting[1]);
        let totals = Totals::of(block, attended.running, true);
        let part = (block_index_z() * (heads / gqa) + block.kv_head) * chunks + chunk;
        for column in strided(columns, shape.threads()) {
            if column < used {
                worth[(part * columns + column) * 2] = totals.highest(block, column);
                worth[(part * columns + column) * 2 + 1] = totals.get(block, column);
            }
        }
        hand_out::<V>(block, attended, totals, |column, dim, values| {
            if column < used {
                partial.store_as::<Pack<f32, 4>>((part * columns + column) * stored + dim, Val::pack(values));
            }
        });
    };
    if deal.block < deal.chunks {
        let first = deal.chunk(u32(0));
        let pages = chunk_pages(first, place.span, window);
        let work = Work::begin::<K, V>(&place, q, cache_k, page_table, slot_pages, pages, Loads::Ahead);
        sight.share(block);
        if shape.goes_on() {
            let rounds = deal.rounds();
            for round in stepped(0u32, rounds, 1u32) {
                let chunk = deal.chunk(round);
                let pages = chunk_pages(chunk, place.span, window);
                let is_last = round + 1 == rounds;
                let next = chunk_pages(deal.chunk(select(is_last, round, round + 1)), place.span, window);
                let begin = select(is_last, pages.end - 1, next.begin);
                let after = Pages { begin, end: next.end };
                attend(&work, chunk, pages, Some(after));
            }
        } else {
            attend(&work, first, pages, None);
        }
    } else {
        /// the launch behind relies on this one for all before it
        wait_for_prerequisites();
    }
}

/// Attention of a tile of a prompt's rows to all keys they see.
///
/// Blocks: x is 1, y over KV heads, z over groups of rows, which are those of [`flash_decode`]. Rows that see nothing get zeros.
#[kernel(threads = shape.threads(), blocks = shape.blocks::<K, V>(Loads::InTurn))]
pub fn flash_prefill<K: KvCodec, V: KvCodec>(
    #[shape(rows, heads, terms, words)] q: In<u32>,
    #[shape(pages, kv_heads, page_bytes)] cache_k: In<u8>,
    #[shape(pages, kv_heads, page_bytes)] cache_v: In<u8>,
    #[shape(slots, slot_pages)] page_table: In<u32>,
    #[shape(groups, 3)] row_groups: In<u32>,
    #[shape(rows)] positions: In<u32>,
    #[shape(rows)] visible: In<u32>,
    #[shape(rows, heads, head_dim)] out: Out<f32>,
    heads: u32,
    gqa: u32,
    slot_pages: u32,
    window: u32,
    #[comptime] shape: FlashShape,
) {
    trigger_dependents();
    let place = place::<K, V>(
        block_index_y(),
        row_groups,
        positions,
        visible,
        heads,
        gqa,
        window,
        shape,
    );
    let block = &place.block;
    let sight = Sight::of(block, positions, visible, window);
    /// which pages are worked on at once depends on their numbers only
    let begin = place.span.begin / (PAGE * shape.pages) * shape.pages;
    let end = (place.span.end + (PAGE - 1)) / PAGE;
    let pages = Pages { begin, end };
    let work = Work::begin::<K, V>(&place, q, cache_k, page_table, slot_pages, pages, Loads::InTurn);
    sight.share(block);
    let attended = work.attend::<K, V>(&place, cache_k, cache_v, page_table, sight, pages, None);
    if V::ROTATED {
        rotate_back(block, attended.sums);
    }
    let anew = block.anew();
    let block = &anew;
    let totals = Totals::of(block, attended.running, false);
    /// asked for again, because all registers were needed for sums
    let first_row = row_groups[block_index_z() * 3];
    let used = row_groups[block_index_z() * 3 + 1] * gqa;
    hand_out::<V>(block, attended, totals, |column, dim, values| {
        if column < used && dim < shape.head_dim {
            let row = first_row + column / gqa;
            let head = block.kv_head * gqa + column % gqa;
            let total = totals.get(block, column);
            let inverse = select(total == 0.0, f32(0.0), 1.0 / total);
            let scaled = values.map(|value| value * inverse);
            out.store_as::<Pack<f32, 4>>((row * heads + head) * shape.head_dim + dim, Val::pack(scaled));
        }
    });
}

const TILES: Parameter = choice("tiles", "1", "column tiles of a warp, 1 to 8");
const TEAMS: Parameter = choice("teams", "1", "teams of four warps with columns of their own, 1 to 8");
const PAGES: Parameter = choice("pages", "1", "pages that a block works on at once, 1 to 8");

fn shape(settings: &Settings) -> Result<FlashShape, SettingError> {
    let shape = FlashShape {
        head_dim: formats::head_dim(settings)?,
        tiles: settings.number("tiles")?,
        teams: settings.number("teams")?,
        pages: settings.number("pages")?,
    };
    settings.require("tiles", (1..=8).contains(&shape.tiles), "1 to 8")?;
    settings.require("teams", (1..=8).contains(&shape.teams), "1 to 8")?;
    settings.require(
        "pages",
        shape.pages > 0 && shape.warps() <= 32,
        "1 or more, and four times teams times pages at most 32 warps",
    )?;
    Ok(shape)
}

/// The most columns that any target has in a block of that shape.
fn most_columns(shape: FlashShape) -> usize {
    shape.columns(16)
}

/// The shape of an example, and a cache with as many rows as a block takes.
fn sizes(settings: &Settings, random: &mut Random) -> Result<(FlashShape, Cache), SettingError> {
    let shape = shape(settings)?;
    let mut cache = Cache::draw(settings, random)?;
    // the narrowest target has eight columns an instruction
    cache.rows = cache.rows.min(shape.columns(8) / cache.gqa).max(1);
    Ok((shape, cache))
}

/// Registration of [`flash_decode`] with every pair of formats.
pub const DECODE: Entry = Entry {
    name: "flash_decode",
    parameters: &[K, V, HEAD_DIM, TILES, TEAMS, PAGES],
    build: |settings| Ok((formats::flash(settings)?[0])(shape(settings)?)),
    example: |settings, random| {
        let (shape, cache) = sizes(settings, random)?;
        let chunks = chunks(cache.keys, NO_WINDOW, cache.rows);
        let parts = cache.kv_heads * chunks * most_columns(shape);
        let stored = shape.head_dim.max(128);
        let mut arguments = cache.start_fast(random);
        arguments.extend([
            cache.row_groups(),
            cache.positions(),
            cache.visible(),
            Argument::output(parts * stored * 4),
            Argument::output(parts * 8),
        ]);
        let window = if random.size(0, 1) == 0 {
            NO_WINDOW
        } else {
            random.size(1, 90) as u32
        };
        arguments.extend(cache.scalars(window));
        arguments.push(Argument::U32(chunks as u32));
        let blocks = if shape.goes_on() {
            random.size(1, chunks)
        } else {
            chunks
        };
        Ok(Example {
            grid: [cache.kv_heads as u32, blocks as u32, 1],
            arguments,
        })
    },
};

/// Registration of [`flash_prefill`] with every pair of formats.
pub const PREFILL: Entry = Entry {
    name: "flash_prefill",
    parameters: &[K, V, HEAD_DIM, TILES, TEAMS, PAGES],
    build: |settings| Ok((formats::flash(settings)?[1])(shape(settings)?)),
    example: |settings, random| {
        let (shape, cache) = sizes(settings, random)?;
        let out = Argument::output(cache.rows * cache.heads() * shape.head_dim * 4);
        let mut arguments = cache.start_fast(random);
        arguments.extend([cache.row_groups(), cache.positions(), cache.visible(), out]);
        arguments.extend(cache.scalars(random.size(1, 200) as u32));
        Ok(Example {
            grid: [1, cache.kv_heads as u32, 1],
            arguments,
        })
    },
};
