//! HIP C++ for RDNA chips, for hipRTC, hipcc and bare clang: what it calls things.
//!
//! No header is relied on: the four keywords are defined where they are missing, and every compiler builtin
//! stands in a named helper of `intrinsics`. HIP contracts `a * b + c` across statements unless told
//! otherwise, so operations that must round by themselves go through helpers with contraction switched off.
//! Cross-lane steps never use `v_permlane*`: LLVM before 21 may move it under a branch.

mod intrinsics;
mod keywords;
mod maths;
mod writer;

use tilekiln_dsl::ir::{BinaryOp, Builtin, MathFn, ReduceOp, Scalar, ShuffleKind, Type, UnaryOp};
use tilekiln_dsl::target::FragmentLayout;

use crate::front::language::{Expr, Helper, Language, Needs, Spelled, Sync};

/// The language.
pub(crate) struct Hip;

/// Waves on a SIMD that kernels are compiled for where they promise at least as many: they leave 192 registers.
const WAVES: usize = 5;
/// SIMDs of a compute unit, and bytes of its shared memory.
const SIMDS: usize = 2;
const SHARED_BYTES: usize = 64 << 10;

impl Language for Hip {
    fn extension(&self) -> &'static str {
        "hip"
    }
    fn fragments(&self) -> &'static [FragmentLayout] {
        &[FragmentLayout::Wmma16x16x16]
    }
    fn keywords(&self) -> &'static [&'static str] {
        keywords::RESERVED
    }
    fn helpers(&self) -> &'static [Helper] {
        intrinsics::HELPERS
    }
    fn preamble(&self) -> &'static [&'static str] {
        intrinsics::PREAMBLE
    }
    fn scalar(&self, scalar: Scalar, needs: &mut Needs) -> &'static str {
        writer::scalar(scalar, needs)
    }
    fn vector(&self, scalar: Scalar, lanes: u8, needs: &mut Needs) -> Spelled<&'static str> {
        writer::vector(scalar, lanes, needs)
    }
    fn half_literal(&self, text: &str, _: &mut Needs) -> Expr {
        Expr::primary(format!("_Float16({text})"))
    }
    fn table_entry_as_float(&self, scalar: Scalar) -> bool {
        scalar == Scalar::F16
    }
    fn builtin(&self, builtin: Builtin, needs: &mut Needs) -> Expr {
        writer::builtin(builtin, needs)
    }
    fn unary(&self, _: UnaryOp, _: Type, _: &Expr, _: &mut Needs) -> Option<Expr> {
        None
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
    fn component(&self, _: Type, index: u8, a: Expr) -> Expr {
        writer::component(index, a)
    }
    fn compose(&self, vector: Type, parts: &[Expr], needs: &mut Needs) -> Spelled<Expr> {
        writer::compose(vector, parts, needs)
    }
    fn widen_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr {
        needs.call("bf16_to_float", std::slice::from_ref(a))
    }
    fn narrow_bf16(&self, a: &Expr, needs: &mut Needs) -> Expr {
        needs.call("float_to_bf16", std::slice::from_ref(a))
    }
    fn shuffle(&self, kind: ShuffleKind, value: &Expr, lane: Option<&Expr>, needs: &mut Needs) -> Expr {
        intrinsics::shuffle(kind, value, lane, needs)
    }
    fn reduce(&self, op: ReduceOp, ty: Type, width: u32, value: &Expr, needs: &mut Needs) -> Expr {
        intrinsics::reduce(op, ty, width, value, needs)
    }
    fn ballot(&self, a: &Expr, needs: &mut Needs) -> Expr {
        needs.call("ballot", std::slice::from_ref(a))
    }
    fn byte_permute(&self, parts: &[Expr; 3], needs: &mut Needs) -> Expr {
        needs.call("byte_permute", parts)
    }
    fn instruction_product(&self, element: Scalar) -> &'static str {
        match element {
            Scalar::F16 => "mma_16x16x16_f16",
            Scalar::BF16 => "mma_16x16x16_bf16",
            Scalar::I8 => "mma_16x16x16_i8",
            Scalar::U8 => "mma_16x16x16_u8_i8",
            _ => "",
        }
    }
    // LLVM lets kernels that share a compute unit grow to 256 registers, misjudges the last few and spills them; it does
    // not where it is asked for some waves on each SIMD. It warns where shared memory has no room for so many.
    fn launch_bounds(&self, threads: usize, blocks: usize, shared_bytes: usize) -> String {
        let bounds = format!("__launch_bounds__({threads})");
        let fitting = blocks.min(SHARED_BYTES / shared_bytes.max(1));
        match blocks > 1 && fitting * threads / 32 / SIMDS >= WAVES {
            true => format!("{bounds} __attribute__((amdgpu_waves_per_eu({WAVES})))"),
            false => bounds,
        }
    }
    fn sync(&self, what: Sync, _: bool, needs: &mut Needs) -> Option<String> {
        intrinsics::sync(what, needs)
    }
    fn dynamic_shared(&self) -> &'static str {
        "alignas(16) extern __shared__ unsigned char"
    }
}
