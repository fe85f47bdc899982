//! What rows of a scene must come to, with bounds.

use rayon::prelude::*;
use tilekiln_kernels::attention::pages::{PAGE, Side};

use super::decoded::Decoded;
use super::scene::{Row, Scene};
use crate::cases::CaseError;
use crate::reference::attention::attention_of_query;
use crate::reference::turbo::GROUP;
use crate::reference::turbo::rotation::{Direction, rotate_fast};
use crate::tolerance::{
    self, Accumulation, AttentionArithmetic, Comparison, UNIT_BF16, UNIT_F16, UNIT_F32, softmax_weighted_sum,
};

/// Which kernels are to come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// flash_decode with flash_combine, and flash_prefill.
    Flash,
    /// attend_exact.
    Exact,
}

/// Results of rows for all drawn query heads.
pub struct Expected {
    rows: Vec<Row>,
    kv_heads: usize,
    gqa: usize,
    head_dim: usize,
    /// Results are compared in the domain in which values are stored, where each has a bound of its own.
    is_rotated: bool,
    /// [rows, kv_heads, gqa]
    heads: Vec<Head>,
    /// What attend_exact is to be given: [rows, kv_heads, gqa, head_dim].
    pub queries: Vec<f32>,
}

struct Head {
    want: Vec<f64>,
    bounds: Vec<f64>,
}

/// The errors of one launch.
#[derive(Clone, Debug)]
pub struct Errors {
    /// Elements compared.
    pub count: usize,
    /// Largest |got − want|.
    pub error: f64,
    /// The bound of the element that is worst in proportion to it.
    pub bound: f64,
    /// Largest |got − want| / bound: at most 1.
    pub ratio: f64,
    /// What is wrong; empty when nothing is.
    pub fault: String,
}

impl Expected {
    /// The reference for rows, which of each slot include the first one used, with the first `gqa` heads of each KV head.
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn of(scene: &Scene<'_>, arithmetic: Arithmetic, rows: Vec<Row>, gqa: usize) -> Result<Self, CaseError> {
        let setup = &scene.setup;
        let (head_dim, kv_heads) = (setup.head_dim, setup.kv_heads);
        let mut slots: Vec<Option<[Decoded; 2]>> = Vec::new();
        for slot in 0..setup.lengths.len() {
            let needed = rows.iter().filter(|row| row.slot == slot);
            slots.push(match needed.map(|&row| scene.sight(row).start).min() {
                Some(first) => Some([
                    scene.decoded(Side::Key, slot, first)?,
                    scene.decoded(Side::Value, slot, first)?,
                ]),
                None => None,
            });
        }
        let [key_format, value_format] = scene.formats;
        let stored_key = (key_format.stored)(head_dim);
        let mut prepared = scene.prepared_values(&rows, gqa)?;
        let mut queries = Vec::new();
        if arithmetic == Arithmetic::Exact {
            // the same directions, as f32 numbers in the domain that queries come in
            for query in prepared.chunks_mut(stored_key) {
                if key_format.rotated {
                    rotate_fast(query, Direction::Inverse);
                }
                query[head_dim..].fill(0.0);
                for value in query.iter_mut() {
                    *value = f64::from((*value * std::f64::consts::LN_2) as f32);
                }
                queries.extend(query[..head_dim].iter().map(|&value| value as f32));
                if key_format.rotated {
                    rotate_fast(query, Direction::Forward);
                }
            }
        }
        let head = |(number, query): (usize, &[f64])| {
            let (row, kv_head) = (rows[number / (kv_heads * gqa)], number / gqa % kv_heads);
            let sight = scene.sight(row);
            let of = |decoded: &Decoded| {
                let all = match arithmetic {
                    Arithmetic::Flash => &decoded.fed,
                    Arithmetic::Exact => &decoded.exact,
                };
                let range =
                    (sight.start - decoded.first) * decoded.stored..(sight.end - decoded.first) * decoded.stored;
                all[kv_head][range].to_vec()
            };
            let Some([keys, values]) = &slots[row.slot] else {
                unreachable!("every slot of a row is decoded")
            };
            let scale = match arithmetic {
                Arithmetic::Flash => std::f64::consts::LN_2,
                Arithmetic::Exact => 1.0,
            };
            let (scores, weighted) = attention_of_query(scale, query, &of(keys), &of(values));
            let arithmetic = arithmetic_of(scene, arithmetic, sight, query);
            let want: Vec<f64> = weighted.iter().map(|element| element.value).collect();
            let bounds: Vec<f64> = weighted
                .iter()
                .map(|element| softmax_weighted_sum(&arithmetic, &scores, element))
                .collect();
            in_domain(value_format.rotated, head_dim, want, bounds)
        };
        let heads: Vec<Head> = prepared.par_chunks(stored_key).enumerate().map(head).collect();
        Ok(Self {
            rows,
            kv_heads,
            gqa,
            head_dim,
            is_rotated: value_format.rotated && head_dim.is_multiple_of(GROUP),
            heads,
            queries,
        })
    }

    /// Queries for attend_exact of some of the rows with the first `gqa` heads: [rows, kv_heads * gqa, head_dim].
    pub fn exact_queries(&self, rows: &[Row], gqa: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for number in self.numbers(rows, gqa) {
            out.extend_from_slice(&self.queries[number * self.head_dim..][..self.head_dim]);
        }
        out
    }

