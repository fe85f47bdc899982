//! What a HIP file defines when it uses it, and the spelling of warp operations.

use tilekiln_dsl::ir::{ReduceOp, Scalar, ShuffleKind, Type};

use super::maths;
use crate::front::language::{Expr, Helper, Needs, Sync};

/// Keywords that hipRTC and the HIP headers define as macros and bare clang does not.
pub(super) const PREAMBLE: &[&str] = &[
    "#ifndef __global__",
    "#define __global__ __attribute__((global))",
    "#define __device__ __attribute__((device))",
    "#define __shared__ __attribute__((shared))",
    "#endif",
    "#ifndef __launch_bounds__",
    "#define __launch_bounds__(threads) __attribute__((amdgpu_flat_work_group_size(1, threads)))",
    "#endif",
    "#ifndef __forceinline__",
    "#define __forceinline__ inline __attribute__((always_inline))",
    "#endif",
];

const fn helper(key: &'static str, text: &'static str) -> Helper {
    needing(key, &[], text)
}

const fn needing(key: &'static str, needs: &'static [&'static str], text: &'static str) -> Helper {
    Helper {
        key,
        name: key,
        needs,
        include: None,
        text,
    }
}

/// In the order they are printed: what a helper uses stands before it.
pub(super) const HELPERS: &[Helper] = &[
    helper("infinity", "constexpr float infinity = __builtin_inff();"),
    helper("not_a_number", "constexpr float not_a_number = __builtin_nanf(\"\");"),
    helper("bf16", "using bf16 = unsigned short;   // the upper half of a float"),
    helper("f32x2", "typedef float f32x2 __attribute__((ext_vector_type(2)));"),
    helper("f32x4", "typedef float f32x4 __attribute__((ext_vector_type(4)));"),
    helper("f32x8", "typedef float f32x8 __attribute__((ext_vector_type(8)));"),
    helper("u32x2", "typedef unsigned u32x2 __attribute__((ext_vector_type(2)));"),
    helper("u32x4", "typedef unsigned u32x4 __attribute__((ext_vector_type(4)));"),
    helper("u32x8", "typedef unsigned u32x8 __attribute__((ext_vector_type(8)));"),
    helper("i32x2", "typedef int i32x2 __attribute__((ext_vector_type(2)));"),
    helper("i32x4", "typedef int i32x4 __attribute__((ext_vector_type(4)));"),
    helper("i32x8", "typedef int i32x8 __attribute__((ext_vector_type(8)));"),
    helper(
        "u64x2",
        "typedef unsigned long long u64x2 __attribute__((ext_vector_type(2)));",
    ),
    helper(
        "u8x2",
        "typedef unsigned char u8x2 __attribute__((ext_vector_type(2)));",
    ),
    helper(
        "u8x4",
        "typedef unsigned char u8x4 __attribute__((ext_vector_type(4)));",
    ),
    helper(
        "u8x8",
        "typedef unsigned char u8x8 __attribute__((ext_vector_type(8)));",
    ),
    helper("i8x2", "typedef signed char i8x2 __attribute__((ext_vector_type(2)));"),
    helper("i8x4", "typedef signed char i8x4 __attribute__((ext_vector_type(4)));"),
    helper("i8x8", "typedef signed char i8x8 __attribute__((ext_vector_type(8)));"),
    helper(
        "u16x2",
        "typedef unsigned short u16x2 __attribute__((ext_vector_type(2)));",
    ),
    helper(
        "u16x4",
        "typedef unsigned short u16x4 __attribute__((ext_vector_type(4)));",
    ),
    helper(
        "u16x8",
        "typedef unsigned short u16x8 __attribute__((ext_vector_type(8)));",
    ),
    helper("i16x2", "typedef short i16x2 __attribute__((ext_vector_type(2)));"),
    helper("i16x4", "typedef short i16x4 __attribute__((ext_vector_type(4)));"),
    helper("i16x8", "typedef short i16x8 __attribute__((ext_vector_type(8)));"),
    helper("i16x16", "typedef short i16x16 __attribute__((ext_vector_type(16)));"),
    helper("f16x2", "typedef _Float16 f16x2 __attribute__((ext_vector_type(2)));"),
    helper("f16x4", "typedef _Float16 f16x4 __attribute__((ext_vector_type(4)));"),
    helper("f16x8", "typedef _Float16 f16x8 __attribute__((ext_vector_type(8)));"),
    helper(
        "f16x16",
        "typedef _Float16 f16x16 __attribute__((ext_vector_type(16)));",
    ),
    needing(
        "bf16x2",
        &["bf16"],
        "typedef bf16 bf16x2 __attribute__((ext_vector_type(2)));",
    ),
    needing(
        "bf16x4",
        &["bf16"],
        "typedef bf16 bf16x4 __attribute__((ext_vector_type(4)));",
    ),
    needing(
        "bf16x8",
        &["bf16"],
        "typedef bf16 bf16x8 __attribute__((ext_vector_type(8)));",
    ),
    helper(
        "thread_index",
        "__device__ __forceinline__ unsigned thread_index() { return __builtin_amdgcn_workitem_id_x(); }",
    ),
    helper(
        "block_index_x",
        "__device__ __forceinline__ unsigned block_index_x() { return __builtin_amdgcn_workgroup_id_x(); }",
    ),
    helper(
        "block_index_y",
        "__device__ __forceinline__ unsigned block_index_y() { return __builtin_amdgcn_workgroup_id_y(); }",
    ),
    helper(
        "block_index_z",
        "__device__ __forceinline__ unsigned block_index_z() { return __builtin_amdgcn_workgroup_id_z(); }",
    ),
    helper(
        "grid_size_x",
        "__device__ __forceinline__ unsigned grid_size_x() { return __builtin_amdgcn_grid_size_x() / {threads}; }   // blocks",
    ),
    helper(
        "grid_size_y",
        "__device__ __forceinline__ unsigned grid_size_y() { return __builtin_amdgcn_grid_size_y(); }   // blocks",
    ),
    helper(
        "grid_size_z",
        "__device__ __forceinline__ unsigned grid_size_z() { return __builtin_amdgcn_grid_size_z(); }   // blocks",
    ),
    helper(
        "lane_index",
        "__device__ __forceinline__ unsigned lane_index() { return __builtin_amdgcn_mbcnt_lo(~0u, 0); }",
    ),
    helper(
        "math_abs",
        "__device__ __forceinline__ float math_abs(float x) { return __builtin_fabsf(x); }",
    ),
    helper(
        "integer_abs",
        "__device__ __forceinline__ int integer_abs(int x) { return x < 0 ? int(0u - unsigned(x)) : x; }",
    ),
    helper(
        "math_sqrt",
        "__device__ __forceinline__ float math_sqrt(float x) { return __builtin_sqrtf(x); }",
    ),
    helper(
        "math_exp2",
        "__device__ __forceinline__ float math_exp2(float x) { return __builtin_exp2f(x); }",
    ),
    helper(
        "exp2_flushed",
        "__device__ __forceinline__ float exp2_flushed(float x) { return __builtin_amdgcn_exp2f(x); }   // 0 below the normal numbers",
    ),
    helper(
        "math_log2",
        "__device__ __forceinline__ float math_log2(float x) { return __builtin_log2f(x); }",
    ),
    helper(
        "math_round",
        "__device__ __forceinline__ float math_round(float x) { return __builtin_rintf(x); }   // ties to even",
    ),
    helper(
        "math_floor",
        "__device__ __forceinline__ float math_floor(float x) { return __builtin_floorf(x); }",
    ),
    helper(
        "math_mod",
        "__device__ __forceinline__ float math_mod(float x, float y) { return __builtin_fmodf(x, y); }",
    ),
    helper(
        "math_fma",
        r"
// a * b + c, rounded once
template <typename T>
__device__ __forceinline__ T math_fma(T a, T b, T c) { return __builtin_elementwise_fma(a, b, c); }",
    ),
    Helper {
        name: "math_min",
        ..needing(
            "math_min of float",
            &[],
            "__device__ __forceinline__ float math_min(float a, float b) { return __builtin_fminf(a, b); }",
        )
    },
    Helper {
        name: "math_min",
        ..needing(
            "math_min of half",
            &[],
            "__device__ __forceinline__ _Float16 math_min(_Float16 a, _Float16 b) { return _Float16(__builtin_fminf16(a, b)); }",
        )
    },
    Helper {
        name: "math_min",
        ..needing(
            "math_min of half2",
            &["f16x2"],
            r"
__device__ __forceinline__ f16x2 math_min(f16x2 a, f16x2 b) {
    return f16x2{_Float16(__builtin_fminf16(a.x, b.x)), _Float16(__builtin_fminf16(a.y, b.y))};
}",
        )
    },
    Helper {
        name: "math_min",
        ..needing(
            "math_min of int",
            &[],
            r"
template <typename Integer>
__device__ __forceinline__ Integer math_min(Integer a, Integer b) { return a < b ? a : b; }",
        )
    },
    Helper {
        name: "math_max",
        ..needing(
            "math_max of float",
            &[],
            "__device__ __forceinline__ float math_max(float a, float b) { return __builtin_fmaxf(a, b); }",
        )
    },
    Helper {
        name: "math_max",
        ..needing(
            "math_max of half",
            &[],
            "__device__ __forceinline__ _Float16 math_max(_Float16 a, _Float16 b) { return _Float16(__builtin_fmaxf16(a, b)); }",
        )
    },
    Helper {
        name: "math_max",
        ..needing(
            "math_max of half2",
            &["f16x2"],
            r"
__device__ __forceinline__ f16x2 math_max(f16x2 a, f16x2 b) {
    return f16x2{_Float16(__builtin_fmaxf16(a.x, b.x)), _Float16(__builtin_fmaxf16(a.y, b.y))};
}",
        )
    },
    Helper {
        name: "math_max",
        ..needing(
            "math_max of int",
            &[],
            r"
template <typename Integer>
__device__ __forceinline__ Integer math_max(Integer a, Integer b) { return a > b ? a : b; }",
        )
    },
    helper("math_rsqrt", maths::RSQRT),
    helper("math_tanh", maths::TANH),
    helper("reduce_angle", maths::REDUCE),
    helper("sine_near_zero", maths::SINE_NEAR_ZERO),
    helper("cosine_near_zero", maths::COSINE_NEAR_ZERO),
    needing(
        "math_sin",
        &["reduce_angle", "sine_near_zero", "cosine_near_zero"],
        maths::SINE,
    ),
    needing(
        "math_cos",
        &["reduce_angle", "sine_near_zero", "cosine_near_zero"],
        maths::COSINE,
    ),
    helper(
        "unfused_add",
        r"
// a + b, rounded by itself
template <typename T>
__device__ __forceinline__ T unfused_add(T a, T b) {
#pragma clang fp contract(off)
    return a + b;
}",
    ),
    helper(
        "unfused_sub",
        r"
// a - b, rounded by itself
template <typename T>
__device__ __forceinline__ T unfused_sub(T a, T b) {
#pragma clang fp contract(off)
    return a - b;
}",
    ),
    helper(
        "unfused_mul",
        r"
// a * b, rounded by itself
template <typename T>
__device__ __forceinline__ T unfused_mul(T a, T b) {
#pragma clang fp contract(off)
    return a * b;
}",
    ),
    needing(
        "divide_half2",
        &["f16x2"],
        r"
// both quotients, each rounded once
__device__ __forceinline__ f16x2 divide_half2(f16x2 a, f16x2 b) {
    return f16x2{_Float16(float(a.x) / float(b.x)), _Float16(float(a.y) / float(b.y))};
}",
    ),
    helper(
        "float_to_int",
        r#"
// truncates and saturates; NaN gives 0
__device__ __forceinline__ int float_to_int(float value) {
    int result;
    asm("v_cvt_i32_f32 %0, %1" : "=v"(result) : "v"(value));
    return result;
}"#,
    ),
    helper(
        "float_to_unsigned",
        r#"
// truncates and saturates; NaN gives 0
__device__ __forceinline__ unsigned float_to_unsigned(float value) {
    unsigned result;
    asm("v_cvt_u32_f32 %0, %1" : "=v"(result) : "v"(value));
    return result;
}"#,
    ),
    helper(
        "float_to_u64",
        r"
// truncates and saturates; NaN gives 0
__device__ __forceinline__ unsigned long long float_to_u64(float value) {
    if (!(value > 0.0f))
        return 0;
    return value < 18446744073709551616.0f ? (unsigned long long)value : ~0ull;
}",
    ),
    helper(
        "bit_cast",
        r"
// the same bits as another type
template <typename To, typename From>
__device__ __forceinline__ To bit_cast(From from) { return __builtin_bit_cast(To, from); }",
    ),
    needing(
        "bf16_to_float",
        &["bf16"],
        "__device__ __forceinline__ float bf16_to_float(bf16 value) { return __builtin_bit_cast(float, unsigned(value) << 16); }",
    ),
    needing(
        "float_to_bf16",
        &["bf16"],
        r"
// nearest even; NaN stays NaN
__device__ __forceinline__ bf16 float_to_bf16(float value) {
    const unsigned bits = __builtin_bit_cast(unsigned, value);
    const unsigned rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return bf16((value != value ? bits | 0x400000 : rounded) >> 16);
}",
    ),
    helper(
        "load_as",
        r"
// one naturally aligned load of another type
template <typename T>
__device__ __forceinline__ T load_as(const void* from) {
    T value;
    __builtin_memcpy(&value, __builtin_assume_aligned(from, sizeof(T)), sizeof(T));
    return value;
}",
    ),
    helper(
        "store_as",
        r"
// one naturally aligned store of another type
template <typename T>
__device__ __forceinline__ void store_as(void* to, T value) {
    __builtin_memcpy(__builtin_assume_aligned(to, sizeof(T)), &value, sizeof(T));
}",
    ),
    helper(
        "sync_block",
        r#"
// all lanes of the block meet and see each other's stores
__device__ __forceinline__ void sync_block() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}"#,
    ),
    helper(
        "sync_warp",
        r#"
// all lanes of the wave meet and see each other's stores
__device__ __forceinline__ void sync_warp() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}"#,
    ),
    helper(
        "ballot",
        "__device__ __forceinline__ unsigned ballot(bool vote) { return __builtin_amdgcn_ballot_w32(vote); }",
    ),
    needing(
        "shuffle_xor",
        &["bit_cast"],
        r"
// the value of lane ^ mask: DPP row_xmask within rows of 16 lanes, ds_swizzle across them
template <unsigned mask, typename T>
__device__ __forceinline__ T shuffle_xor(T value) {
    const int bits = bit_cast<int>(value);
    if constexpr (mask < 16)
        return bit_cast<T>(__builtin_amdgcn_update_dpp(0, bits, 0x160 | mask, 0xf, 0xf, true));
    else
        return bit_cast<T>(__builtin_amdgcn_ds_swizzle(bits, (mask << 10) | 0x1f));
}",
    ),
    needing(
        "shuffle",
        &["bit_cast"],
        r"
// the value of a lane, modulo 32
template <typename T>
__device__ __forceinline__ T shuffle(T value, unsigned lane) {
    return bit_cast<T>(__builtin_amdgcn_ds_bpermute(int(lane % 32 * 4), bit_cast<int>(value)));
}",
    ),
    needing(
        "shuffle_up",
        &["lane_index", "shuffle"],
        r"
// the value of lane - delta; the lowest lanes keep their own
template <unsigned delta, typename T>
__device__ __forceinline__ T shuffle_up(T value) {
    const unsigned lane = lane_index();
    return shuffle(value, lane < delta ? lane : lane - delta);
}",
    ),
    needing(
        "shuffle_down",
        &["lane_index", "shuffle"],
        r"
// the value of lane + delta; the highest lanes keep their own
template <unsigned delta, typename T>
__device__ __forceinline__ T shuffle_down(T value) {
    const unsigned lane = lane_index();
    return shuffle(value, lane + delta < 32 ? lane + delta : lane);
}",
    ),
    needing(
        "warp_sum",
        &["shuffle_xor", "unfused_add"],
        r"
// sum over groups of `width` lanes; every lane returns the total
template <unsigned width, typename T>
__device__ __forceinline__ T warp_sum(T value) {
    value = unfused_add(value, shuffle_xor<1>(value));
    if constexpr (width > 2)
        value = unfused_add(value, shuffle_xor<2>(value));
    if constexpr (width > 4)
        value = unfused_add(value, shuffle_xor<4>(value));
    if constexpr (width > 8)
        value = unfused_add(value, shuffle_xor<8>(value));
    if constexpr (width > 16)
        value = unfused_add(value, shuffle_xor<16>(value));
    return value;
}",
    ),
    needing(
        "warp_min",
        &["shuffle_xor"],
        r"
// least value of groups of `width` lanes, for every lane
template <unsigned width, typename T>
__device__ __forceinline__ T warp_min(T value) {
    value = math_min(value, shuffle_xor<1>(value));
    if constexpr (width > 2)
        value = math_min(value, shuffle_xor<2>(value));
    if constexpr (width > 4)
        value = math_min(value, shuffle_xor<4>(value));
    if constexpr (width > 8)
        value = math_min(value, shuffle_xor<8>(value));
    if constexpr (width > 16)
        value = math_min(value, shuffle_xor<16>(value));
    return value;
}",
    ),
    needing(
        "warp_max",
        &["shuffle_xor"],
        r"
// greatest value of groups of `width` lanes, for every lane
template <unsigned width, typename T>
__device__ __forceinline__ T warp_max(T value) {
    value = math_max(value, shuffle_xor<1>(value));
    if constexpr (width > 2)
        value = math_max(value, shuffle_xor<2>(value));
    if constexpr (width > 4)
        value = math_max(value, shuffle_xor<4>(value));
    if constexpr (width > 8)
        value = math_max(value, shuffle_xor<8>(value));
    if constexpr (width > 16)
        value = math_max(value, shuffle_xor<16>(value));
    return value;
}",
    ),
    helper(
        "in_register",
        r#"
// the same number, kept in a register instead of made anew where it is used
__device__ __forceinline__ unsigned in_register(unsigned number) {
    asm volatile("" : "+v"(number));
    return number;
}"#,
    ),
    helper(
        "dot4",
        r"
// sum + a . b over four signed bytes
__device__ __forceinline__ int dot4(unsigned a, unsigned b, int sum) {
    return __builtin_amdgcn_sudot4(true, int(a), true, int(b), sum, false);
}",
    ),
    helper(
        "dot4_unsigned_signed",
        r"
// sum + a . b over four bytes, a unsigned, b signed
__device__ __forceinline__ int dot4_unsigned_signed(unsigned a, unsigned b, int sum) {
    return __builtin_amdgcn_sudot4(false, int(a), true, int(b), sum, false);
}",
    ),
    helper(
        "byte_permute",
        r"
// byte i of the result is byte (selector >> 4i) & 7 of high:low; v_perm_b32 takes a whole byte per choice
__device__ __forceinline__ unsigned byte_permute(unsigned low, unsigned high, unsigned selector) {
    selector = (selector & 0xff) | ((selector & 0xff00) << 8);
    selector = (selector & 0x000f000f) | ((selector & 0x00f000f0) << 4);
    return __builtin_amdgcn_perm(high, low, selector & 0x07070707);
}",
    ),
    needing(
        "copy_16",
        &["u32x4", "load_as", "store_as"],
        r"
// 16 bytes from global to shared memory
__device__ __forceinline__ void copy_16(void* to, const void* from) {
    store_as<u32x4>(to, load_as<u32x4>(from));
}",
    ),
    needing(
        "mma_16x16x16_f16",
        &["f32x8", "u32x8", "f16x16"],
        r"
// c += a * b for 16x16x16 tiles of f16
__device__ __forceinline__ void mma_16x16x16_f16(float (&c)[8], const unsigned (&a)[8], const unsigned (&b)[8]) {
    const u32x8 left = {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]};
    const u32x8 right = {b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]};
    f32x8 sum = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
    sum = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(__builtin_bit_cast(f16x16, left), __builtin_bit_cast(f16x16, right), sum);
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        c[i] = sum[i];
}",
    ),
    needing(
        "mma_16x16x16_bf16",
        &["f32x8", "u32x8", "i16x16"],
        r"
// c += a * b for 16x16x16 tiles of bf16
__device__ __forceinline__ void mma_16x16x16_bf16(float (&c)[8], const unsigned (&a)[8], const unsigned (&b)[8]) {
    const u32x8 left = {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]};
    const u32x8 right = {b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]};
    f32x8 sum = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
    sum = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(__builtin_bit_cast(i16x16, left), __builtin_bit_cast(i16x16, right), sum);
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        c[i] = sum[i];
}",
    ),
    needing(
        "mma_16x16x16_i8",
        &["i32x4", "i32x8"],
        r"
// c += a * b for 16x16x16 tiles of signed bytes
__device__ __forceinline__ void mma_16x16x16_i8(int (&c)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    const i32x4 left = {int(a[0]), int(a[1]), int(a[2]), int(a[3])};
    const i32x4 right = {int(b[0]), int(b[1]), int(b[2]), int(b[3])};
    i32x8 sum = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
    sum = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, left, true, right, sum, false);
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        c[i] = sum[i];
}",
    ),
    needing(
        "mma_16x16x16_u8_i8",
        &["i32x4", "i32x8"],
        r"
// c += a * b for 16x16x16 tiles of bytes, a unsigned, b signed
__device__ __forceinline__ void mma_16x16x16_u8_i8(int (&c)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    const i32x4 left = {int(a[0]), int(a[1]), int(a[2]), int(a[3])};
    const i32x4 right = {int(b[0]), int(b[1]), int(b[2]), int(b[3])};
    i32x8 sum = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
    sum = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(false, left, true, right, sum, false);
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        c[i] = sum[i];
}",
    ),
];

