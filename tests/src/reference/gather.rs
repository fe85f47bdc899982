//! Rows of an embedding table.

use half::{bf16, f16};

use super::quant::BlockFormat;
use super::widen;

/// A `[rows, cols]` table as it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Table<'a> {
    /// f32 elements.
    F32(&'a [f32]),
    /// f16 elements.
    F16(&'a [f16]),
    /// bf16 elements.
    Bf16(&'a [bf16]),
    /// Quantised rows of whole blocks.
    Blocks(BlockFormat, &'a [u8]),
}

impl Table<'_> {
    /// One row.
    ///
    /// # Panics
    /// When the table has no such row.
    pub fn row(&self, cols: usize, row: usize) -> Vec<f64> {
        let span = row * cols..(row + 1) * cols;
        match *self {
            Self::F32(table) => widen(&table[span]),
            Self::F16(table) => widen(&table[span]),
            Self::Bf16(table) => widen(&table[span]),
            Self::Blocks(format, table) => {
                let bytes = format.row_bytes(cols);
                format.decode(&table[row * bytes..(row + 1) * bytes])
            }
        }
    }
}

/// `[indices, cols]`: the rows of a table, times `scale`.
///
/// # Panics
/// When an index is beyond the table.
pub fn gather(table: Table<'_>, cols: usize, indices: &[u32], scale: f64) -> Vec<f64> {
    indices
        .iter()
        .flat_map(|&index| table.row(cols, index as usize))
        .map(|value| value * scale)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::quant::encode;

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let table = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(
            gather(Table::F32(&table), 2, &[2, 0, 2], 0.5),
            [2.5, 3.0, 0.5, 1.0, 2.5, 3.0]
        );
        let table = table.map(f16::from_f32);
        assert_eq!(gather(Table::F16(&table), 3, &[1], 1.0), [4.0, 5.0, 6.0]);
        let table = table.map(|value| bf16::from_f32(value.to_f32()));
        assert_eq!(gather(Table::Bf16(&table), 3, &[1], 1.0), [4.0, 5.0, 6.0]);
    }

    #[test]
    fn quantised_rows_are_decoded() {
        let values = Random::new("gather").normals(3 * 512, 1.0);
        for format in BlockFormat::ALL {
            let table = encode(format, &values);
            let got = gather(Table::Blocks(format, &table), 512, &[1], 1.0);
            assert_eq!(got, format.decode(&encode(format, &values[512..1024])), "{format}");
        }
    }
}
