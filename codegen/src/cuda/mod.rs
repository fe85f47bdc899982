//! CUDA C++, for NVRTC and nvcc: what it calls things.
//!
//! Half precision uses the `_rn` intrinsics, which are never contracted: 16-bit arithmetic rounds once per
//! operation. Every instruction without a CUDA function (`mma.sync`, `ldmatrix`, `cp.async`, `griddepcontrol`)
//! is a named helper of `intrinsics`.

mod intrinsics;
mod keywords;
mod writer;

use tilekiln_dsl::ir::{BinaryOp, Builtin, MathFn, ReduceOp, Scalar, ShuffleKind, Type, UnaryOp};
use tilekiln_dsl::target::FragmentLayout;

use crate::front::language::{Expr, Helper, Language, Needs, Spelled, Sync};

/// The language.
pub(crate) struct Cuda;

impl Language for Cuda {
    fn extension(&self) -> &'static str {
        "cu"
    }
    fn fragments(&self) -> &'static [FragmentLayout] {
        &[FragmentLayout::PairOfM16N8K16]
    }
    fn keywords(&self) -> &'static [&'static str] {
        keywords::RESERVED
    }
    fn helpers(&self) -> &'static [Helper] {
        intrinsics::HELPERS
    }
    fn preamble(&self) -> &'static [&'static str] {
        &[]
    }
    fn scalar(&self, scalar: Scalar, needs: &mut Needs) -> &'static str {
        writer::scalar(scalar, needs)
    }
    fn vector(&self, scalar: Scalar, lanes: u8, needs: &mut Needs) -> Spelled<&'static str> {
        writer::vector(scalar, lanes, needs)
    }
    fn half_literal(&self, text: &str, needs: &mut Needs) -> Expr {
        needs.include(writer::FP16);
        Expr::primary(format!("__float2half({text})"))
    }
    fn table_entry_as_float(&self, scalar: Scalar) -> bool {
        scalar == Scalar::F16
    }
    fn builtin(&self, builtin: Builtin, _: &mut Needs) -> Expr {
        writer::builtin(builtin)
    }
    fn unary(&self, op: UnaryOp, ty: Type, a: &Expr, _: &mut Needs) -> Option<Expr> {
        writer::unary(op, ty, a)
    }
    fn binary(&self, op: BinaryOp, ty: Type, a: &Expr, b: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
        writer::binary(op, ty, a, b, needs)
    }
    fn math(&self, function: MathFn, ty: Type, operands: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
        writer::math(function, ty, operands, needs)
    }
    fn convert(&self, from: Type, to: Type, a: &Expr, needs: &mut Needs) -> Spelled<Option<Expr>> {
        writer::convert(from, to, a, needs)
    }
    fn bitcast(&self, from: Type, to: Type, a: &Expr, _: &mut Needs) -> Option<Expr> {
        writer::bitcast(from, to, a)
    }
    fn component(&self, vector: Type, index: u8, a: Expr) -> Expr {
        writer::component(vector, index, a)
    }
    fn compose(&self, vector: Type, parts: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
        writer::compose(vector, parts, needs)
    }
    fn widen_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr {
        needs.include(writer::BF16);
        Expr::call("__bfloat162float", std::slice::from_ref(a))
    }
    fn narrow_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr {
        needs.include(writer::BF16);
        Expr::call("__float2bfloat16", std::slice::from_ref(a))
    }
    fn shuffle(&self, kind: ShuffleKind, value: &Expr, lane: Option<&Expr>, _: &mut Needs) -> Expr {
        intrinsics::shuffle(kind, value, lane)
    }
    fn reduce(&self, op: ReduceOp, ty: Type, width: u32, value: &Expr, needs: &mut Needs) -> Expr {
        intrinsics::reduce(op, ty, width, value, needs)
    }
    fn ballot(&self, a: &Expr, _: &mut Needs) -> Expr {
        Expr::primary(format!("__ballot_sync(0xffffffff, {})", a.text))
    }
    fn byte_permute(&self, parts: &[Expr; 3], _: &mut Needs) -> Expr {
        Expr::call("__byte_perm", parts)
    }
    fn instruction_product(&self, element: Scalar) -> &'static str {
        match element {
            Scalar::F16 => "mma_16x8x16_f16",
            Scalar::BF16 => "mma_16x8x16_bf16",
            Scalar::I8 => "mma_16x8x32_i8",
            Scalar::U8 => "mma_16x8x32_u8_i8",
            _ => "",
        }
    }
    fn launch_bounds(&self, threads: usize, blocks: usize, _: usize) -> String {
        match blocks {
            0 => format!("__launch_bounds__({threads})"),
            _ => format!("__launch_bounds__({threads}, {blocks})"),
        }
    }
    fn sync(&self, what: Sync, async_copy: bool, needs: &mut Needs) -> Option<String> {
        intrinsics::sync(what, async_copy, needs)
    }
    fn dynamic_shared(&self) -> &'static str {
        "alignas(16) extern __shared__ unsigned char"
    }
}
