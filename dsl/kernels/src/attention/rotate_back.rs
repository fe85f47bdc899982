//! Rotating an output back out of the domain of turbo values, in the registers that hold it.

use tilekiln_dsl::prelude::*;

use super::flash::Block;
use crate::turbo::rotation::{NORMALISE, SIGNS_1, SIGNS_2, with_sign, word_of};

/// Rotates the sums back: each column's 128 values, of which lanes hold a part.
#[tile_fn]
pub(super) fn rotate_back(block: &Block, sums: Products<f32>) {
    let tiles = block.shape.tiles;
    let parts = block.value_tiles();
    let (rows, held) = (Products::<f32>::lane_rows(), Products::<f32>::lane_columns());
    turn_signs(block, sums, SIGNS_2, 1.0);
    for column in unrolled(0..tiles) {
        for slot in 0..held {
            /// butterflies between tiles of values
            for distance in (0..3).map(|bit| 1 << bit).filter(|distance: &usize| *distance < parts) {
                for pair in unrolled(0..parts / 2) {
                    let low = pair / distance * (2 * distance) + pair % distance;
                    for row in 0..rows {
                        let (a, b) = (
                            sums.at(low * tiles + column),
                            sums.at((low + distance) * tiles + column),
                        );
                        let (x, y) = (a.get(row, slot), b.get(row, slot));
                        a.set(row, slot, x + y);
                        b.set(row, slot, x - y);
                    }
                }
            }
            for part in unrolled(0..parts) {
                let product = sums.at(part * tiles + column);
                /// between the rows of a lane
                for distance in (0..3).map(|bit| 1 << bit).filter(|distance: &usize| *distance < rows) {
                    for low in (0..rows).filter(|low: &usize| low & distance == 0) {
                        let (x, y) = (product.get(low, slot), product.get(low + distance, slot));
                        product.set(low, slot, x + y);
                        product.set(low + distance, slot, x - y);
                    }
                }
                /// between lanes
                for row in 0..rows {
                    for distance in lane_distances() {
                        let x = product.get(row, slot);
                        let other = shuffle_xor(x, distance);
                        let is_low = lane_index() & distance == 0;
                        product.set(row, slot, select(is_low, x + other, other - x));
                    }
                }
            }
        }
    }
    turn_signs(block, sums, SIGNS_1, NORMALISE);
}

/// Distances between lanes that hold different rows of the same columns.
fn lane_distances() -> Vec<usize> {
    let lanes = 16 / Products::<f32>::lane_rows();
    let between = 32 / lanes;
    (0..5).map(|bit| 1 << bit).filter(|d| *d >= between).collect()
}

/// Multiplies each sum by its value's sign and by a factor.
#[tile_fn]
fn turn_signs(block: &Block, sums: Products<f32>, signs: [u32; 4], factor: f32) {
    let tiles = block.shape.tiles;
    for part in unrolled(0..block.value_tiles()) {
        for row in 0..Products::<f32>::lane_rows() {
            let dim = block.values.places.dim_of_row(part, Products::<f32>::row(row));
            let sign = with_sign(f32(factor), word_of(signs, dim / 32), dim % 32);
            for tile in unrolled(0..tiles) {
                let product = sums.at(part * tiles + tile);
                for slot in 0..Products::<f32>::lane_columns() {
                    product.set(row, slot, product.get(row, slot) * sign);
                }
            }
        }
    }
}
