//! How products with packed weights are divided among blocks and warps.

use tilekiln_dsl::target::Target;
use tilekiln_kernels::matmul::packed::stream::{Footprint, Tiling, Turns, tokens_of_block};
use tilekiln_kernels::matmul::packed::{SUB_BLOCKS, TILE_ROWS, groups_down, tiles_across};
use tilekiln_kernels::matmul::weights::WEIGHTS;
use tilekiln_runtime::device::Properties;

use super::tuning::Tuning;
use crate::model::Precision;
use crate::plan::{Plan, Product};

/// Rows that share one read of the weights in products with weights in the layout of the file.
const UNPACKED_TILES: [u32; 4] = [1, 2, 4, 8];
/// Column tiles of products with packed weights.
const COLUMN_TILES: [usize; 3] = [1, 2, 4];
/// Column tiles up to which a warp gains from a second tile under way.
const COLUMN_TILES_WITH_TWO_SLOTS: usize = 2;
/// More rows at once need more registers and shared memory than they save reads.
const MOST_ROWS: usize = 32;
/// Warps of a block at most: more leave each too little to do between two block barriers.
const MOST_WARPS: usize = 10;
/// Warps of a block with many tiles along k.
const USUAL_WARPS: usize = 8;
/// Parts of k with results of their own, at most: each is written, and read and added by whoever takes them.
pub const MOST_PARTS: usize = 4;

/// What plans are made for.
#[derive(Clone, Copy, Debug)]
pub struct Chip<'a> {
    /// What it can do.
    pub target: &'a Target,
    /// Its multiprocessors or compute units.
    pub units: usize,
    /// Divisions that were measured on it; products that it does not have follow the rule.
    pub tuning: Option<&'a Tuning>,
}

impl<'a> Chip<'a> {
    /// A chip on which nothing was measured.
    pub fn new(target: &'a Target, units: usize) -> Self {
        Self {
            target,
            units,
            tuning: None,
        }
    }

    /// That of a device.
    pub fn of(properties: &'a Properties) -> Self {
        Self::new(&properties.target, properties.units)
    }

    /// The same with divisions that were measured on it.
    #[must_use]
    pub fn tuned(self, tuning: Option<&'a Tuning>) -> Self {
        Self { tuning, ..self }
    }
}

/// The column tiles that a target's products have.
pub fn column_tiles(target: &Target) -> impl Iterator<Item = usize> {
    let width = target.fragments.columns();
    COLUMN_TILES
        .into_iter()
        .filter(move |columns| columns * width <= MOST_ROWS)
}

/// Whether products of one row have kernels of their own, without column tiles: where sub-blocks of a tile are as many as the
/// columns of a matrix instruction. The others have twice as many, and wait for memory whatever they compute.
pub fn has_lone(target: &Target) -> bool {
    target.fragments.columns() == SUB_BLOCKS
}

/// The numbers of rows that share one read of the weights; there is a plan for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowTiles(Vec<u32>);

impl RowTiles {
    /// Those of a chip.
    pub fn of(precision: Precision, target: &Target) -> Self {
        Self(match precision {
            Precision::Exact => UNPACKED_TILES.to_vec(),
            Precision::Fast => {
                let tiles = column_tiles(target).map(|columns| tokens_of_block(columns, target.fragments) as u32);
                has_lone(target).then_some(1).into_iter().chain(tiles).collect()
            }
        })
    }

    /// Which plan is for that many rows: the first whose tile holds them, else the last, which reads weights again.
    pub fn index(&self, rows: usize) -> usize {
        let holds = |tile: &u32| *tile as usize >= rows;
        self.0.iter().position(holds).unwrap_or(self.0.len().saturating_sub(1))
    }

    /// A plan for each.
    pub fn plans(&self, plan: impl Fn(u32) -> Plan) -> Vec<Plan> {
        self.0.iter().map(|tile| plan(*tile)).collect()
    }
}

