//! Statements: declarations, assignments, control flow, barriers, fragments.

use tilekiln_dsl::ir::{
    BinaryOp, Block, CompareOp, Literal, Location, MathFn, Memory, MmaShape, Op, ReduceOp, RegisterRef, RegistersId,
    Scalar, Stmt, StmtKind, Type, Unroll, ValueId,
};

use super::body::Printer;
use super::expression::{Context, operator};
use super::language::{Sync, binding};
use super::output::Output;
use crate::CodegenError;

impl Printer<'_, '_> {
    /// All statements of a block, in the present scope.
    pub fn block(&mut self, block: &Block) -> Result<(), CodegenError> {
        for stmt in block {
            self.statement(stmt)?;
        }
        Ok(())
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<(), CodegenError> {
        let at = stmt.at;
        match &stmt.kind {
            StmtKind::Eval(value) => self.evaluate(*value, at)?,
            StmtKind::Comment(text) => {
                self.out.gap();
                self.out.comment(text, Some(at));
            }
            StmtKind::Declare { variable, value } => {
                if self.analysis.variable_read[variable.index()] {
                    let declared = &self.body.variables[variable.index()];
                    let initial = self.text(*value)?;
                    let ty = self.type_name(declared.ty, at)?;
                    let name = self.file.names.declare(&declared.name);
                    self.line(format!("{ty} {name} = {initial};"), at);
                    self.variables[variable.index()] = Some(name);
                }
            }
            StmtKind::Assign { variable, value } => {
                if self.analysis.variable_read[variable.index()] {
                    let name = self.variables[variable.index()].clone().ok_or_else(|| CodegenError {
                        message: format!(
                            "variable `{}` is assigned before it is declared",
                            self.body.variables[variable.index()].name
                        ),
                        at,
                    })?;
                    let ty = self.body.variables[variable.index()].ty;
                    self.assign(&name, ty, *value, at)?;
                }
            }
            StmtKind::DeclareRegisters { registers, fill } => self.declare_registers(*registers, *fill, at)?,
            StmtKind::WriteRegister { target, value } => {
                if self.analysis.registers_read[target.registers.index()] {
                    let element = self.body.registers[target.registers.index()].element;
                    let name = self.register(target, at)?;
                    if element == Scalar::BF16 {
                        let value = self.value(*value, Context::Typed)?;
                        let value = self.narrowed(element, value);
                        self.line(format!("{name} = {};", value.text), at);
                    } else {
                        self.assign(&name, element.into(), *value, at)?;
                    }
                }
            }
            StmtKind::Store { place, value } => self.store(place, *value, at)?,
            StmtKind::If {
                condition,
                then,
                otherwise,
            } => self.if_else(*condition, then, otherwise, at)?,
            StmtKind::For {
                variable,
                start,
                end,
                step,
                unroll,
                body,
            } => {
                if !self.prints(stmt) {
                    return Ok(());
                }
                let start = self.text(*start)?;
                let end = self.value(*end, Context::Beside)?.within(binding::SHIFT);
                let step = match self.literal_value(*step) {
                    Some(Literal::U32(1) | Literal::I32(1) | Literal::U64(1)) => None,
                    _ => Some(self.text(*step)?),
                };
                let declared = &self.body.variables[variable.index()];
                let ty = self.type_name(declared.ty, at)?;
                match unroll {
                    Unroll::Free => {}
                    Unroll::By(factor) => self.line(format!("#pragma unroll {factor}"), at),
                    Unroll::Full => self.line("#pragma unroll", at),
                }
                self.file.names.open();
                let name = self.file.names.declare(&declared.name);
                let advance = step.map_or_else(|| format!("++{name}"), |step| format!("{name} += {step}"));
                let head = format!("for ({ty} {name} = {start}; {name} < {end}; {advance})");
                self.variables[variable.index()] = Some(name);
                let inner = self.nested(body)?;
                self.file.names.close();
                self.compound(&head, inner, at);
            }
            StmtKind::While { test, condition, body } => self.while_loop(test, *condition, body, at)?,
            StmtKind::Break => self.line("break;", at),
            StmtKind::Continue => self.line("continue;", at),
            StmtKind::Return(None) => self.line("return;", at),
            StmtKind::Return(Some(value)) => {
                let text = self.text(*value)?;
                self.line(format!("return {text};"), at);
            }
            StmtKind::Barrier => self.sync(Sync::Block, at),
            StmtKind::GroupBarrier { warps } => self.sync(Sync::Group(*warps), at),
            StmtKind::WarpBarrier => self.sync(Sync::Warp, at),
            StmtKind::AsyncCommit => self.sync(Sync::AsyncCommit, at),
            StmtKind::AsyncWait { pending } => self.sync(Sync::AsyncWait(*pending), at),
            StmtKind::TriggerDependents => {
                if self.file.kernel.target.dependent_launch {
                    self.sync(Sync::TriggerDependents, at);
                }
            }
            StmtKind::WaitForPrerequisites => {
                if self.file.kernel.target.dependent_launch {
                    self.sync(Sync::WaitForPrerequisites, at);
                }
            }
            StmtKind::AsyncCopy { to, from } => {
                let to = self.element(to, at)?;
                let from = self.element(from, at)?;
                let copy = if self.file.kernel.target.async_copy {
                    "async_copy_16"
                } else {
                    "copy_16"
                };
                self.file.needs.helper(copy);
                self.line(format!("{copy}(&{to}, &{from});"), at);
            }
            StmtKind::LoadMatrix { to, from, transposed } => {
                let target = &self.file.kernel.target;
                if !target.matrix_load {
                    return Err(CodegenError {
                        message: format!(
                            "{} has no matrix load from shared memory; load the fragment with ordinary loads (the tile types of the language do)",
                            target.name
                        ),
                        at,
                    });
                }
                if self.analysis.registers_read[to.registers.index()] {
                    let to = self.register(to, at)?;
                    let from = self.element(from, at)?;
                    let load = if *transposed {
                        "load_matrix_transposed"
                    } else {
                        "load_matrix"
                    };
                    self.file.needs.helper(load);
                    self.line(format!("{load}({to}, &{from});"), at);
                }
            }
            StmtKind::Mma {
                accumulator,
                a,
                b,
                element,
                shape,
            } => self.mma([accumulator, a, b], *element, *shape, at)?,
            StmtKind::InitCopyBarriers { .. } | StmtKind::BulkCopy { .. } | StmtKind::WaitForCopy { .. } => {
                self.bulk_copy(&stmt.kind, at)?;
            }
            StmtKind::Call { function, arguments } => {
                let call = self.call(*function, arguments, at)?;
                self.line(format!("{call};"), at);
            }
        }
        Ok(())
    }

    fn line(&mut self, text: impl AsRef<str>, at: Location) {
        self.out.line(text, Some(at));
    }

    fn sync(&mut self, what: Sync, at: Location) {
        let async_copy = self.file.kernel.target.async_copy;
        if let Some(text) = self.file.language.sync(what, async_copy, &mut self.file.needs) {
            self.line(text, at);
        }
    }

    fn evaluate(&mut self, id: ValueId, at: Location) -> Result<(), CodegenError> {
        let body = self.body;
        let value = body.value(id);
        if !self.analysis.live[id.index()] || self.analysis.inline[id.index()] {
            return Ok(());
        }
        // A call may be needed for what it does only.
        let text = self.operation(id, Context::Typed)?.text;
        let used = self.analysis.used[id.index()];
        if !used {
            self.line(format!("{text};"), at);
            return Ok(());
        }
        let ty = self.type_name(value.ty, at)?;
        let wanted = value.name.clone().unwrap_or_else(|| self.temporary_name(id));
        let name = self.file.names.declare(&wanted);
        self.line(format!("const {ty} {name} = {text};"), at);
        self.values[id.index()] = Some(name);
        Ok(())
    }

    /// `name = value;`, as `name += …;` where the value is made from the old one.
    fn assign(&mut self, name: &str, ty: Type, value: ValueId, at: Location) -> Result<(), CodegenError> {
        if let Some(text) = self.compound_assignment(name, ty, value)? {
            self.line(text, at);
            return Ok(());
        }
        let text = self.text(value)?;
        self.line(format!("{name} = {text};"), at);
        Ok(())
    }

    fn compound_assignment(&mut self, name: &str, ty: Type, value: ValueId) -> Result<Option<String>, CodegenError> {
        if !self.is_inline(value) || self.values[value.index()].is_some() {
            return Ok(None);
        }
        let Op::Binary(op, old, new) = &self.body.value(value).op else {
            return Ok(None);
        };
        let native = matches!(ty, Type::Scalar(Scalar::I32 | Scalar::U32 | Scalar::U64 | Scalar::F32));
        let is_old = matches!(
            self.body.value(*old).op,
            Op::ReadVariable(_) | Op::ReadRegister(_) | Op::Load(_)
        );
        let rem = *op == BinaryOp::Rem && ty.scalar() == Scalar::F32;
        let Some((token, _)) = operator(*op, false).filter(|_| native && is_old && !rem) else {
            return Ok(None);
        };
        if !self.is_inline(*old) || self.text(*old)? != name {
            return Ok(None);
        }
        if *op == BinaryOp::Add
            && matches!(
                self.literal_value(*new),
                Some(Literal::I32(1) | Literal::U32(1) | Literal::U64(1))
            )
        {
            return Ok(Some(format!("++{name};")));
        }
        let context = if matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor) {
            Context::Mask
        } else {
            Context::Beside
        };
        let text = self.value(*new, context)?.text;
        Ok(Some(format!("{name} {token}= {text};")))
    }

