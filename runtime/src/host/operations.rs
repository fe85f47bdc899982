//! Lowering of operations: each IR value becomes a few plane instructions, or just another name for planes
//! that exist already.

use tilekiln_dsl::ir::*;

use super::lower::{Frame, LowerError, Lowered, Lowering, Planes, literal_words};
use super::program::*;

fn unsupported(at: Location, what: impl std::fmt::Display) -> LowerError {
    LowerError {
        message: format!("malformed IR: {what}"),
        at,
    }
}

impl<'k> Lowering<'k> {
    fn fresh(&mut self, operands: &[Slot], count: usize) -> Planes {
        let uniform = self.all_uniform(operands);
        self.fresh_as(uniform, count)
    }

    fn fresh_as(&mut self, uniform: bool, count: usize) -> Planes {
        (0..count).map(|_| self.slot(uniform)).collect()
    }

    fn map1(&mut self, at: Location, f: Fn1, a: Slot) -> Slot {
        let d = self.fresh(&[a], 1)[0];
        self.emit(at, Instr::Map1 { f, d, a });
        d
    }

    fn map2(&mut self, at: Location, f: Fn2, a: Slot, b: Slot) -> Slot {
        let d = self.fresh(&[a, b], 1)[0];
        self.emit(at, Instr::Map2 { f, d, a, b });
        d
    }

    fn map3(&mut self, at: Location, f: Fn3, a: Slot, b: Slot, c: Slot) -> Slot {
        let d = self.fresh(&[a, b, c], 1)[0];
        self.emit(at, Instr::Map3 { f, d, a, b, c });
        d
    }

