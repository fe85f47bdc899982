//! Expressions: operators with the parentheses C++ needs, literals, loads, calls.

use tilekiln_dsl::ir::{
    Argument, BinaryOp, CompareOp, Literal, Op, Place, RegisterRef, Scalar, ShuffleKind, Type, UnaryOp, ValueId,
};

use super::body::Printer;
use super::language::{Expr, binding, float_text, is_negative, word_text};
use crate::CodegenError;

/// What the surroundings of an expression do to its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// It is converted to the right type anyway: an initializer, an index, an argument.
    Typed,
    /// It stands beside an operand of the right type.
    Beside,
    /// Beside one in a bitwise operation: masks read best in hexadecimal.
    Mask,
    /// Its own type decides: an overload, a template, the left operand of a shift.
    Exact,
}

/// The C++ operator of an operation and how tightly it binds.
pub(crate) fn operator(op: BinaryOp, is_bool: bool) -> Option<(&'static str, u8)> {
    Some(match op {
        BinaryOp::And if is_bool => ("&&", binding::AND),
        BinaryOp::Or if is_bool => ("||", binding::OR),
        BinaryOp::Xor if is_bool => ("!=", binding::EQUALITY),
        BinaryOp::Add => ("+", binding::SUM),
        BinaryOp::Sub => ("-", binding::SUM),
        BinaryOp::Mul => ("*", binding::PRODUCT),
        BinaryOp::Div => ("/", binding::PRODUCT),
        BinaryOp::Rem => ("%", binding::PRODUCT),
        BinaryOp::And => ("&", binding::BIT_AND),
        BinaryOp::Or => ("|", binding::BIT_OR),
        BinaryOp::Xor => ("^", binding::BIT_XOR),
        BinaryOp::Shl => ("<<", binding::SHIFT),
        BinaryOp::Shr => (">>", binding::SHIFT),
        BinaryOp::Min | BinaryOp::Max | BinaryOp::AddUnfused | BinaryOp::SubUnfused | BinaryOp::MulUnfused => {
            return None;
        }
    })
}

/// `a op b` with the parentheses C++ needs, and those readers (and compilers' warnings) ask for where
/// bitwise operators, shifts and `||` meet others.
pub(crate) fn infix(token: &str, binds: u8, a: Expr, b: Expr, regroup: bool) -> Expr {
    let mixed = |side: &Expr| {
        let binary = side.binds >= binding::OR && side.binds <= binding::PRODUCT;
        let asks = matches!(
            binds,
            binding::SHIFT | binding::BIT_AND | binding::BIT_XOR | binding::BIT_OR
        ) || (binds == binding::OR && side.binds == binding::AND);
        binary && asks && (side.binds != binds || binds == binding::SHIFT)
    };
    let left_needs = if mixed(&a) { binding::PRIMARY } else { binds };
    let right_needs = if mixed(&b) {
        binding::PRIMARY
    } else if regroup && b.binds == binds {
        binds
    } else {
        binds + 1
    };
    Expr {
        text: format!("{} {token} {}", a.within(left_needs), b.within(right_needs)),
        binds,
    }
}

impl Printer<'_, '_> {
    /// The text of a value.
    pub fn value(&mut self, id: ValueId, context: Context) -> Result<Expr, CodegenError> {
        if let Some(name) = &self.values[id.index()] {
            return Ok(Expr::primary(name.clone()));
        }
        if !self.is_inline(id) {
            let value = self.body.value(id);
            let what = value
                .name
                .clone()
                .map_or_else(|| format!("a {} value", value.ty), |n| format!("`{n}`"));
            return Err(CodegenError {
                message: format!(
                    "{what} is used where it has not been computed; compute it in the block that uses it, or one around it"
                ),
                at: value.at,
            });
        }
        self.operation(id, context)
    }

    /// The text of a value for a typed surrounding, with nothing around it.
    pub fn text(&mut self, id: ValueId) -> Result<String, CodegenError> {
        Ok(self.value(id, Context::Typed)?.text)
    }

