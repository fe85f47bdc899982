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

    /// Stores one position's `stored` values, one a thread; further threads have none. All threads of the block take
    /// part. `terms` and `codes` hold one element a thread.
    fn store(
        page: &StorePage,
        value: Val<f32>,
        dim: Val<u32>,
        terms: Shared<f32>,
        codes: Shared<u8>,
        stored: usize,
    );

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

    /// Values `4 · quad .. + 4` of this lane's run `run`, two to a word.
    fn quad(shape: &UnitShape, loaded: Loaded, run: usize, quad: Val<u32>) -> [Val<u32>; 2];
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

    /// The word and the bit in it at which a lane's run `run` starts in plane `plane`, among the words it loads.
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
        at(unit, (position * (self.places.dims / BLOCK) + dim / BLOCK) * 2 + self.scales)
    }

    /// Blocks of 32 values that a run is part of.
    fn run_blocks(&self) -> usize {
        self.places.run_len().div_ceil(BLOCK)
    }
}

/// What a lane has loaded of a unit.
#[derive(Clone, Copy)]
pub struct Loaded {
    /// The words of its planes, one plane after the other.
    pub words: Registers<u32>,
    /// The scales of its blocks, each twice in a word; [`Scales::Block`] only.
    pub scales: Option<Registers<u32>>,
}

impl Loaded {
    /// Loads this lane's part of the unit that starts at byte `unit`.
    #[tile_fn]
    pub fn from<Codec: KvStore>(shape: &UnitShape, cache: In<u8>, unit: Val<u64>) -> Self {
        let places = shape.places;
        let total = shape.words();
        let words = Registers::<u32>::undefined(total);
        let mut first = 0;
        for index in 0..shape.planes.len() {
            let plane = shape.planes[index];
            plane.load(places, cache, unit, words, first);
            first += plane.words(places);
        }
        let mut scales = None;
        if Codec::SCALES == Scales::Block {
            let blocks = shape.run_blocks();
            let block_scales = Registers::<u32>::undefined(places.runs() * blocks);
            for run in 0..places.runs() {
                for block in 0..blocks {
                    let dim = places.first_dim() + block * BLOCK;
                    let half = cache.load_as::<u16>(shape.block_scale_of(unit, places.position_of(run), dim));
                    block_scales[run * blocks + block] = half | half << 16;
                }
            }
            scales = Some(block_scales);
        }
        Self { words, scales }
    }

    /// The scale of the block that quad `quad` of run `run` is part of, twice in a word.
    #[tile_fn]
    pub fn block_scale(self, shape: &UnitShape, run: usize, quad: Val<u32>) -> Val<Pack<f16, 2>> {
        let blocks = shape.run_blocks();
        match self.scales {
            Some(scales) if blocks == 1 => scales[run].bitcast::<Pack<f16, 2>>(),
            Some(scales) => scales[quad / (BLOCK / 4) + run * blocks].bitcast::<Pack<f16, 2>>(),
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
        self.shape.piece(plane, self.unit(dim), self.position % UNIT, inside, len, bytes)
    }
}
