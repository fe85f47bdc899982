//! Rows between products: norms, the ends of branches, and the forms in which products take rows.

use super::{FLOAT, Planner, Prepared, Scratch, Sharing, THREADS};
use crate::model::Precision;
use crate::model::weights::{Takes, Weight};
use crate::plan::{BufferId, Cost, Count, Operand};
use tilekiln_kernels::matmul::packed::halves::split_tile_bytes;
use tilekiln_kernels::matmul::packed::{SUB_BLOCKS, TILE_COLS, tiles_across};

/// Threads of the blocks that prepare a row: four values each, so many times as it takes.
const PREPARE_THREADS: usize = 640;
/// Threads of the blocks that split rows.
const SPLIT_THREADS: u32 = 64;

/// Rows that products take.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// As f32, if [`Forms::floats`] was asked for.
    pub floats: BufferId,
    /// Whether they are in [`Scratch::prepared`] as well.
    pub is_prepared: bool,
}

impl Rows {
    /// Rows of f32 only.
    pub fn floats(floats: BufferId) -> Self {
        Self {
            floats,
            is_prepared: false,
        }
    }
}

/// Forms in which rows are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// f32, for matrices in the layout of the file and to be split into 16-bit floats.
    pub floats: bool,
    /// int8 in the order of matrix instructions.
    pub int8: bool,
}

impl Forms {
    /// Those that products with these matrices take.
    pub fn of<'w>(weights: impl IntoIterator<Item = &'w Weight>) -> Self {
        let mut forms = Self::default();
        for weight in weights {
            match weight.takes() {
                Takes::Int8 => forms.int8 = true,
                Takes::Floats | Takes::Halves(_) => forms.floats = true,
            }
        }
        forms
    }
}

/// A norm of the residual stream and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'l> {
    /// Its label, where it is a launch of its own.
    pub label: &'l str,
    /// Its weights.
    pub w: BufferId,
    /// Where the f32 go.
    pub to: BufferId,
    /// What products take.
    pub forms: Forms,
}

/// What comes behind the end of a branch.
#[derive(Clone, Copy, Debug)]
pub enum Next<'l> {
    /// Nothing.
    End,
    /// Products take the residual stream as it is.
    Residual(Forms),
    /// Products take its norm.
    Norm(Norm<'l>),
}