    /// The text of the operation that computes a value.
    pub fn operation(&mut self, id: ValueId, context: Context) -> Result<Expr, CodegenError> {
        let body = self.body;
        let value = body.value(id);
        let (ty, at) = (value.ty, value.at);
        let language = self.file.language;
        Ok(match &value.op {
            Op::Literal(literal) => self.literal(*literal, context),
            Op::Constant(id) => self.constant(id.index(), context, at)?,
            Op::Parameter(index) => {
                let name = self
                    .parameters
                    .get(*index as usize)
                    .cloned()
                    .ok_or_else(|| CodegenError {
                        message: "a value names a parameter that is not there".to_string(),
                        at,
                    })?;
                Expr::primary(name)
            }
            Op::Builtin(builtin) => language.builtin(*builtin, &mut self.file.needs),
            Op::ReadVariable(variable) => {
                let name = self.variables[variable.index()].clone().ok_or_else(|| CodegenError {
                    message: format!(
                        "variable `{}` is read before it is declared",
                        body.variables[variable.index()].name
                    ),
                    at,
                })?;
                Expr::primary(name)
            }
            Op::ReadRegister(reference) => {
                let element = body.registers[reference.registers.index()].element;
                let text = self.register(reference, at)?;
                self.widened(element, Expr::primary(text), context)
            }
            Op::Load(place) => self.load(place, context, at)?,
            Op::Lookup { table, index } => {
                let table = &body.tables[table.index()];
                let found = self
                    .file
                    .tables
                    .iter()
                    .position(|t| t.table.name == table.name && t.table.entries == table.entries);
                let position = found.ok_or_else(|| CodegenError {
                    message: format!("table `{}` is not part of the kernel", table.name),
                    at,
                })?;
                self.file.used_tables.insert(position);
                let index = self.text(*index)?;
                let entry = Expr::primary(format!("{}[{index}]", self.file.tables[position].name));
                if language.table_entry_as_float(ty.scalar()) {
                    self.converted(Scalar::F32.into(), ty, entry, at)?
                } else {
                    entry
                }
            }
            Op::Unary(op, a) => {
                let a = self.value(*a, Context::Exact)?;
                if let Some(done) = language.unary(*op, ty, &a, &mut self.file.needs) {
                    done
                } else {
                    let token = match op {
                        UnaryOp::Neg => "-",
                        UnaryOp::Not if ty == Scalar::Bool.into() => "!",
                        UnaryOp::Not => "~",
                    };
                    let operand = a.within(binding::UNARY);
                    let operand = if operand.starts_with('-') {
                        format!("({operand})")
                    } else {
                        operand
                    };
                    Expr {
                        text: format!("{token}{operand}"),
                        binds: binding::UNARY,
                    }
                }
            }
            Op::Binary(op, a, b) => self.binary(*op, ty, *a, *b, at)?,
            Op::Compare(op, a, b) => self.comparison(*op, *a, *b)?,
            Op::Select { condition, yes, no } => {
                let condition = self.value(*condition, Context::Exact)?.within(binding::OR);
                // Integers keep their value on the way to the type they are converted to.
                let arm = if context == Context::Typed && !ty.scalar().is_float() {
                    Context::Typed
                } else {
                    Context::Exact
                };
                let yes = self.value(*yes, arm)?.within(binding::SELECT);
                let no = self.value(*no, arm)?.within(binding::SELECT);
                Expr {
                    text: format!("{condition} ? {yes} : {no}"),
                    binds: binding::SELECT,
                }
            }
            Op::Convert(a) => {
                let from = body.value(*a).ty;
                let operand = if from == ty { context } else { Context::Typed };
                let a = self.value(*a, operand)?;
                self.converted(from, ty, a, at)?
            }
            Op::Bitcast(a) => {
                let from = body.value(*a).ty;
                let a = self.value(*a, if from == ty { context } else { Context::Exact })?;
                if from == ty {
                    a
                } else if let Some(done) = language.bitcast(from, ty, &a, &mut self.file.needs) {
                    done
                } else {
                    let to = self.type_name(ty, at)?;
                    self.file.needs.helper("bit_cast");
                    Expr::primary(format!("bit_cast<{to}>({})", a.text))
                }
            }
            Op::Math(function, operands) => {
                let operands = self.exprs(operands, Context::Exact)?;
                let piece = language.math(*function, ty, &operands, &mut self.file.needs);
                self.spelled(at, piece)?
            }
            Op::Component(vector, index) => {
                let vector_type = body.value(*vector).ty;
                let whole = self.value(*vector, Context::Exact)?;
                let part = language.component(vector_type, *index, whole);
                self.widened(vector_type.scalar(), part, context)
            }
            Op::Vector(parts) => {
                let mut pieces = Vec::new();
                for part in parts {
                    let piece = self.value(*part, Context::Typed)?;
                    pieces.push(self.narrowed(ty.scalar(), piece));
                }
                let piece = language.compose(ty, &pieces, &mut self.file.needs);
                self.spelled(at, piece)?
            }
            Op::Shuffle { kind, value } => {
                let value = self.value(*value, Context::Exact)?;
                let lane = match kind {
                    ShuffleKind::Lane(lane) => Some(self.value(*lane, Context::Typed)?),
                    _ => None,
                };
                language.shuffle(*kind, &value, lane.as_ref(), &mut self.file.needs)
            }
            Op::WarpReduce { op, value, width } => {
                let value = self.value(*value, Context::Exact)?;
                if !matches!(width, 2 | 4 | 8 | 16 | 32) {
                    return Err(CodegenError {
                        message: format!(
                            "a warp reduction over {width} lanes; groups of 2, 4, 8, 16 or 32 lanes exist"
                        ),
                        at,
                    });
                }
                language.reduce(*op, ty, *width, &value, &mut self.file.needs)
            }
            Op::Ballot(a) => {
                let a = self.value(*a, Context::Typed)?;
                language.ballot(&a, &mut self.file.needs)
            }
            Op::Dot4 {
                a,
                a_signed,
                b,
                accumulator,
            } => {
                let operands = self.exprs(&[*a, *b, *accumulator], Context::Typed)?;
                self.file
                    .needs
                    .call(if *a_signed { "dot4" } else { "dot4_unsigned_signed" }, &operands)
            }
            Op::BytePermute { low, high, selector } => {
                let low = self.value(*low, Context::Typed)?;
                let high = self.value(*high, Context::Typed)?;
                let selector = self.value(*selector, Context::Mask)?;
                language.byte_permute(&[low, high, selector], &mut self.file.needs)
            }
            Op::Call { function, arguments } => Expr::primary(self.call(*function, arguments, at)?),
            Op::AssumeUniform(a) => self.value(*a, context)?,
            Op::InRegister(a) => {
                let value = self.value(*a, Context::Mask)?;
                self.file.needs.call("in_register", &[value])
            }
        })
    }

