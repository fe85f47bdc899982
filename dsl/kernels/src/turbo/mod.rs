//! TurboQuant: groups of 128 values, normalised, rotated by a randomised Hadamard transform, each coordinate snapped to
//! a small codebook, one f16 scale per group. Source: Zandieh et al., "TurboQuant" (2025); byte layouts of the KV types
//! turbo2, turbo3, turbo4 as stored by their first implementations.

pub mod blocks;
pub mod format;
pub mod rotation;
pub mod snap;

/// Values of a group; every format has one scale per group.
pub const GROUP: usize = 128;