    fn literal_value(&self, id: ValueId) -> Option<Literal> {
        match self.body.value(id).op {
            Op::Literal(literal) if self.values[id.index()].is_none() => Some(literal),
            _ => None,
        }
    }

    fn store(&mut self, place: &tilekiln_dsl::ir::Place, value: ValueId, at: Location) -> Result<(), CodegenError> {
        let (_, element) = self.memory(place.memory, at)?;
        let target = self.element(place, at)?;
        if place.access == Type::Scalar(element) {
            if matches!(element, Scalar::I32 | Scalar::U32 | Scalar::U64 | Scalar::F32) {
                return self.assign(&target, element.into(), value, at);
            }
            let value = self.value(value, Context::Typed)?;
            let value = self.narrowed(element, value);
            self.line(format!("{target} = {};", value.text), at);
            return Ok(());
        }
        let access = self.type_name(place.access, at)?;
        let mut value = self.value(value, Context::Typed)?;
        if let Type::Scalar(scalar) = place.access {
            value = self.narrowed(scalar, value);
        }
        self.file.needs.helper("store_as");
        self.line(format!("store_as<{access}>(&{target}, {});", value.text), at);
        Ok(())
    }

    fn declare_registers(&mut self, id: RegistersId, fill: Option<Literal>, at: Location) -> Result<(), CodegenError> {
        if !self.analysis.registers_read[id.index()] {
            return Ok(());
        }
        let array = &self.body.registers[id.index()];
        let ty = self.type_name(array.element.into(), at)?;
        let name = self.file.names.declare(&array.name);
        let dims: String = array.dims.iter().map(|d| format!("[{d}]")).collect();
        let note = array.note.as_ref().map_or(String::new(), |note| {
            format!("   // {}", super::output::comment_text(note))
        });
        let zero = fill.is_some_and(|fill| match fill {
            Literal::Bool(v) => !v,
            Literal::I32(v) => v == 0,
            Literal::U32(v) => v == 0,
            Literal::U64(v) => v == 0,
            Literal::F32(v) => v.to_bits() == 0,
            Literal::F16(v) => v.to_bits() == 0,
        });
        let initial = if zero { " = {}" } else { "" };
        self.line(format!("{ty} {name}{dims}{initial};{note}"), at);
        if let Some(fill) = fill.filter(|_| !zero) {
            let value = self.literal(fill, Context::Typed);
            let value = self.narrowed(array.element, value);
            let index = ["i", "j", "k"];
            self.file.names.open();
            let mut element = name.clone();
            for (depth, size) in array.dims.iter().enumerate() {
                let i = self.file.names.declare(index.get(depth).unwrap_or(&"n"));
                self.line("#pragma unroll", at);
                self.line(format!("for (unsigned {i} = 0; {i} < {size}; ++{i})"), at);
                element += &format!("[{i}]");
                self.out.indent();
            }
            self.line(format!("{element} = {};", value.text), at);
            for _ in &array.dims {
                self.out.dedent();
            }
            self.file.names.close();
        }
        self.registers[id.index()] = Some(name);
        Ok(())
    }

