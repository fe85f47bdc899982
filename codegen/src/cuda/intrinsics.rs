//! What a CUDA file defines when it uses it, and the spelling of warp operations.

use tilekiln_dsl::ir::{ReduceOp, Scalar, ShuffleKind, Type};

use super::writer::{BF16, FP16};
use crate::front::language::{Expr, Helper, Needs, Sync};

const fn helper(key: &'static str, text: &'static str) -> Helper {
    Helper {
        key,
        name: key,
        needs: &[],
        include: None,
        text,
    }
}

const fn with(include: &'static str, base: Helper) -> Helper {
    Helper {
        include: Some(include),
        ..base
    }
}

/// In the order they are printed: what a helper uses stands before it.
pub(super) const HELPERS: &[Helper] = &[
    helper(
        "infinity",
        "constexpr float infinity = __builtin_bit_cast(float, 0x7f800000u);",
    ),
    helper(
        "not_a_number",
        "constexpr float not_a_number = __builtin_bit_cast(float, 0x7fc00000u);",
    ),
    helper("uchar8", "struct alignas(8) uchar8 { unsigned char at[8]; };"),
    helper("char8", "struct alignas(8) char8 { signed char at[8]; };"),
    helper("ushort8", "struct alignas(16) ushort8 { unsigned short at[8]; };"),
    helper("short8", "struct alignas(16) short8 { short at[8]; };"),
    with(FP16, helper("half4", "struct alignas(8) half4 { __half at[4]; };")),
    with(FP16, helper("half8", "struct alignas(16) half8 { __half at[8]; };")),
    with(
        BF16,
        helper("bfloat4", "struct alignas(8) bfloat4 { __nv_bfloat16 at[4]; };"),
    ),
    with(
        BF16,
        helper("bfloat8", "struct alignas(16) bfloat8 { __nv_bfloat16 at[8]; };"),
    ),
    helper(
        "bit_cast",
        r"
// the same bits as another type
template <typename To, typename From>
__device__ __forceinline__ To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}",
    ),
    helper(
        "load_as",
        r"
// one naturally aligned load of another type
template <typename T>
__device__ __forceinline__ T load_as(const void* from) {
    return *static_cast<const T*>(from);
}",
    ),
    helper(
        "store_as",
        r"
// one naturally aligned store of another type
template <typename T>
__device__ __forceinline__ void store_as(void* to, T value) {
    *static_cast<T*>(to) = value;
}",
    ),
    helper(
        "float_to_u64",
        r"
// truncates and saturates; NaN gives 0
__device__ __forceinline__ unsigned long long float_to_u64(float value) {
    return value == value ? __float2ull_rz(value) : 0;
}",
    ),
    with(
        FP16,
        helper(
            "divide_half2",
            r"
// both quotients, each rounded once
__device__ __forceinline__ __half2 divide_half2(__half2 a, __half2 b) {
    const float2 x = __half22float2(a), y = __half22float2(b);
    return __float22half2_rn(make_float2(x.x / y.x, x.y / y.y));
}",
        ),
    ),
    Helper {
        name: "warp_sum",
        ..helper(
            "warp_sum of float",
            r"
// sum over groups of `width` lanes; every lane returns the total
template <unsigned width>
__device__ __forceinline__ float warp_sum(float value) {
    #pragma unroll
    for (unsigned distance = 1; distance < width; distance *= 2)
        value = __fadd_rn(value, __shfl_xor_sync(0xffffffff, value, distance));
    return value;
}",
        )
    },
    Helper {
        name: "warp_sum",
        ..helper(
            "warp_sum of int",
            r"
// sum over groups of `width` lanes; every lane returns the total
template <unsigned width, typename Integer>
__device__ __forceinline__ Integer warp_sum(Integer value) {
    #pragma unroll
    for (unsigned distance = 1; distance < width; distance *= 2)
        value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}",
        )
    },
    helper(
        "warp_min",
        r"
// least value of groups of `width` lanes, for every lane
template <unsigned width, typename T>
__device__ __forceinline__ T warp_min(T value) {
    #pragma unroll
    for (unsigned distance = 1; distance < width; distance *= 2)
        value = min(value, __shfl_xor_sync(0xffffffff, value, distance));
    return value;
}",
    ),
    helper(
        "warp_max",
        r"
// greatest value of groups of `width` lanes, for every lane
template <unsigned width, typename T>
__device__ __forceinline__ T warp_max(T value) {
    #pragma unroll
    for (unsigned distance = 1; distance < width; distance *= 2)
        value = max(value, __shfl_xor_sync(0xffffffff, value, distance));
    return value;
}",
    ),
    helper(
        "exp2_flushed",
        r#"
// 2^x; 0 below the normal numbers
__device__ __forceinline__ float exp2_flushed(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}"#,
    ),
    helper(
        "in_register",
        r#"
// the same number, kept in a register of each lane: not made anew where it is used, and nothing that lanes are known to
// share, which would be copied for each use. No lane is behind lane 31.
__device__ __forceinline__ unsigned in_register(unsigned number) {
    asm volatile("{ .reg .b32 none; mov.b32 none, %%lanemask_lt; shr.u32 none, none, 31; xor.b32 %0, %0, none; }"
            : "+r"(number));
    return number;
}"#,
    ),
    helper(
        "dot4",
        r"
// sum + a . b over four signed bytes
__device__ __forceinline__ int dot4(unsigned a, unsigned b, int sum) {
    return __dp4a(int(a), int(b), sum);
}",
    ),
    helper(
        "dot4_unsigned_signed",
        r#"
// sum + a . b over four bytes, a unsigned, b signed
__device__ __forceinline__ int dot4_unsigned_signed(unsigned a, unsigned b, int sum) {
    int result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}"#,
    ),
    helper(
        "copy_16",
        r"
// 16 bytes from global to shared memory
__device__ __forceinline__ void copy_16(void* to, const void* from) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
}",
    ),
    helper(
        "async_copy_16",
        r#"
// starts copying 16 bytes from global to shared memory
__device__ __forceinline__ void async_copy_16(void* to, const void* from) {
    const unsigned address = unsigned(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address), "l"(from) : "memory");
}"#,
    ),
    helper(
        "async_commit",
        r#"
// closes the group of copies this thread has started
__device__ __forceinline__ void async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}"#,
    ),
    helper(
        "sync_group",
        r#"
// each `warps` warps of the block meet and see each other's stores; barrier 0 is the block's
template <int warps>
__device__ __forceinline__ void sync_group() {
    asm volatile("bar.sync %0, %1;" :: "r"(threadIdx.x / (32 * warps) + 1), "n"(32 * warps) : "memory");
}"#,
    ),
    helper(
        "async_wait",
        r#"
// waits until at most `pending` of this thread's latest groups are unfinished
template <int pending>
__device__ __forceinline__ void async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}"#,
    ),
    helper(
        "dependents_may_start",
        r#"
// lets the next launch of the stream start (programmatic dependent launch)
__device__ __forceinline__ void dependents_may_start() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}"#,
    ),
    helper(
        "wait_for_prerequisites",
        r#"
// waits until the launches before this one have finished and their stores are seen
__device__ __forceinline__ void wait_for_prerequisites() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}"#,
    ),
    helper(
        "load_matrix",
        r#"
// four 8x8 matrices of 16-bit values; lane l passes the address of row l % 8 of matrix l / 8
__device__ __forceinline__ void load_matrix(unsigned (&to)[4], const void* row) {
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}"#,
    ),
    helper(
        "load_matrix_transposed",
        r#"
// four 8x8 matrices of 16-bit values, transposed; lane l passes the address of row l % 8 of matrix l / 8
__device__ __forceinline__ void load_matrix_transposed(unsigned (&to)[4], const void* row) {
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}"#,
    ),
    helper(
        "mma_16x16x16_f16",
        r#"
// c += a * b for 16x16x16 tiles of f16: two m16n8k16, one per half of the columns
__device__ __forceinline__ void mma_16x16x16_f16(float (&c)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    #pragma unroll
    for (int half = 0; half < 2; ++half)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[4 * half]), "+f"(c[4 * half + 1]), "+f"(c[4 * half + 2]), "+f"(c[4 * half + 3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]), "r"(b[2 * half + 1]));
}"#,
    ),
    helper(
        "mma_16x16x16_bf16",
        r#"
// c += a * b for 16x16x16 tiles of bf16: two m16n8k16, one per half of the columns
__device__ __forceinline__ void mma_16x16x16_bf16(float (&c)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    #pragma unroll
    for (int half = 0; half < 2; ++half)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[4 * half]), "+f"(c[4 * half + 1]), "+f"(c[4 * half + 2]), "+f"(c[4 * half + 3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]), "r"(b[2 * half + 1]));
}"#,
    ),
    helper(
        "mma_16x8x16_f16",
        r#"
// c += a * b, one instruction: 16x16 times 16x8 values of f16
__device__ __forceinline__ void mma_16x8x16_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}"#,
    ),
    helper(
        "mma_16x8x16_bf16",
        r#"
// c += a * b, one instruction: 16x16 times 16x8 values of bf16
__device__ __forceinline__ void mma_16x8x16_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}"#,
    ),
    helper(
        "mma_16x8x32_i8",
        r#"
// c += a * b, one instruction: 16x32 times 32x8 signed bytes
__device__ __forceinline__ void mma_16x8x32_i8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}"#,
    ),
    helper(
        "mma_16x8x32_u8_i8",
        r#"
// c += a * b, one instruction: 16x32 times 32x8 bytes, a unsigned, b signed
__device__ __forceinline__ void mma_16x8x32_u8_i8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}"#,
    ),
    helper(
        "init_copy_barriers",
        r#"
// makes barriers ready for one copy each at a time
template <unsigned count>
__device__ __forceinline__ void init_copy_barriers(unsigned long long* barriers) {
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(unsigned(__cvta_generic_to_shared(barriers + i))) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}"#,
    ),
    helper(
        "bulk_copy",
        r#"
// starts copying a tile from global to shared memory; the first lane of the warp does it for all of them
__device__ __forceinline__ void bulk_copy(void* to, const void* from, unsigned bytes, unsigned long long* barrier) {
    if (threadIdx.x % 32 == 0) {
        const unsigned counter = unsigned(__cvta_generic_to_shared(barrier));
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(counter), "r"(bytes) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     :: "r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "r"(bytes), "r"(counter) : "memory");
    }
}"#,
    ),
    helper(
        "wait_for_copy",
        r#"
// waits until the copy that the barrier counts has arrived
__device__ __forceinline__ void wait_for_copy(unsigned long long* barrier, unsigned parity) {
    const unsigned counter = unsigned(__cvta_generic_to_shared(barrier));
    asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}"
                 :: "r"(counter), "r"(parity) : "memory");
}"#,
    ),
];

