//! Q6_K: 256 values in 210 bytes, `ql: u8[128], qh: u8[64], scales: i8[16], d: f16`; one scale per 16 values,
//! y = d·scale·(q - 32). Layout: GGUF.

use tilekiln_dsl::prelude::*;

use super::codec::{BlockCodec, Int8Dot, Quants, load_word};
use super::packed::format::{PackedFormat, Tile, Worth, plane_words, upper_nibbles};
use super::packed::layout::Sections;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Q6K;

impl Named for Q6K {
    const NAME: &'static str = "q6_k";
}

impl BlockCodec for Q6K {
    const BLOCK_VALUES: usize = 256;
    const BLOCK_BYTES: usize = 210;

    #[tile_fn]
    fn decode_block(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Registers<f32> {
        Self::unpack(weights, block, group).decode()
    }
}

impl Int8Dot for Q6K {
    #[tile_fn]
    fn unpack(weights: In<u8>, block: Val<u32>, group: Val<u32>) -> Quants {
        /// four groups make a half of 128 values; they share its 64 low and 32 high bytes
        let half = group / 4;
        let part = group % 4;
        let low_bytes = block + half * 64 + part % 2 * 32;
        let low_shift = part / 2 * 4;
        let high_bytes = block + 128 + half * 32;
        let high_shift = part * 2;
        let words = Registers::<u32>::undefined(8);
        for word in unrolled(0..8) {
            let low = load_word(weights, low_bytes + word * 4) >> low_shift & 0x0f0f_0f0f;
            let high = load_word(weights, high_bytes + word * 4) >> high_shift & 0x0303_0303;
            words[word] = minus_32(low | high << 4);
        }
        let d = weights.load_as::<f16>(block + 208).to::<f32>();
        let first_scale = d * weights.load_as::<i8>(block + 192 + group * 2).to::<f32>();
        let second_scale = d * weights.load_as::<i8>(block + 193 + group * 2).to::<f32>();
        Quants {
            words,
            scales: vec![first_scale, second_scale],
            minimum: None,
        }
    }
}

/// q - 32 of four 6-bit numbers: flip the sign bit, then repeat it upwards
#[device_fn]
fn minus_32(numbers: Val<u32>) -> Val<u32> {
    let flipped = numbers ^ 0x2020_2020;
    flipped | (flipped & 0x2020_2020) * 6
}

impl PackedFormat for Q6K {
    const PACKED_NAME: &'static str = "packed_q6_k";
    const SECTIONS: Sections = Sections {
        planes: &[4, 2],
        scales: &[16, 2],
    };
    const SCALE_PARTS: &'static [(usize, usize)] = &[(192, 16), (208, 2)];
    type Operand = i8;
    const MULTIPLES: [f32; 2] = [4.0, 4.0];
    const SCALES: usize = 2;
    const HAS_MINIMA: bool = false;

    fn codes(block: &[u8], codes: &mut [u8]) {
        for (index, codes) in codes.chunks_exact_mut(32).enumerate() {
            let (half, part) = (index / 4, index % 4);
            let low = &block[half * 64 + part % 2 * 32..];
            let high = &block[128 + half * 32..];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                // 32 less, in six bits of two's complement
                *code = (low >> (part / 2 * 4) & 15 | (high >> (part * 2) & 3) << 4) ^ 32;
            }
        }
    }

    #[tile_fn]
    fn gather(weights: In<u8>, tile: Val<u32>, row: Val<u32>, sub_block: Val<u32>) -> Quants {
        let words = plane_words(weights, tile, row, sub_block, 4);
        let lowest = plane_words(weights, tile + Self::SECTIONS.plane(1), row, sub_block, 2);
        for word in unrolled(0..8) {
            let high = words[word] << (4 - sub_block % 2 * 4) & 0xf0f0_f0f0u32;
            let low = lowest[word] >> (sub_block % 4 * 2) & 0x0303_0303;
            words[word] = high | low << 2;
        }
        let d = weights
            .load_as::<f16>(tile + Self::SECTIONS.scale(1) + row * 2)
            .to::<f32>()
            * 0.25;
        let scales = tile + Self::SECTIONS.scale(0) + row * 16 + sub_block * 2;
        let first_scale = d * weights.load_as::<i8>(scales).to::<f32>();
        let second_scale = d * weights.load_as::<i8>(scales + 1).to::<f32>();
        Quants {
            words,
            scales: vec![first_scale, second_scale],
            minimum: None,
        }
    }

    #[tile_fn]
    fn worth(tile: &Tile, row: Val<u32>) -> Worth {
        let d = tile.load::<f16>(row * 2 + Self::SECTIONS.scale(1)).to::<f32>() * 0.25;
        let four = tile.load::<Pack<u32, 4>>(row * 16 + Self::SECTIONS.scale(0));
        let mut scales = Vec::new();
        for word in 0..4 {
            let bytes = four.component(word).bitcast::<i32>();
            for index in 0..4 {
                let scale = bytes << (24 - 8 * index) >> 24;
                scales.push(d * scale.to::<f32>());
            }
        }
        Worth {
            scales,
            minima: Vec::new(),
            minimum_step: None,
        }
    }

    #[tile_fn]
    fn operand(planes: &[Val<u32>], field: usize) -> Val<u32> {
        let lowest = match field {
            0 => planes[1] << 2,
            1 => planes[1],
            field => planes[1] >> (2 * field - 2),
        };
        upper_nibbles(planes[0], field) | (lowest & 0x0c0c_0c0c)
    }
}
