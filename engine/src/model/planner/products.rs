//! Products of rows with matrices, whatever layout they are in.

use tilekiln_kernels::matmul::packed::tiles_across;

use super::division::{Division, Work, has_lone};
use super::rows::{int8_bytes, split_bytes};
use super::{FLOAT, Planner, Prepared, Rows, TANH, THREADS};
use crate::model::weights::{Takes, Weight};
use crate::plan::{BufferId, Cost, Count, Divided, Operand, Product, Unit};

/// Warps of a block of a product with a matrix in the layout of its file: output values per block.
pub const WARPS: u32 = 4;
/// Rows of which one such block keeps sums, at most.
const LARGEST_TILE: u32 = 8;

/// Where the gated results of a per-layer gate have their other factor: rows of so many values, from one on.
#[derive(Clone, Copy, Debug)]
pub struct Factor {
    /// The matrix.
    pub buffer: BufferId,
    /// Values of a row.
    pub stride: usize,
    /// The first one.
    pub offset: usize,
}

impl Planner<'_> {
    /// Products of the same rows with several matrices.
    pub fn products(&mut self, label: &str, mut x: Rows, products: &[(&str, &Weight, BufferId)]) {
        let mut split = None;
        for (name, weight, y) in products {
            let of_product = format!("{label}.{name}");
            match weight.takes() {
                Takes::Floats => self.linear(&of_product, weight, x.floats, *y),
                Takes::Int8 => {
                    if !x.is_prepared {
                        self.prepare_rows(&format!("{label}.prepare"), x.floats, weight.cols);
                        x.is_prepared = true;
                    }
                    self.packed_product(&of_product, &[weight], self.scratch.prepared, *y);
                }
                Takes::Halves(half) => {
                    if split != Some(half) {
                        self.split_rows(&format!("{label}.split"), half, x.floats, weight.cols);
                        split = Some(half);
                    }
                    self.packed_halves(&of_product, half, weight, *y);
                }
            }
        }
    }

    /// A product with a matrix in the layout of its file.
    fn linear(&mut self, label: &str, weight: &Weight, x: BufferId, y: BufferId) {
        let tile = self.tile.min(LARGEST_TILE);
        for part in &weight.parts {
            let operands = vec![
                Operand::Buffer(part.buffer),
                Operand::Buffer(x),
                Operand::Buffer(y),
                Operand::Number(part.rows as u32),
                Operand::Number(weight.cols as u32),
                Operand::Count(Count::ROWS),
            ];
            let settings = [
                format!("weight={}", weight.codec),
                format!("warps={WARPS}"),
                format!("tile={tile}"),
            ];
            let blocks = Count::Fixed((part.rows as u32).div_ceil(WARPS));
            let tiles = Count::Rows { times: 1, per: tile };
            let cost = Cost {
                weight_bytes: part.bytes,
                rows_per_read: tile as usize,
                operations: part.rows * weight.cols,
                ..Cost::activations(FLOAT * (weight.cols + part.rows))
            };
            self.push(label, "linear", &settings, [blocks, tiles], operands, cost);
        }
    }

    /// One launch over one packed matrix, or over two that take the same rows: results are rows of both.
    pub fn packed_product(&mut self, label: &str, matrices: &[&Weight], x: Prepared, y: BufferId) {
        if let Some(work) = work(matrices, 1) {
            self.push_product(label, matrices, work, x, y);
        }
    }

    /// One launch over one packed matrix; returns in how many parts the results come, to be added by whoever takes them.
    pub fn packed_product_in_parts(&mut self, label: &str, matrix: &Weight, x: Prepared, y: BufferId) -> usize {
        let matrices = [matrix];
        let Some(mut work) = work(&matrices, 1) else { return 1 };
        work.may_be_split = true;
        self.push_product(label, &matrices, work, x, y)
    }

    fn push_product(&mut self, label: &str, matrices: &[&Weight], work: Work, x: Prepared, y: BufferId) -> usize {
        let (kernel, format) = match matrices {
            [one] => ("packed_product", vec![format!("weight={}", one.codec)]),
            _ => {
                let names = ["first", "second"].into_iter().zip(matrices);
                let format = names.map(|(name, weight)| format!("{name}={}", weight.codec));
                ("packed_pair", format.collect())
            }
        };
        let mut operands = buffers(matrices);
        operands.extend(x.operands());
        operands.push(Operand::Buffer(y));
        operands.extend(matrices.iter().map(|weight| Operand::Number(weight.rows as u32)));
        let rows: usize = matrices.iter().map(|weight| weight.rows).sum();
        let activations = int8_bytes(work.cols) + FLOAT * rows;
        self.push_packed(label, kernel, format, matrices, work, operands, activations)
    }

    fn packed_halves(&mut self, label: &str, half: &str, weight: &Weight, y: BufferId) {
        let Some(work) = work(&[weight], 1) else { return };
        let mut operands = buffers(&[weight]);
        operands.extend([self.scratch.split_words, self.scratch.split_scales, y].map(Operand::Buffer));
        operands.push(Operand::Number(weight.rows as u32));
        let activations = split_bytes(half, work.cols) + FLOAT * weight.rows;
        let format = vec![format!("half={half}")];
        self.push_packed(label, "packed_halves", format, &[weight], work, operands, activations);
    }

    /// gelu(gate) · up of prepared rows, for a product that follows: gate and up are one matrix, in turns.
    pub fn packed_gated(&mut self, label: &str, both: &Weight) {
        let Some(work) = work(&[both], 2) else { return };
        let mut operands = buffers(&[both]);
        operands.extend(self.scratch.prepared.operands());
        operands.extend(self.scratch.gated_prepared.operands());
        operands.push(Operand::Number(work.units as u32));
        let activations = int8_bytes(work.cols) + int8_bytes(both.rows / 2);
        let format = vec![format!("weight={}", both.codec)];
        self.push_packed(label, "packed_gated", format, &[both], work, operands, activations);
    }

    /// gelu(product) · factor of prepared rows, for a product that follows.
    pub fn packed_gate(&mut self, label: &str, gate: &Weight, factor: Factor) {
        let Some(work) = work(&[gate], 1) else { return };
        let mut operands = buffers(&[gate]);
        operands.extend(self.scratch.prepared.operands());
        operands.push(Operand::Buffer(factor.buffer));
        operands.extend(self.scratch.gated_prepared.operands());
        operands.push(Operand::Number(work.units as u32));
        let activations = int8_bytes(work.cols) + FLOAT * gate.rows + int8_bytes(gate.rows);
        let format = vec![format!("weight={}", gate.codec)];
        self.push_packed(label, "packed_gate", format, &[gate], work, operands, activations);
        if let Some(stage) = self.plan.stages.last_mut() {
            let place = [factor.stride, factor.offset].map(|size| Operand::Number(size as u32));
            stage.operands.extend(place);
        }
    }

    /// A launch over packed matrices: `operands` up to the number of rows or units. Returns the parts of the results.
    #[allow(clippy::too_many_arguments)]
    fn push_packed(
        &mut self,
        label: &str,
        kernel: &'static str,
        mut settings: Vec<String>,
        matrices: &[&Weight],
        work: Work,
        mut operands: Vec<Operand>,
        activation_bytes: usize,
    ) -> usize {
        let columns = (self.tile as usize / self.chip.target.fragments.columns()).max(1);
        let product = Product {
            kernel: kernel.to_owned(),
            settings: settings.clone(),
            rows: matrices.iter().map(|weight| weight.rows).collect(),
            cols: work.cols,
            groups_of_unit: work.groups_of_unit,
            may_be_split: work.may_be_split,
        };
        let (division, tuned) = self.chip.division(&product, &work, columns);
        // divided as with one column tile: it is the same work in fewer instructions
        let is_lone = self.tile == 1 && !work.halves && has_lone(self.chip.target);
        let Division {
            tiling,
            blocks,
            parts,
            turns,
        } = division;
        settings.extend([
            format!("warps={}", tiling.warps),
            format!("slots={}", tiling.slots),
            format!("columns={}", if is_lone { 0 } else { tiling.columns }),
            format!("blocks={}", tiling.blocks),
        ]);
        if parts > 1 {
            settings.push(format!("parts={parts}"));
        }
        if turns.teams > 1 {
            settings.push(format!("teams={}", turns.teams));
        }
        operands.extend([
            Operand::Number((tiles_across(work.cols) / parts) as u32),
            Operand::Count(Count::ROWS),
            Operand::Number(self.scratch.stride as u32),
        ]);
        let rows: usize = matrices.iter().map(|weight| weight.rows).sum();
        let cost = Cost {
            weight_bytes: matrices.iter().map(|weight| weight.bytes()).sum(),
            rows_per_read: self.tile as usize,
            operations: rows * work.cols,
            unit: if work.halves { Unit::Matrix } else { Unit::Int8Matrix },
            ..Cost::activations(activation_bytes + (parts - 1) * FLOAT * rows)
        };
        let tiles = Count::Rows {
            times: 1,
            per: self.tile,
        };
        let grid = [Count::Fixed(blocks as u32), tiles];
        self.push(label, kernel, &settings, grid, operands, cost);
        if let Some(stage) = self.plan.stages.last_mut() {
            stage.divided = Some(Divided {
                product,
                columns,
                tuned,
            });
        }
        parts
    }

    /// out = gelu(a) · b over rows of `cols`.
    pub fn gated(&mut self, label: &str, [a, out]: [BufferId; 2], b: Factor, cols: usize) {
        let mut operands = [a, b.buffer, out].map(Operand::Buffer).to_vec();
        operands.extend([cols, b.stride, b.offset].map(|size| Operand::Number(size as u32)));
        let settings = [format!("threads={THREADS}")];
        let blocks = Count::Fixed((cols as u32).div_ceil(THREADS));
        let cost = Cost {
            operations: TANH * cols,
            ..Cost::activations(3 * FLOAT * cols)
        };
        self.push(label, "gated", &settings, [blocks, Count::ROWS], operands, cost);
    }
}

fn buffers(matrices: &[&Weight]) -> Vec<Operand> {
    let parts = matrices.iter().flat_map(|weight| &weight.parts);
    parts.map(|part| Operand::Buffer(part.buffer)).collect()
}

/// What a launch over matrices has to do. `None` for a format that cannot be packed.
fn work(matrices: &[&Weight], groups_of_unit: usize) -> Option<Work> {
    let of_file = matrices.iter().map(|weight| (weight.codec, weight.rows));
    Work::of(of_file, matrices.first()?.cols, groups_of_unit)
}
