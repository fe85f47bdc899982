//! Which divisions of a product are tried, and which of them is taken. Pure functions: nothing is measured here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use tilekiln_dsl::target::Target;
use tilekiln_kernels::matmul::packed::stream::Tiling;
use tilekiln_kernels::matmul::packed::tiles_across;

use crate::model::{Chip, Division, Tuned, TunedTile, Tuning, Work, column_tiles, evenly};
use crate::plan::Product;

/// What a division has to be faster by, in parts of the time by rule: less is noise.
pub const NOISE: f64 = 0.02;
/// Warps of a block that are tried. Fewer leave the memory idle, more have too little to do between two barriers.
const WARPS: RangeInclusive<usize> = 4..=16;
/// Tiles under way that are tried for each warp.
const SLOTS: [usize; 2] = [1, 2];

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Every number of warps that makes sense, and other numbers of blocks.
    Full,
    /// The warps next to those by rule, and their number of blocks.
    Quick,
}

/// A division of a product with some column tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Warps of a block.
    pub warps: usize,
    /// Tiles that each warp has under way.
    pub slots: usize,
    /// Blocks.
    pub blocks: usize,
}

impl From<(Tiling, usize)> for Shape {
    fn from((tiling, blocks): (Tiling, usize)) -> Self {
        Self {
            warps: tiling.warps,
            slots: tiling.slots,
            blocks,
        }
    }
}

/// What is tried for a product: for each number of column tiles some shapes, the one by rule first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    /// By column tiles.
    pub tiles: BTreeMap<usize, Vec<Shape>>,
}

impl Trials {
    /// Those of a product on a chip. None for a product that is none.
    pub fn of(product: &Product, chip: Chip<'_>, effort: Effort) -> Option<Self> {
        let work = Work::of_product(product)?;
        let chip = chip.tuned(None);
        let is_possible = |warps: usize, columns: usize, slots: usize| {
            let tuned = Tuned {
                warps,
                tiles: one_tile(chip.target, columns, slots),
            };
            Tuning::new(chip.target, [(product.clone(), tuned)]).is_ok()
        };
        let usual = chip.divide(&work, 1).tiling.warps;
        // no warp more than takes as many turns over the tiles of a part of k
        let tiles = tiles_across(work.cols) / chip.parts(&work);
        let mut warps: Vec<usize> = WARPS
            .filter(|warps| evenly(tiles, *warps) == *warps && is_possible(*warps, 1, 1))
            .collect();
        warps.push(usual);
        warps.sort_unstable();
        warps.dedup();
        if effort == Effort::Quick {
            let at = warps.iter().position(|warps| *warps == usual).unwrap_or(0);
            warps = warps[at.saturating_sub(1)..(at + 2).min(warps.len())].to_vec();
        }
        let mut tiles = BTreeMap::new();
        for columns in column_tiles(chip.target) {
            let Division { tiling, blocks, .. } = chip.divide(&work, columns);
            let by_rule = Shape::from((tiling, blocks));
            let mut shapes = vec![by_rule];
            for warps in &warps {
                for slots in SLOTS {
                    if !is_possible(*warps, columns, slots) {
                        continue;
                    }
                    for blocks in block_numbers(work.units * chip.parts(&work), chip.units, by_rule.blocks, effort) {
                        shapes.push(Shape {
                            warps: *warps,
                            slots,
                            blocks,
                        });
                    }
                }
            }
            let mut known = BTreeSet::new();
            shapes.retain(|shape| known.insert(*shape));
            tiles.insert(columns, shapes);
        }
        Some(Self { tiles })
    }

    /// Divisions of the whole product that together have every shape of every number of column tiles.
    ///
    /// Shapes with the same warps go together; a number of column tiles with fewer of them repeats its last one.
    pub fn rounds(&self) -> Vec<Tuned> {
        let warps: BTreeSet<usize> = self.tiles.values().flatten().map(|shape| shape.warps).collect();
        let mut rounds = Vec::new();
        for warps in warps {
            let with = |shapes: &Vec<Shape>| -> Vec<Shape> {
                shapes.iter().filter(|shape| shape.warps == warps).copied().collect()
            };
            let tiles: Vec<(usize, Vec<Shape>)> = self
                .tiles
                .iter()
                .map(|(columns, shapes)| (*columns, with(shapes)))
                .collect();
            let most = tiles.iter().map(|(_, shapes)| shapes.len()).max().unwrap_or(0);
            for index in 0..most {
                let tile = |(columns, shapes): &(usize, Vec<Shape>)| {
                    let shape = shapes.get(index).or(shapes.last())?;
                    Some(TunedTile {
                        columns: *columns,
                        slots: shape.slots,
                        blocks: shape.blocks,
                    })
                };
                let tiles: Option<Vec<TunedTile>> = tiles.iter().map(tile).collect();
                rounds.extend(tiles.map(|tiles| Tuned { warps, tiles }));
            }
        }
        rounds
    }
}

