//! What a launch has to move and to compute, as a function of the step.

/// What a step evaluates: `rows` new tokens for each of `sequences` sequences that hold `depth` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Sequences in the step.
    pub sequences: usize,
    /// New tokens of each.
    pub rows: usize,
    /// Positions of each that are in the cache before the step.
    pub depth: usize,
}

impl Step {
    /// All rows of the step.
    pub fn total_rows(&self) -> usize {
        self.sequences * self.rows
    }
}

/// The units of a chip that do the arithmetic of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Multiply-adds of floats, one per lane.
    #[default]
    Vector,
    /// Four int8 products and their sum at once, one such per lane.
    Dot4,
    /// Matrix units with 16-bit operands.
    Matrix,
    /// Matrix units with int8 operands.
    Int8Matrix,
}

/// What a launch has to move and to compute. Whoever pushes a stage fills it in; what is left out counts as nothing.
///
/// Bytes are what memory has to give at least: a value that blocks of one launch share counts once, because the caches
/// of the chip are there for that. The one exception is written down in [`Self::rows_per_read`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Rows that share one read of the weights; more rows read them again. 0: all rows share one read.
    pub rows_per_read: usize,
    /// Bytes of weights that each row reads for itself: its entry of a table.
    pub lookup_bytes: usize,
    /// Bytes of activations that each row reads and writes.
    pub activation_bytes: usize,
    /// Bytes of keys and values that each row stores.
    pub store_bytes: usize,
    /// Bytes of keys and values per cached position; each sequence reads those that its rows see, once.
    pub cache_bytes: usize,
    /// Positions that a row sees at most, itself included: a sliding window.
    pub window: Option<usize>,
    /// Multiply-adds of each row.
    pub operations: usize,
    /// Multiply-adds of each row and position it sees.
    pub operations_per_position: usize,
    /// What does them.
    pub unit: Unit,
}

/// Bytes by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bytes {
    /// Weights, each once.
    pub weights: u64,
    /// Weights that are read again because not all rows share one read.
    pub repeated: u64,
    /// Keys and values, read and stored.
    pub cache: u64,
    /// Activations, read and written.
    pub activations: u64,
}

impl Bytes {
    /// What a step has to move however its launches are arranged: each weight once, and the cache. Activations can stay
    /// on the chip.
    pub fn least(&self) -> u64 {
        self.weights + self.cache
    }

    /// What the launches move as they are.
    pub fn all(&self) -> u64 {
        self.weights + self.repeated + self.cache + self.activations
    }
}

impl std::ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.weights += other.weights;
        self.repeated += other.repeated;
        self.cache += other.cache;
        self.activations += other.activations;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, bytes| {
            sum += bytes;
            sum
        })
    }
}

impl Cost {
    /// A launch that moves so many bytes of activations per row and does little else.
    pub fn activations(bytes: usize) -> Self {
        Self {
            activation_bytes: bytes,
            ..Self::default()
        }
    }

    /// What a step moves.
    pub fn bytes(&self, step: &Step) -> Bytes {
        let rows = step.total_rows();
        let reads = match self.rows_per_read {
            0 => 1,
            shared => rows.div_ceil(shared).max(1),
        };
        let seen = self.window.map_or(step.depth + step.rows, |window| {
            // the first row's oldest position to the last row's own
            (window + step.rows - 1).min(step.depth + step.rows)
        });
        let bytes = |count: usize, each: usize| count as u64 * each as u64;
        Bytes {
            weights: bytes(1, self.weight_bytes) + bytes(rows, self.lookup_bytes),
            repeated: bytes(reads - 1, self.weight_bytes),
            cache: bytes(rows, self.store_bytes) + bytes(step.sequences * seen, self.cache_bytes),
            activations: bytes(rows, self.activation_bytes),
        }
    }

    /// Multiply-adds of a step.
    pub fn operations(&self, step: &Step) -> u64 {
        let visible = |row: usize| (step.depth + row + 1).min(self.window.unwrap_or(usize::MAX)) as u64;
        let positions: u64 = match self.operations_per_position {
            0 => 0,
            _ => (0..step.rows).map(visible).sum::<u64>() * step.sequences as u64,
        };
        step.total_rows() as u64 * self.operations as u64 + positions * self.operations_per_position as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(sequences: usize, rows: usize, depth: usize) -> Step {
        Step { sequences, rows, depth }
    }

    /// Step, (weights, repeated), cache, operations.
    #[test]
    fn bytes_and_operations_of_steps() {
        let product = Cost {
            weight_bytes: 1000,
            rows_per_read: 8,
            lookup_bytes: 3,
            activation_bytes: 10,
            operations: 7,
            ..Cost::default()
        };
        let full = Cost {
            cache_bytes: 2,
            store_bytes: 5,
            operations_per_position: 4,
            ..Cost::default()
        };
        let sliding = Cost {
            window: Some(16),
            ..full
        };
        type Row = (Cost, Step, (u64, u64), u64, u64);
        let table: [Row; 9] = [
            (product, step(1, 1, 99), (1003, 0), 0, 7),
            (product, step(2, 4, 0), (1024, 0), 0, 56),
            (product, step(1, 9, 0), (1027, 1000), 0, 63),
            (full, step(1, 1, 0), (0, 0), 5 + 2, 4),
            (full, step(1, 1, 99), (0, 0), 5 + 200, 400),
            // rows of one sequence share its keys; sequences do not
            (full, step(1, 4, 96), (0, 0), 20 + 200, 4 * (97 + 98 + 99 + 100)),
            (full, step(4, 1, 99), (0, 0), 20 + 4 * 200, 1600),
            // positions 84..100 for the first row, up to 103 for the last
            (sliding, step(1, 4, 99), (0, 0), 20 + 2 * 19, 4 * 4 * 16),
            (sliding, step(1, 4, 0), (0, 0), 20 + 2 * 4, 4 * (1 + 2 + 3 + 4)),
        ];
        for (cost, step, (weights, repeated), cache, operations) in table {
            let bytes = cost.bytes(&step);
            assert_eq!(
                (bytes.weights, bytes.repeated, bytes.cache, cost.operations(&step)),
                (weights, repeated, cache, operations),
                "{cost:?} {step:?}"
            );
            assert_eq!(bytes.activations, (cost.activation_bytes * step.total_rows()) as u64);
        }
    }

    #[test]
    fn weights_that_all_rows_share_are_read_once() {
        let cost = Cost {
            weight_bytes: 100,
            ..Cost::activations(4)
        };
        let bytes = cost.bytes(&step(3, 100, 0));
        assert_eq!((bytes.weights, bytes.repeated, bytes.all()), (100, 0, 1300));
        let sum: Bytes = [bytes, bytes].into_iter().sum();
        assert_eq!((sum.least(), sum.all()), (200, 2600));
    }
}
