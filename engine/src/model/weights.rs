//! Finds a model's tensors in its file, checks their shapes, and gives them buffers.

use half::{bf16, f16};
use rayon::prelude::*;

use super::ModelError;
use super::config::{Layer, LayerKind, Names, Shape};
use crate::gguf;
use crate::plan::{BufferId, BufferKind, BufferTable, Machine, Progress};

/// Kernels address the bytes of a buffer with 32 bits.
const LARGEST_BUFFER: usize = u32::MAX as usize;
/// Weights are copied in pieces of this size, to report progress between them.
const COPY_BYTES: usize = 256 << 20;

/// Consecutive rows of a matrix in one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Where they are.
    pub buffer: BufferId,
    /// The first one.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// Their size.
    pub bytes: usize,
}

/// A matrix [rows, cols] in the format of its file.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Format, as the kernels spell it.
    pub codec: &'static str,
    /// Values that a product gives.
    pub rows: usize,
    /// Values that it takes.
    pub cols: usize,
    /// One, or more where the matrix is larger than a kernel can address.
    pub parts: Vec<Part>,
}

impl Weight {
    /// Whether it consists of integers with scales.
    pub fn is_quantised(&self) -> bool {
        !matches!(self.codec, "f32" | "f16" | "bf16")
    }
}

/// What a layer that owns keys and values has beyond the others.
#[derive(Clone, Debug)]
pub struct OwnWeights {
    /// Key projection.
    pub key: Weight,
    /// Value projection; `None` where values are the key projection (k_eq_v).
    pub value: Option<Weight>,
    /// Norm of each key head.
    pub key_norm: BufferId,
}

/// What per-layer embeddings add to a layer.
#[derive(Clone, Debug)]
pub struct EmbeddingWeights {
    /// From the residual stream to the embedding's width.
    pub gate: Weight,
    /// And back.
    pub project: Weight,
    /// Norm of what comes back.
    pub post_norm: BufferId,
}

/// The tensors of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `blk.3`
    pub name: String,
    /// Norm in front of attention.
    pub attn_norm: BufferId,
    /// Query projection.
    pub query: Weight,
    /// Norm of each query head.
    pub query_norm: BufferId,
    /// Where the layer owns keys and values.
    pub own: Option<OwnWeights>,
    /// Output projection of attention.
    pub output: Weight,
    /// Norm behind attention.
    pub post_attention_norm: BufferId,
    /// Norm in front of the feed-forward network.
    pub ffn_norm: BufferId,
    /// Gate projection.
    pub gate: Weight,
    /// Up projection.
    pub up: Weight,
    /// Down projection.
    pub down: Weight,
    /// Norm behind the feed-forward network.
    pub post_ffw_norm: BufferId,
    /// Per-layer embeddings, where the model has them.
    pub ple: Option<EmbeddingWeights>,
    /// Multiplies the residual stream at the end of the layer.
    pub scale: f32,
    /// Radians per position of each pair of elements of a head.
    pub inverse_frequency: BufferId,
}

/// Where the contents of a constant come from.
enum Source {
    /// Bytes of a tensor, from `start` on.
    File { tensor: String, start: usize, bytes: usize },
    /// Made while loading.
    Made(Vec<u8>),
}

/// Tables of rotation frequencies.
#[derive(Clone, Copy, Debug)]
pub struct Frequencies {
    sliding: BufferId,
    full: BufferId,
}

impl Frequencies {
    /// The table for layers of that kind.
    pub fn of(self, kind: LayerKind) -> BufferId {
        match kind {
            LayerKind::Sliding => self.sliding,
            LayerKind::Full => self.full,
        }
    }
}

/// Takes tensors out of a file one by one.
pub struct Loader<'a> {
    file: &'a gguf::File,
    names: Names,
    sources: Vec<(BufferId, Source)>,
}

impl<'a> Loader<'a> {
    /// Takes tensors by the names of that layout.
    pub fn new(file: &'a gguf::File, names: Names) -> Self {
        Self {
            file,
            names,
            sources: Vec::new(),
        }
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file.tensor(&self.names.tensor(name)).is_some()
    }