/// A product with packed weights.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// What a warp's tile takes of shared memory.
    pub footprint: Footprint,
    /// Whether the weights are 16-bit floats.
    pub halves: bool,
    /// Values along k.
    pub cols: usize,
    /// What blocks take in turns: groups of rows, or pairs of them.
    pub units: usize,
    /// Groups of such a unit.
    pub groups_of_unit: usize,
    /// Whether whoever takes the results adds parts of k.
    pub may_be_split: bool,
}

impl Work {
    /// What a launch over matrices of formats and rows has to do. `None` for a format that cannot be packed.
    pub fn of<'f>(
        matrices: impl IntoIterator<Item = (&'f str, usize)>,
        cols: usize,
        groups_of_unit: usize,
    ) -> Option<Self> {
        let mut found: Option<(Footprint, bool)> = None;
        let (mut rows, mut groups) = (0, 0);
        for (format, rows_of_it) in matrices {
            let packing = WEIGHTS.iter().find(|weight| weight.name == format)?.packing.as_ref()?;
            let (footprint, halves) = found.unwrap_or((packing.footprint, packing.int8.is_none()));
            found = Some((footprint.max(packing.footprint), halves));
            rows += rows_of_it;
            groups += groups_down(rows_of_it);
        }
        let (footprint, halves) = found?;
        // gates and ups fill their own groups
        let units = match groups_of_unit {
            1 => groups,
            each => (rows / each.max(1)).div_ceil(TILE_ROWS),
        };
        Some(Self {
            footprint,
            halves,
            cols,
            units,
            groups_of_unit,
            may_be_split: false,
        })
    }

    /// Groups that belong together in turns, by all warps.
    fn one_after_the_other(&self) -> Turns {
        Turns {
            in_turn: self.groups_of_unit,
            teams: 1,
        }
    }

    /// That of a product.
    pub fn of_product(product: &Product) -> Option<Self> {
        let matrices = product.formats().zip(product.rows.iter().copied());
        let work = Self::of(matrices, product.cols, product.groups_of_unit)?;
        Some(Self {
            may_be_split: product.may_be_split,
            ..work
        })
    }
}

/// A division of a product.
#[derive(Clone, Copy, Debug)]
pub struct Division {
    /// Of a block.
    pub tiling: Tiling,
    /// Blocks.
    pub blocks: usize,
    /// Equal parts of k with results of their own.
    pub parts: usize,
    /// How a block takes groups of rows.
    pub turns: Turns,
}

/// The smallest number at most `most` that gives no one more of `count` things to do than `most` would.
pub fn evenly(count: usize, most: usize) -> usize {
    let turns = count.div_ceil(most.max(1)).max(1);
    count.div_ceil(turns).max(1)
}