    /// Copies of whole tiles by one thread, and the barriers that count them.
    fn bulk_copy(&mut self, kind: &StmtKind, at: Location) -> Result<(), CodegenError> {
        let target = &self.file.kernel.target;
        if !target.bulk_copy {
            return Err(CodegenError {
                message: format!(
                    "{} has no bulk copies; copy with `async_copy` (the copy rings of the language do)",
                    target.name
                ),
                at,
            });
        }
        match kind {
            StmtKind::InitCopyBarriers { barriers } => {
                let len = self.body.shared[barriers.index()].len;
                let (name, _) = self.memory(Memory::Shared(*barriers), at)?;
                self.file.needs.helper("init_copy_barriers");
                self.line(format!("init_copy_barriers<{len}>({name});"), at);
            }
            StmtKind::BulkCopy {
                to,
                from,
                bytes,
                barrier,
            } => {
                let (to, from) = (self.element(to, at)?, self.element(from, at)?);
                let (bytes, barrier) = (self.text(*bytes)?, self.element(barrier, at)?);
                self.file.needs.helper("bulk_copy");
                self.line(format!("bulk_copy(&{to}, &{from}, {bytes}, &{barrier});"), at);
            }
            StmtKind::WaitForCopy { barrier, parity } => {
                let (barrier, parity) = (self.element(barrier, at)?, self.text(*parity)?);
                self.file.needs.helper("wait_for_copy");
                self.line(format!("wait_for_copy(&{barrier}, {parity});"), at);
            }
            _ => {}
        }
        Ok(())
    }