    /// Lowers everything but calls. The result is not held by anybody yet.
    pub fn operation(&mut self, frame: &Frame<'k>, id: ValueId, value: &Value) -> Lowered<Planes> {
        let (at, ty) = (value.at, value.ty);
        Ok(match &value.op {
            Op::Literal(literal) => self.literal(*literal),
            Op::Constant(constant) => {
                let literal = self.constant(*constant, at)?;
                self.literal(literal)
            }
            Op::Parameter(index) => self.parameter(frame, *index, at)?,
            Op::Builtin(builtin) => [self.builtin(*builtin, at)?].into(),
            Op::ReadVariable(variable) => {
                let (source, still) = self.read_variable(frame, id, *variable, at)?;
                if still {
                    source
                } else {
                    source
                        .iter()
                        .map(|s| {
                            let d = self.fresh(&[*s], 1)[0];
                            self.emit(at, Instr::Declare { d, s: *s, take: false });
                            d
                        })
                        .collect()
                }
            }
            Op::ReadRegister(reference) => {
                let from = self.reference(frame, reference, at)?;
                let d = self.fresh_as(false, planes(ty));
                self.emit(at, Instr::ReadRegister { d: d.clone(), from });
                d
            }
            Op::Load(place) => {
                let place = self.place(frame, place, at)?;
                let mut index = vec![place.index];
                index.extend(place.index_high);
                let d = self.fresh(&index, planes(ty));
                if planes(place.access.widened()) != d.len() {
                    return Err(unsupported(at, format!("a load of {} gives a {ty}", place.access)));
                }
                self.emit(at, Instr::Load { d: d.clone(), place });
                d
            }
            Op::Lookup { table, index } => {
                let table = self.table(frame, *table, at)?;
                let index = self.one(frame, *index, at)?;
                let d = self.fresh(&[index], planes(ty));
                self.emit(
                    at,
                    Instr::Lookup {
                        d: d.clone(),
                        table,
                        index,
                    },
                );
                d
            }
            Op::Unary(op, a) => {
                let a = self.planes_of(frame, *a, at)?;
                self.unary(at, *op, ty, &a)?
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.planes_of(frame, *a, at)?, self.planes_of(frame, *b, at)?);
                self.binary(at, *op, ty, &a, &b)?
            }
            Op::Compare(op, a, b) => {
                let scalar = frame.body.value(*a).ty.scalar();
                let (a, b) = (self.planes_of(frame, *a, at)?, self.planes_of(frame, *b, at)?);
                self.compare(at, *op, scalar, &a, &b)?
            }
            Op::Select { condition, yes, no } => {
                let condition = self.one(frame, *condition, at)?;
                let (yes, no) = (self.planes_of(frame, *yes, at)?, self.planes_of(frame, *no, at)?);
                yes.iter()
                    .zip(&no)
                    .map(|(y, n)| self.map3(at, Fn3::Select, condition, *y, *n))
                    .collect()
            }
            Op::Convert(a) => {
                let from = frame.body.value(*a).ty;
                let a = self.planes_of(frame, *a, at)?;
                self.convert(at, from, ty, &a)?
            }
            Op::Bitcast(a) => {
                let from = frame.body.value(*a).ty;
                let a = self.planes_of(frame, *a, at)?;
                self.bitcast(at, from, ty, &a)?
            }
            Op::Math(function, operands) => {
                let operands = operands
                    .iter()
                    .map(|operand| self.planes_of(frame, *operand, at))
                    .collect::<Lowered<Vec<_>>>()?;
                self.math(at, *function, ty, &operands)?
            }
            Op::Component(vector, component) => {
                let from = frame.body.value(*vector).ty;
                let all = self.planes_of(frame, *vector, at)?;
                let width = words(from.scalar());
                let start = usize::from(*component) * width;
                let part: Planes = all
                    .get(start..start + width)
                    .ok_or_else(|| unsupported(at, format!("component {component} of a {from}")))?
                    .into();
                // Integers of vectors are already 32 bits wide in their planes.
                match (from.scalar(), ty.scalar()) {
                    (Scalar::BF16, Scalar::F32) => self.convert(at, Scalar::BF16.into(), Scalar::F32.into(), &part)?,
                    _ => part,
                }
            }
            Op::Vector(components) => {
                let mut all = Vec::new();
                for component in components {
                    let from = frame.body.value(*component).ty;
                    let part = self.planes_of(frame, *component, at)?;
                    match (from.scalar(), ty.scalar()) {
                        (Scalar::F32, Scalar::BF16) => all.push(self.map1(at, Fn1::F32ToBf16, part[0])),
                        (Scalar::I32 | Scalar::U32, small @ (Scalar::I8 | Scalar::U8 | Scalar::I16 | Scalar::U16)) => {
                            all.push(self.map1(at, extension(small), part[0]));
                        }
                        _ => all.extend(part.iter()),
                    }
                }
                if all.len() != planes(ty) {
                    return Err(unsupported(at, format!("{} components make a {ty}", components.len())));
                }
                all.into()
            }
            Op::Shuffle { kind, value } => {
                let all = self.planes_of(frame, *value, at)?;
                let mut d = Vec::new();
                for s in &all {
                    let by = match kind {
                        ShuffleKind::Xor(mask) => ShuffleBy::Xor(*mask),
                        ShuffleKind::Up(delta) => ShuffleBy::Up(*delta),
                        ShuffleKind::Down(delta) => ShuffleBy::Down(*delta),
                        ShuffleKind::Lane(lane) => ShuffleBy::Lane(self.one(frame, *lane, at)?),
                    };
                    let slot = self.slot(false);
                    self.emit(at, Instr::Shuffle { d: slot, s: *s, by });
                    d.push(slot);
                }
                d.into()
            }
            Op::WarpReduce { op, value, width } => {
                let scalar = frame.body.value(*value).ty.scalar();
                let s = self.one(frame, *value, at)?;
                if !matches!(width, 2 | 4 | 8 | 16 | 32) || !matches!(scalar, Scalar::F32 | Scalar::I32 | Scalar::U32) {
                    return Err(unsupported(
                        at,
                        format!("a warp reduction of {scalar} over {width} lanes"),
                    ));
                }
                let d = self.slot(false);
                self.emit(
                    at,
                    Instr::WarpReduce {
                        d,
                        s,
                        op: *op,
                        scalar,
                        width: *width,
                    },
                );
                [d].into()
            }
            Op::Ballot(value) => {
                let s = self.one(frame, *value, at)?;
                let d = self.slot(false);
                self.emit(at, Instr::Ballot { d, s });
                [d].into()
            }
            Op::Dot4 {
                a,
                a_signed,
                b,
                accumulator,
            } => {
                let f = if *a_signed { Fn3::Dot4Signed } else { Fn3::Dot4Unsigned };
                let [a, b, c] = [
                    self.one(frame, *a, at)?,
                    self.one(frame, *b, at)?,
                    self.one(frame, *accumulator, at)?,
                ];
                [self.map3(at, f, a, b, c)].into()
            }
            Op::BytePermute { low, high, selector } => {
                let [a, b, c] = [
                    self.one(frame, *low, at)?,
                    self.one(frame, *high, at)?,
                    self.one(frame, *selector, at)?,
                ];
                [self.map3(at, Fn3::BytePermute, a, b, c)].into()
            }
            Op::AssumeUniform(value) => {
                let s = self.planes_of(frame, *value, at)?;
                if self.all_uniform(&s) {
                    return Ok(s);
                }
                self.emit(at, Instr::AssumeUniform { s: s.clone() });
                s
            }
            Op::InRegister(value) => self.planes_of(frame, *value, at)?,
            Op::Call { .. } => return Err(unsupported(at, "a call inside an expression")),
        })
    }

    fn literal(&mut self, literal: Literal) -> Planes {
        literal_words(literal).into_iter().map(|word| self.word(word)).collect()
    }

    fn unary(&mut self, at: Location, op: UnaryOp, ty: Type, a: &[Slot]) -> Lowered<Planes> {
        let scalar = ty.scalar();
        if scalar == Scalar::U64 {
            let mut out = Vec::new();
            for pair in a.chunks(2) {
                let pair = pair_of(pair, at)?;
                let ones = self.word(u32::MAX);
                let zero = self.word(0);
                let (f, x, y) = match op {
                    UnaryOp::Neg => (W2::Sub, [zero; 2], pair),
                    UnaryOp::Not => (W2::Xor, pair, [ones; 2]),
                };
                let d = self.fresh(&pair, 2);
                self.emit(
                    at,
                    Instr::Wide2 {
                        f,
                        d: [d[0], d[1]],
                        a: x,
                        b: y,
                    },
                );
                out.extend(d);
            }
            return Ok(out.into());
        }
        let f = match (op, scalar) {
            (UnaryOp::Not, Scalar::Bool) => Fn1::NotBool,
            (UnaryOp::Neg, Scalar::F32) => Fn1::NegF32,
            (UnaryOp::Neg, Scalar::F16) => Fn1::NegF16,
            (UnaryOp::Neg, Scalar::BF16) => Fn1::NegBf16,
            (UnaryOp::Neg, Scalar::I32 | Scalar::U32) => Fn1::NegI,
            (UnaryOp::Not, Scalar::I32 | Scalar::U32) => Fn1::NotBits,
            _ => return Err(unsupported(at, format!("{op:?} of a {ty}"))),
        };
        Ok(a.iter().map(|a| self.map1(at, f, *a)).collect())
    }

    fn check_divisor(&mut self, at: Location, b: Slot, high: Option<Slot>) {
        let low_known = self.word_of(b);
        let high_known = high.and_then(|high| self.word_of(high));
        if low_known.is_some_and(|word| word != 0) || high_known.is_some_and(|word| word != 0) {
            return;
        }
        self.emit(at, Instr::CheckDivisor { b, high });
    }

    fn check_shift(&mut self, at: Location, b: Slot, width: u32) {
        if self.sanitizing() && self.word_of(b).is_none_or(|amount| amount >= width) {
            self.emit(at, Instr::CheckShift { b, width });
        }
    }

    fn binary(&mut self, at: Location, op: BinaryOp, ty: Type, a: &[Slot], b: &[Slot]) -> Lowered<Planes> {
        let scalar = ty.scalar();
        let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
        if scalar == Scalar::U64 {
            return self.binary_wide(at, op, a, b);
        }
        if a.len() != b.len() {
            return Err(unsupported(at, format!("{op:?} of operands of different types")));
        }
        let f = binary_function(op, scalar).ok_or_else(|| unsupported(at, format!("{op:?} of a {ty}")))?;
        Ok(a.iter()
            .zip(b)
            .map(|(a, b)| {
                if shift {
                    self.check_shift(at, *b, 32);
                }
                if matches!(f, Fn2::DivI | Fn2::DivU | Fn2::RemI | Fn2::RemU) {
                    self.check_divisor(at, *b, None);
                }
                self.map2(at, f, *a, *b)
            })
            .collect())
    }

    fn binary_wide(&mut self, at: Location, op: BinaryOp, a: &[Slot], b: &[Slot]) -> Lowered<Planes> {
        let f = match op {
            BinaryOp::Add => W2::Add,
            BinaryOp::Sub => W2::Sub,
            BinaryOp::Mul => W2::Mul,
            BinaryOp::Div => W2::Div,
            BinaryOp::Rem => W2::Rem,
            BinaryOp::And => W2::And,
            BinaryOp::Or => W2::Or,
            BinaryOp::Xor => W2::Xor,
            BinaryOp::Shl => W2::Shl,
            BinaryOp::Shr => W2::Shr,
            BinaryOp::Min => W2::Min,
            BinaryOp::Max => W2::Max,
            _ => return Err(unsupported(at, format!("{op:?} of a u64"))),
        };
        let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
        let zero = self.word(0);
        let mut out = Vec::new();
        for (index, pair) in a.chunks(2).enumerate() {
            let left = pair_of(pair, at)?;
            let right = if shift && b.len() * 2 == a.len() {
                [b[index], zero]
            } else {
                pair_of(b.get(2 * index..2 * index + 2).unwrap_or(&[]), at)?
            };
            if shift {
                self.check_shift(at, right[0], 64);
            }
            if matches!(f, W2::Div | W2::Rem) {
                self.check_divisor(at, right[0], Some(right[1]));
            }
            let d = self.fresh(&[left, right].concat(), 2);
            self.emit(
                at,
                Instr::Wide2 {
                    f,
                    d: [d[0], d[1]],
                    a: left,
                    b: right,
                },
            );
            out.extend(d);
        }
        Ok(out.into())
    }

    fn compare(&mut self, at: Location, op: CompareOp, scalar: Scalar, a: &[Slot], b: &[Slot]) -> Lowered<Planes> {
        if let (Scalar::U64, [a0, a1], [b0, b1]) = (scalar, a, b) {
            let d = self.fresh(&[*a0, *a1, *b0, *b1], 1);
            self.emit(
                at,
                Instr::WideCompare {
                    f: op,
                    d: d[0],
                    a: [*a0, *a1],
                    b: [*b0, *b1],
                },
            );
            return Ok(d);
        }
        let ([a], [b]) = (a, b) else {
            return Err(unsupported(at, "a comparison of vectors"));
        };
        if scalar == Scalar::BF16 {
            let (x, y) = (self.map1(at, Fn1::Bf16ToF32, *a), self.map1(at, Fn1::Bf16ToF32, *b));
            let d = self.map2(at, compare_function(op, Scalar::F32), x, y);
            self.release_scratch(&[x, y]);
            return Ok([d].into());
        }
        Ok([self.map2(at, compare_function(op, scalar), *a, *b)].into())
    }

    fn math(&mut self, at: Location, function: MathFn, ty: Type, operands: &[Planes]) -> Lowered<Planes> {
        let scalar = ty.scalar();
        let wrong = || unsupported(at, format!("{function:?} of a {ty}"));
        let first = operands.first().ok_or_else(wrong)?;
        if function == MathFn::Fma {
            let [x, y, z] = operands else {
                return Err(wrong());
            };
            let f = match scalar {
                Scalar::F32 => Fn3::FmaF32,
                Scalar::F16 => Fn3::FmaF16,
                Scalar::BF16 => Fn3::FmaBf16,
                _ => return Err(wrong()),
            };
            if x.len() != y.len() || x.len() != z.len() {
                return Err(wrong());
            }
            return Ok((0..x.len()).map(|i| self.map3(at, f, x[i], y[i], z[i])).collect());
        }
        let f = match (function, scalar) {
            (MathFn::Abs, Scalar::I32) => Fn1::AbsI,
            (MathFn::Abs, Scalar::F32) => Fn1::AbsF32,
            (MathFn::Abs, Scalar::F16 | Scalar::BF16) => Fn1::AbsHalf,
            (MathFn::Sqrt, _) => Fn1::Sqrt,
            (MathFn::Rsqrt, _) => Fn1::Rsqrt,
            (MathFn::Exp2, _) => Fn1::Exp2,
            (MathFn::Exp2Flushed, _) => Fn1::Exp2Flushed,
            (MathFn::Log2, _) => Fn1::Log2,
            (MathFn::Sin, _) => Fn1::Sin,
            (MathFn::Cos, _) => Fn1::Cos,
            (MathFn::Tanh, _) => Fn1::Tanh,
            (MathFn::Round, _) => Fn1::Round,
            (MathFn::Floor, _) => Fn1::Floor,
            _ => return Err(wrong()),
        };
        let (open, close) = match scalar {
            _ if function == MathFn::Abs => (None, None),
            Scalar::F32 => (None, None),
            Scalar::F16 => (Some(Fn1::F16ToF32), Some(Fn1::F32ToF16)),
            Scalar::BF16 => (Some(Fn1::Bf16ToF32), Some(Fn1::F32ToBf16)),
            _ => return Err(wrong()),
        };
        Ok(first
            .iter()
            .map(|a| self.chain(at, *a, &[open, Some(f), close]))
            .collect())
    }

    /// Applies functions one after the other, giving intermediate slots back.
    fn chain(&mut self, at: Location, a: Slot, steps: &[Option<Fn1>]) -> Slot {
        let mut current = a;
        for f in steps.iter().flatten() {
            let next = self.map1(at, *f, current);
            if current != a {
                self.release_scratch(&[current]);
            }
            current = next;
        }
        current
    }

    fn convert(&mut self, at: Location, from: Type, to: Type, a: &[Slot]) -> Lowered<Planes> {
        if from.components() != to.components() {
            return Err(unsupported(at, format!("a conversion of a {from} to a {to}")));
        }
        let mut out = Vec::new();
        for part in a.chunks(words(from.scalar())) {
            out.extend(self.convert_scalar(at, from.scalar(), to.scalar(), part)?);
        }
        Ok(out.into())
    }

    fn convert_scalar(&mut self, at: Location, from: Scalar, to: Scalar, a: &[Slot]) -> Lowered<Planes> {
        use Scalar::*;
        if from == to {
            return Ok(a.into());
        }
        let small = |scalar| matches!(scalar, I8 | U8 | I16 | U16);
        let narrow = small(to).then(|| extension(to));
        let zero = self.word(0);
        Ok(match (from, to) {
            (U64, Bool) => {
                let either = self.map2(at, Fn2::Or, a[0], a[1]);
                let d = self.map1(at, Fn1::ToBool, either);
                self.release_scratch(&[either]);
                [d].into()
            }
            (U64, I32 | U32) => [a[0]].into(),
            (U64, I8 | U8 | I16 | U16) => [self.chain(at, a[0], &[narrow])].into(),
            (U64, _) => {
                let d = self.fresh(a, 1)[0];
                self.emit(at, Instr::WideToF32 { d, a: pair_of(a, at)? });
                let half = match to {
                    F16 => Some(Fn1::F32ToF16),
                    BF16 => Some(Fn1::F32ToBf16),
                    _ => None,
                };
                [self.chain_owned(at, d, &[half])].into()
            }
            (I8 | I16 | I32, U64) => {
                let high = self.map1(at, Fn1::SignWord, a[0]);
                [a[0], high].into()
            }
            (Bool | U8 | U16 | U32, U64) => [a[0], zero].into(),
            (F16 | BF16 | F32, U64) => {
                let open = to_f32(from);
                let x = self.chain(at, a[0], &[open]);
                let d = self.fresh(&[x], 2);
                self.emit(at, Instr::F32ToWide { d: [d[0], d[1]], a: x });
                if x != a[0] {
                    self.release_scratch(&[x]);
                }
                d
            }
            (Bool | I8 | U8 | I16 | U16 | I32 | U32, Bool) => [self.map1(at, Fn1::ToBool, a[0])].into(),
            (Bool | I8 | U8 | I16 | U16 | I32 | U32, I32 | U32) => a.into(),
            (_, I8 | U8 | I16 | U16) if !from.is_float() => [self.chain(at, a[0], &[narrow])].into(),
            (_, F32 | F16 | BF16) if !from.is_float() => {
                let first = if from.is_signed_integer() {
                    Fn1::I32ToF32
                } else {
                    Fn1::U32ToF32
                };
                [self.chain(at, a[0], &[Some(first), from_f32(to)])].into()
            }
            (_, Bool) => [self.chain(at, a[0], &[to_f32(from), Some(Fn1::F32ToBool)])].into(),
            (_, F32 | F16 | BF16) => [self.chain(at, a[0], &[to_f32(from), from_f32(to)])].into(),
            (_, _) => {
                let integer = if to.is_signed_integer() {
                    Fn1::F32ToI32
                } else {
                    Fn1::F32ToU32
                };
                [self.chain(at, a[0], &[to_f32(from), Some(integer), narrow])].into()
            }
        })
    }

    /// Like [`Self::chain`], but the first slot is scratch too.
    fn chain_owned(&mut self, at: Location, a: Slot, steps: &[Option<Fn1>]) -> Slot {
        let end = self.chain(at, a, steps);
        if end != a {
            self.release_scratch(&[a]);
        }
        end
    }

    fn bitcast(&mut self, at: Location, from: Type, to: Type, a: &[Slot]) -> Lowered<Planes> {
        if from.bytes() != to.bytes() {
            return Err(unsupported(
                at,
                format!(
                    "a bitcast of a {from} ({} bytes) to a {to} ({} bytes)",
                    from.bytes(),
                    to.bytes()
                ),
            ));
        }
        let bytes_of = |ty: Type| ty.scalar().bytes().min(4);
        if bytes_of(from) == bytes_of(to) {
            // Same word in another sense, except that small integers keep their extension.
            let again = matches!(
                to.scalar(),
                Scalar::I8 | Scalar::U8 | Scalar::I16 | Scalar::U16 | Scalar::F16 | Scalar::BF16
            );
            if !again {
                return Ok(a.into());
            }
            let f = extension(to.scalar());
            return Ok(a.iter().map(|a| self.map1(at, f, *a)).collect());
        }
        let words = self.words_from(at, from, a);
        let out = self.words_to(at, to, &words);
        let scratch: Vec<Slot> = words
            .iter()
            .filter(|slot| !a.contains(slot) && !out.contains(slot))
            .copied()
            .collect();
        self.release_scratch(&scratch);
        Ok(out.into())
    }

    /// Little-endian 32-bit words of a value (the last one may be partly filled).
    fn words_from(&mut self, at: Location, from: Type, a: &[Slot]) -> Vec<Slot> {
        let bits = 8 * from.scalar().bytes().min(4) as u32;
        if bits == 32 {
            return a.to_vec();
        }
        let mask = if bits == 8 { Fn1::ZeroExtend8 } else { Fn1::ZeroExtend16 };
        a.chunks((32 / bits) as usize)
            .map(|group| {
                let mut word = self.map1(at, mask, group[0]);
                for (index, part) in group.iter().enumerate().skip(1) {
                    let next = if bits == 16 {
                        self.map2(at, Fn2::Pack16, word, *part)
                    } else {
                        let byte = self.map1(at, mask, *part);
                        let amount = self.word(bits * index as u32);
                        let moved = self.map2(at, Fn2::Shl, byte, amount);
                        let next = self.map2(at, Fn2::Or, word, moved);
                        self.release_scratch(&[byte, moved]);
                        next
                    };
                    self.release_scratch(&[word]);
                    word = next;
                }
                word
            })
            .collect()
    }

    fn words_to(&mut self, at: Location, to: Type, words: &[Slot]) -> Vec<Slot> {
        let bits = 8 * to.scalar().bytes().min(4) as u32;
        if bits == 32 {
            return words.to_vec();
        }
        let per_word = 32 / bits;
        let parts = to.components() as u32;
        (0..parts)
            .map(|index| {
                let word = words[(index / per_word) as usize];
                let shift = bits * (index % per_word);
                let shifted = match shift {
                    0 => word,
                    16 => self.map1(at, Fn1::High16, word),
                    _ => {
                        let amount = self.word(shift);
                        self.map2(at, Fn2::ShrU, word, amount)
                    }
                };
                let d = self.map1(at, extension(to.scalar()), shifted);
                if shifted != word {
                    self.release_scratch(&[shifted]);
                }
                d
            })
            .collect()
    }

    /// A value as it is stored through `access`: the planes, and those of them that are scratch.
    pub fn narrowed(&mut self, value: &[Slot], ty: Type, access: Type, at: Location) -> Lowered<(Planes, Vec<Slot>)> {
        if ty != access.widened()
            && !(ty.components() == access.components() && !ty.scalar().is_float() && !access.scalar().is_float())
        {
            return Err(unsupported(at, format!("a store of a {ty} as {access}")));
        }
        if access == Type::Scalar(Scalar::BF16) {
            let d = self.map1(at, Fn1::F32ToBf16, value[0]);
            return Ok(([d].into(), vec![d]));
        }
        Ok((value.into(), Vec::new()))
    }
}

