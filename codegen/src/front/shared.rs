//! Shared-memory arrays: static while they fit what a block gets unasked, else carved from one dynamic array.

use tilekiln_dsl::ir::{Body, Kernel};

use super::analysis::analyse;
use super::body::Printer;
use super::effects::{CallEffect, Owner};
use super::output::comment_text;
use crate::CodegenError;

/// Where the arrays of a kernel lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedPlan {
    /// Bytes of everything a block uses, device functions included.
    pub total: usize,
    /// Bytes of dynamic shared memory (the kernel's own arrays), or 0.
    pub dynamic: usize,
}

/// Arrays start at multiples of this.
const ALIGNMENT: usize = 16;

fn used_bytes(body: &Body, used: &[bool]) -> usize {
    let sizes = body.shared.iter().zip(used).filter(|(_, used)| **used);
    sizes.map(|(array, _)| array.bytes().next_multiple_of(ALIGNMENT)).sum()
}

/// Adds up what is used and decides between static and dynamic.
pub(crate) fn plan(
    kernel: &Kernel,
    effects: &[CallEffect],
    used_functions: &[usize],
) -> Result<SharedPlan, CodegenError> {
    let target = &kernel.target;
    let used = analyse(&kernel.body, Owner::Kernel(kernel), effects).shared_used;
    let own = used_bytes(&kernel.body, &used);
    let mut in_functions = 0;
    for &index in used_functions {
        let id = tilekiln_dsl::ir::FunctionId(index as u32);
        let body = &kernel.functions[index].body;
        in_functions += used_bytes(body, &analyse(body, Owner::Function(kernel, id), effects).shared_used);
    }
    let total = own + in_functions;
    let arrays = kernel.body.shared.iter().zip(&used).filter(|(_, used)| **used);
    let largest = arrays.map(|(array, _)| array).max_by_key(|array| array.bytes());
    if total > target.shared_limit {
        let hint = largest.map_or(String::new(), |array| {
            format!("; the largest array is `{}` with {} bytes", array.name, array.bytes())
        });
        return Err(CodegenError {
            message: format!(
                "{} asks for {total} bytes of shared memory; a block of {} has at most {} (nearest: {} bytes fewer){hint}",
                kernel.family,
                target.name,
                target.shared_limit,
                total - target.shared_limit
            ),
            at: largest.map_or(kernel.at, |array| array.at),
        });
    }
    if total <= target.shared_default {
        return Ok(SharedPlan { total, dynamic: 0 });
    }
    if in_functions > target.shared_default {
        return Err(CodegenError {
            message: format!(
                "device functions ask for {in_functions} bytes of shared memory; at most {} can be theirs on {}. Declare the arrays in the kernel and pass them",
                target.shared_default, target.name
            ),
            at: kernel.at,
        });
    }
    Ok(SharedPlan { total, dynamic: own })
}

impl Printer<'_, '_> {
    /// Declares the arrays of this body.
    pub fn declare_shared(&mut self, dynamic: bool) -> Result<(), CodegenError> {
        let body = self.body;
        let used: Vec<usize> = (0..body.shared.len())
            .filter(|&i| self.analysis.shared_used[i])
            .collect();
        if used.is_empty() {
            return Ok(());
        }
        let mut pool = String::new();
        if dynamic {
            pool = self.file.names.declare("shared_memory");
            let total = used_bytes(body, &self.analysis.shared_used);
            let qualifier = self.file.language.dynamic_shared();
            self.out.line(
                format!("{qualifier} {pool}[];   // {total} bytes, asked for at launch"),
                None,
            );
        }
        let mut offset = 0;
        for index in used {
            let array = &body.shared[index];
            let at = Some(array.at);
            let ty = self.type_name(array.element.into(), array.at)?;
            let name = self.file.names.declare(&array.name);
            let note = array
                .note
                .as_ref()
                .map_or(String::new(), |note| format!("{}, ", comment_text(note)));
            let note = format!("// {note}{} bytes", array.bytes());
            if dynamic {
                let start = self.file.names.declare(&format!("{}_at", array.name));
                self.out.line(format!("constexpr unsigned {start} = {offset};"), at);
                self.out.line(
                    format!("{ty}* const {name} = reinterpret_cast<{ty}*>(&{pool}[{start}]);   {note}"),
                    at,
                );
                offset += array.bytes().next_multiple_of(ALIGNMENT);
            } else {
                self.out.line(
                    format!("alignas(16) __shared__ {ty} {name}[{}];   {note}", array.len),
                    at,
                );
            }
            self.shared[index] = Some(name);
        }
        self.out.gap();
        Ok(())
    }
}