impl Chip<'_> {
    /// How a product of `columns` column tiles is divided.
    ///
    /// Blocks: one a unit of the chip, or one a group of rows where there are fewer. That they do not all have as many
    /// groups costs less than idle units. More rows than the column tiles hold take as many blocks again for each such tile.
    /// Warps: as few as take no more turns over the tiles along k; eight where there are more tiles than ten warps take at
    /// once, because each warp's sums have to be added. They belong to the meaning of a product, so they are those that fit
    /// with the most column tiles, whatever `columns` is. A second tile for each warp is under way where there is one,
    /// unless there are so many columns that computing takes longer than fetching.
    /// Registers are not limited for the sake of a second block beside the first: the next launch's block finds room in
    /// time without. Measured on 132 units with E4B's products: docs/perf-log.md.
    ///
    /// Where k may be split, it is in as few parts as leave the busiest block within a tenth of the fewest tiles that any
    /// number of parts leaves it: groups of rows seldom are a multiple of the units.
    pub fn divide(&self, work: &Work, columns: usize) -> Division {
        let parts = self.parts(work);
        let tiles = tiles_across(work.cols) / parts;
        let units = work.units * parts;
        let tiling = |warps: usize, slots: usize, columns: usize| Tiling {
            warps,
            slots,
            columns,
            blocks: 1,
        };
        let fits = |tiling: Tiling, turns: Turns| {
            tiling.shared_bytes(work.footprint, turns, self.target) <= self.target.shared_limit
        };
        let most_columns = column_tiles(self.target).max().unwrap_or(1);
        let most_warps = (1..=MOST_WARPS)
            .rev()
            .find(|warps| fits(tiling(*warps, 1, most_columns), work.one_after_the_other()));
        let usual = if tiles > MOST_WARPS { USUAL_WARPS } else { MOST_WARPS };
        let warps = evenly(tiles, most_warps.unwrap_or(1).min(usual));
        let turns = self.turns(work, tiling(warps, 1, columns));
        let blocks = units.clamp(1, self.units.max(1));
        let tiles_of_warp = tiles.div_ceil(warps) * units.div_ceil(blocks) * turns.in_turn;
        let may_be_two = columns <= COLUMN_TILES_WITH_TWO_SLOTS && turns.teams == 1 && !work.halves;
        let slots = if may_be_two && tiles_of_warp > 1 && fits(tiling(warps, 2, columns), turns) {
            2
        } else {
            1
        };
        let tiling = tiling(warps, slots, columns);
        Division {
            tiling,
            blocks,
            parts,
            turns,
        }
    }

    /// How a block takes groups of rows that belong together. A team of warps for each where there is one column tile: a warp
    /// then has little to compute with between two loads, and twice as many of them hide what each waits for.
    pub fn turns(&self, work: &Work, tiling: Tiling) -> Turns {
        let beside = Turns {
            in_turn: 1,
            teams: work.groups_of_unit,
        };
        // what their registers are enough for
        let most = if work.footprint.planes == 1 { 20 } else { 12 };
        let is_worth_it = self.target.bulk_copy && tiling.columns == 1;
        let fits = tiling.all_warps(beside) <= most
            && tiling.shared_bytes(work.footprint, beside, self.target) <= self.target.shared_limit;
        if is_worth_it && fits {
            beside
        } else {
            work.one_after_the_other()
        }
    }

    /// Parts into which k is split.
    pub fn parts(&self, work: &Work) -> usize {
        let tiles = tiles_across(work.cols);
        let most = if work.may_be_split { MOST_PARTS } else { 1 };
        let possible = || (1..=most).filter(|parts| tiles.is_multiple_of(*parts));
        // tiles of the busiest block
        let busiest = |parts: usize| (work.units * parts).div_ceil(self.units.max(1)) * (tiles / parts);
        let least = possible().map(busiest).min().unwrap_or(tiles);
        possible().find(|parts| 10 * busiest(*parts) <= 11 * least).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use tilekiln_dsl::target::TARGETS;

    use super::*;

    fn work(codec: &str, [rows, cols]: [usize; 2], groups_of_unit: usize) -> Work {
        Work::of([(codec, rows)], cols, groups_of_unit).unwrap()
    }

    /// E2B, E4B, 12B and 31B's down projections on an H100.
    #[test]
    fn few_rows_are_split_along_k() {
        let target = TARGETS.iter().find(|target| target.name == "sm_90").unwrap();
        for (units, shape, want) in [
            (132, [1536, 6144], [2, 96]),
            (132, [2560, 10240], [4, 132]),
            (132, [3840, 15360], [1, 120]),
            (132, [5376, 21504], [3, 132]),
            (16, [2560, 10240], [1, 16]),
        ] {
            let chip = Chip::new(target, units);
            let work = Work {
                may_be_split: true,
                ..work("q4_k", shape, 1)
            };
            let Division { blocks, parts, .. } = chip.divide(&work, 1);
            assert_eq!([parts, blocks], want, "{shape:?} on {units} units");
            let whole = Work {
                may_be_split: false,
                ..work
            };
            assert_eq!(chip.divide(&whole, 1).parts, 1);
        }
    }

    /// Warps, slots, teams, and grid of E4B's products on an H100.
    #[test]
    fn products_of_e4b() {
        let target = TARGETS.iter().find(|target| target.name == "sm_90").unwrap();
        let chip = Chip::new(target, 132);
        for (name, work, want) in [
            ("gate and up", work("q4_k", [20480, 2560], 2), [10, 1, 2, 132]),
            ("down", work("q4_k", [2560, 10240], 1), [8, 2, 1, 80]),
            ("down, q6_k", work("q6_k", [2560, 10240], 1), [8, 2, 1, 80]),
            ("qkv", work("q4_k", [3072, 2560], 1), [10, 1, 1, 96]),
            ("out", work("q4_k", [2560, 2048], 1), [8, 1, 1, 80]),
            ("ple gate", work("q4_k", [256, 2560], 1), [10, 1, 1, 8]),
            ("ple out", work("q4_k", [2560, 256], 1), [1, 1, 1, 80]),
            ("head", work("q6_k", [262_144, 2560], 1), [10, 2, 1, 132]),
            ("ple model", work("f16", [10752, 2560], 1), [10, 1, 1, 132]),
        ] {
            let Division {
                tiling, blocks, turns, ..
            } = chip.divide(&work, 1);
            assert_eq!([tiling.warps, tiling.slots, turns.teams, blocks], want, "{name}");
        }
    }

    /// A team each for gates and ups, where there are registers and shared memory for it.
    #[test]
    fn gates_and_ups_have_teams() {
        let target = |name: &str| TARGETS.iter().find(|target| target.name == name).unwrap();
        for (name, codec, cols, columns, want) in [
            ("sm_90", "q4_k", 2560, 1, [10, 2, 1]),
            ("sm_90", "q4_k", 2560, 2, [10, 1, 2]),
            ("sm_90", "q4_k", 1536, 1, [6, 2, 1]),
            ("sm_90", "q6_k", 2560, 1, [10, 1, 2]),
            ("sm_90", "q6_k", 1536, 1, [6, 2, 1]),
            ("gfx1150", "q4_k", 1536, 1, [3, 1, 2]),
        ] {
            let work = work(codec, [20480, cols], 2);
            let Division { tiling, turns, .. } = Chip::new(target(name), 132).divide(&work, columns);
            assert_eq!(
                [tiling.warps, turns.teams, turns.in_turn],
                want,
                "{codec}, {columns} column tiles on {name}"
            );
            assert!(turns.teams == 1 || tiling.slots == 1);
        }
    }

    /// On every target every format fits, and warps do not depend on the column tiles.
    #[test]
    fn blocks_fit() {
        for target in TARGETS {
            let chip = Chip::new(target, 16);
            for weight in WEIGHTS.iter().filter(|weight| weight.packing.is_some()) {
                for groups_of_unit in [1, 2] {
                    let work = work(weight.name, [4096, 5376], groups_of_unit);
                    let warps = chip.divide(&work, 1).tiling.warps;
                    for columns in column_tiles(target) {
                        let tiling = chip.divide(&work, columns).tiling;
                        let bytes = tiling.shared_bytes(work.footprint, chip.turns(&work, tiling), target);
                        assert!(bytes <= target.shared_limit, "{} {tiling:?}: {bytes}", target.name);
                        assert_eq!(tiling.warps, warps);
                        assert!(warps >= 3, "{} {}: {warps} warps", target.name, weight.name);
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_hold_the_rows() {
        let of = |precision, name: &str| {
            let target = TARGETS.iter().find(|target| target.name == name).unwrap();
            RowTiles::of(precision, target)
        };
        assert_eq!(of(Precision::Fast, "sm_90").0, [1, 8, 16, 32]);
        assert_eq!(of(Precision::Fast, "gfx1150").0, [16, 32]);
        let tiles = of(Precision::Fast, "sm_90");
        for (rows, index) in [(1, 0), (2, 1), (8, 1), (9, 2), (17, 3), (32, 3), (512, 3)] {
            assert_eq!(tiles.index(rows), index, "{rows}");
        }
        assert_eq!(of(Precision::Exact, "sm_90").index(3), 2);
    }
}
