//! Where the bytes of a packed matrix lie. The order inside a tile is that of the target's matrix instruction:
//! everything here follows from its [`FragmentLayout`], for kernels and for whoever packs a matrix.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

/// Rows of a tile.
pub const TILE_ROWS: usize = 32;
/// Columns of a tile.
pub const TILE_COLS: usize = 256;
/// Values along k that share a scale of the activations, and of most weight formats.
pub const SUB_BLOCK: usize = 32;
/// Sub-blocks of a tile's row.
pub const SUB_BLOCKS: usize = TILE_COLS / SUB_BLOCK;

/// What a tile consists of: planes of bits of its values, then planes of scales.
#[derive(Clone, Copy, Debug)]
pub struct Sections {
    /// Bits of a value in each plane, from its high bits to its low ones; 1, 2, 4 or 8 (or 16 for halves).
    pub planes: &'static [usize],
    /// Bytes of a row in each plane of scales.
    pub scales: &'static [usize],
}

impl Sections {
    /// The byte at which plane `index` starts.
    pub const fn plane(self, index: usize) -> usize {
        let (mut at, mut plane) = (0, 0);
        while plane < index {
            at += TILE_ROWS * TILE_COLS * self.planes[plane] / 8;
            plane += 1;
        }
        at
    }

    /// The byte at which the scales of plane `index` start.
    pub const fn scale(self, index: usize) -> usize {
        let (mut at, mut plane) = (self.plane(self.planes.len()), 0);
        while plane < index {
            at += TILE_ROWS * self.scales[plane];
            plane += 1;
        }
        at
    }

    /// Bytes of a tile: as many as its rows have in a file.
    pub const fn bytes(self) -> usize {
        self.scale(self.scales.len())
    }

    /// Bits of a value.
    pub fn bits(self) -> usize {
        self.planes.iter().sum()
    }
}

/// Tiles along the columns of a matrix.
pub const fn tiles_across(cols: usize) -> usize {
    cols.div_ceil(TILE_COLS)
}

/// Groups of 32 rows of a matrix.
pub const fn groups_down(rows: usize) -> usize {
    rows.div_ceil(TILE_ROWS)
}

/// How a lane supplies operands of bytes or halves to one matrix instruction: in *quads* of four words, which one access
/// of 16 bytes moves. A quad of a left operand belongs to one *step* (one instruction) of a sub-block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quads {
    layout: FragmentLayout,
    value_bytes: usize,
}

impl Quads {
    /// For operands of values of 1 or 2 bytes.
    pub const fn new(layout: FragmentLayout, value_bytes: usize) -> Self {
        Self { layout, value_bytes }
    }

    /// For the target that is being recorded for.
    pub fn here(value_bytes: usize) -> Self {
        Self::new(target().fragments, value_bytes)
    }

    /// Parts into which the values along k are divided, each with lanes of its own.
    pub const fn parts(self) -> usize {
        self.layout.k_parts()
    }

    /// Words of a row that a lane supplies in a step.
    pub const fn words(self) -> usize {
        self.layout.words_per_row(self.value_bytes)
    }

    /// Rows (of 16) of which a lane supplies a part.
    pub const fn slots(self) -> usize {
        self.layout.lane_rows()
    }

    /// Lanes that hold different words.
    pub const fn lanes(self) -> usize {
        16 * self.parts() / self.slots()
    }

    /// Values along k of a step.
    pub const fn depth(self) -> usize {
        4 / self.value_bytes * self.parts() * self.words()
    }

    /// Steps of a sub-block.
    pub const fn steps(self) -> usize {
        SUB_BLOCK / self.depth()
    }

    /// Quads of a lane in a step.
    pub const fn per_step(self) -> usize {
        self.slots() * self.words() / 4
    }

    /// The byte at which quad `quad` of lane 0 starts, in a plane with that many quads of a lane in each half (16 rows) of
    /// the tile.
    pub const fn start(self, half: usize, quads: usize, quad: usize) -> usize {
        (half * quads + quad) * self.lanes() * 16
    }

    /// Where value `k` of a sub-block of row `row` (of 16) is in a left operand: step, lane, and byte of the lane's quads of
    /// that step.
    pub fn left(self, row: usize, k: usize) -> (usize, usize, usize) {
        let rows_per_slot = 16 / self.slots();
        let (word, byte) = (k % self.depth() * self.value_bytes / 4, k * self.value_bytes % 4);
        let (word, part) = (word / self.parts(), word % self.parts());
        let slot = row / rows_per_slot;
        let lane = row % rows_per_slot * self.parts() + part;
        (k / self.depth(), lane, (slot * self.words() + word) * 4 + byte)
    }

