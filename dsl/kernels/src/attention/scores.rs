//! Scores: keys times queries.

use tilekiln_dsl::prelude::*;

use super::codec::{KvCodec, Loaded, Scales, Stage};
use super::flash::{Block, LOWEST};
use super::pages::UNIT;
use super::partition::Span;

/// Which keys each column of a block may see, in shared memory: registers are for sums.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// [columns, 2]: the first visible key, and how many from there on
    spans: Shared<u32>,
    /// What the column of this thread's number sees.
    begin: Val<u32>,
    count: Val<u32>,
}

impl Sight {
    /// Asks for what the columns see; [`Self::share`] waits for it.
    #[tile_fn]
    pub(super) fn of(block: &Block, positions: In<u32>, visible: In<u32>, window: Val<u32>) -> Self {
        let spans = Shared::<u32>::new(2 * block.columns());
        let token = thread_index() / block.gqa;
        let row = block.first_row + min(token, block.rows - 1);
        let span = Span::of_row(positions, visible, row, window);
        let count = select(token < block.rows, span.end - span.begin, 0u32);
        Self {
            spans,
            begin: span.begin,
            count,
        }
    }

    /// Lets all threads know behind the block's next barrier.
    #[tile_fn]
    pub(super) fn share(self, block: &Block) {
        /// there are as many threads at least
        let column = thread_index();
        if column < block.columns() {
            self.spans
                .store_as::<Pack<u32, 2>>(column * 2, Val::pack([self.begin, self.count]));
        }
    }

    /// The first key that a column sees, and how many from there on.
    #[tile_fn]
    fn of_column(self, column: Val<u32>) -> (Val<u32>, Val<u32>) {
        let span = self.spans.load_as::<Pack<u32, 2>>(column * 2);
        (span.component(0), span.component(1))
    }
}

/// Scores of this warp's 16 keys of a page, with all columns of its team; what a column must not see is far below
/// everything else. The page's keys are in `stage`, or are brought there group by group.
#[tile_fn]
pub(super) fn score_unit<K: KvCodec>(
    block: &Block,
    scores: SharedTile<f32>,
    first_column: Val<u32>,
    queries: Shared<u32>,
    keys: &Keys,
    cache_k: In<u8>,
    page: Val<u64>,
    first_key: Val<u32>,
    sight: Sight,
) {
    let tiles = block.shape.tiles;
    let (rows, held) = (Products::<f32>::lane_rows(), Products::<f32>::lane_columns());
    let sums = Products::<f32>::zeros(tiles);
    if keys.ahead == 0 {
        for group in unrolled(0..block.keys.groups) {
            let stage = Stage::new::<K>(&block.keys, 1, keys.tables);
            keys.fetch_to::<K>(stage, block, cache_k, page, u32(0), group);
            score_group::<K>(block, sums, queries, stage.unit::<K>(&block.keys, u32(0)), group);
        }
    } else {
        for round in unrolled(0..block.keys.groups / keys.ahead) {
            for place in unrolled(0..keys.ahead) {
                let group = round * keys.ahead + place;
                score_group::<K>(block, sums, queries, keys.stage.unit::<K>(&block.keys, place), group);
                if keys.ahead < block.keys.groups {
                    /// its registers take the group that is as many behind
                    if group + keys.ahead < block.keys.groups {
                        keys.fetch::<K>(block, cache_k, page, place, group + keys.ahead);
                    }
                }
            }
        }
    }
    for tile in unrolled(0..tiles) {
        for slot in 0..held {
            let column = (block.team * tiles + tile) * block.width + Products::<f32>::column(slot);
            let (begin, count) = sight.of_column(column);
            for row in 0..rows {
                let key = block.member * UNIT + Products::<f32>::row(row);
                let is_visible = first_key + key - begin < count;
                scores[(first_column + column, key)] = select(is_visible, sums.at(tile).get(row, slot), LOWEST);
            }
        }
    }
}

