//! What tests of more than one crate share: reference implementations in f64, golden vectors, random inputs, and
//! tolerances.
//!
//! * [`mod@reference`]: what each proof kernel must compute, one file an algorithm, written for obviousness.
//! * [`tolerance`]: how far a result may be from its reference, derived from types and reduction lengths, and the
//!   [`tolerance::Comparison`] that decides.
//! * [`random`]: inputs from a fixed seed, changed with `TILEKILN_SEED`.
//! * [`golden`]: vectors produced by other implementations, found through `TILEKILN_SHARED`.
//! * [`attention`]: attention end to end over caches of any formats, and the matrix of all its cells.
//! * [`cases`]: every proof kernel against its reference, on any device.
//! * [`requirement`]: skipping a test aloud, unless `TILEKILN_REQUIRE` forbids that.
//! * [`variants`]: the kernels and settings whose generated text is reviewed and compiled.

pub mod attention;
pub mod cases;
pub mod golden;
pub mod random;
pub mod reference;
pub mod requirement;
pub mod tolerance;
pub mod variants;