    fn mma(
        &mut self,
        operands: [&RegisterRef; 3],
        element: Scalar,
        shape: MmaShape,
        at: Location,
    ) -> Result<(), CodegenError> {
        let target = &self.file.kernel.target;
        let language = self.file.language;
        if !language.fragments().contains(&target.fragments) {
            return Err(CodegenError {
                message: format!(
                    "{} lays out fragments as {:?}, which {} files cannot express; {:?} exists",
                    target.name,
                    target.fragments,
                    language.extension(),
                    language.fragments()
                ),
                at,
            });
        }
        let helper = match (shape, element) {
            (MmaShape::Square, Scalar::F16) => "mma_16x16x16_f16",
            (MmaShape::Square, Scalar::BF16) => "mma_16x16x16_bf16",
            (MmaShape::Square, _) => "",
            (MmaShape::Instruction, element) => language.instruction_product(element),
        };
        if helper.is_empty() || (element.is_float() && !target.mma_elements.contains(&element)) {
            let exist: Vec<&str> = target.mma_elements.iter().map(|e| e.name()).collect();
            return Err(CodegenError {
                message: format!(
                    "a 16x16x16 product of {element} tiles; {} has {}",
                    target.name,
                    exist.join(" and ")
                ),
                at,
            });
        }
        if !self.analysis.registers_read[operands[0].registers.index()] {
            return Ok(());
        }
        let mut list = Vec::new();
        for operand in operands {
            list.push(self.register(operand, at)?);
        }
        self.file.needs.helper(helper);
        self.line(format!("{helper}({});", list.join(", ")), at);
        Ok(())
    }

    /// Prints a block aside, one level deeper, in the scope that is open.
    fn nested(&mut self, block: &Block) -> Result<Output, CodegenError> {
        let aside = self.out.nested();
        let outer = std::mem::replace(&mut self.out, aside);
        self.file.names.open();
        let result = self.block(block);
        self.file.names.close();
        let inner = std::mem::replace(&mut self.out, outer);
        result.map(|()| inner)
    }

    /// `head`, then a nested block; braces unless it is a single plain line.
    fn compound(&mut self, head: &str, inner: Output, at: Location) {
        if inner.is_single_statement() {
            self.line(head, at);
            self.out.append(inner);
        } else {
            self.line(format!("{head} {{"), at);
            self.out.append(inner);
            self.line("}", at);
        }
    }

