//! What is copied to a device when a model is loaded.

use rayon::prelude::*;
use tilekiln_dsl::target::FragmentLayout;

use crate::gguf;
use crate::model::ModelError;
use crate::model::repack::{Order, RepackError, Repacked, Repacker};
use crate::plan::{BufferId, Machine, Progress};

/// Weights are copied in pieces of this size, to report progress between them.
const COPY_BYTES: usize = 256 << 20;

/// Where the contents of a constant come from.
pub(super) enum Source {
    /// Bytes of a tensor, from `start` on.
    File { tensor: String, start: usize, bytes: usize },
    /// Tensors that become one packed matrix.
    Packed {
        tensors: Vec<String>,
        codec: &'static str,
        cols: usize,
        layout: FragmentLayout,
        order: Order,
        bytes: usize,
    },
    /// Made while loading.
    Made(Vec<u8>),
    /// The numbers `0..count`, as u32: made when they are copied, because plans that are never loaded may count billions.
    Counting(u32),
}

/// The contents of a model's constants.
pub struct Contents {
    pub(super) sources: Vec<(BufferId, Source)>,
}

impl Contents {
    /// Copies everything to the device.
    pub fn copy(
        &self,
        file: &gguf::File,
        machine: &mut Machine,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ModelError> {
        let size = |source: &Source| match source {
            Source::File { bytes, .. } | Source::Packed { bytes, .. } => *bytes,
            Source::Made(bytes) => bytes.len(),
            Source::Counting(count) => 4 * *count as usize,
        };
        let total = self.sources.iter().map(|(_, source)| size(source)).sum();
        let mut done = 0;
        let mut repacker = Repacker::default();
        for (id, source) in &self.sources {
            match source {
                Source::File { tensor, start, bytes } => {
                    machine.reserve_constant(*id, *bytes)?;
                    let all = file.bytes(file.need(tensor)?)?;
                    for first in (0..*bytes).step_by(COPY_BYTES) {
                        let len = COPY_BYTES.min(bytes - first);
                        let data = &all[start + first..start + first + len];
                        touch(data);
                        machine.copy_constant(*id, first, data)?;
                        done += len;
                        progress(Progress::Weights { done, total });
                    }
                }
                Source::Packed {
                    tensors,
                    codec,
                    cols,
                    layout,
                    order,
                    bytes,
                } => {
                    machine.reserve_constant(*id, *bytes)?;
                    let contents = tensors.iter().map(|tensor| file.bytes(file.need(tensor)?));
                    let contents = contents.collect::<Result<Vec<_>, _>>()?;
                    let packed = Repacked::joined(codec, *layout, *cols, &contents, *order)
                        .map_err(|error| repacking(&machine.table().spec(*id).name, error))?;
                    repacker.stream(&packed, |first, piece| {
                        machine.copy_constant(*id, first, piece)?;
                        done += piece.len();
                        progress(Progress::Weights { done, total });
                        Ok::<_, ModelError>(())
                    })?;
                }
                Source::Made(bytes) => {
                    machine.reserve_constant(*id, bytes.len())?;
                    machine.copy_constant(*id, 0, bytes)?;
                    done += bytes.len();
                }
                Source::Counting(count) => {
                    machine.reserve_constant(*id, size(source))?;
                    for first in (0..*count).step_by(COPY_BYTES / 4) {
                        let end = first.saturating_add((COPY_BYTES / 4) as u32).min(*count);
                        let words: Vec<u32> = (first..end).collect();
                        machine.copy_constant(*id, 4 * first as usize, bytemuck::cast_slice(&words))?;
                        done += 4 * words.len();
                    }
                }
            }
        }
        progress(Progress::Weights { done, total });
        Ok(())
    }
}

/// Reads one byte of every page on all threads, so that a copy from a mapped file does not wait for one page at a time.
fn touch(data: &[u8]) {
    let sum: u64 = data
        .par_chunks(1 << 20)
        .map(|chunk| chunk.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>())
        .sum();
    std::hint::black_box(sum);
}

pub(super) fn repacking(name: &str, error: RepackError) -> ModelError {
    ModelError::Repacking {
        name: name.to_owned(),
        error,
    }
}
