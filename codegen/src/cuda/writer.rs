//! CUDA types, operators, conversions and mathematical functions.

use tilekiln_dsl::ir::{BinaryOp, Builtin, MathFn, Scalar, Type, UnaryOp};

use crate::front::language::{Expr, Needs, Spelled, binding};

pub(super) const FP16: &str = "cuda_fp16.h";
pub(super) const BF16: &str = "cuda_bf16.h";

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
        Scalar::F16 => {
            needs.include(FP16);
            "__half"
        }
        Scalar::BF16 => {
            needs.include(BF16);
            "__nv_bfloat16"
        }
        Scalar::F32 => "float",
    }
}

pub(super) fn vector(scalar: Scalar, lanes: u8, needs: &mut Needs) -> Spelled<&'static str> {
    Ok(match (scalar, lanes) {
        (Scalar::F32, 2) => "float2",
        (Scalar::F32, 4) => "float4",
        (Scalar::U32, 2) => "uint2",
        (Scalar::U32, 4) => "uint4",
        (Scalar::I32, 2) => "int2",
        (Scalar::I32, 4) => "int4",
        (Scalar::U64, 2) => "ulonglong2",
        (Scalar::U8, 2) => "uchar2",
        (Scalar::U8, 4) => "uchar4",
        (Scalar::U8, 8) => needs.helper("uchar8"),
        (Scalar::I8, 2) => "char2",
        (Scalar::I8, 4) => "char4",
        (Scalar::I8, 8) => needs.helper("char8"),
        (Scalar::U16, 2) => "ushort2",
        (Scalar::U16, 4) => "ushort4",
        (Scalar::U16, 8) => needs.helper("ushort8"),
        (Scalar::I16, 2) => "short2",
        (Scalar::I16, 4) => "short4",
        (Scalar::I16, 8) => needs.helper("short8"),
        (Scalar::F16, 2) => {
            needs.include(FP16);
            "__half2"
        }
        (Scalar::F16, 4) => needs.helper("half4"),
        (Scalar::F16, 8) => needs.helper("half8"),
        (Scalar::BF16, 2) => {
            needs.include(BF16);
            "__nv_bfloat162"
        }
        (Scalar::BF16, 4) => needs.helper("bfloat4"),
        (Scalar::BF16, 8) => needs.helper("bfloat8"),
        _ => {
            return Err(format!(
                "vectors of {lanes} {scalar} do not exist in CUDA; 2, 4 or 8 numbers of at most 16 bytes together do"
            ));
        }
    })
}

/// The vector is one of our structs of an array, not one with `.x`, `.y`, ….
fn is_array_struct(ty: Type) -> bool {
    match ty {
        Type::Vector(Scalar::F16 | Scalar::BF16, lanes) => lanes > 2,
        Type::Vector(_, lanes) => lanes == 8,
        Type::Scalar(_) => false,
    }
}

pub(super) fn component(vector: Type, index: u8, a: Expr) -> Expr {
    let whole = a.within(binding::PRIMARY);
    Expr::primary(if is_array_struct(vector) {
        format!("{whole}.at[{index}]")
    } else {
        let field = ["x", "y", "z", "w"].get(index as usize).unwrap_or(&"x");
        format!("{whole}.{field}")
    })
}

pub(super) fn compose(vector_type: Type, parts: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
    let name = vector(vector_type.scalar(), vector_type.components() as u8, needs)?;
    if vector_type == HALF2 {
        return Ok(Expr::call("__halves2half2", parts));
    }
    if vector_type == Type::Vector(Scalar::BF16, 2) {
        return Ok(Expr::call("__halves2bfloat162", parts));
    }
    if is_array_struct(vector_type) {
        let narrow = vector_type.scalar().bytes() < 4 && !vector_type.scalar().is_float();
        let cast = if narrow {
            format!("({})", scalar(vector_type.scalar(), needs))
        } else {
            String::new()
        };
        let list: Vec<String> = parts
            .iter()
            .map(|p| {
                if narrow {
                    format!("{cast}{}", p.clone().within(binding::UNARY))
                } else {
                    p.text.clone()
                }
            })
            .collect();
        return Ok(Expr::primary(format!("{name}{{{{{}}}}}", list.join(", "))));
    }
    Ok(Expr::call(&format!("make_{name}"), parts))
}

pub(super) fn builtin(builtin: Builtin) -> Expr {
    let axis = |a: u8| ["x", "y", "z"][usize::from(a.min(2))];
    match builtin {
        Builtin::BlockIndex(a) => Expr::primary(format!("blockIdx.{}", axis(a))),
        Builtin::GridSize(a) => Expr::primary(format!("gridDim.{}", axis(a))),
        Builtin::ThreadIndex => Expr::primary("threadIdx.x"),
        Builtin::Lane => Expr {
            text: "threadIdx.x % 32".to_string(),
            binds: binding::PRODUCT,
        },
        Builtin::Warp => Expr {
            text: "threadIdx.x / 32".to_string(),
            binds: binding::PRODUCT,
        },
    }
}

fn call(function: &str, operands: &[&Expr]) -> Expr {
    let list: Vec<Expr> = operands.iter().map(|e| (*e).clone()).collect();
    Expr::call(function, &list)
}

pub(super) fn unary(op: UnaryOp, ty: Type, a: &Expr) -> Option<Expr> {
    match (op, ty) {
        (UnaryOp::Neg, HALF) => Some(call("__hneg", &[a])),
        (UnaryOp::Neg, HALF2) => Some(call("__hneg2", &[a])),
        _ => None,
    }
}

