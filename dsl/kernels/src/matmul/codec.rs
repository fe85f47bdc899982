//! What a weight format has to say to be decoded and to be multiplied.

use tilekiln_dsl::prelude::*;

/// A format of weights that can be read a group of 32 values at a time.
pub trait WeightCodec: Named + 'static {
    /// Values `32 * group..` of row `row` of a matrix with `cols` columns, in element order.
    fn decode(weights: In<u8>, row: Val<u32>, cols: Val<u32>, group: Val<u32>) -> Registers<f32>;
}

/// A format that lies in memory as in a GGUF file: rows of whole blocks of floats or quantised values,
/// [`BLOCK_BYTES`](Self::BLOCK_BYTES) per [`BLOCK_VALUES`](Self::BLOCK_VALUES) values, no padding.
pub trait BlockCodec: Named + 'static {
    /// Values of a block, a multiple of 32.
    const BLOCK_VALUES: usize;
    /// Bytes of a block, even.
    const BLOCK_BYTES: usize;

    /// The 32 values of group `group` of the block that starts at byte `block`, in element order.
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32>;
}

impl<Blocks: BlockCodec> WeightCodec for Blocks {
    #[tile_fn]
    fn decode(weights: In<u8>, row: Val<u32>, cols: Val<u32>, group: Val<u32>) -> Registers<f32> {
        let (block, group_of_block) = locate::<Blocks>(row, cols, group);
        Blocks::decode_block(weights, block, group_of_block)
    }
}

/// A format whose values are small integers times a scale: it can be multiplied with int8 activations.
pub trait Int8Dot: BlockCodec {
    /// The 32 values of group `group` of the block that starts at byte `block`, as integers and what they are worth.
    fn unpack(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Quants;
}

/// 32 weights: value i is `scale * q[i] - minimum`, with one scale for all of them or one for each half.
///
/// Products of a scale and an integer are exact in f32 in every format, so a value is rounded once, by the subtraction,
/// however a compiler contracts it.
#[derive(Clone)]
pub struct Quants {
    /// Eight words of four int8 each, in element order.
    pub words: Registers<u32>,
    /// One scale, or two for 16 values each.
    pub scales: Vec<Val<f32>>,
    /// What is taken from each value, in formats that do.
    pub minimum: Option<Val<f32>>,
}

impl Quants {
    /// The values as floats.
    #[tile_fn]
    pub fn decode(&self) -> Registers<f32> {
        let values = Registers::<f32>::undefined(32);
        let words_per_scale = 8 / self.scales.len();
        for half in 0..self.scales.len() {
            let scale = self.scales[half];
            for word in unrolled(half * words_per_scale..(half + 1) * words_per_scale) {
                let quants = self.words[word];
                for byte in 0..4 {
                    let q = quants.bitcast::<i32>() << (24 - 8 * byte) >> 24;
                    let product = scale * q.to::<f32>();
                    values[word * 4 + byte] = match self.minimum {
                        Some(minimum) => product - minimum,
                        None => product,
                    };
                }
            }
        }
        values
    }

    /// The sum of weights times int8 activations, without the activations' scale.
    ///
    /// Each rounding is written out (`fma` or a product), so that no compiler can round one kernel's sums otherwise
    /// than another's: results must not depend on the tile.
    #[tile_fn]
    pub fn dot(&self, x: &Activations) -> Val<f32> {
        let words_per_scale = 8 / self.scales.len();
        let products = (0..self.scales.len())
            .map(|half| int8_dot(&self.words, &x.words, half * words_per_scale, words_per_scale))
            .collect::<Vec<Val<f32>>>();
        match (self.minimum, self.scales.len()) {
            (Some(minimum), _) => {
                let mut x_sum = i32(0);
                for word in unrolled(0..8) {
                    x_sum = dot4(u32(0x0101_0101), x.words[word], x_sum);
                }
                fma(self.scales[0], products[0], -(minimum * x_sum.to::<f32>()))
            }
            (None, 1) => self.scales[0] * products[0],
            (None, _) => fma(self.scales[0], products[0], self.scales[1] * products[1]),
        }
    }
}

/// The product of `count` words of int8 from word `first` on.
#[tile_fn]
fn int8_dot(a: &Registers<u32>, b: &Registers<u32>, #[comptime] first: usize, #[comptime] count: usize) -> Val<f32> {
    let mut products = i32(0);
    for word in unrolled(first..first + count) {
        products = dot4(a[word], b[word], products);
    }
    products.to::<f32>()
}

/// 32 activations of one row: int8 values, four to a word, and what one of them is worth.
///
/// Format: d = max|x| / 127 over 32 values, q = round(x * (127 / max|x|)); see [`quantise_rows`](super::quantise).
#[derive(Clone, Copy)]
pub struct Activations {
    /// Eight words of four int8 each.
    pub words: Registers<u32>,
    /// The scale d.
    pub scale: Val<f32>,
}

impl Activations {
    /// Group `group` (32 values) of a buffer of rows.
    #[tile_fn]
    pub fn load(values: In<u32>, scales: In<f32>, group: Val<u32>) -> Self {
        let words = Registers::<u32>::undefined(8);
        for part in unrolled(0..2) {
            let four = values.load_as::<Pack<u32, 4>>(group * 8 + part * 4);
            words[part * 4] = four.component(0);
            words[part * 4 + 1] = four.component(1);
            words[part * 4 + 2] = four.component(2);
            words[part * 4 + 3] = four.component(3);
        }
        let scale = scales[group];
        Self { words, scale }
    }
}

/// Four bytes of an address that is only a multiple of two.
#[device_fn]
pub fn load_word(bytes: In<u8>, offset: Val<u32>) -> Val<u32> {
    bytes.load_as::<u16>(offset) | bytes.load_as::<u16>(offset + 2) << 16
}

/// The byte at which the block with group `group` of row `row` starts, and the group's number in that block.
#[tile_fn]
pub fn locate<Weight: BlockCodec>(row: Val<u32>, cols: Val<u32>, group: Val<u32>) -> (Val<u32>, Val<u32>) {
    let groups_per_block = Weight::BLOCK_VALUES / 32;
    let first_block = row * (cols / Weight::BLOCK_VALUES);
    let block = (first_block + group / groups_per_block) * Weight::BLOCK_BYTES;
    (block, group % groups_per_block)
}
