//! Saving a slot's cache to a file and taking it back.

use std::path::Path;

use tilekiln_kernels::attention::pages::PAGE;

use super::Target;
use crate::gguf;
use crate::kv::Sequence;
use crate::kv::saved::{self, Header, SaveError, SavedLayer};
use crate::model::ModelError;
use crate::plan::BufferId;

/// Bytes of each tensor that the fingerprint of a model looks at.
const SAMPLE_BYTES: usize = 4096;

/// A number that tells models apart: of the names, sizes and first bytes of all tensors.
pub(super) fn fingerprint(file: &gguf::File) -> Result<String, gguf::Error> {
    let mut hasher = blake3::Hasher::new();
    for tensor in file.tensors() {
        let bytes = file.bytes(tensor)?;
        hasher.update(tensor.name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes[..bytes.len().min(SAMPLE_BYTES)]);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// One side of a layer's cache, and the pages of it that a slot uses.
struct Side {
    buffer: BufferId,
    page_bytes: usize,
    slot_pages: usize,
    /// Of the slot, in the buffer.
    first_entry: usize,
}

impl Side {
    /// The byte at which page `number` of the sequence lies.
    fn place(&self, number: usize) -> usize {
        (self.first_entry + number % self.slot_pages) * self.page_bytes
    }
}

impl Target {
    fn sides(&self, layer: usize, slot: usize) -> Option<[Side; 2]> {
        let cache = self.caches[layer]?;
        let shape = &self.config.shape.layers[layer];
        let slot_pages = cache.slot_pages as usize;
        let side = |buffer, page_bytes: usize| Side {
            buffer,
            page_bytes: shape.kv_heads * page_bytes,
            slot_pages,
            first_entry: slot * slot_pages,
        };
        let [keys, values] = cache.types.page_bytes(shape.head_dim);
        Some([side(cache.keys, keys), side(cache.values, values)])
    }

    fn layout(&self) -> String {
        format!("{:?}", self.machine.device().properties().target.fragments)
    }

    /// Saves what a slot's cache holds of a sequence. Returns the bytes of the file.
    ///
    /// # Errors
    /// Those of the device and of the file system.
    pub fn save_slot(&self, slot: usize, sequence: &Sequence, path: &Path) -> Result<u64, ModelError> {
        let mut layers = Vec::new();
        let mut pages = Vec::new();
        for (index, layer) in self.config.shape.layers.iter().enumerate() {
            let (Some(sides), Some(cache)) = (self.sides(index, slot), self.caches[index]) else {
                continue;
            };
            let end = sequence.high().div_ceil(PAGE);
            let first_page = end.saturating_sub(cache.slot_pages as usize);
            let mut sizes = [0; 2];
            for (side, size) in sides.iter().zip(&mut sizes) {
                let mut bytes = Vec::with_capacity((end - first_page) * side.page_bytes);
                for number in first_page..end {
                    bytes.extend(
                        self.machine
                            .read::<u8>(side.buffer, side.place(number), side.page_bytes)?,
                    );
                }
                *size = bytes.len();
                pages.push(bytes);
            }
            layers.push(SavedLayer {
                layer: index,
                kv_heads: layer.kv_heads,
                head_dim: layer.head_dim,
                keys: cache.types.keys.to_string(),
                values: cache.types.values.to_string(),
                first_page,
                pages: end - first_page,
                key_bytes: sizes[0],
                value_bytes: sizes[1],
            });
        }
        let header = Header {
            model: self.config.name.clone(),
            fingerprint: self.fingerprint.clone(),
            layout: self.layout(),
            tokens: sequence.tokens().to_vec(),
            high: sequence.high(),
            layers,
        };
        Ok(saved::write(path, &header, &pages)?)
    }

    /// Takes back what was saved. The slot holds the sequence that is returned; on an error it holds what it held.
    ///
    /// # Errors
    /// Files that are damaged or belong to another model, other formats or a longer context; those of the device.
    pub fn restore_slot(&mut self, slot: usize, path: &Path) -> Result<Sequence, ModelError> {
        let (header, pages) = saved::read(path)?;
        self.check(&header, path)?;
        let mut pages = pages.into_iter();
        for saved in &header.layers {
            let Some(sides) = self.sides(saved.layer, slot) else {
                continue;
            };
            for side in sides {
                let bytes = pages.next().unwrap_or_default();
                // a smaller ring has room for the newest pages
                let skip = saved.pages.saturating_sub(side.slot_pages);
                for (index, page) in bytes.chunks_exact(side.page_bytes).enumerate().skip(skip) {
                    let place = side.place(saved.first_page + index);
                    self.machine.write_at::<u8>(side.buffer, place, page)?;
                }
            }
        }
        Ok(Sequence::restored(header.tokens, header.high))
    }

    /// Whether what a file holds belongs to this model as it is loaded.
    fn check(&self, header: &Header, path: &Path) -> Result<(), SaveError> {
        let geometry = &self.options.geometry;
        SaveError::differs(path, "model", &header.model, &self.config.name)?;
        SaveError::differs(path, "hash of the weights", &header.fingerprint, &self.fingerprint)?;
        SaveError::differs(path, "order of pages", &header.layout, self.layout())?;
        if header.tokens.len() > header.high || header.high > geometry.context {
            return Err(SaveError::Mismatch {
                path: path.to_owned(),
                what: "length".to_owned(),
                found: header.high.to_string(),
                wanted: format!("at most {} (-c)", geometry.context),
            });
        }
        if let Some(token) = header.tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            return Err(SaveError::damaged(path, format!("there is no token {token}")));
        }
        let owners: Vec<usize> = (0..self.caches.len())
            .filter(|layer| self.caches[*layer].is_some())
            .collect();
        let found: Vec<usize> = header.layers.iter().map(|layer| layer.layer).collect();
        SaveError::differs(path, "list of layers", format!("{found:?}"), format!("{owners:?}"))?;
        for saved in &header.layers {
            let Some(cache) = self.caches[saved.layer] else {
                continue;
            };
            let what = |name: &str| format!("{name} of layer {}", saved.layer);
            let types = cache.types;
            SaveError::differs(path, what("format of keys"), &saved.keys, types.keys)?;
            SaveError::differs(path, what("format of values"), &saved.values, types.values)?;
            let end = header.high.div_ceil(PAGE);
            let layer = &self.config.shape.layers[saved.layer];
            let pages = types.page_bytes(layer.head_dim);
            let sizes = pages.map(|bytes| saved.pages * layer.kv_heads * bytes);
            if [saved.key_bytes, saved.value_bytes] != sizes || saved.first_page + saved.pages != end {
                let what = format!(
                    "the pages of layer {} are not as many as its sequence needs",
                    saved.layer
                );
                return Err(SaveError::damaged(path, what));
            }
        }
        Ok(())
    }
}
