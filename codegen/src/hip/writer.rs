//! HIP types, operators, conversions and mathematical functions.

use tilekiln_dsl::ir::{BinaryOp, Builtin, MathFn, ReduceOp, Scalar, Type};

use super::intrinsics::extremum;

use crate::front::language::{Expr, Needs, Spelled, binding};

const HALF: Type = Type::Scalar(Scalar::F16);
const HALF2: Type = Type::Vector(Scalar::F16, 2);
const FLOAT: Type = Type::Scalar(Scalar::F32);

pub(super) fn scalar(scalar: Scalar, needs: &mut Needs) -> &'static str {
    match scalar {
        Scalar::Bool => "bool",
        Scalar::I8 => "signed char",
        Scalar::U8 => "unsigned char",
        Scalar::I16 => "short",
        Scalar::U16 => "unsigned short",
        Scalar::I32 => "int",
        Scalar::U32 => "unsigned",
        Scalar::U64 => "unsigned long long",
        Scalar::F16 => "_Float16",
        Scalar::BF16 => needs.helper("bf16"),
        Scalar::F32 => "float",
    }
}

pub(super) fn vector(scalar: Scalar, lanes: u8, needs: &mut Needs) -> Spelled<&'static str> {
    Ok(needs.helper(match (scalar, lanes) {
        (Scalar::F32, 2) => "f32x2",
        (Scalar::F32, 4) => "f32x4",
        (Scalar::U32, 2) => "u32x2",
        (Scalar::U32, 4) => "u32x4",
        (Scalar::I32, 2) => "i32x2",
        (Scalar::I32, 4) => "i32x4",
        (Scalar::U64, 2) => "u64x2",
        (Scalar::U8, 2) => "u8x2",
        (Scalar::U8, 4) => "u8x4",
        (Scalar::U8, 8) => "u8x8",
        (Scalar::I8, 2) => "i8x2",
        (Scalar::I8, 4) => "i8x4",
        (Scalar::I8, 8) => "i8x8",
        (Scalar::U16, 2) => "u16x2",
        (Scalar::U16, 4) => "u16x4",
        (Scalar::U16, 8) => "u16x8",
        (Scalar::I16, 2) => "i16x2",
        (Scalar::I16, 4) => "i16x4",
        (Scalar::I16, 8) => "i16x8",
        (Scalar::F16, 2) => "f16x2",
        (Scalar::F16, 4) => "f16x4",
        (Scalar::F16, 8) => "f16x8",
        (Scalar::BF16, 2) => "bf16x2",
        (Scalar::BF16, 4) => "bf16x4",
        (Scalar::BF16, 8) => "bf16x8",
        _ => {
            return Err(format!(
                "vectors of {lanes} {scalar} do not exist; 2, 4 or 8 numbers of at most 16 bytes together do"
            ));
        }
    }))
}

pub(super) fn component(index: u8, a: Expr) -> Expr {
    let whole = a.within(binding::PRIMARY);
    Expr::primary(match ["x", "y", "z", "w"].get(index as usize) {
        Some(field) => format!("{whole}.{field}"),
        None => format!("{whole}[{index}]"),
    })
}

pub(super) fn compose(ty: Type, parts: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
    let name = vector(ty.scalar(), ty.components() as u8, needs)?;
    let narrow = ty.scalar().bytes() < 4 && !ty.scalar().is_float();
    let list: Vec<String> = parts
        .iter()
        .map(|part| {
            if narrow {
                format!(
                    "({}){}",
                    scalar(ty.scalar(), needs),
                    part.clone().within(binding::UNARY)
                )
            } else {
                part.text.clone()
            }
        })
        .collect();
    Ok(Expr::primary(format!("{name}{{{}}}", list.join(", "))))
}

pub(super) fn builtin(builtin: Builtin, needs: &mut Needs) -> Expr {
    let name = match builtin {
        Builtin::BlockIndex(0) => "block_index_x",
        Builtin::BlockIndex(1) => "block_index_y",
        Builtin::BlockIndex(_) => "block_index_z",
        Builtin::GridSize(0) => "grid_size_x",
        Builtin::GridSize(1) => "grid_size_y",
        Builtin::GridSize(_) => "grid_size_z",
        Builtin::ThreadIndex | Builtin::Lane | Builtin::Warp => "thread_index",
    };
    let call = needs.call(name, &[]);
    let part = match builtin {
        Builtin::Lane => "% 32",
        Builtin::Warp => "/ 32",
        _ => return call,
    };
    Expr {
        text: format!("{} {part}", call.text),
        binds: binding::PRODUCT,
    }
}

