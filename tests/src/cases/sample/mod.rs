//! The sampler chain, kernel by kernel, with the inputs that the kernels in front would have given: exact, with ties,
//! infinities and NaN.

mod adjust;
mod best;
mod cut;
mod draw;
mod inputs;

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    [adjust::cases(), best::cases(), cut::cases(), draw::cases()]
        .into_iter()
        .flatten()
        .collect()
}