pub(super) fn shuffle(kind: ShuffleKind, value: &Expr, lane: Option<&Expr>, needs: &mut Needs) -> Expr {
    let text = &value.text;
    Expr::primary(match kind {
        ShuffleKind::Xor(mask) => format!("{}<{mask}>({text})", needs.helper("shuffle_xor")),
        ShuffleKind::Up(delta) => format!("{}<{delta}>({text})", needs.helper("shuffle_up")),
        ShuffleKind::Down(delta) => format!("{}<{delta}>({text})", needs.helper("shuffle_down")),
        ShuffleKind::Lane(_) => {
            let lane = lane.map_or("0", |lane| lane.text.as_str());
            format!("{}({text}, {lane})", needs.helper("shuffle"))
        }
    })
}

/// The definition of `math_min` or `math_max` for a type; all have one name.
pub(super) fn extremum(op: ReduceOp, ty: Type, needs: &mut Needs) -> &'static str {
    let [float, half, half2, integer] = match op {
        ReduceOp::Max => [
            "math_max of float",
            "math_max of half",
            "math_max of half2",
            "math_max of int",
        ],
        _ => [
            "math_min of float",
            "math_min of half",
            "math_min of half2",
            "math_min of int",
        ],
    };
    needs.helper(match ty {
        Type::Scalar(Scalar::F32) => float,
        Type::Scalar(Scalar::F16) => half,
        Type::Vector(Scalar::F16, _) => half2,
        _ => integer,
    });
    if op == ReduceOp::Max { "math_max" } else { "math_min" }
}

pub(super) fn reduce(op: ReduceOp, ty: Type, width: u32, value: &Expr, needs: &mut Needs) -> Expr {
    let name = needs.helper(match op {
        ReduceOp::Sum => "warp_sum",
        ReduceOp::Min => "warp_min",
        ReduceOp::Max => "warp_max",
    });
    if op != ReduceOp::Sum {
        extremum(op, ty, needs);
    }
    Expr::primary(format!("{name}<{width}>({})", value.text))
}

pub(super) fn sync(what: Sync, needs: &mut Needs) -> Option<String> {
    match what {
        // There are no barriers for a part of a block.
        Sync::Block | Sync::Group(_) => Some(format!("{}();", needs.helper("sync_block"))),
        Sync::Warp => Some(format!("{}();", needs.helper("sync_warp"))),
        // Copies are done on the spot, and there are no dependent launches.
        Sync::AsyncCommit | Sync::AsyncWait(_) => None,
        Sync::TriggerDependents | Sync::WaitForPrerequisites => None,
    }
}
