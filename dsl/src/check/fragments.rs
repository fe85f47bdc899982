//! Matrix products: operands in the target's fragment shape, of an element the target multiplies.

use super::{Path, Report, Scope, each_statement};
use crate::ir::*;
use crate::target::{FragmentLayout, TARGETS};

pub fn check(kernel: &Kernel, scope: &Scope, report: &mut Report) {
    let target = &kernel.target;
    let layout = target.fragments;
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, _| match &stmt.kind {
        StmtKind::Mma {
            accumulator,
            a,
            b,
            element,
            shape: size,
        } => {
            let is_byte = matches!(element, Scalar::I8 | Scalar::U8) && *size == MmaShape::Instruction;
            if !is_byte && !target.mma_elements.contains(element) {
                let able: Vec<_> = TARGETS
                    .iter()
                    .filter(|t| t.mma_elements.contains(element))
                    .map(|t| t.name)
                    .collect();
                let elements: Vec<_> = target.mma_elements.iter().map(|e| e.name()).collect();
                let elsewhere = match able.is_empty() {
                    true => String::new(),
                    false => format!(" ({element} fragments exist on {})", able.join(", ")),
                };
                report.add(
                    stmt.at,
                    format!("a matrix product of {element} fragments on {}", target.name),
                    format!("{} on {}{elsewhere}", elements.join(", "), target.name),
                    "convert while storing to the shared tile",
                );
            }
            let sum = if is_byte { Scalar::I32 } else { Scalar::F32 };
            let [sums, left, right] = match size {
                MmaShape::Square => [
                    FragmentLayout::ACCUMULATOR_REGISTERS,
                    layout.operand_registers(),
                    layout.operand_registers(),
                ],
                MmaShape::Instruction => {
                    let words = layout.words_per_row(element.bytes());
                    [layout.column_accumulators(), layout.lane_rows() * words, words]
                }
            };
            shape(scope, stmt.at, "accumulator", accumulator, sum, sums, report);
            shape(scope, stmt.at, "left operand", a, Scalar::U32, left, report);
            shape(scope, stmt.at, "right operand", b, Scalar::U32, right, report);
        }
        StmtKind::LoadMatrix { to, .. } => shape(scope, stmt.at, "matrix operand", to, Scalar::U32, 4, report),
        _ => {}
    });
}

fn shape(
    scope: &Scope,
    at: Location,
    what: &str,
    reference: &RegisterRef,
    element: Scalar,
    count: usize,
    report: &mut Report,
) {
    let Some(array) = scope.body.registers.get(reference.registers.index()) else {
        return;
    };
    let held: usize = array.dims.iter().skip(reference.index.len()).product();
    if array.element != element || held != count {
        report.add(
            at,
            format!("the {what} `{}` has {held} registers of {}", array.name, array.element),
            format!("{count} registers of {element} in this target's layout"),
            "load operands with `OperandA::load` and `OperandB::load`, and accumulate in `Accumulators::zeros(n).at(i)`",
        );
    }
}
