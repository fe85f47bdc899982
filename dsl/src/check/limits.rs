//! Limits of the target, and mistakes that need no analysis: block size, shared memory, loop bounds, kernels
//! without an effect.

use super::statics::Statics;
use super::{Path, Report, Scope, each_statement, scopes};
use crate::ir::*;
use crate::target::TARGETS;

pub fn check(kernel: &Kernel, report: &mut Report) {
    threads(kernel, report);
    shared_memory(kernel, report);
    group_barriers(kernel, report);
    let stores = scopes(kernel).iter().any(stores_to_global);
    if !stores {
        report.add(
            kernel.at,
            "a kernel without a store does nothing",
            "kernels that store to at least one `Out<T>` or `InOut<T>`",
            "store the result, as in `out[i] = value`",
        );
    }
}

fn stores_to_global(scope: &Scope) -> bool {
    let mut found = false;
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, _| {
        if let StmtKind::Store { place, .. } = &stmt.kind
            && let Memory::Parameter(index) = place.memory
        {
            let shared = scope.function.is_some_and(|f| {
                f.parameters
                    .get(index as usize)
                    .is_some_and(|p| matches!(p.kind, FunctionParameterKind::Shared(_)))
            });
            found |= !shared;
        }
    });
    found
}

/// The first operation that all lanes of a warp do together.
fn warp_operation(scope: &Scope) -> Option<(&'static str, Location)> {
    let mut found = None;
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, _| {
        let what = match &stmt.kind {
            StmtKind::Mma { .. } => Some("matrix product"),
            StmtKind::LoadMatrix { .. } => Some("matrix load"),
            StmtKind::BulkCopy { .. } => Some("bulk copy"),
            StmtKind::Eval(value) => match &scope.body.value(*value).op {
                Op::Shuffle { .. } => Some("shuffle"),
                Op::WarpReduce { .. } => Some("warp reduction"),
                Op::Ballot(_) => Some("ballot"),
                _ => None,
            },
            _ => None,
        };
        if let (Some(what), None) = (what, found) {
            found = Some((what, stmt.at));
        }
    });
    found
}

fn threads(kernel: &Kernel, report: &mut Report) {
    let (threads, target) = (kernel.threads, &kernel.target);
    let supported = format!("1 to {} threads on {}", target.max_threads, target.name);
    if threads == 0 {
        report.add(
            kernel.at,
            "a block of 0 threads",
            supported,
            format!("#[kernel(threads = {})]", target.wave),
        );
    } else if threads > target.max_threads {
        report.add(
            kernel.at,
            format!("a block of {threads} threads"),
            supported,
            format!(
                "#[kernel(threads = {})], with a loop such as `for i in strided(n, threads)` over the rest",
                target.max_threads
            ),
        );
    } else if !threads.is_multiple_of(target.wave)
        && let Some((what, at)) = scopes(kernel).iter().rev().find_map(warp_operation)
    {
        report.add(
            kernel.at,
            format!(
                "a block of {threads} threads, where the {what} at {at} needs whole warps of {}",
                target.wave
            ),
            format!("multiples of {} threads in kernels with warp operations", target.wave),
            format!(
                "#[kernel(threads = {})], with a condition around what the extra threads must not do",
                threads.next_multiple_of(target.wave)
            ),
        );
    }
}

/// Barriers for a part of a block that a target has, beside the one for all of it.
const MOST_GROUPS: usize = 15;

fn group_barriers(kernel: &Kernel, report: &mut Report) {
    let mut first = None;
    for scope in scopes(kernel) {
        each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, _| {
            let StmtKind::GroupBarrier { warps } = stmt.kind else {
                return;
            };
            let (lanes, first) = (warps * kernel.target.wave, *first.get_or_insert(warps));
            if lanes == 0 || !kernel.threads.is_multiple_of(lanes) || kernel.threads / lanes > MOST_GROUPS {
                report.add(
                    stmt.at,
                    format!("groups of {warps} warps in a block of {} threads", kernel.threads),
                    format!("blocks that are whole groups, at most {MOST_GROUPS}"),
                    "`barrier()` for the whole block, or another number of threads",
                );
            } else if warps != first {
                report.add(
                    stmt.at,
                    format!("groups of {warps} warps meet here, and groups of {first} elsewhere in the kernel"),
                    "groups of one size in a kernel",
                    "`barrier()` for the whole block in one of the places",
                );
            }
        });
    }
}

fn shared_memory(kernel: &Kernel, report: &mut Report) {
    let limit = kernel.target.shared_limit;
    let mut arrays: Vec<&Shared> = scopes(kernel).iter().flat_map(|s| &s.body.shared).collect();
    // arrays are aligned to 16 bytes
    let size = |array: &Shared| array.bytes().next_multiple_of(16);
    let asked: usize = arrays.iter().map(|a| size(a)).sum();
    if asked <= limit {
        return;
    }
    arrays.sort_by_key(|a| std::cmp::Reverse(size(a)));
    let sizes: Vec<_> = arrays
        .iter()
        .map(|a| format!("`{}` {} bytes", a.name, size(a)))
        .collect();
    let able: Vec<_> = TARGETS
        .iter()
        .filter(|t| t.shared_limit >= asked)
        .map(|t| format!("{} ({})", t.name, t.shared_limit))
        .collect();
    let elsewhere = match able.is_empty() {
        true => "no listed target has that much".to_string(),
        false => format!("enough on {}", able.join(", ")),
    };
    report.add(
        arrays[0].at,
        format!("{asked} bytes of shared memory in one block: {}", sizes.join(", ")),
        format!("{limit} bytes on {}; {elsewhere}", kernel.target.name),
        format!(
            "smaller tiles or fewer pipeline stages: {} bytes less",
            asked.saturating_sub(limit)
        ),
    );
}

/// Steps and bounds of loops.
pub fn check_loops(scope: &Scope, statics: &Statics, report: &mut Report) {
    each_statement(&scope.body.block, &mut Path::new(), &mut |stmt, _| {
        let StmtKind::For {
            start,
            end,
            step,
            unroll,
            ..
        } = &stmt.kind
        else {
            return;
        };
        if let Some(step) = statics.number(*step)
            && step <= 0
        {
            report.add(
                stmt.at,
                format!("a loop with a step of {step} never ends"),
                "steps of 1 or more",
                "`stepped(start, end, step)` with a positive step",
            );
        }
        if *unroll == Unroll::Full && [start, end, step].iter().any(|bound| statics.number(**bound).is_none()) {
            report.add(
                stmt.at,
                "an unrolled loop with bounds that are known at run time only",
                "comptime bounds",
                "`device_range(start, end)`, which stays a loop",
            );
        }
    });
}
