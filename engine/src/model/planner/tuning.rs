//! Divisions of products that were measured on a device, in place of those by rule.
//!
//! Warps belong to the meaning of a product, so a product has one number of them; slots and blocks change no bit of a
//! result and are each column tile's own.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tilekiln_dsl::target::Target;
use tilekiln_kernels::matmul::packed::stream::Tiling;

use super::division::{Chip, Division, MOST_PARTS, Work, column_tiles};
use crate::plan::Product;

/// Warps that a block can have.
const WARPS: RangeInclusive<usize> = 1..=32;
/// Tiles that a warp can have under way.
const SLOTS: RangeInclusive<usize> = 1..=16;

/// Rows and columns of a matrix at most: kernels count with 32 bits.
const LARGEST: usize = u32::MAX as usize;
/// Groups of rows that a block can take together.
const GROUPS: RangeInclusive<usize> = 1..=2;

/// How a product is divided, for every number of column tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// Warps of a block, whatever the column tiles.
    pub warps: usize,
    /// The rest: one for every number of column tiles that the target has.
    pub tiles: Vec<TunedTile>,
}

/// What does not change the bits of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunedTile {
    /// Column tiles that this is for.
    pub columns: usize,
    /// Tiles that each warp has under way.
    pub slots: usize,
    /// Blocks.
    pub blocks: usize,
}

/// A division that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{product}: {reason}")]
pub struct Unfit {
    /// Of what.
    pub product: String,
    /// Why not.
    pub reason: String,
}

/// Divisions of some products, each of which fits the target that they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    products: BTreeMap<Product, Tuned>,
}

impl Tuned {
    /// What a block does, and how many there are, with so many column tiles.
    pub fn tiling(&self, columns: usize) -> Option<(Tiling, usize)> {
        let tile = self.tiles.iter().find(|tile| tile.columns == columns)?;
        let tiling = Tiling {
            warps: self.warps,
            slots: tile.slots,
            columns,
            blocks: 1,
        };
        Some((tiling, tile.blocks))
    }

    /// Whether a product can be divided like this on a target.
    ///
    /// # Errors
    /// The reason why not.
    fn check(&self, product: &Product, target: &Target) -> Result<(), String> {
        let sizes = [product.cols, product.groups_of_unit];
        if let Some(size) = product.rows.iter().chain(&sizes).find(|size| **size > LARGEST) {
            return Err(format!("no matrix has a side of {size}"));
        }
        let is_complete = product.settings.len() == product.rows.len() && GROUPS.contains(&product.groups_of_unit);
        let work = Work::of_product(product);
        let Some(work) = work.filter(|_| is_complete && product.usual_kernel().is_some()) else {
            return Err("there is no such kernel over packed matrices of these formats".to_owned());
        };
        let within = |what: &str, number: usize, range: RangeInclusive<usize>| {
            if range.contains(&number) {
                return Ok(());
            }
            let (least, most) = range.into_inner();
            Err(format!("{number} {what}; there can be {least} to {most}"))
        };
        within("warps", self.warps, WARPS)?;
        let known: Vec<usize> = column_tiles(target).collect();
        let given: Vec<usize> = self.tiles.iter().map(|tile| tile.columns).collect();
        if given != known {
            return Err(format!(
                "it is given for {given:?} column tiles; {} has {known:?}",
                target.name
            ));
        }
        for tile in &self.tiles {
            within("slots", tile.slots, SLOTS)?;
            let parts = if work.may_be_split { MOST_PARTS } else { 1 };
            within("blocks", tile.blocks, 1..=work.units * parts)?;
            let Some((tiling, _)) = self.tiling(tile.columns) else {
                continue;
            };
            let turns = Chip::new(target, 1).turns(&work, tiling);
            let bytes = tiling.shared_bytes(work.footprint, turns, target);
            if bytes > target.shared_limit {
                return Err(format!(
                    "{} warps with {} slots and {} column tiles take {bytes} bytes of shared memory; {} has {} a block",
                    self.warps, tile.slots, tile.columns, target.name, target.shared_limit
                ));
            }
        }
        Ok(())
    }
}

impl Tuning {
    /// Divisions for a target.
    ///
    /// # Errors
    /// The first of them that does not fit.
    pub fn new(target: &Target, products: impl IntoIterator<Item = (Product, Tuned)>) -> Result<Self, Unfit> {
        let mut tuning = Self::default();
        for (product, tuned) in products {
            tuned.check(&product, target).map_err(|reason| Unfit {
                product: product.to_string(),
                reason,
            })?;
            tuning.products.insert(product, tuned);
        }
        Ok(tuning)
    }

    /// How many products it has.
    pub fn len(&self) -> usize {
        self.products.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.products.is_empty()
    }