    /// A comparison.
    pub fn comparison(&mut self, op: CompareOp, a: ValueId, b: ValueId) -> Result<Expr, CodegenError> {
        let (token, binds) = match op {
            CompareOp::Eq => ("==", binding::EQUALITY),
            CompareOp::Ne => ("!=", binding::EQUALITY),
            CompareOp::Lt => ("<", binding::RELATION),
            CompareOp::Le => ("<=", binding::RELATION),
            CompareOp::Gt => (">", binding::RELATION),
            CompareOp::Ge => (">=", binding::RELATION),
        };
        let (a, b) = self.operands(a, b, Context::Beside)?;
        // A comparison of comparisons reads (and warns) badly without parentheses.
        let tight = |e: Expr| {
            if e.binds <= binding::RELATION {
                Expr::primary(format!("({})", e.text))
            } else {
                e
            }
        };
        Ok(infix(token, binds, tight(a), tight(b), false))
    }

    fn exprs(&mut self, ids: &[ValueId], context: Context) -> Result<Vec<Expr>, CodegenError> {
        ids.iter().map(|id| self.value(*id, context)).collect()
    }

    /// A call of a device function.
    pub fn call(
        &mut self,
        function: tilekiln_dsl::ir::FunctionId,
        arguments: &[Argument],
        at: tilekiln_dsl::ir::Location,
    ) -> Result<String, CodegenError> {
        let name = self
            .file
            .function_names
            .get(function.index())
            .cloned()
            .ok_or_else(|| CodegenError {
                message: "a call names a function that is not part of the kernel".to_string(),
                at,
            })?;
        self.file.used_functions.insert(function.index());
        let mut list = Vec::new();
        for argument in arguments {
            list.push(match argument {
                Argument::Value(value) => self.text(*value)?,
                Argument::Memory(memory) => self.memory(*memory, at)?.0,
            });
        }
        Ok(format!("{name}({})", list.join(", ")))
    }