    /// Words of activations that follow one order: as many as a column's lanes load at once.
    pub const fn chunk(self) -> usize {
        4 * self.parts()
    }

    /// Where word `word` of a row of activations is stored.
    ///
    /// Each lane finds what it supplies to consecutive steps in 16 consecutive bytes, and the lanes of a column lie side
    /// by side.
    pub const fn right(self, word: usize) -> usize {
        let inside = word % self.chunk();
        let step_words = self.parts() * self.words();
        let (step, inside) = (inside / step_words, inside % step_words);
        let (index, part) = (inside / self.parts(), inside % self.parts());
        word / self.chunk() * self.chunk() + part * 4 + step * self.words() + index
    }
}

/// [`Quads::right`] of a device value.
#[tile_fn]
pub fn stored_word(word: Val<u32>, #[comptime] quads: Quads) -> Val<u32> {
    if quads.parts() == 1 {
        word
    } else {
        let inside = word % quads.chunk();
        let step_words = quads.parts() * quads.words();
        let first = word - inside;
        let place =
            inside % quads.parts() * 4 + inside / step_words * quads.words() + inside % step_words / quads.parts();
        first + place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUTS: [FragmentLayout; 2] = [FragmentLayout::PairOfM16N8K16, FragmentLayout::Wmma16x16x16];

    /// Every value of a sub-block has a place of its own, in the lane that the instruction wants it from.
    #[test]
    fn left_operands_are_where_the_instruction_takes_them() {
        for layout in LAYOUTS {
            for value_bytes in [1, 2] {
                let quads = Quads::new(layout, value_bytes);
                let mut taken = vec![false; 16 * SUB_BLOCK * value_bytes];
                for row in 0..16 {
                    for k in 0..SUB_BLOCK {
                        let (step, lane, byte) = quads.left(row, k);
                        let slot = byte / 4 / quads.words();
                        assert_eq!(layout.operand_row(lane, slot), row, "{layout:?} {value_bytes}");
                        // what the lane's word of that number holds, first word of all parts first
                        let word = byte / 4 % quads.words() * quads.parts() + layout.operand_part(lane);
                        assert_eq!(
                            (step * quads.depth() + word * 4 / value_bytes) * value_bytes + byte % 4,
                            k * value_bytes,
                            "{layout:?} {value_bytes}"
                        );
                        let place = ((step * quads.per_step() + byte / 16) * quads.lanes() + lane) * 16 + byte % 16;
                        assert!(!std::mem::replace(&mut taken[place], true), "{layout:?}: {place} twice");
                    }
                }
                let count = taken.iter().filter(|taken| **taken).count();
                assert_eq!(count, 16 * SUB_BLOCK, "{layout:?} {value_bytes}");
            }
        }
    }

    /// A lane of a column finds its words of consecutive steps side by side, in the order of the left operand.
    #[test]
    fn activations_are_where_a_column_takes_them() {
        for layout in LAYOUTS {
            for value_bytes in [1, 2] {
                let quads = Quads::new(layout, value_bytes);
                let mut taken = [false; 128];
                for word in 0..128 {
                    let stored = quads.right(word);
                    assert!(!std::mem::replace(&mut taken[stored], true), "{layout:?}: {word}");
                    let (step, lane, byte) = quads.left(0, word * 4 / value_bytes % SUB_BLOCK);
                    let step = word * 4 / value_bytes / SUB_BLOCK * quads.steps() + step;
                    let of_lane = step * quads.words() + byte / 4;
                    let access = of_lane / 4;
                    assert_eq!(
                        stored,
                        (access * quads.parts() + layout.operand_part(lane)) * 4 + of_lane % 4,
                        "{layout:?} {value_bytes}: word {word}"
                    );
                }
            }
        }
    }

    #[test]
    fn sections_follow_each_other() {
        let sections = Sections {
            planes: &[4, 2],
            scales: &[16, 2],
        };
        assert_eq!(
            (sections.plane(1), sections.scale(0), sections.scale(1)),
            (4096, 6144, 6656)
        );
        assert_eq!((sections.bytes(), sections.bits()), (32 * 210, 6));
    }
}