    /// Which heads of all belong to these rows and their first `gqa` query heads, in order.
    fn numbers(&self, rows: &[Row], gqa: usize) -> Vec<usize> {
        let mut numbers = Vec::with_capacity(rows.len() * self.kv_heads * gqa);
        for row in rows {
            let at = self.rows.iter().position(|known| known == row);
            let at = at.expect("a row that the reference was computed for");
            for kv_head in 0..self.kv_heads {
                numbers.extend((0..gqa).map(|head| (at * self.kv_heads + kv_head) * self.gqa + head));
            }
        }
        numbers
    }

    /// Compares results `[rows, kv_heads * gqa, head_dim]`.
    pub fn compare(&self, rows: &[Row], gqa: usize, got: &[f32]) -> Errors {
        let numbers = self.numbers(rows, gqa);
        let mut total = Errors {
            count: got.len(),
            error: 0.0,
            bound: 0.0,
            ratio: 0.0,
            fault: String::new(),
        };
        if got.len() != numbers.len() * self.head_dim {
            total.fault = format!("{} results for {} heads of {}", got.len(), numbers.len(), self.head_dim);
            return total;
        }
        let comparisons: Vec<Comparison> = numbers
            .par_iter()
            .zip(got.par_chunks(self.head_dim))
            .map(|(&number, got)| {
                let head = &self.heads[number];
                let mut values: Vec<f64> = got.iter().map(|&value| f64::from(value)).collect();
                if self.is_rotated {
                    rotate_fast(&mut values, Direction::Forward);
                }
                Comparison::new("", &values, &head.want, &head.bounds)
            })
            .collect();
        for (at, comparison) in comparisons.iter().enumerate() {
            total.error = total.error.max(comparison.max_abs);
            if comparison.max_ratio >= total.ratio {
                total.ratio = comparison.max_ratio;
                total.bound = comparison.worst.map_or(0.0, |worst| worst.bound);
            }
            let (row, head) = (at / (self.kv_heads * gqa), at % (self.kv_heads * gqa));
            let what = comparison.failure();
            if let (Some(failure), true) = (what, total.fault.is_empty()) {
                total.fault = format!("row {row}, head {head}{failure}").replace('\n', " ");
            }
            // zeros must not pass
            let shown = &self.heads[numbers[at]];
            let is_proof = shown
                .want
                .iter()
                .zip(&shown.bounds)
                .any(|(want, bound)| want.abs() > *bound);
            if !is_proof && total.fault.is_empty() {
                total.fault = format!("row {row}, head {head}: zeros would pass, nothing is proved");
            }
        }
        total
    }
}

/// What the kernels round.
fn arithmetic_of(
    scene: &Scene<'_>,
    arithmetic: Arithmetic,
    sight: std::ops::Range<usize>,
    query: &[f64],
) -> AttentionArithmetic {
    let terms = scene.formats.map(|format| if format.name == "bf16" { 2 } else { 1 });
    // pages, then pages at once, units, chunks and warps that are merged
    let pages = sight.end.div_ceil(PAGE) - sight.start / PAGE;
    match arithmetic {
        Arithmetic::Flash => AttentionArithmetic {
            key_dim: query.len(),
            accumulation: Accumulation::MatrixUnits,
            steps: pages + 8,
            terms,
            query_unit: 0.0,
            query_error: 0.0,
            key_unit: 0.0,
            value_unit: 0.0,
            // the product of weight and scale rounds before it is narrowed
            weight_unit: 2.0 * UNIT_F32
                + match terms[1] {
                    1 => UNIT_F16,
                    _ => UNIT_BF16 * UNIT_BF16,
                },
        },
        Arithmetic::Exact => AttentionArithmetic {
            key_dim: query.len(),
            accumulation: Accumulation::Fma { lanes: 32 },
            // each of four warps goes on key by key
            steps: (sight.end - sight.start).div_ceil(4) + 4,
            terms: [1, 1],
            query_unit: 0.0,
            query_error: match scene.formats[0].rotated {
                // a rotation keeps the length, and Σ|q| is at most √128 times that
                true => query
                    .chunks(GROUP)
                    .map(|group| {
                        let length = group.iter().map(|value| value * value).sum::<f64>().sqrt();
                        tolerance::rotation(length * (GROUP as f64).sqrt())
                    })
                    .fold(0.0, f64::max),
                false => 0.0,
            },
            key_unit: 0.0,
            value_unit: 0.0,
            weight_unit: 0.0,
        },
    }
}

/// Results in the domain they are compared in. Kernels rotate back in f32; whole heads are rotated again (by the test, in
/// f64), the rest of a padded head is not there, so that its results are compared as they are.
fn in_domain(is_rotated: bool, head_dim: usize, mut want: Vec<f64>, mut bounds: Vec<f64>) -> Head {
    if is_rotated {
        let root = (GROUP as f64).sqrt();
        for (want, bounds) in want.chunks_mut(GROUP).zip(bounds.chunks_mut(GROUP)) {
            let before: f64 = bounds.iter().sum();
            let magnitude: f64 = want.iter().map(|value| value.abs()).sum();
            let back = tolerance::rotation(magnitude + before);
            if head_dim.is_multiple_of(GROUP) {
                bounds.iter_mut().for_each(|bound| *bound += back * root);
            } else {
                rotate_fast(want, Direction::Inverse);
                bounds.fill(before / root + back);
            }
        }
    }
    want.truncate(head_dim);
    bounds.truncate(head_dim);
    Head { want, bounds }
}