    /// `name[i][j]`, all given dimensions.
    pub fn register(
        &mut self,
        reference: &RegisterRef,
        at: tilekiln_dsl::ir::Location,
    ) -> Result<String, CodegenError> {
        let mut text = self.registers[reference.registers.index()]
            .clone()
            .ok_or_else(|| CodegenError {
                message: format!(
                    "register array `{}` is used before it is declared",
                    self.body.registers[reference.registers.index()].name
                ),
                at,
            })?;
        for index in &reference.index {
            text += &format!("[{}]", self.text(*index)?);
        }
        Ok(text)
    }

    /// `memory[index]`.
    pub fn element(&mut self, place: &Place, at: tilekiln_dsl::ir::Location) -> Result<String, CodegenError> {
        let (name, _) = self.memory(place.memory, at)?;
        Ok(format!("{name}[{}]", self.text(place.index)?))
    }

    fn load(&mut self, place: &Place, context: Context, at: tilekiln_dsl::ir::Location) -> Result<Expr, CodegenError> {
        let (_, element) = self.memory(place.memory, at)?;
        let text = self.element(place, at)?;
        if place.access == Type::Scalar(element) {
            return Ok(self.widened(element, Expr::primary(text), context));
        }
        let access = self.type_name(place.access, at)?;
        self.file.needs.helper("load_as");
        let whole = Expr::primary(format!("load_as<{access}>(&{text})"));
        Ok(match place.access {
            Type::Scalar(scalar) => self.widened(scalar, whole, context),
            Type::Vector(..) => whole,
        })
    }

    /// From how a scalar lies in memory to how it is computed with.
    fn widened(&mut self, scalar: Scalar, a: Expr, context: Context) -> Expr {
        match scalar {
            Scalar::BF16 => self.file.language.widen_bf16(&a, &mut self.file.needs),
            Scalar::U8 | Scalar::U16 if context != Context::Typed => Expr::primary(format!("unsigned({})", a.text)),
            Scalar::I8 | Scalar::I16 if context == Context::Exact => Expr::primary(format!("int({})", a.text)),
            _ => a,
        }
    }

    /// From how a scalar is computed with to how it lies in memory (C++ narrows integers itself).
    pub fn narrowed(&mut self, scalar: Scalar, a: Expr) -> Expr {
        match scalar {
            Scalar::BF16 => self.file.language.narrow_bf16(&a, &mut self.file.needs),
            _ => a,
        }
    }

    fn converted(
        &mut self,
        from: Type,
        to: Type,
        a: Expr,
        at: tilekiln_dsl::ir::Location,
    ) -> Result<Expr, CodegenError> {
        if from == to {
            return Ok(a);
        }
        let piece = self.file.language.convert(from, to, &a, &mut self.file.needs);
        if let Some(done) = self.spelled(at, piece)? {
            return Ok(done);
        }
        if let Type::Scalar(Scalar::Bool) = to {
            return Ok(infix("!=", binding::EQUALITY, a, Expr::primary("0"), false));
        }
        let name = self.type_name(to, at)?;
        Ok(if name.contains(' ') {
            Expr {
                text: format!("({name}){}", a.within(binding::UNARY)),
                binds: binding::UNARY,
            }
        } else {
            Expr::primary(format!("{name}({})", a.text))
        })
    }

    /// Both operands of an operator; a literal needs no suffix beside an operand that has the type.
    fn operands(&mut self, a: ValueId, b: ValueId, beside: Context) -> Result<(Expr, Expr), CodegenError> {
        let context_of = |other_is_literal: bool| {
            if other_is_literal { Context::Exact } else { beside }
        };
        let (a_literal, b_literal) = (self.is_literal(a), self.is_literal(b));
        Ok((
            self.value(a, context_of(b_literal))?,
            self.value(b, context_of(a_literal))?,
        ))
    }

    fn is_literal(&self, id: ValueId) -> bool {
        self.values[id.index()].is_none() && matches!(self.body.value(id).op, Op::Literal(_))
    }

