//! Tiles of rows of a file, on the CPU.

use tilekiln_dsl::target::FragmentLayout;

use super::format::PackedFormat;
use super::halves;
use super::layout::{Quads, SUB_BLOCK, Sections, TILE_COLS, TILE_ROWS, tiles_across};

/// [`PackedFormat::codes`]
type ReadCodes = fn(&[u8], &mut [u8]);

/// Makes tiles of one format for one layout.
///
/// Values are moved bit for bit: nothing is computed, and every bit of a file's rows is in exactly one place.
pub struct Packer {
    sections: Sections,
    block_values: usize,
    block_bytes: usize,
    /// The codes of a block; without it, values are moved whole.
    codes: Option<ReadCodes>,
    scale_parts: &'static [(usize, usize)],
    planes: Vec<Places>,
}

/// Where the words of a plane's rows go. A word has four neighbours along k: of all sub-blocks that share bytes.
struct Places {
    /// Byte of each word of row 0, in the order of its values.
    words: Vec<usize>,
    /// How many bytes further the words of each row are.
    rows: [usize; TILE_ROWS],
}

impl Places {
    /// `place`: the byte of a word of a row.
    fn new(words: usize, place: impl Fn(usize, usize) -> usize) -> Self {
        Self {
            words: (0..words).map(|word| place(0, word)).collect(),
            rows: std::array::from_fn(|row| place(row, 0) - place(0, 0)),
        }
    }

    /// Stores the words of a row from word `first` on.
    fn store(&self, tile: &mut [u8], row: usize, first: usize, bytes: &[u8]) {
        for (word, place) in bytes.as_chunks::<4>().0.iter().zip(&self.words[first..]) {
            let at = self.rows[row] + place;
            tile[at..at + 4].copy_from_slice(word);
        }
    }
}

impl Packer {
    /// Packs a format of quantised values.
    pub fn new<Format: PackedFormat>(layout: FragmentLayout) -> Self {
        let quads = Quads::new(layout, 1);
        let sections = Format::SECTIONS;
        let planes = sections.planes.iter().enumerate().map(|(index, &bits)| {
            // a byte has one value of each of `8 / bits` sub-blocks
            Places::new(bits * SUB_BLOCK / 4, |row, word| {
                let (group, k) = (word * 4 / SUB_BLOCK, word * 4 % SUB_BLOCK);
                let (step, lane, byte) = quads.left(row % 16, k);
                let quad = group * quads.steps() + step;
                sections.plane(index) + quads.start(row / 16, bits * quads.steps(), quad) + lane * 16 + byte
            })
        });
        Self {
            sections,
            block_values: Format::BLOCK_VALUES,
            block_bytes: Format::BLOCK_BYTES,
            codes: Some(Format::codes),
            scale_parts: Format::SCALE_PARTS,
            planes: planes.collect(),
        }
    }

    /// Packs 16-bit floats.
    pub fn halves(layout: FragmentLayout) -> Self {
        let quads = Quads::new(layout, 2);
        let places = Places::new(TILE_COLS / 2, |row, word| {
            let col = word * 2;
            let (step, lane, byte) = quads.left(row % 16, col % SUB_BLOCK);
            let quad = (col / SUB_BLOCK * quads.steps() + step) * quads.per_step() + byte / 16;
            let quads_of_half = TILE_COLS / SUB_BLOCK * quads.steps() * quads.per_step();
            quads.start(row / 16, quads_of_half, quad) + lane * 16 + byte % 16
        });
        Self {
            sections: halves::SECTIONS,
            block_values: SUB_BLOCK,
            block_bytes: SUB_BLOCK * 2,
            codes: None,
            scale_parts: &[],
            planes: vec![places],
        }
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.sections.bytes()
    }

    /// Bytes of a packed matrix.
    pub fn bytes(&self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(TILE_ROWS) * tiles_across(cols) * self.tile_bytes()
    }

    /// Packs up to 32 rows, `row_bytes` each, one after the other in `file`, into the tiles of a group. `group` is all
    /// zeros before.
    ///
    /// # Panics
    /// If the lengths do not fit: the group is as long as its tiles, rows are whole blocks.
    pub fn pack_group(&self, file: &[u8], row_bytes: usize, group: &mut [u8]) {
        let bytes_across = TILE_COLS / self.block_values * self.block_bytes;
        for (row, bytes) in file.chunks_exact(row_bytes).enumerate() {
            let tiles = group.chunks_exact_mut(self.tile_bytes());
            for (tile, blocks) in tiles.zip(bytes.chunks(bytes_across)) {
                match self.codes {
                    Some(codes) => self.pack_blocks(codes, blocks, tile, row),
                    None => self.planes[0].store(tile, row, 0, blocks),
                }
            }
        }
    }

