//! Block-quantised weights and int8 activations.
//!
//! * [`BlockFormat`]: the six weight formats, decoded to f64 as the file format defines them.
//! * [`encode`]: a simple valid encoder for each, so that tests also see weights that came from numbers.
//! * [`Activations`]: int8 activations, 32 to a scale.
//! * [`row_product`]: weights times activations, with the magnitudes the tolerances need.

mod activations;
mod decode;
mod encode;
mod product;

pub use activations::{ACTIVATION_BLOCK, Activations};
pub use decode::{BlockFormat, Term};
pub use encode::encode;
pub use product::{matrix_product, row_product, row_product_int8};
