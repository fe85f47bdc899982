//! What a cache format has to say to be stored and attended to.

use tilekiln_dsl::prelude::*;

use super::pages::{Places, Plane, Side, UNIT, UNITS, at};

/// Which values have a scale of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// None.
    None,
    /// One f16 for each position and unit: applied to scores and weights, not to values.
    Position,
    /// One f16 for each 32 values of a position: applied to the values.
    Block,
}

/// Values that share a scale of [`Scales::Block`].
pub const BLOCK: usize = 32;

/// A format of cached keys or values, and how it is stored.
pub trait KvStore: Named + 'static {
    /// Heads are padded with zeros to a multiple of so many values.
    const GROUP: usize;
    /// Stored values are rotated in groups of 128: queries come rotated, outputs are rotated back.
    const ROTATED: bool;
    /// Bits of a value, divided among planes.
    const BITS: &'static [usize];
    /// What has a scale.
    const SCALES: Scales;
    /// Bytes of values of two positions lie in turn, so that a word has the same values of both.
    const IN_PAIRS: bool = false;

    /// Stores one position's `stored` values, one a thread; further threads have none. All threads of the block take
    /// part. `terms` and `codes` hold one element a thread.
    fn store(page: &StorePage, value: Val<f32>, dim: Val<u32>, terms: Shared<f32>, codes: Shared<u8>, stored: usize);

    /// Values `dim .. dim + 4` (a multiple of 4) of a position of the unit that starts at byte `unit`, as they are
    /// stored: rotated where the format rotates.
    fn four(shape: &UnitShape, cache: In<u8>, unit: Val<u64>, position: Val<u32>, dim: Val<u32>) -> [Val<f32>; 4];

    /// Values of a head as they are stored, padding included.
    fn stored(head_dim: usize) -> usize {
        head_dim.next_multiple_of(Self::GROUP)
    }
}

/// A format that a matrix instruction can be fed with.
pub trait KvCodec: KvStore {
    /// What it is decoded to.
    type Element: HalfElement + MatrixElement<Sum = f32, Right = Self::Element>;
    /// Queries and weights are split into so many terms of that element.
    const TERMS: usize;

    /// Numbers that decoding uses again and again, in registers.
    #[tile_fn]
    fn tables() -> [Val<u32>; 2] {
        [0u32, 0].map(|none: u32| u32(none))
    }

    /// Values `8 · octet .. + 8` of this lane's run `run` of a unit of keys, two to a word.
    fn octet(shape: &UnitShape, loaded: Loaded, run: usize, octet: Val<u32>) -> [Val<u32>; 4];

    /// Values `4 · quad .. + 4` of this lane's runs 2 · `pair` and 2 · `pair` + 1 of a unit of values: of each value both
    /// positions in a word.
    fn quad_of_pair(shape: &UnitShape, loaded: Loaded, pair: usize, quad: Val<u32>) -> [Val<u32>; 4];
}

/// Where the parts of a unit lie.
#[derive(Clone, Debug)]
pub struct UnitShape {
    /// Which lane has what.
    pub places: Places,
    /// One plane for each entry of [`KvStore::BITS`].
    pub planes: Vec<Plane>,
    /// First byte of the scales.
    pub scales: usize,
    /// Bytes of a unit, a multiple of 16.
    pub bytes: usize,
    /// Units side by side that make a whole head.
    pub groups: usize,
}

impl UnitShape {
    /// The units of heads of `head_dim` values in this fragment layout.
    pub fn new<Codec: KvStore>(side: Side, head_dim: usize, layout: tilekiln_dsl::target::FragmentLayout) -> Self {
        let stored = Codec::stored(head_dim);
        let places = Places::new(side, stored, layout);
        let mut start = 0;
        let planes = Codec::BITS
            .iter()
            .map(|bits| {
                let plane = Plane {
                    start,
                    run_bytes: places.run_len() * bits / 8,
                    in_pairs: Codec::IN_PAIRS && side == Side::Value,
                };
                start += plane.bytes(places);
                plane
            })
            .collect();
        let scales = match Codec::SCALES {
            Scales::None => 0,
            Scales::Position => UNIT,
            Scales::Block => UNIT * places.dims / BLOCK,
        };
        Self {
            places,
            planes,
            scales: start,
            bytes: start + 2 * scales,
            groups: stored / places.dims,
        }
    }