    fn if_else(
        &mut self,
        condition: ValueId,
        then: &Block,
        otherwise: &Block,
        at: Location,
    ) -> Result<(), CodegenError> {
        let then_prints = then.iter().any(|s| self.prints(s));
        let otherwise_prints = otherwise.iter().any(|s| self.prints(s));
        if !then_prints && !otherwise_prints {
            return Ok(());
        }
        if !then_prints {
            let test = self.negated(condition)?;
            let inner = self.nested(otherwise)?;
            self.compound(&format!("if ({test})"), inner, at);
            return Ok(());
        }
        let test = self.value(condition, Context::Exact)?;
        let inner = self.nested(then)?;
        if !otherwise_prints {
            self.compound(&format!("if ({})", test.text), inner, at);
            return Ok(());
        }
        let is_comment = |s: &Stmt| matches!(s.kind, StmtKind::Comment(_));
        let chain: Vec<&Stmt> = otherwise.iter().filter(|s| self.prints(s) || is_comment(s)).collect();
        let chained = matches!(
            chain[..],
            [Stmt {
                kind: StmtKind::If { .. },
                ..
            }]
        );
        self.line(format!("if ({}) {{", test.text), at);
        self.out.append(inner);
        if chained {
            // Printed at this depth; its first line joins the closing brace.
            let aside = self.out.sibling();
            let outer = std::mem::replace(&mut self.out, aside);
            self.file.names.open();
            let result = self.block(otherwise);
            self.file.names.close();
            let rest = std::mem::replace(&mut self.out, outer);
            result?;
            self.out.append_joined("} else ", rest);
        } else {
            let inner = self.nested(otherwise)?;
            self.line("} else {", at);
            self.out.append(inner);
            self.line("}", at);
        }
        Ok(())
    }

    /// The opposite of a condition; of two integers, the opposite comparison.
    fn negated(&mut self, condition: ValueId) -> Result<String, CodegenError> {
        if self.is_inline(condition)
            && let Op::Compare(op, a, b) = &self.body.value(condition).op
        {
            let exact = !self.body.value(*a).ty.scalar().is_float() || matches!(op, CompareOp::Eq | CompareOp::Ne);
            if exact {
                let opposite = match op {
                    CompareOp::Eq => CompareOp::Ne,
                    CompareOp::Ne => CompareOp::Eq,
                    CompareOp::Lt => CompareOp::Ge,
                    CompareOp::Le => CompareOp::Gt,
                    CompareOp::Gt => CompareOp::Le,
                    CompareOp::Ge => CompareOp::Lt,
                };
                return Ok(self.comparison(opposite, *a, *b)?.text);
            }
        }
        let test = self.value(condition, Context::Exact)?.within(binding::UNARY);
        Ok(format!("!{test}"))
    }

    fn while_loop(&mut self, test: &Block, condition: ValueId, body: &Block, at: Location) -> Result<(), CodegenError> {
        if !test.iter().any(|s| self.prints(s)) {
            let text = self.text(condition)?;
            let inner = self.nested(body)?;
            self.compound(&format!("while ({text})"), inner, at);
            return Ok(());
        }
        self.line("while (true) {", at);
        self.out.indent();
        self.file.names.open();
        let result = self.block(test).and_then(|()| {
            let stop = self.negated(condition)?;
            self.line(format!("if ({stop})"), at);
            self.out.indent();
            self.line("break;", at);
            self.out.dedent();
            self.block(body)
        });
        self.file.names.close();
        result?;
        self.out.dedent();
        self.line("}", at);
        Ok(())
    }

