//! TurboQuant KV-cache formats: groups of 128 values, rotated, snapped to a codebook, one f16 scale a group.
//!
//! The arithmetic follows the CPU implementation the formats come from bit for bit: f32, in the stated order, nothing
//! fused. Stored values are in the rotated domain.
//!
//! * [`rotation`]: the randomised Hadamard transform.
//! * [`Codec`]: turbo2, turbo3, turbo4: encode, decode.
//! * [`compare`]: how the bytes of another implementation differ, and which differences rounding excuses.

#[cfg(test)]
mod attention_goldens;
mod codebook;
mod codec;
pub mod compare;
pub mod rotation;

pub use codebook::{Codec, GROUP, TURBO2, TURBO3, TURBO4, TURBO4_COMPAT};
pub use codec::{EncodedGroup, ScaleRange};