    /// As [`Self::new`], for the target under recording.
    pub fn here<Codec: KvStore>(side: Side, head_dim: usize) -> Self {
        Self::new::<Codec>(side, head_dim, target().fragments)
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        UNITS * self.groups * self.bytes
    }

    /// Words that a lane loads of a unit's planes.
    pub fn words(&self) -> usize {
        self.planes.iter().map(|plane| plane.words(self.places)).sum()
    }

    /// The word and the bit in it at which a lane's run `run` starts in plane `plane`, among the words it loads: of a plane
    /// in pairs, that of an even run.
    pub fn run_start(&self, plane: usize, run: usize) -> (usize, usize) {
        let before: usize = self.planes[..plane].iter().map(|plane| plane.words(self.places)).sum();
        let bit = run * self.planes[plane].run_bytes * 8;
        (before + bit / 32, bit % 32)
    }

    /// The byte at which a page of a KV head starts.
    #[tile_fn]
    pub fn page(&self, page: Val<u32>, kv_heads: Val<u32>, kv_head: Val<u32>) -> Val<u64> {
        (page * kv_heads + kv_head).to::<u64>() * self.page_bytes()
    }

    /// The byte at which a unit of a page starts.
    #[tile_fn]
    pub fn unit(&self, page: Val<u64>, group: Val<u32>, unit: Val<u32>) -> Val<u64> {
        at(page, (group * UNITS + unit) * self.bytes)
    }

    /// Bytes from a unit to the same positions' unit of group `group`, counted from group 0.
    #[tile_fn]
    pub fn group_distance(&self, group: Val<u32>) -> Val<u64> {
        group.to::<u64>() * (UNITS * self.bytes)
    }

    /// Where among a unit's scales of [`Scales::Position`] that of a position is: lanes find those of their rows next to
    /// each other.
    pub fn scale_index(&self, position: usize) -> usize {
        match self.places.side {
            Side::Key => {
                let rows = self.row_slots();
                position % (UNIT / rows) * rows + position / (UNIT / rows)
            }
            Side::Value => position,
        }
    }

    /// As [`Self::scale_index`], on the device.
    #[tile_fn]
    pub fn scale_index_of(&self, position: Val<u32>) -> Val<u32> {
        match self.places.side {
            Side::Key => {
                let rows = self.row_slots();
                position % (UNIT / rows) * rows + position / (UNIT / rows)
            }
            Side::Value => position,
        }
    }

    /// Rows of a product that a lane holds.
    fn row_slots(&self) -> usize {
        self.places.product_rows()
    }

    /// The byte of a position's scale in a unit that starts at `unit`.
    #[tile_fn]
    pub fn scale_of(&self, unit: Val<u64>, position: Val<u32>) -> Val<u64> {
        at(unit, self.scale_index_of(position) * 2 + self.scales)
    }

    /// The byte of the scale of a position's block of 32 values.
    #[tile_fn]
    pub fn block_scale_of(&self, unit: Val<u64>, position: Val<u32>, dim: Val<u32>) -> Val<u64> {
        at(
            unit,
            (position * (self.places.dims / BLOCK) + dim / BLOCK) * 2 + self.scales,
        )
    }

    /// Blocks of 32 values that a run is part of.
    fn run_blocks(&self) -> usize {
        self.places.run_len().div_ceil(BLOCK)
    }
}

/// What lanes load of units, in registers: of one unit at a time, or of all that a page has for a warp.
#[derive(Clone, Copy)]
pub struct Stage {
    words: Registers<u32>,
    /// Two f16 to a word.
    scales: Option<Registers<u32>>,
    tables: [Val<u32>; 2],
}

/// The bytes at which what this lane loads of a warp's first unit starts: one for each plane, then for its scales.
#[derive(Clone)]
pub struct LaneStarts(Vec<Val<u64>>);

/// What a lane has loaded of a unit.
#[derive(Clone, Copy)]
pub struct Loaded {
    /// The words of its planes, one plane after the other, from `first_word` on.
    pub words: Registers<u32>,
    /// First word of the unit.
    pub first_word: Val<u32>,
    scales: Option<Registers<u32>>,
    first_scale: Val<u32>,
    /// [`KvCodec::tables`]
    pub tables: [Val<u32>; 2],
}