fn pair_of(slots: &[Slot], at: Location) -> Lowered<[Slot; 2]> {
    match slots {
        [low, high] => Ok([*low, *high]),
        _ => Err(unsupported(at, "a 64-bit operation on a 32-bit operand")),
    }
}

fn extension(scalar: Scalar) -> Fn1 {
    match scalar {
        Scalar::I8 => Fn1::SignExtend8,
        Scalar::U8 => Fn1::ZeroExtend8,
        Scalar::I16 => Fn1::SignExtend16,
        Scalar::Bool => Fn1::ToBool,
        _ => Fn1::ZeroExtend16,
    }
}

fn to_f32(from: Scalar) -> Option<Fn1> {
    match from {
        Scalar::F16 => Some(Fn1::F16ToF32),
        Scalar::BF16 => Some(Fn1::Bf16ToF32),
        _ => None,
    }
}

fn from_f32(to: Scalar) -> Option<Fn1> {
    match to {
        Scalar::F16 => Some(Fn1::F32ToF16),
        Scalar::BF16 => Some(Fn1::F32ToBf16),
        _ => None,
    }
}

fn binary_function(op: BinaryOp, scalar: Scalar) -> Option<Fn2> {
    use BinaryOp::*;
    let table = |f32: Fn2, f16: Option<Fn2>, bf16: Option<Fn2>, i32: Option<Fn2>, u32: Option<Fn2>| match scalar {
        Scalar::F32 => Some(f32),
        Scalar::F16 => f16,
        Scalar::BF16 => bf16,
        Scalar::I32 => i32,
        Scalar::U32 => u32,
        _ => None,
    };
    match op {
        Add => table(
            Fn2::AddF,
            Some(Fn2::AddH),
            Some(Fn2::AddB),
            Some(Fn2::AddI),
            Some(Fn2::AddI),
        ),
        Sub => table(
            Fn2::SubF,
            Some(Fn2::SubH),
            Some(Fn2::SubB),
            Some(Fn2::SubI),
            Some(Fn2::SubI),
        ),
        Mul => table(
            Fn2::MulF,
            Some(Fn2::MulH),
            Some(Fn2::MulB),
            Some(Fn2::MulI),
            Some(Fn2::MulI),
        ),
        Div => table(
            Fn2::DivF,
            Some(Fn2::DivH),
            Some(Fn2::DivB),
            Some(Fn2::DivI),
            Some(Fn2::DivU),
        ),
        Rem => table(Fn2::RemF, None, None, Some(Fn2::RemI), Some(Fn2::RemU)),
        Min => table(
            Fn2::MinF,
            Some(Fn2::MinH),
            Some(Fn2::MinB),
            Some(Fn2::MinI),
            Some(Fn2::MinU),
        ),
        Max => table(
            Fn2::MaxF,
            Some(Fn2::MaxH),
            Some(Fn2::MaxB),
            Some(Fn2::MaxI),
            Some(Fn2::MaxU),
        ),
        AddUnfused => table(Fn2::AddF, Some(Fn2::AddH), Some(Fn2::AddB), None, None),
        SubUnfused => table(Fn2::SubF, Some(Fn2::SubH), Some(Fn2::SubB), None, None),
        MulUnfused => table(Fn2::MulF, Some(Fn2::MulH), Some(Fn2::MulB), None, None),
        And | Or | Xor if scalar.is_float() => None,
        And => Some(Fn2::And),
        Or => Some(Fn2::Or),
        Xor => Some(Fn2::Xor),
        Shl | Shr if scalar.is_float() || scalar == Scalar::Bool => None,
        Shl => Some(Fn2::Shl),
        Shr if scalar == Scalar::I32 => Some(Fn2::ShrI),
        Shr => Some(Fn2::ShrU),
    }
}