    /// Packs the blocks of a row of a tile.
    fn pack_blocks(&self, read_codes: ReadCodes, blocks: &[u8], tile: &mut [u8], row: usize) {
        let mut codes = [0; TILE_COLS];
        let blocks = blocks.chunks_exact(self.block_bytes);
        for (index, (block, codes)) in blocks.zip(codes.chunks_exact_mut(self.block_values)).enumerate() {
            read_codes(block, codes);
            for (part, &(from, bytes)) in self.scale_parts.iter().enumerate() {
                let to = self.sections.scale(part) + row * self.sections.scales[part] + index * bytes;
                tile[to..to + bytes].copy_from_slice(&block[from..from + bytes]);
            }
        }
        let mut below = self.sections.bits();
        for (bits, places) in self.sections.planes.iter().zip(&self.planes) {
            below -= bits;
            let mask = ((1u16 << bits) - 1) as u8;
            for (group, codes) in codes.chunks_exact(8 / bits * SUB_BLOCK).enumerate() {
                let mut fields = [0; SUB_BLOCK];
                for (field, codes) in codes.as_chunks::<SUB_BLOCK>().0.iter().enumerate() {
                    for (byte, code) in fields.iter_mut().zip(codes) {
                        *byte |= (code >> below & mask) << (field * bits);
                    }
                }
                places.store(tile, row, group * (SUB_BLOCK / 4), &fields);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::matmul::{q4_0::Q4_0, q4_k::Q4K, q5_0::Q5_0, q5_k::Q5K, q6_k::Q6K, q8_0::Q8_0};

    const LAYOUTS: [FragmentLayout; 2] = [FragmentLayout::PairOfM16N8K16, FragmentLayout::Wmma16x16x16];

    /// The code of a value of a tile, found the way an instruction finds it: by going through lanes, slots and words.
    fn code<Format: PackedFormat>(layout: FragmentLayout, tile: &[u8], row: usize, col: usize) -> u8 {
        let (parts, words, slots) = (layout.k_parts(), layout.words_per_row(1), layout.lane_rows());
        let lanes = 16 * parts / slots;
        let depth = parts * words * 4;
        let (sub_block, k) = (col / SUB_BLOCK, col % SUB_BLOCK);
        for lane in 0..lanes {
            for slot in 0..slots {
                for word in 0..words {
                    let first = (word * parts + layout.operand_part(lane)) * 4;
                    if layout.operand_row(lane, slot) != row % 16 || !(first..first + 4).contains(&(k % depth)) {
                        continue;
                    }
                    let mut code = 0;
                    for (index, bits) in Format::SECTIONS.planes.iter().enumerate() {
                        let steps = SUB_BLOCK / depth;
                        let quad = (row / 16 * bits + sub_block * bits / 8) * steps + k / depth;
                        let byte = Format::SECTIONS.plane(index)
                            + (quad * lanes + lane) * 16
                            + (slot * words + word) * 4
                            + (k % depth - first);
                        let field = tile[byte] >> (sub_block * bits % 8);
                        code = (u16::from(code) << bits) as u8 | field & ((1u16 << bits) - 1) as u8;
                    }
                    return code;
                }
            }
        }
        unreachable!("no lane has row {row}, column {col}")
    }

    /// A block of a file from its codes and scales.
    fn block<Format: PackedFormat>(codes: &[u8], scales: &[&[u8]]) -> Vec<u8> {
        let mut block = vec![0; Format::BLOCK_BYTES];
        for (&(from, bytes), scale) in Format::SCALE_PARTS.iter().zip(scales) {
            block[from..from + bytes].copy_from_slice(scale);
        }
        for (index, &code) in codes.iter().enumerate() {
            let (group, value) = (index / 32, index % 32);
            match Format::PACKED_NAME {
                "packed_q4_k" => block[16 + group / 2 * 32 + value] |= code << (group % 2 * 4),
                "packed_q5_k" => {
                    block[48 + group / 2 * 32 + value] |= (code & 15) << (group % 2 * 4);
                    block[16 + value] |= code >> 4 << group;
                }
                "packed_q6_k" => {
                    let (q, half, part) = (code ^ 32, index / 128, group % 4);
                    block[half * 64 + part % 2 * 32 + value] |= (q & 15) << (part / 2 * 4);
                    block[128 + half * 32 + value] |= q >> 4 << (part * 2);
                }
                "packed_q8_0" => block[2 + value] = code,
                "packed_q4_0" => block[2 + value % 16] |= (code ^ 8) << (value / 16 * 4),
                "packed_q5_0" => {
                    let q = code ^ 16;
                    block[6 + value % 16] |= (q & 15) << (value / 16 * 4);
                    block[2 + value / 8] |= q >> 4 << (value % 8);
                }
                other => unreachable!("{other} has no inverse here"),
            }
        }
        block
    }

    fn comes_back<Format: PackedFormat>() {
        let mut random = StdRng::seed_from_u64(11);
        let (values, bytes) = (Format::BLOCK_VALUES, Format::BLOCK_BYTES);
        assert_eq!(
            Format::SECTIONS.bytes(),
            TILE_ROWS * TILE_COLS / values * bytes,
            "{}",
            Format::NAME
        );
        for layout in LAYOUTS {
            let packer = Packer::new::<Format>(layout);
            for (rows, blocks) in [(1, 1), (32, 256 / values), (31, 3), (17, 256 / values + 1), (29, 11)] {
                let file: Vec<u8> = (0..rows * blocks * bytes).map(|_| random.random()).collect();
                let cols = blocks * values;
                let mut group = vec![0; packer.bytes(rows, cols)];
                packer.pack_group(&file, blocks * bytes, &mut group);

                let mut back = Vec::new();
                let tiles: Vec<&[u8]> = group.chunks_exact(packer.tile_bytes()).collect();
                for row in 0..rows {
                    for index in 0..blocks {
                        let tile = tiles[index * values / TILE_COLS];
                        let first = index * values % TILE_COLS;
                        let codes: Vec<u8> = (first..first + values)
                            .map(|col| code::<Format>(layout, tile, row, col))
                            .collect();
                        let scales = Format::SCALE_PARTS.iter().enumerate().map(|(part, &(_, bytes))| {
                            let at = Format::SECTIONS.scale(part)
                                + row * Format::SECTIONS.scales[part]
                                + first / values * bytes;
                            &tile[at..at + bytes]
                        });
                        back.extend(block::<Format>(&codes, &scales.collect::<Vec<_>>()));
                    }
                }
                let name = format!("{}, {layout:?}: {rows} rows of {cols}", Format::NAME);
                assert!(back == file, "{name}");
                // rows that the matrix does not have are zeros
                for row in rows..TILE_ROWS {
                    assert!(
                        (0..cols).all(|col| code::<Format>(layout, tiles[col / TILE_COLS], row, col % TILE_COLS) == 0)
                    );
                }
            }
        }
    }

    #[test]
    fn halves_come_back_bit_for_bit() {
        let mut random = StdRng::seed_from_u64(12);
        for layout in LAYOUTS {
            let packer = Packer::halves(layout);
            for (rows, cols) in [(1, 32), (32, 256), (31, 96), (17, 288)] {
                let file: Vec<u16> = (0..rows * cols).map(|_| random.random_range(1..=u16::MAX)).collect();
                let bytes: Vec<u8> = file.iter().flat_map(|half| half.to_le_bytes()).collect();
                let mut group = vec![0; packer.bytes(rows, cols)];
                packer.pack_group(&bytes, cols * 2, &mut group);
                // through the words of each instruction, in the order of lanes
                let (parts, words, slots) = (layout.k_parts(), layout.words_per_row(2), layout.lane_rows());
                let lanes = 16 * parts / slots;
                let (depth, quads) = (parts * words * 2, slots * words / 4);
                let mut back = vec![0u16; TILE_ROWS * tiles_across(cols) * TILE_COLS];
                for (place, half) in group.as_chunks::<2>().0.iter().enumerate() {
                    let (tile, place) = (place * 2 / packer.tile_bytes(), place * 2 % packer.tile_bytes());
                    let (quad, lane, byte) = (place / 16 / lanes, place / 16 % lanes, place % 16);
                    let instruction = quad / quads;
                    let word = quad % quads * 4 + byte / 4;
                    let (slot, word) = (word / words, word % words);
                    let row = instruction / (TILE_COLS / depth) * 16 + layout.operand_row(lane, slot);
                    let k = instruction % (TILE_COLS / depth) * depth
                        + (word * parts + layout.operand_part(lane)) * 2
                        + byte % 4 / 2;
                    back[(row * tiles_across(cols) + tile) * TILE_COLS + k] = u16::from_le_bytes(*half);
                }
                for (row, values) in back.chunks_exact(tiles_across(cols) * TILE_COLS).enumerate() {
                    let want = file.get(row * cols..(row + 1) * cols).unwrap_or_default();
                    assert!(
                        values[..want.len()] == *want,
                        "{layout:?}: row {row} of {rows}, {cols} columns"
                    );
                    assert!(
                        values[want.len()..].iter().all(|half| *half == 0),
                        "{layout:?}: padding of row {row}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_format_comes_back_bit_for_bit() {
        comes_back::<Q4K>();
        comes_back::<Q5K>();
        comes_back::<Q6K>();
        comes_back::<Q8_0>();
        comes_back::<Q4_0>();
        comes_back::<Q5_0>();
    }
}
