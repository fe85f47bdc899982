//! Matrices that take the same activations, joined where one launch can multiply them.

use tilekiln_kernels::matmul::packed::TILE_ROWS;

use super::{Loader, Weight, packing};
use crate::model::ModelError;
use crate::model::repack::Order;
use crate::plan::BufferTable;

/// What a layer has, and how it is taken.
#[derive(Clone, Copy, Debug)]
pub struct LayerExtent {
    /// Whether it has keys and values of its own.
    pub owns_keys: bool,
    /// Width of the per-layer embeddings, 0 for none.
    pub ple: usize,
    /// Whether queries, keys and values may be rows of one product.
    pub joins: bool,
}

/// What gives queries, keys and values.
#[derive(Clone, Debug)]
pub enum Projections {
    /// A launch each.
    Separate {
        /// Queries.
        query: Weight,
        /// Keys, in layers that own some.
        key: Option<Weight>,
        /// Values; without them they are the keys (k_eq_v).
        value: Option<Weight>,
    },
    /// One launch. Its results are rows of all of them.
    Joined {
        /// Packed matrices of one or two formats.
        matrices: Vec<Weight>,
        /// Where queries, keys and values start in a row of results.
        places: [usize; 3],
    },
}

impl Projections {
    /// All matrices.
    pub fn matrices(&self) -> Vec<&Weight> {
        match self {
            Self::Separate { query, key, value } => [Some(query), key.as_ref(), value.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Self::Joined { matrices, .. } => matrices.iter().collect(),
        }
    }
}

/// What the feed-forward network multiplies first.
#[derive(Clone, Debug)]
pub enum GateUp {
    /// Two matrices, whose results are gated afterwards.
    Separate {
        /// Gate projection.
        gate: Weight,
        /// Up projection.
        up: Weight,
    },
    /// One packed matrix with 32 rows of each in turns, for a launch that gives int8 to a packed down projection.
    InTurns(Weight),
}

impl GateUp {
    /// All matrices.
    pub fn matrices(&self) -> Vec<&Weight> {
        match self {
            Self::Separate { gate, up } => vec![gate, up],
            Self::InTurns(both) => vec![both],
        }
    }
}

impl Loader<'_> {
    /// Whether products with a matrix take int8 here.
    fn takes_int8(&self, codec: &str) -> bool {
        self.layout.is_some() && packing(codec).is_some_and(|packing| packing.int8.is_some())
    }

    /// Queries, keys and values, in one launch where there is a kernel for their formats.
    pub(super) fn projections(
        &mut self,
        table: &mut BufferTable,
        layer: &str,
        [query, key_value]: [usize; 2],
        hidden: usize,
        extent: LayerExtent,
    ) -> Result<Projections, ModelError> {
        let names = ["attn_q", "attn_k", "attn_v"].map(|suffix| format!("{layer}.{suffix}.weight"));
        let own = extent.owns_keys;
        let has_values = own && self.has(&names[2]);
        let rows = [query, key_value, key_value];
        let count = match (own, has_values) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 3,
        };
        let mut codecs = Vec::new();
        for index in 0..count {
            codecs.push(self.find(&names[index], rows[index], hidden)?.1);
        }
        let can_join = extent.joins && count > 1 && codecs.iter().all(|codec| self.takes_int8(codec));
        let layout = self.layout.filter(|_| can_join);
        let order = layout.and_then(|_| joined_order(&codecs, &rows));
        let (Some(layout), Some(groups)) = (layout, order) else {
            let mut matrix = |index: usize| {
                let weight = (index < count).then(|| self.matrix(table, &names[index], rows[index], hidden));
                weight.transpose()
            };
            let [key, value] = [matrix(1)?, matrix(2)?];
            return Ok(Projections::Separate {
                query: self.matrix(table, &names[0], query, hidden)?,
                key,
                value,
            });
        };
        let mut places = [0; 3];
        let mut matrices = Vec::new();
        let mut first = 0;
        for group in groups {
            let parts: Vec<_> = group
                .iter()
                .map(|index| (names[*index].as_str(), rows[*index]))
                .collect();
            for index in group {
                places[index] = first;
                first += rows[index];
            }
            let name = self.names.tensor(&format!("{layer}.attn_qkv.weight"));
            matrices.push(self.joined(table, &name, &parts, hidden, (layout, Order::OneAfterAnother))?);
        }
        if !has_values {
            places[2] = places[1];
        }
        Ok(Projections::Joined { matrices, places })
    }

    /// Gate and up of width `ffn`, in one matrix where they and the down projection can be multiplied that way.
    pub(super) fn gate_up(
        &mut self,
        table: &mut BufferTable,
        layer: &str,
        [ffn, hidden]: [usize; 2],
    ) -> Result<GateUp, ModelError> {
        let [gate, up, down] = ["gate", "up", "down"].map(|suffix| format!("{layer}.ffn_{suffix}.weight"));
        let (_, first) = self.find(&gate, ffn, hidden)?;
        let (_, second) = self.find(&up, ffn, hidden)?;
        let (_, third) = self.find(&down, hidden, ffn)?;
        let is_possible = first == second && self.takes_int8(first) && self.takes_int8(third);
        if let Some(layout) = self.layout.filter(|_| is_possible) {
            let name = self.names.tensor(&format!("{layer}.ffn_gate_up.weight"));
            let both = [(gate.as_str(), ffn), (up.as_str(), ffn)];
            let both = self.joined(table, &name, &both, hidden, (layout, Order::InTurns))?;
            return Ok(GateUp::InTurns(both));
        }
        Ok(GateUp::Separate {
            gate: self.matrix(table, &gate, ffn, hidden)?,
            up: self.matrix(table, &up, ffn, hidden)?,
        })
    }
}