    /// Whether a statement leaves any text.
    fn prints(&self, stmt: &Stmt) -> bool {
        match &stmt.kind {
            StmtKind::Eval(value) => self.analysis.live[value.index()] && !self.analysis.inline[value.index()],
            StmtKind::Declare { variable, .. } | StmtKind::Assign { variable, .. } => {
                self.analysis.variable_read[variable.index()]
            }
            StmtKind::DeclareRegisters { registers, .. } => self.analysis.registers_read[registers.index()],
            StmtKind::WriteRegister { target, .. } => self.analysis.registers_read[target.registers.index()],
            StmtKind::Mma { accumulator, .. } => self.analysis.registers_read[accumulator.registers.index()],
            StmtKind::LoadMatrix { to, .. } => self.analysis.registers_read[to.registers.index()],
            StmtKind::TriggerDependents | StmtKind::WaitForPrerequisites => self.file.kernel.target.dependent_launch,
            StmtKind::AsyncCommit | StmtKind::AsyncWait { .. } => self.file.kernel.target.async_copy,
            StmtKind::If { then, otherwise, .. } => then.iter().chain(otherwise).any(|s| self.prints(s)),
            StmtKind::For { body, .. } => body.iter().any(|s| self.prints(s)),
            StmtKind::While { test, body, .. } => test.iter().chain(body).any(|s| self.prints(s)),
            // A comment alone is no reason to print what stands around it.
            StmtKind::Comment(_) => false,
            _ => true,
        }
    }

    /// A name for a value the author did not name but that is needed twice.
    fn temporary_name(&self, id: ValueId) -> String {
        let value = self.body.value(id);
        let memory_name = |memory| {
            self.memory(memory, value.at)
                .map_or("memory".to_string(), |(name, _)| name)
        };
        let snapshot = matches!(value.op, Op::ReadVariable(_));
        if let Some(memory) = self.analysis.index_of[id.index()].first().filter(|_| !snapshot) {
            return format!("{}_index", memory_name(*memory));
        }
        match &value.op {
            Op::Load(place) => format!("loaded_{}", memory_name(place.memory)),
            Op::ReadVariable(variable) => {
                format!("previous_{}", self.body.variables[variable.index()].name)
            }
            Op::ReadRegister(reference) => format!("{}_element", self.body.registers[reference.registers.index()].name),
            Op::Lookup { table, .. } => format!("{}_entry", self.body.tables[table.index()].name),
            Op::Call { function, .. } => format!("{}_result", self.file.kernel.functions[function.index()].name),
            Op::Component(_, index) => format!("component_{index}"),
            op => operation_name(op).to_string(),
        }
    }
}

fn operation_name(op: &Op) -> &'static str {
    match op {
        Op::Unary(..) => "negated",
        Op::Binary(op, ..) => match op {
            BinaryOp::Add | BinaryOp::AddUnfused => "total",
            BinaryOp::Sub | BinaryOp::SubUnfused => "difference",
            BinaryOp::Mul | BinaryOp::MulUnfused => "product",
            BinaryOp::Div => "quotient",
            BinaryOp::Rem => "remainder",
            BinaryOp::And => "masked",
            BinaryOp::Or => "combined",
            BinaryOp::Xor => "mixed",
            BinaryOp::Shl | BinaryOp::Shr => "shifted",
            BinaryOp::Min => "smaller",
            BinaryOp::Max => "larger",
        },
        Op::Compare(..) => "holds",
        Op::Select { .. } => "chosen",
        Op::Convert(_) => "converted",
        Op::Bitcast(_) => "bits",
        Op::Math(function, _) => match function {
            MathFn::Abs => "magnitude",
            MathFn::Fma => "fused",
            MathFn::Sqrt => "root",
            MathFn::Rsqrt => "inverse_root",
            MathFn::Exp2 | MathFn::Exp2Flushed => "power",
            MathFn::Log2 => "logarithm",
            MathFn::Sin => "sine",
            MathFn::Cos => "cosine",
            MathFn::Tanh => "squashed",
            MathFn::Round | MathFn::Floor => "rounded",
        },
        Op::Vector(_) => "packed",
        Op::Shuffle { .. } => "exchanged",
        Op::WarpReduce { op, .. } => match op {
            ReduceOp::Sum => "warp_total",
            ReduceOp::Min => "warp_lowest",
            ReduceOp::Max => "warp_highest",
        },
        Op::Ballot(_) => "votes",
        Op::Dot4 { .. } => "dot",
        Op::BytePermute { .. } => "permuted",
        Op::InRegister(_) => "kept",
        _ => "value",
    }
}
