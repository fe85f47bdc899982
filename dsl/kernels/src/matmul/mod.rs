//! Matrix products.

pub mod candidates;
pub mod codec;
pub mod floats;
pub mod linear;
pub mod packed;
pub mod prepare;
pub mod q4_0;
pub mod q4_k;
pub mod q5_0;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod quantise;
pub mod row_product;
pub mod tiled;
pub mod weights;
