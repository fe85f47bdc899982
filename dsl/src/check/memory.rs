//! Alignment of whole accesses and bounds of shared arrays, where indices are known.

use super::statics::Statics;
use super::{Path, Report, Scope, each_statement};
use crate::ir::*;

pub fn check(scope: &Scope, statics: &Statics, report: &mut Report) {
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, path| {
        for place in places(scope.body, &stmt.kind) {
            check_place(scope, place, stmt.at, path, statics, report);
        }
    });
}

fn places(body: &Body, kind: &StmtKind) -> Vec<Place> {
    match kind {
        StmtKind::Eval(value) => match &body.value(*value).op {
            Op::Load(place) => vec![*place],
            _ => Vec::new(),
        },
        StmtKind::Store { place, .. } => vec![*place],
        StmtKind::AsyncCopy { to, from } => vec![*to, *from],
        StmtKind::LoadMatrix { from, .. } => vec![*from],
        StmtKind::BulkCopy { to, from, barrier, .. } => vec![*to, *from, *barrier],
        StmtKind::WaitForCopy { barrier, .. } => vec![*barrier],
        _ => Vec::new(),
    }
}

fn check_place(scope: &Scope, place: Place, at: Location, path: &Path, statics: &Statics, report: &mut Report) {
    let Some(element) = scope.element(place.memory) else {
        return;
    };
    let Some(indices) = statics.numbers(place.index, path) else {
        return;
    };
    let name = scope.memory_name(place.memory);
    let (size, step) = (place.access.bytes(), element.bytes());
    let misaligned = indices.iter().find(|index| **index * step as i128 % size as i128 != 0);
    if let Some(index) = misaligned {
        report.add(
            at,
            format!(
                "{size} bytes of `{name}` are accessed at element {index}, byte {}",
                index * step as i128
            ),
            format!(
                "addresses that are whole multiples of the {size} bytes: every {}th element of {element}",
                size / step
            ),
            format!(
                "element {}, or a narrower access",
                index * step as i128 / size as i128 * size as i128 / step as i128
            ),
        );
        return;
    }
    let Memory::Shared(id) = place.memory else { return };
    let Some(array) = scope.body.shared.get(id.index()) else {
        return;
    };
    let bytes = (array.len * step) as i128;
    let outside = indices
        .iter()
        .find(|index| **index * step as i128 + size as i128 > bytes);
    if let Some(index) = outside {
        report.add(
            at,
            format!(
                "this index reaches element {index} of shared array `{name}` of {}",
                array.len
            ),
            format!("0 to {}", (bytes - size as i128).max(0) / step as i128),
            "make the array larger or the index smaller",
        );
    }
}
