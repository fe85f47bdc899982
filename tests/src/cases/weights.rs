//! What cases of kernels over weight formats share: random matrices of every format, and the check that a token's
//! results do not depend on what else is computed with it.

use std::ops::Range;

use half::{bf16, f16};
use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::matmul::packed::TILE_ROWS;
use tilekiln_kernels::matmul::weights::WEIGHTS;
use tilekiln_runtime::device::Loaded;

use super::{CaseError, Trial};
use crate::random::Random;
use crate::reference::quant::BlockFormat;
use crate::reference::widen;

/// A weight format.
#[derive(Clone, Copy)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    Blocks(BlockFormat),
    /// Blocks in the order of the target's matrix instructions.
    Packed(BlockFormat),
    PackedF16,
    PackedBf16,
}

/// A random matrix.
pub(super) struct Matrix {
    /// As a kernel reads it.
    pub bytes: Vec<u8>,
    /// What it stands for.
    pub values: Vec<f64>,
}

impl Format {
    pub const ALL: [Self; 17] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Blocks(BlockFormat::Q4_0),
        Self::Blocks(BlockFormat::Q5_0),
        Self::Blocks(BlockFormat::Q8_0),
        Self::Blocks(BlockFormat::Q4_K),
        Self::Blocks(BlockFormat::Q5_K),
        Self::Blocks(BlockFormat::Q6_K),
        Self::Packed(BlockFormat::Q4_0),
        Self::Packed(BlockFormat::Q5_0),
        Self::Packed(BlockFormat::Q8_0),
        Self::Packed(BlockFormat::Q4_K),
        Self::Packed(BlockFormat::Q5_K),
        Self::Packed(BlockFormat::Q6_K),
        Self::PackedF16,
        Self::PackedBf16,
    ];

    /// The setting that selects it.
    pub fn setting(self) -> String {
        format!("weight={}", self.name())
    }

    /// Its name as kernels call it.
    pub fn name(self) -> String {
        let name = match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Blocks(format) => format.name(),
            Self::Packed(_) | Self::PackedF16 | Self::PackedBf16 => return format!("packed_{}", self.in_file().name()),
        };
        name.to_lowercase()
    }

    /// The format that a file has where this is packed.
    fn in_file(self) -> Self {
        match self {
            Self::Packed(format) => Self::Blocks(format),
            Self::PackedF16 => Self::F16,
            Self::PackedBf16 => Self::Bf16,
            other => other,
        }
    }

    /// Values that kernels take at once, at least.
    pub fn elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::PackedF16 | Self::PackedBf16 => 32,
            Self::Blocks(format) | Self::Packed(format) => format.elements(),
        }
    }

    /// A random matrix for the kernel of a trial.
    pub fn matrix(self, trial: &mut Trial<'_>, rows: usize, cols: usize) -> Matrix {
        let layout = trial.target().fragments;
        let matrix = self.in_file().random(&mut trial.random, rows, cols);
        match self {
            Self::Packed(_) | Self::PackedF16 | Self::PackedBf16 => Matrix {
                bytes: self.in_file().pack(layout, &matrix.bytes, rows, cols),
                ..matrix
            },
            _ => matrix,
        }
    }

    fn random(self, random: &mut Random, rows: usize, cols: usize) -> Matrix {
        let count = rows * cols;
        match self {
            Self::F32 => {
                let values = random.normals(count, 0.1);
                Matrix {
                    bytes: bytemuck::cast_slice(&values).to_vec(),
                    values: widen(&values),
                }
            }
            Self::F16 => {
                let values: Vec<f16> = random.normals_f16(count, 0.1);
                Matrix {
                    bytes: bytemuck::cast_slice(&values).to_vec(),
                    values: widen(&values),
                }
            }
            Self::Bf16 => {
                let values: Vec<bf16> = random.normals_bf16(count, 0.1);
                Matrix {
                    bytes: bytemuck::cast_slice(&values).to_vec(),
                    values: widen(&values),
                }
            }
            // scales may be zero, but a lone block of zeros would prove nothing
            Self::Blocks(format) => loop {
                let bytes = random.blocks(format, count / format.elements());
                let values = format.decode(&bytes);
                if values.iter().any(|&value| value != 0.0) {
                    break Matrix { bytes, values };
                }
            },
            packed => packed.in_file().random(random, rows, cols),
        }
    }

    /// Rows of a file of this format in the order of a layout.
    pub fn pack(self, layout: FragmentLayout, file: &[u8], rows: usize, cols: usize) -> Vec<u8> {
        let name = self.name();
        let weight = WEIGHTS.iter().find(|weight| weight.name == name);
        let packing = weight.and_then(|weight| weight.packing.as_ref());
        let packer = (packing.expect("a format that can be packed").packer)(layout);
        let row_bytes = file.len() / rows;
        let mut packed = vec![0; packer.bytes(rows, cols)];
        let group_bytes = packer.bytes(1, cols);
        let groups = file
            .chunks(TILE_ROWS * row_bytes)
            .zip(packed.chunks_exact_mut(group_bytes));
        groups.for_each(|(rows, group)| packer.pack_group(rows, row_bytes, group));
        packed
    }
}

/// Bits, because equal numbers are not enough.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// One launch of a kernel over some tokens of a case's inputs: the kernel and its tokens per block.
pub(super) struct Launch<'a> {
    pub kernel: Option<&'a Loaded>,
    pub tile: usize,
    pub tokens: Range<usize>,
}

/// Checks that rows of `got`, one for each token, come out bit for bit the same alone, among some of the others, and in
/// a kernel of another tile.
pub(super) fn check_invariance(
    trial: &mut Trial<'_>,
    (tile, other_tile, other): (usize, usize, &Loaded),
    tokens: usize,
    got: &[f32],
    launch: impl Fn(&mut Trial<'_>, Launch<'_>) -> Result<Vec<f32>, CaseError>,
) -> Result<(), CaseError> {
    let row = got.len() / tokens;
    let of = |range: &Range<usize>| bits(&got[range.start * row..range.end * row]);
    for range in [0..1, tokens - 1..tokens, tokens / 2..tokens] {
        let alone = Launch {
            kernel: None,
            tile,
            tokens: range.clone(),
        };
        let result = launch(trial, alone)?;
        let what = format!("bits of tokens {range:?} alone");
        trial.equal(&what, &bits(&result), &of(&range));
    }
    let all = 0..tokens;
    let tiled = Launch {
        kernel: Some(other),
        tile: other_tile,
        tokens: all.clone(),
    };
    let result = launch(trial, tiled)?;
    let what = format!("bits with tile {other_tile}");
    trial.equal(&what, &bits(&result), &of(&all));
    Ok(())
}