fn call(function: &str, operands: &[&Expr]) -> Expr {
    let list: Vec<Expr> = operands.iter().map(|e| (*e).clone()).collect();
    Expr::call(function, &list)
}

pub(super) fn binary(op: BinaryOp, ty: Type, a: &Expr, b: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
    let half = ty.scalar() == Scalar::F16;
    let helper = match op {
        BinaryOp::Add if half => "unfused_add",
        BinaryOp::Sub if half => "unfused_sub",
        BinaryOp::Mul if half => "unfused_mul",
        BinaryOp::AddUnfused => "unfused_add",
        BinaryOp::SubUnfused => "unfused_sub",
        BinaryOp::MulUnfused => "unfused_mul",
        BinaryOp::Min => return Ok(Some(call(extremum(ReduceOp::Min, ty, needs), &[a, b]))),
        BinaryOp::Max => return Ok(Some(call(extremum(ReduceOp::Max, ty, needs), &[a, b]))),
        BinaryOp::Rem if ty == FLOAT => "math_mod",
        BinaryOp::Div if ty == HALF => {
            return Ok(Some(Expr::primary(format!(
                "_Float16(float({}) / float({}))",
                a.text, b.text
            ))));
        }
        BinaryOp::Div if ty == HALF2 => "divide_half2",
        _ if half => {
            return Err(format!("{op:?} of {ty} values; they have +, -, *, /, min and max"));
        }
        _ => return Ok(None),
    };
    Ok(Some(call(needs.helper(helper), &[a, b])))
}

pub(super) fn math(function: MathFn, ty: Type, operands: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
    let name = match (function, ty) {
        (MathFn::Abs, Type::Scalar(Scalar::I32)) => "integer_abs",
        (MathFn::Fma, HALF | HALF2 | FLOAT) => "math_fma",
        (_, FLOAT) => match function {
            MathFn::Abs => "math_abs",
            MathFn::Fma => "math_fma",
            MathFn::Sqrt => "math_sqrt",
            MathFn::Rsqrt => "math_rsqrt",
            MathFn::Exp2 => "math_exp2",
            MathFn::Exp2Flushed => "exp2_flushed",
            MathFn::Log2 => "math_log2",
            MathFn::Sin => "math_sin",
            MathFn::Cos => "math_cos",
            MathFn::Tanh => "math_tanh",
            MathFn::Round => "math_round",
            MathFn::Floor => "math_floor",
        },
        _ => {
            return Err(format!("{function:?} of {ty}; it exists for f32 (convert first)"));
        }
    };
    Ok(needs.call(name, operands))
}

pub(super) fn convert(from: Type, to: Type, a: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
    let (Type::Scalar(source), Type::Scalar(result)) = (from, to) else {
        return match (from, to) {
            (HALF2, Type::Vector(Scalar::F32, 2)) | (Type::Vector(Scalar::F32, 2), HALF2) => {
                let name = vector(to.scalar(), 2, needs)?;
                Ok(Some(Expr::primary(format!(
                    "__builtin_convertvector({}, {name})",
                    a.text
                ))))
            }
            _ => Err(format!(
                "conversion of {from} to {to}; pairs of f16 and f32 convert whole, others component by component"
            )),
        };
    };
    // Truncating, saturating, NaN to 0: what the instructions do and a C++ cast does not promise.
    let name = match (source, result) {
        (Scalar::F16, Scalar::I32 | Scalar::U32 | Scalar::U64) => {
            let wide = Expr::primary(format!("float({})", a.text));
            return convert(FLOAT, to, &wide, needs);
        }
        (Scalar::F32, Scalar::I32) => "float_to_int",
        (Scalar::F32, Scalar::U32) => "float_to_unsigned",
        (Scalar::F32, Scalar::U64) => "float_to_u64",
        (Scalar::F32 | Scalar::F16, Scalar::I8 | Scalar::U8 | Scalar::I16 | Scalar::U16) => {
            return Err(format!(
                "conversion of {source} to {result}; convert to i32 or u32, a store narrows"
            ));
        }
        _ => return Ok(None),
    };
    Ok(Some(call(needs.helper(name), &[a])))
}

pub(super) fn bitcast(from: Type, to: Type, a: &Expr) -> Option<Expr> {
    match (from, to) {
        (Type::Scalar(Scalar::I32), Type::Scalar(Scalar::U32)) => Some(call("unsigned", &[a])),
        (Type::Scalar(Scalar::U32), Type::Scalar(Scalar::I32)) => Some(call("int", &[a])),
        _ => None,
    }
}