impl Planner<'_> {
    /// y = x / sqrt(mean(x²) + eps) · w of the residual stream.
    pub fn norm(&mut self, norm: Norm<'_>) -> Rows {
        if self.precision == Precision::Fast && norm.forms.int8 && !norm.forms.floats {
            self.prepare_norm(norm.label, norm.w);
        } else {
            self.rms_norm(norm.label, norm.w, norm.to);
            return Rows::floats(norm.to);
        }
        Rows {
            floats: norm.to,
            is_prepared: true,
        }
    }

    fn rms_norm(&mut self, label: &str, w: BufferId, y: BufferId) {
        let cols = self.shape.hidden;
        let operands = vec![
            Operand::Buffer(self.scratch.residual),
            Operand::Buffer(w),
            Operand::Buffer(y),
            Operand::Number(cols as u32),
            Operand::Real(self.shape.epsilon),
        ];
        let settings = ["element=f32".to_owned(), format!("threads={THREADS}")];
        let cost = Cost {
            weight_bytes: FLOAT * cols,
            operations: 3 * cols,
            ..Cost::activations(2 * FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push(label, "rms_norm", &settings, grid, operands, cost);
    }

    /// Whether the end of a branch adds parts of it. Prompts have rows enough to keep a chip busy, and parts are more to write
    /// and read.
    pub fn adds_parts(&self, next: Next<'_>) -> bool {
        let is_prepared = matches!(next, Next::Norm(_) | Next::Residual(Forms { int8: true, .. }));
        self.precision == Precision::Fast && is_prepared && matches!(self.sharing, Sharing::Decode(_))
    }

    /// The end of a branch, x = (x + norm(branch; w)) · scale, and what comes behind it: one launch for both, unless
    /// numbers are to be those of separate launches with f32 between them. The branch is the sum of `parts` parts, more than
    /// one only where [`Self::adds_parts`] says so.
    pub fn end_branch(&mut self, label: &str, w: BufferId, scale: f32, parts: usize, next: Next<'_>) -> Rows {
        let residual = Rows::floats(self.scratch.residual);
        match (self.precision, next) {
            (Precision::Fast, Next::Norm(norm)) => {
                self.prepare_residual_norm(label, w, scale, parts, norm);
                Rows {
                    floats: norm.to,
                    is_prepared: true,
                }
            }
            (Precision::Fast, Next::Residual(Forms { int8: true, .. })) => {
                self.prepare_residual(label, w, scale, parts);
                Rows {
                    is_prepared: true,
                    ..residual
                }
            }
            (_, Next::Norm(norm)) => {
                self.residual_norm(label, w, scale);
                self.norm(norm)
            }
            (_, Next::End | Next::Residual(_)) => {
                self.residual_norm(label, w, scale);
                residual
            }
        }
    }

    fn residual_norm(&mut self, label: &str, w: BufferId, scale: f32) {
        let Scratch { residual, branch, .. } = *self.scratch;
        let hidden = self.shape.hidden;
        let mut operands = [residual, branch, w].map(Operand::Buffer).to_vec();
        operands.extend([
            Operand::Number(hidden as u32),
            Operand::Real(self.shape.epsilon),
            Operand::Real(scale),
        ]);
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            weight_bytes: FLOAT * hidden,
            operations: 4 * hidden,
            ..Cost::activations(3 * FLOAT * hidden)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push(label, "residual_norm", &settings, grid, operands, cost);
    }

    fn prepare_norm(&mut self, label: &str, w: BufferId) {
        let hidden = self.shape.hidden;
        let mut operands = [self.scratch.residual, w].map(Operand::Buffer).to_vec();
        operands.extend(self.prepared_operands(self.scratch.prepared, hidden));
        operands.push(Operand::Real(self.shape.epsilon));
        let cost = Cost {
            weight_bytes: FLOAT * hidden,
            operations: 6 * hidden,
            ..Cost::activations(FLOAT * hidden + int8_bytes(hidden))
        };
        self.push_prepare(label, "prepare_norm", hidden, &[], operands, cost);
    }

    fn prepare_residual(&mut self, label: &str, w: BufferId, scale: f32, parts: usize) {
        let Scratch { residual, branch, .. } = *self.scratch;
        let hidden = self.shape.hidden;
        let mut operands = [residual, branch, w].map(Operand::Buffer).to_vec();
        operands.extend(self.prepared_operands(self.scratch.prepared, hidden));
        operands.extend([self.shape.epsilon, scale].map(Operand::Real));
        let cost = Cost {
            weight_bytes: FLOAT * hidden,
            operations: 7 * hidden,
            ..Cost::activations((2 + parts) * FLOAT * hidden + int8_bytes(hidden))
        };
        let more = [format!("parts={parts}")];
        self.push_prepare(label, "prepare_residual", hidden, &more, operands, cost);
    }

    fn prepare_residual_norm(&mut self, label: &str, w: BufferId, scale: f32, parts: usize, norm: Norm<'_>) {
        let Scratch { residual, branch, .. } = *self.scratch;
        let hidden = self.shape.hidden;
        let mut operands = [residual, branch, w, norm.w, norm.to].map(Operand::Buffer).to_vec();
        operands.extend(self.prepared_operands(self.scratch.prepared, hidden));
        operands.extend([self.shape.epsilon, scale].map(Operand::Real));
        let kept = if norm.forms.floats { FLOAT * hidden } else { 0 };
        let cost = Cost {
            weight_bytes: 2 * FLOAT * hidden,
            operations: 10 * hidden,
            ..Cost::activations((2 + parts) * FLOAT * hidden + int8_bytes(hidden) + kept)
        };
        let more = [format!("keep={}", norm.forms.floats), format!("parts={parts}")];
        self.push_prepare(label, "prepare_residual_norm", hidden, &more, operands, cost);
    }

    /// Rows of f32 as int8, in [`Scratch::prepared`].
    pub fn prepare_rows(&mut self, label: &str, x: BufferId, cols: usize) {
        let mut operands = vec![Operand::Buffer(x)];
        operands.extend(self.prepared_operands(self.scratch.prepared, cols));
        let cost = Cost {
            operations: 3 * cols,
            ..Cost::activations(FLOAT * cols + int8_bytes(cols))
        };
        self.push_prepare(label, "prepare_rows", cols, &[], operands, cost);
    }

    /// Where the int8 go, the columns, and the rows for which there is memory.
    fn prepared_operands(&self, to: Prepared, cols: usize) -> Vec<Operand> {
        let mut operands = to.operands();
        operands.extend([cols, self.scratch.stride].map(|size| Operand::Number(size as u32)));
        operands
    }

    fn push_prepare(
        &mut self,
        label: &str,
        kernel: &'static str,
        cols: usize,
        more: &[String],
        operands: Vec<Operand>,
        cost: Cost,
    ) {
        let [threads, chunks] = row_division(cols);
        let mut settings = vec![format!("threads={threads}"), format!("chunks={chunks}")];
        settings.extend_from_slice(more);
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push(label, kernel, &settings, grid, operands, cost);
    }

    /// Rows of f32 as sums of 16-bit floats, in [`Scratch::split_words`].
    pub fn split_rows(&mut self, label: &str, half: &str, x: BufferId, cols: usize) {
        let Scratch {
            split_words,
            split_scales,
            stride,
            ..
        } = *self.scratch;
        let mut operands = [x, split_words, split_scales].map(Operand::Buffer).to_vec();
        operands.extend([cols, stride].map(|size| Operand::Number(size as u32)));
        let settings = [format!("half={half}"), format!("threads={SPLIT_THREADS}")];
        let blocks = (tiles_across(cols) * TILE_COLS) as u32;
        let grid = [Count::Fixed(blocks.div_ceil(4 * SPLIT_THREADS)), Count::ROWS];
        let cost = Cost {
            operations: 4 * cols,
            ..Cost::activations(FLOAT * cols + split_bytes(half, cols))
        };
        self.push(label, "split_rows", &settings, grid, operands, cost);
    }
}

impl Prepared {
    /// The three buffers.
    pub fn operands(self) -> Vec<Operand> {
        [self.words, self.scales, self.sums].map(Operand::Buffer).to_vec()
    }
}

/// Bytes of a row of int8 with scales and sums.
pub fn int8_bytes(cols: usize) -> usize {
    tiles_across(cols) * (TILE_COLS + SUB_BLOCKS * (FLOAT + 8))
}

/// Bytes of a row as sums of 16-bit floats.
pub fn split_bytes(half: &str, cols: usize) -> usize {
    tiles_across(cols) * (split_tile_bytes(half) + SUB_BLOCKS * FLOAT)
}

/// Threads of a block that prepares a row of so many columns, and how many times each takes four values: whole tiles.
///
/// The sums of a norm depend on both, so they follow from the columns alone.
fn row_division(cols: usize) -> [usize; 2] {
    let fours = tiles_across(cols) * TILE_COLS / 4;
    let chunks = fours.div_ceil(PREPARE_THREADS);
    [fours.div_ceil(chunks).next_multiple_of(32), chunks]
}

#[cfg(test)]
mod tests {
    use super::row_division;

    #[test]
    fn threads_for_whole_tiles() {
        for (cols, want) in [
            (32, [64, 1]),
            (2560, [640, 1]),
            (2048, [512, 1]),
            (2592, [352, 2]),
            (5376, [448, 3]),
            (16384, [608, 7]),
        ] {
            let [threads, chunks] = row_division(cols);
            assert_eq!([threads, chunks], want, "{cols}");
            assert!(threads * chunks * 4 >= cols.next_multiple_of(256));
        }
    }
}