/// The order in which queries, keys and values of those formats and numbers of rows are joined for one launch: matrices
/// of one format, or of two of which the second is Q6_K. `None` where no launch takes them.
fn joined_order(codecs: &[&'static str], rows: &[usize]) -> Option<Vec<Vec<usize>>> {
    let mut formats = codecs.to_vec();
    formats.sort_by_key(|codec| *codec == SECOND_OF_PAIR);
    formats.dedup();
    let is_pair = matches!(formats.as_slice(), [_, second] if *second == SECOND_OF_PAIR);
    if formats.len() > 1 && !is_pair {
        return None;
    }
    let groups: Vec<Vec<usize>> = formats
        .iter()
        .map(|format| (0..codecs.len()).filter(|index| codecs[*index] == *format).collect())
        .collect();
    // a group of 32 rows belongs to one matrix
    let whole = |group: &Vec<usize>| {
        let all_but_last = &group[..group.len() - 1];
        all_but_last.iter().all(|index| rows[*index].is_multiple_of(TILE_ROWS))
    };
    groups.iter().all(whole).then_some(groups)
}

/// The format of the second matrix of `packed_pair`.
const SECOND_OF_PAIR: &str = "q6_k";

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats of queries, keys and values, rows of each, and what is joined.
    #[test]
    fn what_one_launch_takes() {
        type Joined<'a> = Option<&'a [&'a [usize]]>;
        let table: [(&[&'static str], [usize; 3], Joined<'_>); 9] = [
            (&["q4_k", "q4_k", "q4_k"], [64, 32, 32], Some(&[&[0, 1, 2]])),
            (&["q8_0", "q8_0"], [64, 32, 32], Some(&[&[0, 1]])),
            (&["q4_k", "q4_k", "q6_k"], [64, 32, 32], Some(&[&[0, 1], &[2]])),
            (&["q6_k", "q4_k", "q6_k"], [64, 32, 32], Some(&[&[1], &[0, 2]])),
            (&["q6_k", "q6_k", "q4_k"], [64, 32, 32], Some(&[&[2], &[0, 1]])),
            (&["q4_k", "q4_k", "q8_0"], [64, 32, 32], None),
            (&["q4_k", "q5_k", "q6_k"], [64, 32, 32], None),
            (&["q4_k", "q4_k", "q4_k"], [48, 32, 32], None),
            (&["q4_k", "q4_k", "q4_k"], [64, 32, 8], Some(&[&[0, 1, 2]])),
        ];
        for (codecs, rows, want) in table {
            let want = want.map(|groups| groups.iter().map(|group| group.to_vec()).collect());
            assert_eq!(joined_order(codecs, &rows), want, "{codecs:?} {rows:?}");
        }
    }
}
