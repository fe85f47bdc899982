//! Where cached keys and values lie: pages of 64 positions, in the order in which matrix instructions take them.
//!
//! A page holds one KV head's keys (or values) of [`PAGE`] positions. It is made of *units*: [`UNIT`] positions times up
//! to 128 values. Within a unit each lane of a warp finds what it supplies to a matrix instruction in pieces of 16 bytes,
//! lane after lane, so that a warp loads whole lines and multiplies what it has loaded. What a lane supplies depends on
//! the target's fragment layout: some *runs* of consecutive values of one position each. Keys are rows of the left
//! operand, so a run is a part of a key; values are taken transposed, so a lane has a few values of several positions.
//!
//! The bits of a value are those of its format; only their places differ from the blocks in which formats are
//! interchanged. [`Places`] knows both.

use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

/// Positions of a page.
pub const PAGE: usize = 64;
/// Positions of a unit: rows of a matrix instruction.
pub const UNIT: usize = 16;
/// Units of a page, for the same values of a head.
pub const UNITS: usize = PAGE / UNIT;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Rows of the left operand are positions, k runs over a head's values.
    Key,
    /// Rows are a head's values, k runs over positions.
    Value,
}

/// How the values of one kind of unit are shared among lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Keys or values.
    pub side: Side,
    /// Values of a position in one unit: 64 or 128.
    pub dims: usize,
    layout: FragmentLayout,
}

impl Places {
    /// The units of heads of `stored` values (a multiple of 64), in this fragment layout.
    pub fn new(side: Side, stored: usize, layout: FragmentLayout) -> Self {
        Self {
            side,
            dims: if stored.is_multiple_of(128) { 128 } else { 64 },
            layout,
        }
    }

    /// As [`Self::new`], for the target under recording.
    pub fn here(side: Side, stored: usize) -> Self {
        Self::new(side, stored, target().fragments)
    }

    /// Lanes that hold different parts of a unit.
    pub fn lanes(self) -> usize {
        UNIT / self.layout.lane_rows() * self.layout.k_parts()
    }

    /// Rows of a product that a lane holds.
    pub fn product_rows(self) -> usize {
        self.layout.rows_per_lane()
    }

    /// Runs of a lane, each of another position.
    pub fn runs(self) -> usize {
        match self.side {
            Side::Key => self.layout.lane_rows(),
            Side::Value => UNIT / self.layout.k_parts(),
        }
    }

    /// Values of a run.
    pub fn run_len(self) -> usize {
        match self.side {
            Side::Key => self.dims / self.layout.k_parts(),
            Side::Value => self.dims / UNIT * self.layout.lane_rows(),
        }
    }

    /// `(lane, run, place in the run)` of a value of a position of the unit.
    pub fn locate(self, position: usize, dim: usize) -> (usize, usize, usize) {
        let (runs, len, parts) = (self.runs(), self.run_len(), self.layout.k_parts());
        match self.side {
            Side::Key => {
                let rows = UNIT / self.layout.lane_rows();
                (position % rows * parts + dim / len, position / rows, dim % len)
            }
            Side::Value => (dim / len * parts + position / runs, position % runs, dim % len),
        }
    }

    /// Lane and run that hold a value, on the device.
    #[tile_fn]
    pub fn lane_and_run(self, position: Val<u32>, dim: Val<u32>) -> (Val<u32>, Val<u32>) {
        let (runs, len, parts) = (self.runs(), self.run_len(), self.layout.k_parts());
        match self.side {
            Side::Key => {
                let rows = UNIT / self.layout.lane_rows();
                (position % rows * parts + dim / len, position / rows)
            }
            Side::Value => (dim / len * parts + position / runs, position % runs),
        }
    }

    /// The lane of a unit whose place this lane of the warp takes.
    #[tile_fn]
    pub fn this_lane(self) -> Val<u32> {
        if self.lanes() == 32 {
            lane_index()
        } else {
            lane_index() % self.lanes()
        }
    }

    /// The position that this lane's run `run` belongs to.
    #[tile_fn]
    pub fn position_of(self, run: usize) -> Val<u32> {
        match self.side {
            Side::Key => operand_row(run),
            Side::Value => operand_part() * self.runs() + run,
        }
    }

    /// Where this lane's runs start among the unit's values.
    #[tile_fn]
    pub fn first_dim(self) -> Val<u32> {
        match self.side {
            Side::Key => operand_part() * self.run_len(),
            Side::Value => operand_row(0) * self.run_len(),
        }
    }

    /// Sixteen values of a head make a tile of the transposed product: which of the unit's values is row `row` of tile
    /// `tile`.
    #[tile_fn]
    pub fn dim_of_row(self, tile: Val<u32>, row: Val<u32>) -> Val<u32> {
        let rows = UNIT / self.layout.lane_rows();
        let slots = self.layout.lane_rows();
        row % rows * self.run_len() + tile * slots + row / rows
    }
}

/// A part of a unit in which each run has its own bytes: the quants, or one bit of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// First byte in the unit.
    pub start: usize,
    /// Bytes of a run.
    pub run_bytes: usize,
    /// Bytes of an even run and of the one behind it lie in turn.
    pub in_pairs: bool,
}

