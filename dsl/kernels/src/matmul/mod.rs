//! Matrix products.

pub mod codec;
pub mod q4_0;
pub mod q4_k;
pub mod q6_k;
pub mod q8_0;
pub mod row_product;
pub mod tiled;
