//! Register arrays must be indexed by numbers the vendor compiler knows: registers have no addresses.

use super::statics::Statics;
use super::{Path, Report, Scope, each_statement};
use crate::ir::*;

pub fn check(scope: &Scope, statics: &Statics, report: &mut Report) {
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, path| {
        for reference in references(scope.body, &stmt.kind) {
            let Some(array) = scope.body.registers.get(reference.registers.index()) else {
                continue;
            };
            for (dimension, index) in reference.index.iter().enumerate() {
                check_index(array, dimension, *index, stmt.at, path, statics, report);
            }
        }
    });
}

/// Every mention of a register array.
pub fn references<'a>(body: &'a Body, kind: &'a StmtKind) -> Vec<&'a RegisterRef> {
    match kind {
        StmtKind::Eval(value) => match &body.value(*value).op {
            Op::ReadRegister(reference) => vec![reference],
            _ => Vec::new(),
        },
        StmtKind::WriteRegister { target, .. } => vec![target],
        StmtKind::LoadMatrix { to, .. } => vec![to],
        StmtKind::Mma { accumulator, a, b, .. } => vec![accumulator, a, b],
        _ => Vec::new(),
    }
}

fn check_index(
    array: &Registers,
    dimension: usize,
    index: ValueId,
    at: Location,
    path: &Path,
    statics: &Statics,
    report: &mut Report,
) {
    let Some(&size) = array.dims.get(dimension) else {
        return;
    };
    if !statics.is_static(index) {
        report.add(
            at,
            format!(
                "register array `{}` is indexed by a value that is known at run time only",
                array.name
            ),
            "comptime numbers and the variables of `unrolled(…)` loops: registers have no addresses, another index would move the array to slow local memory",
            "loop with `for i in unrolled(0..n)`, or keep the values in `Shared`",
        );
        return;
    }
    let outside = statics
        .numbers(index, path)
        .and_then(|numbers| numbers.into_iter().find(|n| *n < 0 || *n >= size as i128));
    if let Some(outside) = outside {
        report.add(
            at,
            format!(
                "this index reaches {outside} in a dimension of {size} of register array `{}`",
                array.name
            ),
            format!("0 to {}", size.saturating_sub(1)),
            "make the array larger, or run the loop over fewer rounds",
        );
    }
}