/// Scores of one group of a head's values, added to those of the groups before.
#[tile_fn]
fn score_group<K: KvCodec>(block: &Block, sums: Products<f32>, queries: Shared<u32>, loaded: Loaded, group: Val<u32>) {
    let tiles = block.shape.tiles;
    if K::SCALES == Scales::Position {
        /// a key's scale multiplies its scores
        let part = Products::<f32>::zeros(tiles);
        multiply_keys::<K>(block, part, queries, loaded, group);
        for row in 0..Products::<f32>::lane_rows() {
            let scale = loaded.scale(row);
            for tile in unrolled(0..tiles) {
                for slot in 0..Products::<f32>::lane_columns() {
                    let score = fma(part.at(tile).get(row, slot), scale, sums.at(tile).get(row, slot));
                    sums.at(tile).set(row, slot, score);
                }
            }
        }
    } else {
        multiply_keys::<K>(block, sums, queries, loaded, group);
    }
}

/// Where the keys of a page are when they are scored.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    stage: Stage,
    tables: [Val<u32>; 2],
    /// Groups that are loaded before the page's turn comes; the others follow in the registers of those that are scored.
    pub ahead: usize,
}

impl Keys {
    /// With registers for `ahead` groups.
    #[tile_fn]
    pub(super) fn new<K: KvCodec>(block: &Block, ahead: usize) -> Self {
        let tables = K::tables();
        let stage = Stage::new::<K>(&block.keys, ahead.max(1), tables);
        Self { stage, tables, ahead }
    }

    /// Loads one group of a page's keys to a place of the registers that are kept for them.
    #[tile_fn]
    pub(super) fn fetch<K: KvCodec>(
        &self,
        block: &Block,
        cache_k: In<u8>,
        page: Val<u64>,
        place: Val<u32>,
        group: Val<u32>,
    ) {
        self.fetch_to::<K>(self.stage, block, cache_k, page, place, group);
    }

    /// Loads one group of a page's keys to a place of a stage.
    #[tile_fn]
    fn fetch_to<K: KvCodec>(
        &self,
        stage: Stage,
        block: &Block,
        cache_k: In<u8>,
        page: Val<u64>,
        place: Val<u32>,
        group: Val<u32>,
    ) {
        let starts = block.keys.lane_starts::<K>(block.keys.unit(page, u32(0), block.member));
        let distance = block.keys.group_distance(group);
        stage.fetch::<K>(&block.keys, cache_k, &starts, place, distance);
    }
}

/// `sums += keys · queries` over the values of one unit.
#[tile_fn]
fn multiply_keys<K: KvCodec>(
    block: &Block,
    sums: Products<f32>,
    queries: Shared<u32>,
    loaded: Loaded,
    group: Val<u32>,
) {
    let slots = block.keys.places.runs();
    let words = block.step_words();
    for pair in unrolled(0..block.key_steps() / 2) {
        let first_step = RowOperand::<K::Element>::undefined();
        let second_step = RowOperand::<K::Element>::undefined();
        for slot in 0..slots {
            for octet in 0..words / 2 {
                let four = K::octet(&block.keys, loaded, slot, pair * (words / 2) + octet);
                for i in 0..4 {
                    let word = octet * 4 + i;
                    if word < words {
                        first_step.set(slot, word, four[i]);
                    } else {
                        second_step.set(slot, word - words, four[i]);
                    }
                }
            }
        }
        for term in 0..K::TERMS {
            for tile in unrolled(0..block.shape.tiles) {
                let lane = operand_column() * target().fragments.k_parts() + operand_part();
                let start = block.query_word(term, block.team * block.shape.tiles + tile, group, pair, lane);
                let first_queries = ColumnOperand::<K::Element>::undefined();
                let second_queries = ColumnOperand::<K::Element>::undefined();
                load_pair(first_queries, second_queries, queries, start);
                multiply(sums.at(tile), first_step, first_queries);
                multiply(sums.at(tile), second_step, second_queries);
            }
        }
    }
}

/// The words of two column operands that lie next to each other.
#[tile_fn]
fn load_pair<Element: MatrixElement>(
    first: ColumnOperand<Element>,
    second: ColumnOperand<Element>,
    from: Shared<u32>,
    start: Val<u32>,
) {
    let words = ColumnOperand::<Element>::words();
    for part in 0..words / 2 {
        let four = from.load_as::<Pack<u32, 4>>(start + part * 4);
        for i in 0..4 {
            let word = part * 4 + i;
            if word < words {
                first.set(word, four.component(i));
            } else {
                second.set(word - words, four.component(i));
            }
        }
    }
}
