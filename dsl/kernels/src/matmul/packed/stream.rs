//! How a block works through a packed matrix: tiles that come through rings, partial sums that meet in shared memory.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::{FragmentLayout, Target};

use super::format::{PackedFormat, Tile};
use super::layout::TILE_ROWS;
use super::tile::Sums;
use super::worth::{RowWorth, WorthShape};

/// How a product is divided. None of it but `warps` changes a bit of a result.
#[derive(Clone, Copy, Debug, Comptime)]
pub struct Tiling {
    /// Warps of a block: they share the columns of the matrix, a tile each in turns.
    pub warps: usize,
    /// Tiles that each warp has under way.
    pub slots: usize,
    /// Column tiles: matrix instructions side by side, each for 8 or 16 tokens. None: a block takes one token, see
    /// [`lone`](super::lone).
    pub columns: usize,
    /// Blocks that should fit beside each other on a multiprocessor, so that the next launch fills its rings while this one
    /// works; 0 leaves it to the compiler.
    pub blocks: usize,
}

/// Tokens that a block with so many column tiles takes.
pub const fn tokens_of_block(columns: usize, layout: FragmentLayout) -> usize {
    if columns == 0 { 1 } else { columns * layout.columns() }
}

/// How a block takes groups of rows that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Groups that a warp takes one after the other.
    pub in_turn: usize,
    /// Teams of [`Tiling::warps`] warps, each with groups of its own.
    pub teams: usize,
}

impl Turns {
    /// One group at a time, by all warps.
    pub const SINGLE: Self = Self { in_turn: 1, teams: 1 };

    /// Two groups: one after the other by all warps, or a team for each.
    pub const fn pair(teams: usize) -> Self {
        Self {
            in_turn: 2 / teams,
            teams,
        }
    }

    /// Groups of which a block has sums.
    pub const fn groups(self) -> usize {
        self.in_turn * self.teams
    }
}

/// What a warp's tile of a format takes of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of one copy: a tile, or a piece of a large one.
    pub copy_bytes: usize,
    /// What there is to say of a row.
    pub worth: WorthShape,
    /// Parts of which a value is put together: several take more registers.
    pub planes: usize,
}

impl Footprint {
    /// The larger of both: what a launch over two formats needs.
    pub fn max(self, other: Self) -> Self {
        Self {
            copy_bytes: self.copy_bytes.max(other.copy_bytes),
            worth: self.worth.max(other.worth),
            planes: self.planes.max(other.planes),
        }
    }
}

impl Tiling {
    /// Warps of a block with so many teams.
    pub fn all_warps(&self, turns: Turns) -> usize {
        self.warps * turns.teams
    }

    /// Bytes of shared memory of a block that takes groups of rows in such turns: [`Stream`]'s rings, what rows are worth,
    /// [`Partials`].
    pub fn shared_bytes(&self, footprint: Footprint, turns: Turns, target: &Target) -> usize {
        let warps = self.all_warps(turns);
        let slots = warps * self.slots;
        let rings = slots * footprint.copy_bytes;
        // counters of 8 bytes; arrays are aligned to 16
        let arrived = if target.bulk_copy { slots * 8 } else { 0 };
        let worth = warps * TILE_ROWS * footprint.worth.floats(self.columns) * 4;
        let sums = turns.groups() * self.warps;
        let partials = sums * tokens_of_block(self.columns, target.fragments) * STRIDE * 4;
        rings + arrived.next_multiple_of(16) + worth + partials
    }
}

/// A packed matrix to stream.
#[derive(Clone, Copy)]
pub struct Source {
    /// [groups, tiles, tile_bytes]
    pub weights: In<u8>,
    /// Groups of rows.
    pub groups: Val<u32>,
    tile_bytes: usize,
    /// Copies that make a tile.
    pieces: usize,
}

impl Source {
    /// A matrix of a format.
    pub fn of<Format: PackedFormat>(weights: In<u8>, groups: Val<u32>) -> Self {
        Self::in_pieces(weights, groups, Format::SECTIONS.bytes(), 1)
    }

    /// A matrix of large tiles, each copied in pieces of one size that are used one after the other.
    pub fn in_pieces(weights: In<u8>, groups: Val<u32>, tile_bytes: usize, pieces: usize) -> Self {
        Self {
            weights,
            groups,
            tile_bytes,
            pieces,
        }
    }
}

/// This warp's tiles on their way: groups of rows in turns with the other blocks, tiles in turns with the other warps.
pub struct Stream {
    ring: CopyRing,
    /// Matrices whose groups follow each other.
    sources: Vec<Source>,
    warps: usize,
    turns: Turns,
    /// This warp's place in its team.
    pub member: Val<u32>,
    groups: Val<u32>,
    tiles: Val<u32>,
    /// What is fetched next.
    next_group: Val<u32>,
    next_tile: Val<u32>,
    next_piece: Option<Val<u32>>,
    /// Tiles that have been given back.
    used: Val<u32>,
    slots: usize,
}

