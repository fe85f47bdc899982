//! stream_read: exact sums, so that nothing is left out or read twice.

use super::trial::{for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::stream::stream_read;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("stream_read", &[], |trial| check(trial, 256)),
        Case::new("stream_read", &["threads=96"], |trial| check(trial, 96)),
    ]
}

fn check(trial: &mut Trial<'_>, threads: usize) -> Result<(), CaseError> {
    // blocks, quads: fewer than threads; a last round that is not full; many rounds
    let shapes = match trial.extent {
        Extent::Small => vec![(1..=1, 1..=1), (1..=1, 1001..=2000), (11..=13, 100..=200)],
        Extent::Medium => vec![
            (1..=1, 1..=1),
            (11..=13, 100..=200),
            (1..=1, 3001..=5000),
            (11..=13, 11_001..=30_000),
        ],
        Extent::Large => vec![(1..=1, 1..=1), (11..=13, 100..=200), (501..=999, 3_000_001..=5_000_000)],
    };
    for_each(trial, shapes, |trial, (blocks, quads)| {
        let blocks = trial.random.odd_size(blocks);
        let quads = trial.random.odd_size(quads);
        trial.shape(format!("{quads} quads, {blocks} blocks"));
        let x = trial.random.bytes(quads * 16);

        let out = trial.output::<u32>(blocks * threads)?;
        let arguments = vec![trial.input(&x)?, out.argument(), number(quads), number(blocks)];
        trial.launch([blocks, 1, 1], arguments)?;

        let words: Vec<[u32; 4]> = x
            .as_chunks::<16>()
            .0
            .iter()
            .map(|quad| std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|b| quad[4 * i + b]))))
            .collect();
        let got = trial.result(&out)?;
        trial.equal("sums", &got, &stream_read(&words, blocks * threads));
        Ok(())
    })
}
