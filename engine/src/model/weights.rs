//! Finds a model's tensors in its file, checks their shapes, and gives them buffers.
//!
//! Matrices for products become packed ones where that is asked for and their format can be packed; several that take the
//! same activations become one where one launch can multiply them. What is packed is not kept in the layout of the file
//! as well.

mod contents;
mod joined;

use half::{bf16, f16};
use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::matmul::packed::SUB_BLOCK;
use tilekiln_kernels::matmul::weights::{Packing, WEIGHTS};

use super::ModelError;
use super::config::{Layer, LayerKind, Names, Shape};
use super::repack::{Order, Repacked};
use crate::gguf;
use crate::plan::{BufferId, BufferKind, BufferTable};

pub use contents::Contents;
use contents::{Source, repacking};
pub use joined::{GateUp, LayerExtent, Projections};

/// Kernels address the bytes of a buffer with 32 bits.
const LARGEST_BUFFER: usize = u32::MAX as usize;

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

/// How a matrix takes its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// As f32: it is in the layout of its file.
    Floats,
    /// As int8: it is packed.
    Int8,
    /// As sums of 16-bit floats of its own type: it is packed.
    Halves(&'static str),
}

/// A matrix [rows, cols] in a format of its file.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Format, as the kernels spell it in the layout of the file.
    pub codec: &'static str,
    /// Whether it is in the order of matrix instructions.
    pub packed: bool,
    /// Values that a product gives.
    pub rows: usize,
    /// Values that it takes.
    pub cols: usize,
    /// One, or more where a table is larger than a kernel can address.
    pub parts: Vec<Part>,
}

impl Weight {
    /// How it takes its activations.
    pub fn takes(&self) -> Takes {
        match self.codec {
            _ if !self.packed => Takes::Floats,
            "f16" | "bf16" => Takes::Halves(self.codec),
            _ => Takes::Int8,
        }
    }

    /// Its format for kernels that look rows up.
    pub fn format(&self) -> String {
        let layout = if self.packed { "packed_" } else { "" };
        format!("{layout}{}", self.codec)
    }

    /// Its bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

fn packing(codec: &str) -> Option<&'static Packing> {
    WEIGHTS.iter().find(|weight| weight.name == codec)?.packing.as_ref()
}

/// What a layer that owns keys and values has beyond the others.
#[derive(Clone, Debug)]
pub struct OwnWeights {
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
    /// Queries, and keys and values where the layer owns some.
    pub projections: Projections,
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
    /// Gate and up projections.
    pub gate_up: GateUp,
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
    /// The order in which matrices are packed, if they are.
    layout: Option<FragmentLayout>,
    sources: Vec<(BufferId, Source)>,
    widest_halves: usize,
}

impl<'a> Loader<'a> {
    /// Takes tensors by those names. With a `layout`, matrices for products are packed.
    pub fn new(file: &'a gguf::File, names: Names, layout: Option<FragmentLayout>) -> Self {
        Self {
            file,
            names,
            layout,
            sources: Vec::new(),
            widest_halves: 0,
        }
    }

    /// Columns of the widest packed matrix of 16-bit floats so far.
    pub fn widest_halves(&self) -> usize {
        self.widest_halves
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

    /// A matrix, and its format.
    fn find(&self, name: &str, rows: usize, cols: usize) -> Result<(&'a gguf::TensorInfo, &'static str), ModelError> {
        let info = self.tensor(name, &[cols, rows])?;
        let codec = info.kind.codec().ok_or_else(|| ModelError::UnsupportedType {
            name: info.name.to_string(),
            kind: info.kind.to_string(),
        })?;
        if !cols.is_multiple_of(SUB_BLOCK) {
            return Err(ModelError::UnalignedRows {
                name: info.name.to_string(),
                cols,
            });
        }
        Ok((info, codec))
    }

    /// A matrix for embeddings as it is in the file, in as many parts as needed.
    pub fn table(
        &mut self,
        table: &mut BufferTable,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, ModelError> {
        let (info, codec) = self.find(name, rows, cols)?;
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
            packed: false,
            rows,
            cols,
            parts,
        })
    }

    /// A matrix for products: packed, if that is wanted and can be.
    pub fn matrix(
        &mut self,
        table: &mut BufferTable,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, ModelError> {
        let (_, codec) = self.find(name, rows, cols)?;
        if let Some(layout) = self.layout.filter(|_| packing(codec).is_some()) {
            let tensor = self.names.tensor(name);
            return self.joined(table, &tensor, &[(name, rows)], cols, (layout, Order::OneAfterAnother));
        }
        let weight = self.table(table, name, rows, cols)?;
        if weight.parts.len() > 1 {
            return Err(ModelError::TooLarge {
                name: self.names.tensor(name),
            });
        }
        Ok(weight)
    }

    /// Matrices of one format that can be packed, as one.
    fn joined(
        &mut self,
        table: &mut BufferTable,
        joined_name: &str,
        matrices: &[(&str, usize)],
        cols: usize,
        (layout, order): (FragmentLayout, Order),
    ) -> Result<Weight, ModelError> {
        let mut tensors = Vec::new();
        let mut contents = Vec::new();
        let mut codec = "";
        let mut rows = 0;
        for (name, matrix_rows) in matrices {
            let (info, of_matrix) = self.find(name, *matrix_rows, cols)?;
            tensors.push(info.name.to_string());
            contents.push(self.file.bytes(info)?);
            codec = of_matrix;
            rows += matrix_rows;
        }
        let packed = Repacked::joined(codec, layout, cols, &contents, order);
        let bytes = packed.map_err(|error| repacking(joined_name, error))?.bytes();
        if bytes > LARGEST_BUFFER {
            return Err(ModelError::TooLarge {
                name: joined_name.to_owned(),
            });
        }
        let buffer = table.add(joined_name, BufferKind::Constant, bytes);
        let source = Source::Packed {
            tensors,
            codec,
            cols,
            layout,
            order,
            bytes,
        };
        self.sources.push((buffer, source));
        let weight = Weight {
            codec,
            packed: true,
            rows,
            cols,
            parts: vec![Part {
                buffer,
                first_row: 0,
                rows,
                bytes,
            }],
        };
        if let Takes::Halves(_) = weight.takes() {
            self.widest_halves = self.widest_halves.max(cols);
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

    /// The numbers `0..count`, as u32.
    pub fn counting(&mut self, table: &mut BufferTable, name: &str, count: u32) -> BufferId {
        let id = table.add(name, BufferKind::Constant, 4 * count as usize);
        self.sources.push((id, Source::Counting(count)));
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

    /// The tensors of layer `index`; `inverse_frequency` is for its head dim.
    pub fn layer(
        &mut self,
        table: &mut BufferTable,
        shape: &Shape,
        index: usize,
        extent: LayerExtent,
        inverse_frequency: BufferId,
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
        let projections = self.projections(table, &name, [all_heads, kv_heads * head_dim], hidden, extent)?;
        let ple = extent.ple;
        let own = if extent.owns_keys {
            Some(OwnWeights {
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
            projections,
            query_norm: self.vector(table, &at("attn_q_norm"), head_dim)?,
            own,
            output: self.matrix(table, &at("attn_output"), hidden, all_heads)?,
            post_attention_norm: self.vector(table, &at("post_attention_norm"), hidden)?,
            ffn_norm: self.vector(table, &at("ffn_norm"), hidden)?,
            gate_up: self.gate_up(table, &name, [ffn, hidden])?,
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
