//! Scores of a few chosen rows of a matrix: the output layer of a drafter that looks at likely tokens only.

use tilekiln_dsl::prelude::*;

use super::codec::WeightCodec;
use super::linear::add_products;
use super::weights::{self, WEIGHT};
use crate::registry::prelude::*;
use crate::select::NOTHING;

/// One warp per candidate: the score of candidate i of a token is the product of its row of w with the token's x.
///
/// Blocks: x over `warps` candidates each, y over tokens. A token has `k` centroids with `per` candidates each; the
/// candidates of centroid c are `ordering[c * per..(c + 1) * per]`. A centroid of 0xffffffff (a place that top_k could
/// not fill) gives the id 0xffffffff and the score minus infinity. Batch invariance: as in [`linear`](super::linear).
#[kernel(threads = warps * 32)]
pub fn candidate_scores<Weight: WeightCodec>(
    #[shape(vocabulary, row_bytes)] w: In<u8>,
    #[shape(clusters, per)] ordering: In<u32>,
    #[shape(tokens, k)] centroids: In<u32>,
    #[shape(tokens, cols)] x: In<f32>,
    #[shape(tokens, candidates)] scores: Out<f32>,
    #[shape(tokens, candidates)] ids: Out<u32>,
    k: u32,
    per: u32,
    cols: u32,
    #[comptime] warps: usize,
) {
    let candidate = block_index() * warps + warp_index();
    let token = block_index_y();
    if candidate < k * per {
        let centroid = centroids[token * k + candidate / per];
        let mut id = u32(NOTHING);
        let mut score = f32(f32::NEG_INFINITY);
        if centroid != NOTHING {
            id = ordering[centroid * per + candidate % per];
            let mut sum = f32(0.0);
            for group in lane_strided(cols / 32) {
                let values = Weight::decode(w, id, cols, group);
                sum = add_products(sum, values, x, token * cols + group * 32);
            }
            score = warp_sum(sum);
        }
        if lane_index() == 0 {
            scores[token * (k * per) + candidate] = score;
            ids[token * (k * per) + candidate] = id;
        }
    }
}

/// Registration of [`candidate_scores`] with every weight format.
pub const ENTRY: Entry = Entry {
    name: "candidate_scores",
    parameters: &[WEIGHT, weights::WARPS],
    build: |settings| Ok((weights::named(settings)?.candidate_scores)(weights::warps(settings)?)),
    example: |settings, random| {
        let weight = weights::named(settings)?;
        let warps = weights::warps(settings)?;
        let (clusters, per, cols) = (
            random.size(3, 9),
            random.size(1, 7),
            weight.block_values * random.size(1, 3),
        );
        let (tokens, k) = (random.size(1, 3), random.size(1, clusters));
        let vocabulary = clusters * per;
        Ok(Example {
            grid: [(k * per).div_ceil(warps) as u32, tokens as u32, 1],
            arguments: vec![
                weight.sample(random, vocabulary, cols),
                random.below(clusters * per, vocabulary as u32),
                random.below(tokens * k, clusters as u32),
                random.floats("f32", tokens * cols),
                Argument::output(tokens * k * per * 4),
                Argument::output(tokens * k * per * 4),
                Argument::U32(k as u32),
                Argument::U32(per as u32),
                Argument::U32(cols as u32),
            ],
        })
    },
};