impl UnitShape {
    /// Words of scales that a lane loads of a unit.
    fn scale_words<Codec: KvStore>(&self) -> usize {
        let runs = self.places.runs();
        match (Codec::SCALES, self.places.side) {
            (Scales::None, _) => 0,
            // of each row that the lane has scores of; of each position that it weighs
            (Scales::Position, Side::Key) => self.row_slots() / 2,
            (Scales::Position, Side::Value) => runs / 2,
            // one block's scale twice; the scales of two positions
            (Scales::Block, Side::Key) => runs * self.run_blocks(),
            (Scales::Block, Side::Value) => runs / 2,
        }
    }

    /// Where this lane's part of the unit at byte `unit` lies.
    #[tile_fn]
    pub fn lane_starts<Codec: KvStore>(&self, unit: Val<u64>) -> LaneStarts {
        let places = self.places;
        let mut starts = (0..self.planes.len())
            .map(|plane: usize| at(unit, self.planes[plane].lane_start(places)))
            .collect::<Vec<Val<u64>>>();
        let scale = match (Codec::SCALES, places.side) {
            (Scales::Position, Side::Key) => self.scale_index_of(Products::<f32>::row(0)) * 2,
            (Scales::Position, Side::Value) => places.position_of(0) * 2,
            _ => (places.position_of(0) * (places.dims / BLOCK) + places.first_dim() / BLOCK) * 2,
        };
        if Codec::SCALES != Scales::None {
            starts.push(at(unit, scale + self.scales));
        }
        LaneStarts(starts)
    }
}

impl Stage {
    /// Registers for `units` units, to be decoded with `tables`.
    #[tile_fn]
    pub fn new<Codec: KvStore>(shape: &UnitShape, units: usize, tables: [Val<u32>; 2]) -> Self {
        let words = Registers::<u32>::undefined(units * shape.words());
        let mut scales = None;
        if Codec::SCALES != Scales::None {
            let scale_words = Registers::<u32>::undefined(units * shape.scale_words::<Codec>());
            scales = Some(scale_words);
        }
        Self { words, scales, tables }
    }

    /// Loads the unit `distance` bytes behind the warp's first one, to place `place` of the stage.
    #[tile_fn]
    pub fn fetch<Codec: KvStore>(
        self,
        shape: &UnitShape,
        cache: In<u8>,
        starts: &LaneStarts,
        place: Val<u32>,
        distance: Val<u64>,
    ) {
        let places = shape.places;
        let mut first = 0;
        for plane in 0..shape.planes.len() {
            let start = starts.0[plane] + distance;
            shape.planes[plane].load(places, cache, start, self.words, place * shape.words() + first);
            first += shape.planes[plane].words(places);
        }
        if Codec::SCALES != Scales::None {
            if let Some(scales) = self.scales {
                let start = starts.0[shape.planes.len()] + distance;
                load_scales::<Codec>(shape, cache, start, scales, place * shape.scale_words::<Codec>());
            }
        }
    }

    /// The unit at place `place`.
    #[tile_fn]
    pub fn unit<Codec: KvStore>(self, shape: &UnitShape, place: Val<u32>) -> Loaded {
        Loaded {
            words: self.words,
            first_word: place * shape.words(),
            scales: self.scales,
            first_scale: place * shape.scale_words::<Codec>(),
            tables: self.tables,
        }
    }
}

/// Loads this lane's scales of a unit, from byte `start` on.
#[tile_fn]
fn load_scales<Codec: KvStore>(
    shape: &UnitShape,
    cache: In<u8>,
    start: Val<u64>,
    scales: Registers<u32>,
    first: Val<u32>,
) {
    let count = shape.scale_words::<Codec>();
    if Codec::SCALES == Scales::Position {
        load_words(cache, start, scales, first, count);
    } else {
        let position_bytes = shape.places.dims / BLOCK * 2;
        match shape.places.side {
            Side::Key => {
                let blocks = shape.run_blocks();
                for run in 0..shape.places.runs() {
                    /// a run's positions are rows apart
                    let row = run * (UNIT / shape.places.runs());
                    for block in 0..blocks {
                        let half = cache.load_as::<u16>(start + (row * position_bytes + 2 * block));
                        scales[first + (run * blocks + block)] = half | half << 16;
                    }
                }
            }
            Side::Value => {
                for pair in unrolled(0..count) {
                    let low = cache.load_as::<u16>(start + pair.to::<u64>() * (2 * position_bytes));
                    let high = cache.load_as::<u16>(start + pair.to::<u64>() * (2 * position_bytes) + position_bytes);
                    scales[first + pair] = low | high << 16;
                }
            }
        }
    }
}

