//! From scores to tokens.

use super::products::WARPS;
use super::{FLOAT, Planner, TANH, THREADS};
use crate::model::choice::ChunkBests;
use crate::model::weights::Weight;
use crate::plan::{BufferId, Cost, Count, Operand};

impl Planner<'_> {
    /// x = cap · tanh(x / cap) over rows of `cols`.
    pub fn softcap(&mut self, x: BufferId, cols: usize, cap: f32) {
        let count = |per| Count::Rows {
            times: cols as u32,
            per,
        };
        let operands = vec![Operand::Buffer(x), Operand::Count(count(1)), Operand::Real(cap)];
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: TANH * cols,
            ..Cost::activations(2 * FLOAT * cols)
        };
        let grid = [count(THREADS), Count::Fixed(1)];
        self.push("softcap", "softcap", &settings, grid, operands, cost);
    }

    /// index\[t\] = position of the largest value of row t.
    pub fn argmax(&mut self, x: BufferId, index: BufferId, cols: usize) {
        let operands = vec![Operand::Buffer(x), Operand::Buffer(index), Operand::Number(cols as u32)];
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: cols,
            ..Cost::activations(FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("argmax", "argmax", &settings, grid, operands, cost);
    }

    /// index\[t\] = position of the largest value of row t, for long rows: many blocks look at each.
    pub fn best_token(&mut self, x: BufferId, bests: ChunkBests, index: BufferId, cols: usize) {
        bests.push(&mut self.plan, x, index, cols);
    }

    /// The `k` largest values of each row.
    pub fn top_k(&mut self, [x, values, indices]: [BufferId; 3], cols: usize, k: usize) {
        let mut operands = [x, values, indices].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(cols as u32));
        let settings = [format!("k={k}"), format!("threads={THREADS}")];
        let cost = Cost {
            operations: k * cols,
            ..Cost::activations(FLOAT * (cols + 2 * k))
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("top_centroids", "top_k", &settings, grid, operands, cost);
    }

    /// Scores of the tokens of chosen centroids: buffers are ordering, centroids, x, scores, ids.
    pub fn candidate_scores(&mut self, weight: &Weight, buffers: [BufferId; 5], k: usize, per: usize) {
        let [part] = weight.parts.as_slice() else { return };
        let mut operands = vec![Operand::Buffer(part.buffer)];
        operands.extend(buffers.map(Operand::Buffer));
        operands.extend([k, per, weight.cols].map(|size| Operand::Number(size as u32)));
        let settings = [format!("weight={}", weight.format()), format!("warps={WARPS}")];
        let blocks = Count::Fixed(((k * per) as u32).div_ceil(WARPS));
        let cost = Cost {
            // the rows of the candidates, and which tokens they are
            lookup_bytes: k * per * (part.bytes / weight.rows.max(1) + FLOAT),
            operations: k * per * weight.cols,
            ..Cost::activations(FLOAT * (weight.cols + 2 * k * per))
        };
        let name = "candidate_scores";
        self.push(name, name, &settings, [blocks, Count::ROWS], operands, cost);
    }

    /// out\[t\] = ids\[t, index\[t\]\].
    pub fn take(&mut self, ids: BufferId, index: BufferId, out: BufferId, cols: usize) {
        let mut operands = [ids, index, out].map(Operand::Buffer).to_vec();
        operands.extend([Operand::Count(Count::ROWS), Operand::Number(cols as u32)]);
        let settings = [format!("threads={THREADS}")];
        let blocks = Count::Rows { times: 1, per: THREADS };
        let cost = Cost::activations(3 * FLOAT);
        let grid = [blocks, Count::Fixed(1)];
        self.push("take", "take", &settings, grid, operands, cost);
    }

    /// Probability of the chosen score among all scores of a row.
    pub fn confidence(&mut self, scores: BufferId, index: BufferId, out: BufferId, cols: usize) {
        let mut operands = [scores, index, out].map(Operand::Buffer).to_vec();
        operands.push(Operand::Number(cols as u32));
        let settings = [format!("threads={THREADS}")];
        let cost = Cost {
            operations: 2 * cols,
            ..Cost::activations(FLOAT * cols)
        };
        let grid = [Count::ROWS, Count::Fixed(1)];
        self.push("confidence", "confidence", &settings, grid, operands, cost);
    }
}