/// Slots for one number of column tiles, one slot for the others: whether they fit is known for each by itself.
fn one_tile(target: &Target, columns: usize, slots: usize) -> Vec<TunedTile> {
    let tile = |tile: usize| TunedTile {
        columns: tile,
        slots: if tile == columns { slots } else { 1 },
        blocks: 1,
    };
    column_tiles(target).map(tile).collect()
}

/// Numbers of blocks to try where there is work for `of_work`: the one by rule, those that share the work out evenly in
/// about as many turns, and more than one for each unit of the chip.
fn block_numbers(of_work: usize, units: usize, by_rule: usize, effort: Effort) -> Vec<usize> {
    if effort == Effort::Quick {
        return vec![by_rule];
    }
    let turns = of_work.div_ceil(by_rule.max(1));
    let even = (turns.saturating_sub(1).max(1)..=turns + 1).map(|turns| of_work.div_ceil(turns));
    let of_chip = [units, units + units / 2, 2 * units];
    let mut all: Vec<usize> = even.chain(of_chip).chain([by_rule]).collect();
    all.retain(|blocks| (1..=of_work).contains(blocks));
    all.sort_unstable();
    all.dedup();
    all
}

/// A number of column tiles with the seconds of its shapes, the one by rule first.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Column tiles.
    pub columns: usize,
    /// At least one.
    pub shapes: Vec<(Shape, f64)>,
}

impl Timed {
    /// How much its time counts. Decoding by itself has one column tile, and what has more is rarer.
    pub fn weight(&self) -> f64 {
        1.0 / self.columns as f64
    }

    fn by_rule(&self) -> Option<(Shape, f64)> {
        self.shapes.first().copied()
    }

    /// The fastest shape with so many warps: the one by rule unless another is faster by more than noise.
    fn best(&self, warps: usize) -> Option<(Shape, f64)> {
        let mine = self.shapes.iter().filter(|(shape, _)| shape.warps == warps);
        let best = mine.min_by(|a, b| a.1.total_cmp(&b.1)).copied()?;
        let by_rule = self.by_rule().filter(|(shape, _)| shape.warps == warps);
        by_rule
            .filter(|(_, time)| best.1 >= time * (1.0 - NOISE))
            .or(Some(best))
    }
}

/// Time of a division in parts of that by rule, over all numbers of column tiles: `(weight, by rule, now)`.
pub fn relative(times: impl IntoIterator<Item = (f64, f64, f64)>) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (weight, by_rule, now) in times {
        sum += weight * now / by_rule;
        weights += weight;
    }
    sum / weights
}