/// Loads `count` words (1, 2 or a multiple of 4) that lie next to each other.
#[tile_fn]
fn load_words(cache: In<u8>, start: Val<u64>, words: Registers<u32>, first: Val<u32>, count: usize) {
    if count == 1 {
        words[first] = cache.load_as::<u32>(start);
    } else if count == 2 {
        let two = cache.load_as::<Pack<u32, 2>>(start);
        words[first] = two.component(0);
        words[first + 1] = two.component(1);
    } else {
        for part in 0..count / 4 {
            let four = cache.load_as::<Pack<u32, 4>>(start + 16 * part);
            for word in 0..4 {
                words[first + (part * 4 + word)] = four.component(word);
            }
        }
    }
}

impl Loaded {
    /// Word `word` of the lane's words.
    #[tile_fn]
    pub fn word(self, word: impl IntoVal<u32>) -> Val<u32> {
        let words = self.words;
        words[self.first_word + word]
    }

    /// The f16 number `index` of the lane's scales: of a row of scores, or of a position of a run.
    #[tile_fn]
    pub fn scale(self, index: usize) -> Val<f32> {
        match self.scales {
            Some(scales) => {
                let two = scales[self.first_scale + index / 2].bitcast::<Pack<f16, 2>>();
                two.component(index % 2).to::<f32>()
            }
            None => f32(1.0),
        }
    }

    /// The scale of the block of keys that octet `octet` of run `run` is part of, twice.
    #[tile_fn]
    pub fn scale_of_run(self, shape: &UnitShape, run: usize, octet: Val<u32>) -> Val<Pack<f16, 2>> {
        let blocks = shape.run_blocks();
        match self.scales {
            Some(scales) if blocks == 1 => scales[self.first_scale + run].bitcast::<Pack<f16, 2>>(),
            Some(scales) => scales[self.first_scale + octet / (BLOCK / 8) + run * blocks].bitcast::<Pack<f16, 2>>(),
            None => u32(0).bitcast::<Pack<f16, 2>>(),
        }
    }

    /// The scales of the blocks of values of a pair of runs.
    #[tile_fn]
    pub fn scales_of_pair(self, pair: usize) -> Val<Pack<f16, 2>> {
        match self.scales {
            Some(scales) => scales[self.first_scale + pair].bitcast::<Pack<f16, 2>>(),
            None => u32(0).bitcast::<Pack<f16, 2>>(),
        }
    }
}

impl UnitShape {
    /// The byte of plane `plane` at which the `bytes` of a run that hold value `dim` of a position start, where pieces
    /// of `len` values take `bytes`.
    #[tile_fn]
    pub fn piece(
        &self,
        plane: usize,
        unit: Val<u64>,
        position: Val<u32>,
        dim: Val<u32>,
        len: usize,
        bytes: usize,
    ) -> Val<u64> {
        let places = self.places;
        let (lane, run) = places.lane_and_run(position, dim);
        let byte = dim % places.run_len() / len * bytes;
        at(unit, self.planes[plane].address_of(places, lane, run, byte))
    }
}

/// The page and place that one position's values are stored to.
#[derive(Clone)]
pub struct StorePage {
    /// How units are laid out.
    pub shape: UnitShape,
    /// The cache.
    pub cache: Out<u8>,
    /// First byte of the page.
    pub start: Val<u64>,
    /// Position in the page.
    pub position: Val<u32>,
}

impl StorePage {
    /// The byte at which the unit with value `dim` starts.
    #[tile_fn]
    pub fn unit(&self, dim: Val<u32>) -> Val<u64> {
        self.shape
            .unit(self.start, dim / self.shape.places.dims, self.position / UNIT)
    }

    /// The byte of plane `plane` at which the piece with value `dim` (of the whole head) starts.
    #[tile_fn]
    pub fn piece(&self, plane: usize, dim: Val<u32>, len: usize, bytes: usize) -> Val<u64> {
        let inside = dim % self.shape.places.dims;
        self.shape
            .piece(plane, self.unit(dim), self.position % UNIT, inside, len, bytes)
    }
}
