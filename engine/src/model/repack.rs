//! Packed matrices from the rows of a file: in parallel, a piece at a time, bit for bit.
//!
//! What a packed matrix is, and which formats can be packed, is the business of the kernel library
//! ([`tilekiln_kernels::matmul::packed`]). Here rows of one or several tensors are cut into its groups of 32 and the
//! groups are made on all cores, while the ones before them are copied to the device.

use rayon::prelude::*;
use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::matmul::packed::pack::Packer;
use tilekiln_kernels::matmul::packed::{TILE_ROWS, groups_down};
use tilekiln_kernels::matmul::weights::WEIGHTS;

/// Bytes that are packed while as many are copied.
const PIECE_BYTES: usize = 32 << 20;

/// How the groups of several matrices follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All of the first, then all of the second: rows of queries, keys and values.
    OneAfterAnother,
    /// The first group of each, then the second of each: gate and up, which one block multiplies together.
    InTurns,
}

/// Why matrices cannot become a packed one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepackError {
    /// There is no packed layout of that format.
    #[error("matrices of {0} are not packed")]
    Format(String),
    /// The rows of a matrix are not what its size says.
    #[error("{bytes} bytes are no whole number of rows of {row_bytes}")]
    Rows {
        /// Its size.
        bytes: usize,
        /// That of a row.
        row_bytes: usize,
    },
    /// A group would have rows of two matrices, or a matrix none for its turn.
    #[error("a matrix of {rows} rows cannot share a packed one; {wanted}")]
    Shared {
        /// Its rows.
        rows: usize,
        /// What is possible.
        wanted: &'static str,
    },
}

/// Matrices of one format and width, as the packed one that they become.
pub struct Repacked<'a> {
    packer: Packer,
    /// Rows as they are in the file.
    matrices: Vec<&'a [u8]>,
    row_bytes: usize,
    group_bytes: usize,
    groups: usize,
    order: Order,
}

impl<'a> Repacked<'a> {
    /// One matrix in format `codec`, as the kernels spell it, with rows of `cols` values.
    ///
    /// # Errors
    /// [`RepackError`]
    pub fn new(codec: &str, layout: FragmentLayout, cols: usize, matrix: &'a [u8]) -> Result<Self, RepackError> {
        Self::joined(codec, layout, cols, &[matrix], Order::OneAfterAnother)
    }

    /// Several matrices. One after another, all but the last fill their groups of 32 rows; in turns, all are of one
    /// size.
    ///
    /// # Errors
    /// [`RepackError`]
    pub fn joined(
        codec: &str,
        layout: FragmentLayout,
        cols: usize,
        matrices: &[&'a [u8]],
        order: Order,
    ) -> Result<Self, RepackError> {
        let weight = WEIGHTS.iter().find(|weight| weight.name == codec);
        let Some((weight, packing)) = weight.and_then(|weight| Some((weight, weight.packing.as_ref()?))) else {
            return Err(RepackError::Format(codec.to_owned()));
        };
        let row_bytes = (weight.bytes)(1, cols);
        let mut groups = 0;
        for (index, matrix) in matrices.iter().enumerate() {
            let bytes = matrix.len();
            if row_bytes == 0 || !bytes.is_multiple_of(row_bytes) {
                return Err(RepackError::Rows { bytes, row_bytes });
            }
            let rows = bytes / row_bytes;
            let wanted = match order {
                Order::OneAfterAnother if index + 1 < matrices.len() && !rows.is_multiple_of(TILE_ROWS) => {
                    Some("all but the last need a multiple of 32")
                }
                Order::InTurns if bytes != matrices[0].len() => Some("all need the same number"),
                _ => None,
            };
            if let Some(wanted) = wanted {
                return Err(RepackError::Shared { rows, wanted });
            }
            groups += groups_down(rows);
        }
        Ok(Self {
            packer: (packing.packer)(layout),
            matrices: matrices.to_vec(),
            row_bytes,
            group_bytes: (packing.bytes)(TILE_ROWS, cols),
            groups,
            order,
        })
    }

    /// Size of the packed matrix.
    pub fn bytes(&self) -> usize {
        self.groups * self.group_bytes
    }

    /// The rows of a group.
    fn rows(&self, group: usize) -> &'a [u8] {
        let bytes = TILE_ROWS * self.row_bytes;
        let count = self.matrices.len();
        let (mut first, matrices) = match self.order {
            Order::OneAfterAnother => (group * bytes, &self.matrices[..]),
            Order::InTurns => (group / count * bytes, &self.matrices[group % count..]),
        };
        // matrices that have another behind them consist of whole groups
        for matrix in matrices {
            if first < matrix.len() {
                return &matrix[first..matrix.len().min(first + bytes)];
            }
            first -= matrix.len();
        }
        &[]
    }

