//! Attention end to end on any device: caches filled by `cache_write`, queries by `prepare_queries`, results of the
//! kernels that [`shapes`](tilekiln_kernels::attention::shapes) chooses against an f64 reference.
//!
//! * [`Scene`]: one pair of formats, one head_dim, sequences in their caches, and the queries at their ends. The cells of
//!   the matrix (query heads per KV head, query tokens) take their part of the same queries, so that the reference of a
//!   scene is computed once.
//! * [`decoded`]: what caches hold, value by value.
//! * [`expected`]: the reference, with bounds.
//! * [`matrix`]: all cells, and the table of their errors.
//!
//! **What is compared with what.** The reference of the flash kernels reads prepared queries and cached values as a
//! matrix instruction is fed with them: f16 (two terms of bf16) of the values that the cache holds. What remains is the
//! arithmetic: f32 sums, exponentials, weights of f16. `attend_exact` is held to the values of the cache themselves. How
//! well caches and queries are made is the business of the cases of `cache_write`, `cache_read` and `prepare_queries`.

pub mod decoded;
pub mod expected;
pub mod matrix;
pub mod scene;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tilekiln_dsl::prelude::KernelDef;
use tilekiln_dsl::target::Target;
use tilekiln_runtime::device::{Device, Loaded};

use crate::cases::CaseError;

pub use scene::{Row, Scene, Setup};

/// Kernels of one device, loaded when they are first asked for, or many at once.
pub struct Kernels<'a> {
    /// The device.
    pub device: &'a dyn Device,
    /// What kernels are recorded for.
    pub target: &'a Target,
    loaded: Mutex<BTreeMap<String, Loaded>>,
}

impl<'a> Kernels<'a> {
    /// None yet.
    pub fn new(device: &'a dyn Device, target: &'a Target) -> Self {
        Self {
            device,
            target,
            loaded: Mutex::new(BTreeMap::new()),
        }
    }

    /// Loads kernels together, so that a device compiles them in parallel.
    ///
    /// # Errors
    /// A kernel is rejected, or does not compile.
    pub fn load(&self, wanted: impl IntoIterator<Item = KernelDef>) -> Result<(), CaseError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = BTreeMap::new();
        for def in wanted {
            if !loaded.contains_key(&def.symbol()) {
                missing.insert(def.symbol(), def);
            }
        }
        let mut kernels = Vec::with_capacity(missing.len());
        for def in missing.values() {
            kernels.push(Arc::new(def.record(self.target)?));
        }
        for kernel in self.device.load(kernels)? {
            loaded.insert(kernel.symbol.clone(), kernel);
        }
        Ok(())
    }

    /// One kernel.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn get(&self, def: KernelDef) -> Result<Loaded, CaseError> {
        let symbol = def.symbol();
        self.load([def])?;
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(loaded[&symbol].clone())
    }

    /// Everything that was loaded.
    pub fn all(&self) -> Vec<Loaded> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.values().cloned().collect()
    }
}