impl Plane {
    /// Bytes of the plane.
    pub fn bytes(self, places: Places) -> usize {
        places.lanes() * places.runs() * self.run_bytes
    }

    /// Bytes of one lane.
    fn lane_bytes(self, places: Places) -> usize {
        places.runs() * self.run_bytes
    }

    /// Words of one lane.
    pub fn words(self, places: Places) -> usize {
        self.lane_bytes(places).div_ceil(4)
    }

    /// Byte of the unit at which byte `byte` of a lane's run lies.
    pub fn address(self, places: Places, lane: usize, run: usize, byte: usize) -> usize {
        let at = match self.in_pairs {
            true => run / 2 * 2 * self.run_bytes + byte * 2 + run % 2,
            false => run * self.run_bytes + byte,
        };
        let all = self.lane_bytes(places);
        self.start
            + if all <= 16 {
                lane * all + at
            } else {
                (at / 16 * places.lanes() + lane) * 16 + at % 16
            }
    }

    /// As [`Self::address`], on the device.
    #[tile_fn]
    pub fn address_of(self, places: Places, lane: Val<u32>, run: Val<u32>, byte: Val<u32>) -> Val<u32> {
        let all = self.lane_bytes(places);
        let at = match self.in_pairs {
            true => run / 2 * (2 * self.run_bytes) + byte * 2 + run % 2,
            false => run * self.run_bytes + byte,
        };
        if all <= 16 {
            lane * all + at + self.start
        } else {
            (at / 16 * places.lanes() + lane) * 16 + at % 16 + self.start
        }
    }

    /// The byte of a unit at which what this lane supplies starts.
    #[tile_fn]
    pub fn lane_start(self, places: Places) -> Val<u32> {
        places.this_lane() * self.lane_bytes(places).min(16) + self.start
    }

    /// Loads what this lane supplies, from byte `start` on, to words `first..` of `words`.
    #[tile_fn]
    pub fn load(self, places: Places, cache: In<u8>, start: Val<u64>, words: Registers<u32>, first: Val<u32>) {
        let (all, lanes) = (self.lane_bytes(places), places.lanes());
        if all > 16 {
            for piece in unrolled(0..all / 16) {
                let four = cache.load_as::<Pack<u32, 4>>(start + piece.to::<u64>() * (lanes * 16));
                for word in 0..4 {
                    words[first + (piece * 4 + word)] = four.component(word);
                }
            }
        } else if all == 16 {
            let four = cache.load_as::<Pack<u32, 4>>(start);
            for word in 0..4 {
                words[first + word] = four.component(word);
            }
        } else if all == 8 {
            let two = cache.load_as::<Pack<u32, 2>>(start);
            for word in 0..2 {
                words[first + word] = two.component(word);
            }
        } else {
            words[first] = cache.load_as::<u32>(start);
        }
    }
}

/// A byte of a unit, in the whole cache.
#[tile_fn]
pub fn at(unit: Val<u64>, byte: Val<u32>) -> Val<u64> {
    unit + byte.to::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value has a place of its own, lanes are filled evenly, and runs are consecutive values of one position.
    #[test]
    fn values_have_places_of_their_own() {
        for layout in [FragmentLayout::PairOfM16N8K16, FragmentLayout::Wmma16x16x16] {
            for side in [Side::Key, Side::Value] {
                for stored in [64, 128, 256, 512] {
                    let places = Places::new(side, stored, layout);
                    assert_eq!(places.lanes() * places.runs() * places.run_len(), UNIT * places.dims);
                    let mut seen = std::collections::HashSet::new();
                    for position in 0..UNIT {
                        for dim in 0..places.dims {
                            let (lane, run, place) = places.locate(position, dim);
                            assert!(lane < places.lanes() && run < places.runs() && place < places.run_len());
                            assert!(seen.insert((lane, run, place)), "{places:?} {position} {dim}");
                            assert_eq!(place, dim % places.run_len());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_have_addresses_of_their_own() {
        for layout in [FragmentLayout::PairOfM16N8K16, FragmentLayout::Wmma16x16x16] {
            for side in [Side::Key, Side::Value] {
                let places = Places::new(side, 512, layout);
                for (bits, in_pairs) in [1, 2, 4, 8, 16]
                    .into_iter()
                    .flat_map(|bits| [(bits, false), (bits, side == Side::Value)])
                {
                    let plane = Plane {
                        start: 96,
                        run_bytes: places.run_len() * bits / 8,
                        in_pairs,
                    };
                    let mut seen = std::collections::HashSet::new();
                    for lane in 0..places.lanes() {
                        for (run, byte) in
                            (0..places.runs()).flat_map(|run| (0..plane.run_bytes).map(move |b| (run, b)))
                        {
                            let address = plane.address(places, lane, run, byte);
                            assert!((96..96 + plane.bytes(places)).contains(&address));
                            assert!(seen.insert(address), "{places:?} {bits} {lane} {run} {byte}");
                        }
                    }
                }
            }
        }
    }
}