    fn find(&self, product: &Product, columns: usize) -> Option<(Tiling, usize)> {
        self.products.get(product)?.tiling(columns)
    }
}

impl Chip<'_> {
    /// How a product is divided with so many column tiles: as it was measured, else by rule. Also says whether it was.
    pub(super) fn division(&self, product: &Product, work: &Work, columns: usize) -> (Division, bool) {
        match self.tuning.and_then(|tuning| tuning.find(product, columns)) {
            Some((tiling, blocks)) => {
                let division = Division {
                    tiling,
                    blocks,
                    parts: self.parts(work),
                    turns: self.turns(work, tiling),
                };
                (division, true)
            }
            None => (self.divide(work, columns), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sm_90() -> &'static Target {
        Target::named("sm_90").unwrap()
    }

    fn down() -> Product {
        Product {
            kernel: "packed_product".to_owned(),
            settings: vec!["weight=q4_k".to_owned()],
            rows: vec![2560],
            cols: 10_240,
            groups_of_unit: 1,
            may_be_split: false,
        }
    }

    fn tuned(warps: usize, tiles: &[[usize; 3]]) -> Tuned {
        let tiles = tiles.iter().map(|[columns, slots, blocks]| TunedTile {
            columns: *columns,
            slots: *slots,
            blocks: *blocks,
        });
        Tuned {
            warps,
            tiles: tiles.collect(),
        }
    }

    const TILES: [[usize; 3]; 3] = [[1, 2, 80], [2, 1, 40], [4, 1, 80]];

    #[test]
    fn what_was_measured_comes_first() {
        let tuning = Tuning::new(sm_90(), [(down(), tuned(14, &TILES))]).unwrap();
        let chip = Chip::new(sm_90(), 132).tuned(Some(&tuning));
        let work = |product: &Product| Work::of_product(product).unwrap();
        for [columns, slots, blocks] in TILES {
            let (division, tuned) = chip.division(&down(), &work(&down()), columns);
            let Tiling { warps, slots: s, .. } = division.tiling;
            assert!(tuned);
            assert_eq!([warps, s, division.blocks], [14, slots, blocks]);
        }
        let others = [
            Product {
                rows: vec![2592],
                ..down()
            },
            Product {
                settings: vec!["weight=q6_k".to_owned()],
                ..down()
            },
            Product {
                kernel: "packed_gate".to_owned(),
                ..down()
            },
        ];
        for product in others {
            let (division, tuned) = chip.division(&product, &work(&product), 1);
            assert!(!tuned, "{product}");
            assert_eq!(division.tiling.warps, 8, "{product}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let other = |change: fn(&mut Product)| {
            let mut product = down();
            change(&mut product);
            product
        };
        let whole = tuned(8, &TILES);
        for (product, tuned, reason) in [
            (down(), tuned(0, &TILES), "0 warps; there can be 1 to 32"),
            (down(), tuned(33, &TILES), "33 warps"),
            (
                down(),
                tuned(8, &TILES[..2]),
                "for [1, 2] column tiles; sm_90 has [1, 2, 4]",
            ),
            (down(), tuned(8, &[[1, 0, 80], TILES[1], TILES[2]]), "0 slots"),
            (down(), tuned(8, &[[1, 17, 80], TILES[1], TILES[2]]), "17 slots"),
            (down(), tuned(8, &[TILES[0], [2, 1, 0], TILES[2]]), "0 blocks"),
            (
                down(),
                tuned(8, &[TILES[0], [2, 1, 81], TILES[2]]),
                "81 blocks; there can be 1 to 80",
            ),
            (
                down(),
                tuned(32, &[TILES[0], TILES[1], [4, 16, 80]]),
                "bytes of shared memory; sm_90 has 232448",
            ),
            (
                other(|it| it.kernel = "packed_sum".to_owned()),
                whole.clone(),
                "no such kernel",
            ),
            (
                other(|it| it.settings = vec!["weight=q9".to_owned()]),
                whole.clone(),
                "no such kernel",
            ),
            (other(|it| it.settings.clear()), whole.clone(), "no such kernel"),
            (other(|it| it.rows.push(32)), whole.clone(), "no such kernel"),
            (other(|it| it.groups_of_unit = 3), whole.clone(), "no such kernel"),
            (
                other(|it| it.rows = vec![usize::MAX]),
                whole.clone(),
                "no matrix has a side of",
            ),
            (other(|it| it.rows = vec![0]), whole, "80 blocks; there can be 1 to 0"),
        ] {
            let error = Tuning::new(sm_90(), [(product.clone(), tuned)]).expect_err(reason);
            assert_eq!(error.product, product.to_string());
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