    fn binary(
        &mut self,
        op: BinaryOp,
        ty: Type,
        a: ValueId,
        b: ValueId,
        at: tilekiln_dsl::ir::Location,
    ) -> Result<Expr, CodegenError> {
        let is_bool = ty == Type::Scalar(Scalar::Bool);
        let native = operator(op, is_bool);
        let (left, right) = match op {
            BinaryOp::Shl | BinaryOp::Shr => (self.value(a, Context::Exact)?, self.value(b, Context::Typed)?),
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => self.operands(a, b, Context::Mask)?,
            _ if native.is_none() => (self.value(a, Context::Exact)?, self.value(b, Context::Exact)?),
            _ => self.operands(a, b, Context::Beside)?,
        };
        let piece = self.file.language.binary(op, ty, &left, &right, &mut self.file.needs);
        if let Some(done) = self.spelled(at, piece)? {
            return Ok(done);
        }
        let Some((token, binds)) = native.filter(|_| ty.components() == 1) else {
            return Err(CodegenError {
                message: format!("{op:?} of two {ty} values has no spelling here; compute component by component"),
                at,
            });
        };
        // `x + -1` reads as `x - 1`.
        if let (BinaryOp::Add, Op::Literal(literal)) = (op, &self.body.value(b).op)
            && self.is_literal(b)
            && is_negative(*literal)
            && *literal != Literal::I32(i32::MIN)
            && matches!(literal, Literal::I32(_) | Literal::F32(_))
            && let Some(positive) = right.text.strip_prefix('-')
        {
            return Ok(infix("-", binding::SUM, left, Expr::primary(positive), false));
        }
        let regroup = !ty.scalar().is_float()
            && matches!(
                op,
                BinaryOp::Add | BinaryOp::Mul | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor
            );
        let regroup = regroup && !self.mixes_products(op, b);
        Ok(infix(token, binds, left, right, regroup))
    }

    /// `a * (b / c)` must keep its parentheses though `*` and `/` bind alike; so must `a + (b - c)` for readers.
    fn mixes_products(&self, op: BinaryOp, right: ValueId) -> bool {
        !matches!(&self.body.value(right).op, Op::Binary(inner, ..) if *inner == op)
    }

    fn constant(
        &mut self,
        index: usize,
        context: Context,
        at: tilekiln_dsl::ir::Location,
    ) -> Result<Expr, CodegenError> {
        let constant = self.file.kernel.constants.get(index).ok_or_else(|| CodegenError {
            message: "a value names a constant that is not part of the kernel".to_string(),
            at,
        })?;
        // A 16-bit constant cannot be `constexpr` everywhere.
        if constant.value.scalar() == Scalar::F16 {
            return Ok(self.literal(constant.value, context));
        }
        self.file.used_constants.insert(index);
        Ok(Expr::primary(self.file.constant_names[index].clone()))
    }

    /// A literal.
    pub fn literal(&mut self, literal: Literal, context: Context) -> Expr {
        let bare = context != Context::Exact;
        let text = match literal {
            Literal::Bool(v) => v.to_string(),
            Literal::I32(i32::MIN) => "(-2147483647 - 1)".to_string(),
            Literal::I32(v) => v.to_string(),
            Literal::U32(v) => {
                let digits = word_text(v, context == Context::Mask);
                if bare { digits } else { digits + "u" }
            }
            Literal::U64(v) => {
                let digits = if context == Context::Mask && v > 9 {
                    format!("{v:#x}")
                } else {
                    v.to_string()
                };
                if bare && v <= i32::MAX as u64 {
                    digits
                } else {
                    digits + "ull"
                }
            }
            Literal::F32(v) => return self.float(v),
            Literal::F16(v) => {
                let inner = self.float(v.to_f32());
                return self.file.language.half_literal(&inner.text, &mut self.file.needs);
            }
        };
        let binds = if text.starts_with('-') {
            binding::UNARY
        } else {
            binding::PRIMARY
        };
        Expr { text, binds }
    }

    fn float(&mut self, v: f32) -> Expr {
        let text = if v.is_nan() {
            self.file.needs.helper("not_a_number").to_string()
        } else if v.is_infinite() {
            let name = self.file.needs.helper("infinity");
            if v < 0.0 { format!("-{name}") } else { name.to_string() }
        } else {
            float_text(v)
        };
        let binds = if text.starts_with('-') {
            binding::UNARY
        } else {
            binding::PRIMARY
        };
        Expr { text, binds }
    }
}