    fn tensor(&self, name: &str, dims: &[usize]) -> Result<&'a gguf::TensorInfo, ModelError> {
        let name = self.names.tensor(name);
        let Some(info) = self.file.tensor(&name) else {
            return Err(ModelError::MissingTensor {
                name,
                dims: dims.to_vec(),
            });
        };
        // trailing dimensions of 1 are the same shape
        let strip = |dims: &[usize]| {
            let ones = dims.iter().rev().take_while(|dim| **dim == 1).count();
            dims[..dims.len() - ones.min(dims.len() - 1)].to_vec()
        };
        let found = info.dims.to_vec();
        if strip(&found) != strip(dims) {
            return Err(ModelError::WrongShape {
                name,
                found,
                wanted: dims.to_vec(),
            });
        }
        Ok(info)
    }

    /// A matrix for embeddings, in as many parts as needed.
    pub fn table(
        &mut self,
        table: &mut BufferTable,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, ModelError> {
        let info = self.tensor(name, &[cols, rows])?;
        let codec = info.kind.codec().ok_or_else(|| ModelError::UnsupportedType {
            name: info.name.to_string(),
            kind: info.kind.to_string(),
        })?;
        if !cols.is_multiple_of(32) {
            return Err(ModelError::UnalignedRows {
                name: info.name.to_string(),
                cols,
            });
        }
        let bytes = self.file.bytes(info)?;
        let row_bytes = bytes.len() / rows.max(1);
        let rows_per_part = (LARGEST_BUFFER / row_bytes.max(1)).max(1);
        let mut parts = Vec::new();
        for first_row in (0..rows).step_by(rows_per_part) {
            let rows = rows_per_part.min(rows - first_row);
            let size = rows * row_bytes;
            let buffer = table.add(&info.name, BufferKind::Constant, size);
            let source = Source::File {
                tensor: info.name.to_string(),
                start: first_row * row_bytes,
                bytes: size,
            };
            self.sources.push((buffer, source));
            parts.push(Part {
                buffer,
                first_row,
                rows,
                bytes: size,
            });
        }
        Ok(Weight {
            codec,
            rows,
            cols,
            parts,
        })
    }

    /// A matrix for products.
    pub fn matrix(
        &mut self,
        table: &mut BufferTable,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, ModelError> {
        let weight = self.table(table, name, rows, cols)?;
        if weight.parts.len() > 1 {
            return Err(ModelError::TooLarge {
                name: self.names.tensor(name),
            });
        }
        Ok(weight)
    }

    /// A vector, as f32.
    pub fn vector(&mut self, table: &mut BufferTable, name: &str, len: usize) -> Result<BufferId, ModelError> {
        let values = self.values(name, len)?;
        Ok(self.made(table, &self.names.tensor(name), bytemuck::cast_slice(&values)))
    }

    /// The values of a vector.
    pub fn values(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let info = self.tensor(name, &[len])?;
        let bytes = self.file.bytes(info)?;
        let halves = || bytes.as_chunks::<2>().0.iter().copied();
        Ok(match info.kind.codec() {
            Some("f32") => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| f32::from_le_bytes(*word))
                .collect(),
            Some("f16") => halves().map(|half| f16::from_le_bytes(half).to_f32()).collect(),
            Some("bf16") => halves().map(|half| bf16::from_le_bytes(half).to_f32()).collect(),
            _ => {
                return Err(ModelError::UnsupportedType {
                    name: info.name.to_string(),
                    kind: format!("{} (a vector has to be F32, F16 or BF16)", info.kind),
                });
            }
        })
    }

    /// Whole numbers (I32) of a tensor.
    pub fn integers(&self, name: &str, len: usize) -> Result<Vec<i32>, ModelError> {
        let info = self.tensor(name, &[len])?;
        if info.kind != gguf::TensorType::I32 {
            return Err(ModelError::UnsupportedType {
                name: info.name.to_string(),
                kind: format!("{} (it has to be I32)", info.kind),
            });
        }
        let bytes = self.file.bytes(info)?;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| i32::from_le_bytes(*word))
            .collect())
    }

    /// A constant that is not in the file.
    pub fn made(&mut self, table: &mut BufferTable, name: &str, bytes: &[u8]) -> BufferId {
        let id = table.add(name, BufferKind::Constant, bytes.len());
        self.sources.push((id, Source::Made(bytes.to_vec())));
        id
    }

    /// Rows of a matrix: its second dimension.
    pub fn rows(&self, name: &str) -> Result<usize, ModelError> {
        let name = self.names.tensor(name);
        match self.file.tensor(&name) {
            Some(info) if info.rows() > 0 && u32::try_from(info.rows()).is_ok() => Ok(info.rows()),
            Some(info) => Err(ModelError::BadValue {
                key: name,
                found: format!("a tensor of {} rows", info.rows()),
                wanted: "one row per token of the vocabulary is needed".to_owned(),
            }),
            None => Err(ModelError::MissingTensor { name, dims: Vec::new() }),
        }
    }

    /// Radians per position for the layers of both kinds.
    pub fn frequencies(&mut self, table: &mut BufferTable, shape: &Shape) -> Result<Frequencies, ModelError> {
        let mut made = |kind: LayerKind, name: &str| -> Result<Option<BufferId>, ModelError> {
            let Some(head_dim) = shape.head_dim(kind) else {
                return Ok(None);
            };
            let divisors = if kind == LayerKind::Full && self.has("rope_freqs.weight") {
                Some(self.values("rope_freqs.weight", head_dim / 2)?)
            } else {
                None
            };
            if let Some(bad) = divisors
                .iter()
                .flatten()
                .find(|divisor| divisor.is_nan() || **divisor <= 0.0)
            {
                return Err(ModelError::BadValue {
                    key: "rope_freqs.weight".to_owned(),
                    found: bad.to_string(),
                    wanted: "divisors of frequencies have to be positive".to_owned(),
                });
            }
            let values = shape.inverse_frequencies(kind, head_dim, divisors.as_deref());
            Ok(Some(self.made(table, name, bytemuck::cast_slice(&values))))
        };
        let sliding = made(LayerKind::Sliding, "inverse_frequency.sliding")?;
        let full = made(LayerKind::Full, "inverse_frequency.full")?;
        match (sliding, full) {
            (Some(sliding), full) => Ok(Frequencies {
                sliding,
                full: full.unwrap_or(sliding),
            }),
            (None, Some(full)) => Ok(Frequencies { sliding: full, full }),
            (None, None) => Err(ModelError::BadValue {
                key: "block_count".to_owned(),
                found: "0".to_owned(),
                wanted: "it has to be at least 1".to_owned(),
            }),
        }
    }

    /// The tensors of layer `index`. `own` layers have keys and values of their own; `ple` is the width of per-layer
    /// embeddings, 0 for none; `inverse_frequency` is for the layer's head dim.
    pub fn layer(
        &mut self,
        table: &mut BufferTable,
        shape: &Shape,
        index: usize,
        (own, ple, inverse_frequency): (bool, usize, BufferId),
    ) -> Result<LayerWeights, ModelError> {
        let Layer {
            head_dim,
            kv_heads,
            ffn,
            ..
        } = shape.layers[index];
        let (hidden, all_heads) = (shape.hidden, shape.heads * head_dim);
        let name = format!("blk.{index}");
        let at = |suffix: &str| format!("{name}.{suffix}.weight");
        let own = if own {
            let value = at("attn_v");
            Some(OwnWeights {
                key: self.matrix(table, &at("attn_k"), kv_heads * head_dim, hidden)?,
                value: if self.has(&value) {
                    Some(self.matrix(table, &value, kv_heads * head_dim, hidden)?)
                } else {
                    None
                },
                key_norm: self.vector(table, &at("attn_k_norm"), head_dim)?,
            })
        } else {
            None
        };
        let ple = if ple > 0 {
            Some(EmbeddingWeights {
                gate: self.matrix(table, &at("inp_gate"), ple, hidden)?,
                project: self.matrix(table, &at("proj"), hidden, ple)?,
                post_norm: self.vector(table, &at("post_norm"), hidden)?,
            })
        } else {
            None
        };
        let scale = at("layer_output_scale");
        let scale = if self.has(&scale) {
            self.values(&scale, 1)?[0]
        } else {
            1.0
        };
        Ok(LayerWeights {
            attn_norm: self.vector(table, &at("attn_norm"), hidden)?,
            query: self.matrix(table, &at("attn_q"), all_heads, hidden)?,
            query_norm: self.vector(table, &at("attn_q_norm"), head_dim)?,
            own,
            output: self.matrix(table, &at("attn_output"), hidden, all_heads)?,
            post_attention_norm: self.vector(table, &at("post_attention_norm"), hidden)?,
            ffn_norm: self.vector(table, &at("ffn_norm"), hidden)?,
            gate: self.matrix(table, &at("ffn_gate"), ffn, hidden)?,
            up: self.matrix(table, &at("ffn_up"), ffn, hidden)?,
            down: self.matrix(table, &at("ffn_down"), hidden, ffn)?,
            post_ffw_norm: self.vector(table, &at("post_ffw_norm"), hidden)?,
            ple,
            scale,
            inverse_frequency,
            name,
        })
    }

    /// What has to be copied to the device.
    pub fn finish(self) -> Contents {
        Contents { sources: self.sources }
    }
}

/// The contents of a model's constants.
pub struct Contents {
    sources: Vec<(BufferId, Source)>,
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
            Source::File { bytes, .. } => *bytes,
            Source::Made(bytes) => bytes.len(),
        };
        let total = self.sources.iter().map(|(_, source)| size(source)).sum();
        let mut done = 0;
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
                Source::Made(bytes) => {
                    machine.reserve_constant(*id, bytes.len())?;
                    machine.copy_constant(*id, 0, bytes)?;
                    done += bytes.len();
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