pub(super) fn binary(op: BinaryOp, ty: Type, a: &Expr, b: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
    let function = match (op, ty) {
        (BinaryOp::Add | BinaryOp::AddUnfused, HALF) => "__hadd_rn",
        (BinaryOp::Sub | BinaryOp::SubUnfused, HALF) => "__hsub_rn",
        (BinaryOp::Mul | BinaryOp::MulUnfused, HALF) => "__hmul_rn",
        (BinaryOp::Min, HALF) => "__hmin",
        (BinaryOp::Max, HALF) => "__hmax",
        (BinaryOp::Add | BinaryOp::AddUnfused, HALF2) => "__hadd2_rn",
        (BinaryOp::Sub | BinaryOp::SubUnfused, HALF2) => "__hsub2_rn",
        (BinaryOp::Mul | BinaryOp::MulUnfused, HALF2) => "__hmul2_rn",
        (BinaryOp::Min, HALF2) => "__hmin2",
        (BinaryOp::Max, HALF2) => "__hmax2",
        (BinaryOp::Div, HALF) => {
            let (a, b) = (&a.text, &b.text);
            return Ok(Some(Expr::primary(format!(
                "__float2half(__half2float({a}) / __half2float({b}))"
            ))));
        }
        (BinaryOp::Div, HALF2) => needs.helper("divide_half2"),
        (BinaryOp::AddUnfused, FLOAT) => "__fadd_rn",
        (BinaryOp::SubUnfused, FLOAT) => "__fsub_rn",
        (BinaryOp::MulUnfused, FLOAT) => "__fmul_rn",
        (BinaryOp::Min, FLOAT) => "fminf",
        (BinaryOp::Max, FLOAT) => "fmaxf",
        (BinaryOp::Rem, FLOAT) => "fmodf",
        (BinaryOp::Min, Type::Scalar(_)) => "min",
        (BinaryOp::Max, Type::Scalar(_)) => "max",
        (_, HALF | HALF2) => {
            return Err(format!("{op:?} of {ty} values; they have +, -, *, /, min and max"));
        }
        _ => return Ok(None),
    };
    Ok(Some(call(function, &[a, b])))
}

pub(super) fn math(function: MathFn, ty: Type, operands: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
    let name = match (function, ty) {
        (MathFn::Abs, Type::Scalar(Scalar::I32)) => "abs",
        (MathFn::Fma, HALF2) => "__hfma2",
        (MathFn::Fma, HALF) => "__hfma",
        (_, FLOAT) => match function {
            MathFn::Abs => "fabsf",
            MathFn::Fma => "fmaf",
            MathFn::Sqrt => "sqrtf",
            MathFn::Rsqrt => "rsqrtf",
            MathFn::Exp2 => "exp2f",
            MathFn::Exp2Flushed => needs.helper("exp2_flushed"),
            MathFn::Log2 => "log2f",
            MathFn::Sin => "sinf",
            MathFn::Cos => "cosf",
            MathFn::Tanh => "tanhf",
            MathFn::Round => "rintf",
            MathFn::Floor => "floorf",
        },
        _ => {
            return Err(format!("{function:?} of {ty}; it exists for f32 (convert first)"));
        }
    };
    Ok(Expr::call(name, operands))
}

pub(super) fn convert(from: Type, to: Type, a: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
    if to.scalar() == Scalar::F16 || from.scalar() == Scalar::F16 {
        needs.include(FP16);
    }
    let (Type::Scalar(source), Type::Scalar(result)) = (from, to) else {
        return match (from, to) {
            (HALF2, Type::Vector(Scalar::F32, 2)) => Ok(Some(call("__half22float2", &[a]))),
            (Type::Vector(Scalar::F32, 2), HALF2) => Ok(Some(call("__float22half2_rn", &[a]))),
            _ => Err(format!(
                "conversion of {from} to {to}; pairs of f16 and f32 convert whole, others component by component"
            )),
        };
    };
    let widened = |a: &Expr| call("__half2float", &[a]);
    Ok(Some(match (source, result) {
        (Scalar::F16, Scalar::F32) => widened(a),
        (Scalar::F32, Scalar::F16) => call("__float2half", &[a]),
        (Scalar::F16, _) => return convert(FLOAT, to, &widened(a), needs),
        (_, Scalar::F16) => Expr::primary(format!("__float2half(float({}))", a.text)),
        // Truncating, saturating, NaN to 0: what the instructions do and a C++ cast does not promise.
        (Scalar::F32, Scalar::I32) => call("__float2int_rz", &[a]),
        (Scalar::F32, Scalar::U32) => call("__float2uint_rz", &[a]),
        (Scalar::F32, Scalar::U64) => needs.call("float_to_u64", std::slice::from_ref(a)),
        (Scalar::F32, Scalar::I8 | Scalar::U8 | Scalar::I16 | Scalar::U16) => {
            return Err(format!(
                "conversion of f32 to {result}; convert to i32 or u32, a store narrows"
            ));
        }
        _ => return Ok(None),
    }))
}

pub(super) fn bitcast(from: Type, to: Type, a: &Expr) -> Option<Expr> {
    let (Type::Scalar(source), Type::Scalar(result)) = (from, to) else {
        return None;
    };
    let name = match (source, result) {
        (Scalar::F32, Scalar::U32) => "__float_as_uint",
        (Scalar::F32, Scalar::I32) => "__float_as_int",
        (Scalar::U32, Scalar::F32) => "__uint_as_float",
        (Scalar::I32, Scalar::F32) => "__int_as_float",
        (Scalar::I32, Scalar::U32) => "unsigned",
        (Scalar::U32, Scalar::I32) => "int",
        _ => return None,
    };
    Some(call(name, &[a]))
}
