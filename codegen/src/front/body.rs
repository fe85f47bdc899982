//! What printing a body needs to know: names, the analysis, and what the file relies on so far.

use std::collections::BTreeSet;

use tilekiln_dsl::ir::{Body, Kernel, Location, Memory, Scalar, Type, ValueId};
use tilekiln_dsl::ir::{FunctionParameterKind, ParameterKind};

use super::analysis::{Analysis, analyse};
use super::effects::Owner;
use super::language::{Language, Needs, Spelled};
use super::names::Names;
use super::output::Output;
use crate::CodegenError;

/// What the bodies of one file share.
pub(crate) struct File<'k> {
    pub kernel: &'k Kernel,
    pub language: &'k dyn Language,
    pub names: Names,
    pub needs: Needs,
    pub effects: Vec<super::effects::CallEffect>,
    pub constant_names: Vec<String>,
    pub function_names: Vec<String>,
    /// All tables of all bodies; equal ones are merged.
    pub tables: Vec<FileTable<'k>>,
    pub used_constants: BTreeSet<usize>,
    pub used_functions: BTreeSet<usize>,
    pub used_tables: BTreeSet<usize>,
}

/// A table at file scope.
pub(crate) struct FileTable<'k> {
    pub name: String,
    pub table: &'k tilekiln_dsl::ir::Table,
}

/// Prints one body.
pub(crate) struct Printer<'f, 'k> {
    pub file: &'f mut File<'k>,
    pub body: &'k Body,
    pub owner: Owner<'k>,
    pub analysis: Analysis,
    pub out: Output,
    /// Names of the values that are declared.
    pub values: Vec<Option<String>>,
    pub variables: Vec<Option<String>>,
    pub registers: Vec<Option<String>>,
    pub shared: Vec<Option<String>>,
    pub parameters: Vec<String>,
}

impl<'f, 'k> Printer<'f, 'k> {
    /// Prepares for a body; opens its scope.
    pub fn new(file: &'f mut File<'k>, body: &'k Body, owner: Owner<'k>) -> Self {
        let analysis = analyse(body, owner, &file.effects);
        file.names.open();
        let wanted: Vec<&str> = match owner {
            Owner::Kernel(kernel) => kernel.parameters.iter().map(|p| p.name.as_str()).collect(),
            Owner::Function(kernel, id) => kernel.functions[id.index()]
                .parameters
                .iter()
                .map(|p| p.name.as_str())
                .collect(),
        };
        let parameters = wanted.into_iter().map(|name| file.names.declare(name)).collect();
        Self {
            file,
            body,
            owner,
            analysis,
            out: Output::default(),
            values: vec![None; body.values.len()],
            variables: vec![None; body.variables.len()],
            registers: vec![None; body.registers.len()],
            shared: vec![None; body.shared.len()],
            parameters,
        }
    }

    /// Closes the scope and hands the lines over.
    pub fn finish(self) -> Output {
        self.file.names.close();
        self.out
    }

    /// Turns a missing spelling into an error at the author's line.
    pub fn spelled<T>(&self, at: Location, piece: Spelled<T>) -> Result<T, CodegenError> {
        piece.map_err(|message| CodegenError { message, at })
    }

    /// C++ name of a type.
    pub fn type_name(&mut self, ty: Type, at: Location) -> Result<&'static str, CodegenError> {
        match ty {
            Type::Scalar(scalar) => Ok(self.file.language.scalar(scalar, &mut self.file.needs)),
            Type::Vector(scalar, lanes) => {
                let piece = self.file.language.vector(scalar, lanes, &mut self.file.needs);
                self.spelled(at, piece)
            }
        }
    }

    /// Name and element type of a memory.
    pub fn memory(&self, memory: Memory, at: Location) -> Result<(String, Scalar), CodegenError> {
        let missing = || CodegenError {
            message: "an access names a memory this kernel does not have".to_string(),
            at,
        };
        match memory {
            Memory::Shared(id) => {
                let name = self.shared.get(id.index()).cloned().flatten().ok_or_else(missing)?;
                Ok((name, self.body.shared[id.index()].element))
            }
            Memory::Parameter(index) => {
                let index = index as usize;
                let element = match self.owner {
                    Owner::Kernel(kernel) => match kernel.parameters.get(index).map(|p| &p.kind) {
                        Some(ParameterKind::Memory { element, .. }) => *element,
                        _ => return Err(missing()),
                    },
                    Owner::Function(kernel, id) => {
                        match kernel.functions[id.index()].parameters.get(index).map(|p| p.kind) {
                            Some(
                                FunctionParameterKind::GlobalRead(element)
                                | FunctionParameterKind::GlobalWrite(element)
                                | FunctionParameterKind::Shared(element),
                            ) => element,
                            _ => return Err(missing()),
                        }
                    }
                };
                Ok((self.parameters[index].clone(), element))
            }
        }
    }

    /// Whether a value is live and printed inside its uses.
    pub fn is_inline(&self, value: ValueId) -> bool {
        self.analysis.inline[value.index()]
    }
}