pub(super) fn shuffle(kind: ShuffleKind, value: &Expr, lane: Option<&Expr>) -> Expr {
    let value = &value.text;
    Expr::primary(match kind {
        ShuffleKind::Xor(mask) => format!("__shfl_xor_sync(0xffffffff, {value}, {mask})"),
        ShuffleKind::Up(delta) => format!("__shfl_up_sync(0xffffffff, {value}, {delta})"),
        ShuffleKind::Down(delta) => format!("__shfl_down_sync(0xffffffff, {value}, {delta})"),
        ShuffleKind::Lane(_) => {
            let lane = lane.map_or("0", |lane| lane.text.as_str());
            format!("__shfl_sync(0xffffffff, {value}, {lane})")
        }
    })
}

pub(super) fn reduce(op: ReduceOp, ty: Type, width: u32, value: &Expr, needs: &mut Needs) -> Expr {
    let name = match op {
        ReduceOp::Sum => {
            needs.helper(if ty.scalar() == Scalar::F32 {
                "warp_sum of float"
            } else {
                "warp_sum of int"
            });
            "warp_sum"
        }
        ReduceOp::Min => needs.helper("warp_min"),
        ReduceOp::Max => needs.helper("warp_max"),
    };
    Expr::primary(format!("{name}<{width}>({})", value.text))
}

pub(super) fn sync(what: Sync, async_copy: bool, needs: &mut Needs) -> Option<String> {
    Some(match what {
        Sync::Block => "__syncthreads();".to_string(),
        Sync::Group(warps) => format!("{}<{warps}>();", needs.helper("sync_group")),
        Sync::Warp => "__syncwarp();".to_string(),
        Sync::AsyncCommit | Sync::AsyncWait(_) if !async_copy => return None,
        Sync::AsyncCommit => format!("{}();", needs.helper("async_commit")),
        Sync::AsyncWait(pending) => format!("{}<{pending}>();", needs.helper("async_wait")),
        Sync::TriggerDependents => format!("{}();", needs.helper("dependents_may_start")),
        Sync::WaitForPrerequisites => format!("{}();", needs.helper("wait_for_prerequisites")),
    })
}
