//! Names an author's name must not become in a CUDA file, beyond those of both languages.

/// None: CUDA's names are all reserved in HIP too, so that one kernel reads alike in both.
pub(super) const RESERVED: &[&str] = &[];