fn compare_function(op: CompareOp, scalar: Scalar) -> Fn2 {
    use CompareOp::*;
    match (op, scalar) {
        (Eq, Scalar::F32) => Fn2::EqF,
        (Ne, Scalar::F32) => Fn2::NeF,
        (Lt, Scalar::F32) => Fn2::LtF,
        (Le, Scalar::F32) => Fn2::LeF,
        (Gt, Scalar::F32) => Fn2::GtF,
        (Ge, Scalar::F32) => Fn2::GeF,
        (Eq, Scalar::F16) => Fn2::EqH,
        (Ne, Scalar::F16) => Fn2::NeH,
        (Lt, Scalar::F16) => Fn2::LtH,
        (Le, Scalar::F16) => Fn2::LeH,
        (Gt, Scalar::F16) => Fn2::GtH,
        (Ge, Scalar::F16) => Fn2::GeH,
        (Eq, _) => Fn2::Eq,
        (Ne, _) => Fn2::Ne,
        (Lt, scalar) => {
            if scalar.is_signed_integer() {
                Fn2::LtI
            } else {
                Fn2::LtU
            }
        }
        (Le, scalar) => {
            if scalar.is_signed_integer() {
                Fn2::LeI
            } else {
                Fn2::LeU
            }
        }
        (Gt, scalar) => {
            if scalar.is_signed_integer() {
                Fn2::GtI
            } else {
                Fn2::GtU
            }
        }
        (Ge, scalar) => {
            if scalar.is_signed_integer() {
                Fn2::GeI
            } else {
                Fn2::GeU
            }
        }
    }
}