    /// Packs groups from `first` on, as many as there are and as fit into `PIECE_BYTES`.
    fn pack(&self, first: usize, piece: &mut Vec<u8>) {
        let count = (PIECE_BYTES / self.group_bytes)
            .max(1)
            .min(self.groups.saturating_sub(first));
        piece.resize(count * self.group_bytes, 0);
        piece
            .par_chunks_mut(self.group_bytes)
            .enumerate()
            .for_each(|(index, group)| {
                group.fill(0);
                self.packer.pack_group(self.rows(first + index), self.row_bytes, group);
            });
    }
}

/// Memory for pieces of packed matrices.
#[derive(Default)]
pub struct Repacker {
    ready: Vec<u8>,
    next: Vec<u8>,
}

impl Repacker {
    /// Hands over a packed matrix piece by piece, in order and without gaps: `take` gets the byte where a piece starts,
    /// and its contents. The next piece is packed meanwhile.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn stream<E>(
        &mut self,
        matrix: &Repacked<'_>,
        mut take: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut first = 0;
        matrix.pack(first, &mut self.ready);
        while first < matrix.groups {
            let following = first + self.ready.len() / matrix.group_bytes;
            let next = &mut self.next;
            rayon::in_place_scope(|scope| {
                scope.spawn(|_| matrix.pack(following, next));
                take(first * matrix.group_bytes, &self.ready)
            })?;
            std::mem::swap(&mut self.ready, &mut self.next);
            first = following;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const LAYOUT: FragmentLayout = FragmentLayout::PairOfM16N8K16;

    fn matrix(random: &mut StdRng, codec: &str, rows: usize, cols: usize) -> Vec<u8> {
        let weight = WEIGHTS.iter().find(|weight| weight.name == codec).unwrap();
        (0..(weight.bytes)(rows, cols)).map(|_| random.random()).collect()
    }

    /// All pieces, and how many they were.
    fn streamed(repacker: &mut Repacker, matrix: &Repacked<'_>) -> (Vec<u8>, usize) {
        let mut all = Vec::new();
        let mut pieces = 0;
        let taken: Result<(), ()> = repacker.stream(matrix, |offset, piece| {
            assert_eq!(offset, all.len());
            all.extend_from_slice(piece);
            pieces += 1;
            Ok(())
        });
        assert_eq!((taken, all.len()), (Ok(()), matrix.bytes()));
        (all, pieces)
    }

    /// What the packer makes of rows, group by group.
    fn expected(codec: &str, layout: FragmentLayout, cols: usize, matrix: &[u8]) -> Vec<Vec<u8>> {
        let weight = WEIGHTS.iter().find(|weight| weight.name == codec).unwrap();
        let packing = weight.packing.as_ref().unwrap();
        let row_bytes = (weight.bytes)(1, cols);
        let groups = matrix.chunks(32 * row_bytes).map(|rows| {
            let mut group = vec![0; (packing.bytes)(32, cols)];
            (packing.packer)(layout).pack_group(rows, row_bytes, &mut group);
            group
        });
        groups.collect()
    }

    #[test]
    fn pieces_make_the_whole() {
        let mut random = StdRng::seed_from_u64(5);
        let mut repacker = Repacker::default();
        for layout in [LAYOUT, FragmentLayout::Wmma16x16x16] {
            // the last one has many pieces, after one that had few
            for (codec, rows, cols, at_least) in [
                ("q4_k", 70, 512, 1),
                ("q8_0", 33, 96, 1),
                ("q5_0", 1, 32, 1),
                ("bf16", 65, 288, 1),
                ("q4_0", 32 * 3000, 1280, 2),
                ("q6_k", 31, 256, 1),
            ] {
                let file = matrix(&mut random, codec, rows, cols);
                let packed = Repacked::new(codec, layout, cols, &file).unwrap();
                let (all, pieces) = streamed(&mut repacker, &packed);
                assert!(
                    all == expected(codec, layout, cols, &file).concat(),
                    "{codec} {layout:?}"
                );
                assert!(pieces >= at_least, "{codec}: {pieces} pieces");
            }
        }
    }

    #[test]
    fn matrices_follow_each_other_or_alternate() {
        let mut random = StdRng::seed_from_u64(6);
        let [first, second, third] = [64, 32, 40].map(|rows| matrix(&mut random, "q4_k", rows, 768));
        let groups = |file: &[u8]| expected("q4_k", LAYOUT, 768, file);
        let joined = |matrices: &[&[u8]], order| {
            let packed = Repacked::joined("q4_k", LAYOUT, 768, matrices, order).unwrap();
            streamed(&mut Repacker::default(), &packed).0
        };
        let want = [groups(&first), groups(&second), groups(&third)].concat().concat();
        assert!(joined(&[&first, &second, &third], Order::OneAfterAnother) == want);

        let other = matrix(&mut random, "q4_k", 64, 768);
        let (a, b) = (groups(&first), groups(&other));
        let want = [&a[0][..], &b[0], &a[1], &b[1]].concat();
        assert!(joined(&[&first, &other], Order::InTurns) == want);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rows = |rows: usize| vec![0u8; rows * 144];
        let refused = |codec: &str, matrices: &[&[u8]], order| {
            Repacked::joined(codec, LAYOUT, 256, matrices, order)
                .err()
                .map(|error| error.to_string())
        };
        let (few, many) = (rows(31), rows(32));
        let one_after_another = Order::OneAfterAnother;
        assert_eq!(refused("q4_k", &[&many, &few], one_after_another), None);
        assert_eq!(refused("q4_k", &[&few, &few], Order::InTurns), None);
        for (error, want) in [
            (
                refused("f32", &[&few], one_after_another),
                "matrices of f32 are not packed",
            ),
            (
                refused("packed_q4_k", &[&few], one_after_another),
                "matrices of packed_q4_k are not packed",
            ),
            (
                refused("q4_k", &[&few[1..]], one_after_another),
                "4463 bytes are no whole number of rows of 144",
            ),
            (
                refused("q4_k", &[&few, &many], one_after_another),
                "a matrix of 31 rows cannot share a packed one; all but the last need a multiple of 32",
            ),
            (
                refused("q4_k", &[&many, &few], Order::InTurns),
                "a matrix of 31 rows cannot share a packed one; all need the same number",
            ),
        ] {
            assert_eq!(error.as_deref(), Some(want));
        }
    }

    #[test]
    fn an_error_ends_it() {
        let file = matrix(&mut StdRng::seed_from_u64(7), "q4_k", 32 * 900, 2560);
        let packed = Repacked::new("q4_k", LAYOUT, 2560, &file).unwrap();
        let mut pieces = 0;
        let result = Repacker::default().stream(&packed, |_, _| {
            pieces += 1;
            Err("no memory")
        });
        assert_eq!((result, pieces), (Err("no memory"), 1));
    }
}