impl Stream {
    /// Starts the first copies. The matrices have `tiles` tiles in a group.
    #[tile_fn]
    pub fn start(sources: &[Source], tiles: Val<u32>, turns: Turns, tiling: Tiling) -> Self {
        let largest = sources
            .iter()
            .map(|source: &Source| source.tile_bytes / source.pieces)
            .max();
        let others = sources.iter().skip(1);
        let groups = others.fold(sources[0].groups, |sum: Val<u32>, source: &Source| sum + source.groups);
        let ring = CopyRing::new(tiling.all_warps(turns), tiling.slots, largest.unwrap_or(0));
        let member = if turns.teams == 1 {
            warp_index()
        } else {
            warp_index() % tiling.warps
        };
        /// a warp without tiles fetches nothing
        let first_group = select(member < tiles, first_group(turns, tiling), groups);
        let mut stream = Self {
            ring,
            sources: sources.to_vec(),
            warps: tiling.warps,
            turns,
            member,
            groups,
            tiles,
            next_group: first_group.variable("next_group"),
            next_tile: member.variable("next_tile"),
            next_piece: (sources[0].pieces > 1).then(|| u32(0).variable("next_piece")),
            used: u32(0).variable("used"),
            slots: tiling.slots,
        };
        for slot in device_range(0, tiling.slots) {
            stream.fetch(slot);
        }
        stream
    }

    /// Starts the copy of the next tile, if there is one, into a slot that nobody reads any more.
    #[tile_fn]
    fn fetch(&mut self, slot: Val<u32>) {
        if self.next_group < self.groups {
            if self.sources.len() == 1 {
                self.copy(slot, self.sources[0], self.next_group);
            } else {
                let first = self.sources[0];
                if self.next_group < first.groups {
                    self.copy(slot, first, self.next_group);
                } else {
                    self.copy(slot, self.sources[1], self.next_group - first.groups);
                }
            }
            if let Some(mut piece) = self.next_piece {
                piece += 1;
                if piece == self.sources[0].pieces {
                    piece = u32(0);
                    self.advance();
                }
            } else {
                self.advance();
            }
        } else {
            self.ring.skip();
        }
    }

    /// On to the next tile.
    #[tile_fn]
    fn advance(&mut self) {
        self.next_tile += self.warps;
        if self.next_tile >= self.tiles {
            self.next_tile = self.member;
            if self.turns.in_turn == 1 {
                self.next_group += grid_size() * self.turns.teams;
            } else {
                self.next_group += 1;
                /// past the last group of the unit: on to this block's next unit
                if self.next_group % self.turns.in_turn == 0 {
                    self.next_group += (grid_size() - 1) * self.turns.in_turn;
                }
            }
        }
    }

    #[tile_fn]
    fn copy(&self, slot: Val<u32>, source: Source, group: Val<u32>) {
        let tile = group * self.tiles + self.next_tile;
        let bytes = source.tile_bytes / source.pieces;
        let first = match self.next_piece {
            Some(piece) => tile * source.tile_bytes + piece * bytes,
            None => tile * source.tile_bytes,
        };
        self.ring.fetch(slot, source.weights, first, bytes);
    }

    /// Waits for this warp's first tile, if it has one, and works out what its rows are worth: before the launches in front
    /// of this one have ended.
    #[tile_fn]
    pub fn first<Format: PackedFormat>(&self, worth: &RowWorth, tiling: Tiling) {
        if self.member < self.tiles && first_group(self.turns, tiling) < self.groups {
            let tile = self.take();
            worth.fill::<Format>(&tile);
        }
    }

    /// The oldest tile under way, once it is there and what its rows are worth is worked out. [`Self::first`] has done that
    /// for the first one.
    #[tile_fn]
    pub fn next<Format: PackedFormat>(&self, worth: &RowWorth) -> Tile {
        if self.used > 0 {
            let tile = self.take();
            worth.fill::<Format>(&tile);
        }
        self.tile()
    }

    /// Waits for the oldest tile under way.
    #[tile_fn]
    pub fn take(&self) -> Tile {
        self.ring.wait(self.slot(), self.used / self.slots % 2);
        self.tile()
    }

    #[tile_fn]
    fn slot(&self) -> Val<u32> {
        if self.slots == 1 {
            u32(0)
        } else {
            self.used % self.slots
        }
    }

    #[tile_fn]
    fn tile(&self) -> Tile {
        let start = self.ring.start_of(self.slot());
        Tile {
            bytes: self.ring.tiles,
            start,
        }
    }

    /// Gives the tile back and fetches another into its place.
    #[tile_fn]
    pub fn give_back(&mut self) {
        warp_barrier();
        let slot = self.slot();
        self.fetch(slot);
        self.used += 1;
    }
}