/// The shapes to take, one for each number of column tiles, all with the same warps: those by rule unless others are
/// faster by more than noise, over all column tiles. `warps` says which warps, if they are decided.
pub fn pick(tiles: &[Timed], warps: Option<usize>) -> Option<Vec<Shape>> {
    let usual = tiles.first()?.by_rule()?.0.warps;
    let with = |warps: usize| -> Option<(f64, Vec<Shape>)> {
        let best: Option<Vec<(Shape, f64)>> = tiles.iter().map(|tile| tile.best(warps)).collect();
        let best = best?;
        let times = tiles.iter().zip(&best).filter_map(|(tile, (_, time))| {
            let (_, by_rule) = tile.by_rule()?;
            Some((tile.weight(), by_rule, *time))
        });
        Some((relative(times), best.iter().map(|(shape, _)| *shape).collect()))
    };
    if let Some(warps) = warps {
        return with(warps).map(|(_, shapes)| shapes);
    }
    let (usual_time, usual_shapes) = with(usual)?;
    let known: BTreeSet<usize> = tiles
        .iter()
        .flat_map(|tile| &tile.shapes)
        .map(|(shape, _)| shape.warps)
        .collect();
    let all = known.into_iter().filter_map(with);
    let best = all.min_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((time, shapes)) if time < usual_time * (1.0 - NOISE) => Some(shapes),
        _ => Some(usual_shapes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(codec: &str, [rows, cols]: [usize; 2]) -> Product {
        Product {
            kernel: "packed_product".to_owned(),
            settings: vec![format!("weight={codec}")],
            rows: vec![rows],
            cols,
            groups_of_unit: 1,
            may_be_split: false,
        }
    }

    fn trials(codec: &str, shape: [usize; 2], effort: Effort) -> Trials {
        let target = Target::named("sm_90").unwrap();
        Trials::of(&product(codec, shape), Chip::new(target, 132), effort).unwrap()
    }

    fn shape([warps, slots, blocks]: [usize; 3]) -> Shape {
        Shape { warps, slots, blocks }
    }

    /// Rows and columns, warps that are tried, blocks that are tried with one column tile.
    #[test]
    fn what_is_tried() {
        for (sides, effort, warps, blocks) in [
            ([2560, 10_240], Effort::Full, vec![4, 5, 6, 7, 8, 10, 14], vec![40, 80]),
            ([2560, 10_240], Effort::Quick, vec![7, 8, 10], vec![80]),
            ([2560, 2048], Effort::Full, vec![4, 8], vec![40, 80]),
            ([2560, 2048], Effort::Quick, vec![4, 8], vec![80]),
            // one tile along k has work for one warp
            ([2560, 256], Effort::Full, vec![1], vec![40, 80]),
            (
                [262_144, 2560],
                Effort::Full,
                vec![4, 5, 10],
                vec![128, 131, 132, 133, 198, 264],
            ),
        ] {
            let trials = trials("q4_k", sides, effort);
            for (columns, shapes) in &trials.tiles {
                let tried: BTreeSet<usize> = shapes.iter().map(|shape| shape.warps).collect();
                assert_eq!(tried.into_iter().collect::<Vec<_>>(), warps, "{sides:?} {columns}");
                assert_eq!(shapes.iter().collect::<BTreeSet<_>>().len(), shapes.len());
            }
            let tried: BTreeSet<usize> = trials.tiles[&1].iter().map(|shape| shape.blocks).collect();
            assert_eq!(tried.into_iter().collect::<Vec<_>>(), blocks, "{sides:?}");
        }
    }

    /// Whatever is tried fits, and the rounds have all of it.
    #[test]
    fn rounds_have_everything() {
        for target in tilekiln_dsl::target::TARGETS {
            for codec in ["q4_k", "q6_k", "q8_0"] {
                let product = product(codec, [4096, 5376]);
                let trials = Trials::of(&product, Chip::new(target, 40), Effort::Full).unwrap();
                let mut wanted: BTreeSet<(usize, Shape)> = BTreeSet::new();
                for (columns, shapes) in &trials.tiles {
                    wanted.extend(shapes.iter().map(|shape| (*columns, *shape)));
                }
                for tuned in trials.rounds() {
                    for tile in &tuned.tiles {
                        let had = tuned.tiling(tile.columns).map(Shape::from).unwrap();
                        wanted.remove(&(tile.columns, had));
                    }
                    Tuning::new(target, [(product.clone(), tuned)]).unwrap_or_else(|error| panic!("{error}"));
                }
                assert_eq!(wanted, BTreeSet::new(), "{} {codec}", target.name);
            }
        }
    }

    fn timed(columns: usize, shapes: &[([usize; 3], f64)]) -> Timed {
        Timed {
            columns,
            shapes: shapes.iter().map(|(numbers, time)| (shape(*numbers), *time)).collect(),
        }
    }

    #[test]
    fn the_fastest_is_taken_unless_it_is_noise() {
        let rule = ([8, 1, 80], 10.0);
        // times of the other shapes with one and with two column tiles, and what is taken
        for (one, two, taken) in [
            (vec![([8, 2, 80], 9.9)], vec![], [[8, 1, 80], [8, 1, 80]]),
            (vec![([8, 2, 80], 9.7)], vec![], [[8, 2, 80], [8, 1, 80]]),
            (
                vec![([8, 2, 80], 9.0), ([8, 2, 40], 8.0)],
                vec![],
                [[8, 2, 40], [8, 1, 80]],
            ),
            // other warps have to be there for all column tiles
            (vec![([4, 1, 80], 5.0)], vec![], [[8, 1, 80], [8, 1, 80]]),
            (
                vec![([4, 1, 80], 9.0)],
                vec![([4, 1, 80], 11.0)],
                [[4, 1, 80], [4, 1, 80]],
            ),
            // a gain with one column tile counts twice as much as a loss with two
            (
                vec![([4, 1, 80], 9.0)],
                vec![([4, 1, 80], 12.0)],
                [[8, 1, 80], [8, 1, 80]],
            ),
            (
                vec![([4, 1, 80], 9.0), ([8, 2, 80], 8.0)],
                vec![([4, 2, 40], 9.0)],
                [[8, 2, 80], [8, 1, 80]],
            ),
        ] {
            let tiles = [
                timed(1, &[vec![rule], one].concat()),
                timed(2, &[vec![rule], two].concat()),
            ];
            assert_eq!(pick(&tiles, None), Some(taken.map(shape).to_vec()), "{tiles:?}");
        }
    }

    #[test]
    fn decided_warps_stay() {
        let tiles = [timed(1, &[([8, 1, 80], 10.0), ([4, 1, 80], 5.0), ([8, 2, 80], 9.0)])];
        assert_eq!(pick(&tiles, None), Some(vec![shape([4, 1, 80])]));
        assert_eq!(pick(&tiles, Some(8)), Some(vec![shape([8, 2, 80])]));
        assert_eq!(pick(&tiles, Some(5)), None);
        assert_eq!(pick(&[], None), None);
    }
}