/// The first group of rows that this warp takes.
#[tile_fn]
fn first_group(turns: Turns, tiling: Tiling) -> Val<u32> {
    if turns.teams == 1 {
        block_index() * turns.in_turn
    } else {
        block_index() * turns.teams + warp_index() / tiling.warps
    }
}

/// Sums of a block's warps over their tiles, added in the order of the warps.
#[derive(Clone, Copy)]
pub struct Partials {
    /// [parts, warps, tokens, stride]
    sums: Shared<f32>,
    width: usize,
    warps: usize,
}

/// Rows of a token, padded so that the lanes of a matrix instruction's sums fall into different banks.
const STRIDE: usize = TILE_ROWS + 4;

impl Partials {
    /// Room for the sums of `parts` groups of rows.
    #[tile_fn]
    pub fn new(parts: usize, tiling: Tiling) -> Self {
        let width = tokens_of_block(tiling.columns, target().fragments);
        let partial_sums = Shared::<f32>::new(parts * tiling.warps * width * STRIDE);
        Self {
            sums: partial_sums,
            width,
            warps: tiling.warps,
        }
    }

    /// Stores this warp's sums of group `part`. Teams have the groups of part 0 and the next ones.
    #[tile_fn]
    pub fn store(&self, sums: &Sums, part: Val<u32>) {
        match sums {
            Sums::Columns(sums) => self.store_columns(*sums, part),
            Sums::Row(sum, _) => {
                let place = (part * self.warps + warp_index()) * STRIDE + lane_index();
                self.sums[place] = sum[0];
            }
        }
    }

    /// Stores sums of columns, [2 halves, column tiles].
    #[tile_fn]
    pub fn store_columns(&self, sums: Products<f32>, part: Val<u32>) {
        let layout = target().fragments;
        let count = sums.count / 2;
        for half in unrolled(0..2) {
            for column_tile in unrolled(0..count) {
                let first = (part * self.warps + warp_index()) * self.width + column_tile * layout.columns();
                sums.at(half * count + column_tile).each(|element, sum| {
                    self.sums[(first + element.column) * STRIDE + half * 16 + element.row] = sum;
                });
            }
        }
    }

    /// The sum of this lane's row of group `part` for a token.
    #[tile_fn]
    pub fn sum(&self, part: usize, token: Val<u32>) -> Val<f32> {
        let mut sum = f32(0.0);
        for warp in unrolled(0..self.warps) {
            let place = ((warp + part * self.warps) * self.width + token) * STRIDE + lane_index();
            sum += self.sums[place];
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use tilekiln_dsl::target::TARGETS;

    use super::*;
    use crate::matmul::packed::halves;
    use crate::matmul::q6_k::Q6K;
    use crate::matmul::weights::WEIGHTS;

    /// What is asked for when a product is divided is what its kernel has.
    #[test]
    fn shared_memory_is_as_computed() {
        let q6_k = WEIGHTS.iter().find(|weight| weight.name == Q6K::NAME);
        let second = q6_k.and_then(|weight| weight.packing.as_ref()).unwrap().footprint;
        for (warps, slots, columns) in [(1, 1, 1), (3, 1, 1), (2, 2, 2), (4, 1, 0)] {
            let tiling = Tiling {
                warps,
                slots,
                columns,
                blocks: 1,
            };
            for target in TARGETS {
                let mut seen = 0;
                let mut check = |name: &str, def: KernelDef, footprint: Footprint, turns: Turns| {
                    let kernel = def.record(target).unwrap();
                    let arrays = kernel
                        .body
                        .shared
                        .iter()
                        .map(|array| array.bytes().next_multiple_of(16));
                    let bytes: usize = arrays.sum();
                    let computed = tiling.shared_bytes(footprint, turns, target);
                    assert_eq!(bytes, computed, "{name}, {tiling:?}, {}", target.name);
                    seen += 1;
                };
                for weight in WEIGHTS {
                    let Some(packing) = &weight.packing else { continue };
                    let footprint = packing.footprint;
                    match &packing.int8 {
                        Some(int8) => {
                            check(weight.name, (int8.product)(tiling, 1), footprint, Turns::SINGLE);
                            check(weight.name, (int8.pair)(tiling), footprint.max(second), Turns::SINGLE);
                            for teams in [1, 2].into_iter().filter(|teams| *teams == 1 || target.bulk_copy) {
                                check(weight.name, (int8.gated)(tiling, teams), footprint, Turns::pair(teams));
                            }
                            check(weight.name, (int8.gate)(tiling), footprint, Turns::SINGLE);
                        }
                        None if columns == 0 => {}
                        None if weight.name == "f16" => {
                            check("f16", halves::packed_halves::<f16>(tiling), footprint, Turns::SINGLE);
                        }
                        None => check("bf16", halves::packed_halves::<bf16>(tiling), footprint, Turns::SINGLE),
                    }
                }
                let halves = if columns == 0 { 0 } else { 2 };
                assert_eq!(seen, 6 * if target.bulk_copy { 5 } else { 4 } + halves);
            }
        }
    }
}
