//! Hand-written generated texts, and which vendor libraries a test may use.

use tilekiln_codegen::Generated;
use tilekiln_dsl::ir::Location;
use tilekiln_dsl::target::Target;

/// A generated file; its line `n` (1-based) comes from line `100 + n` of a DSL file. The symbol is the
/// file's stem.
pub(crate) fn generated(file_name: &str, target: &str, text: &str) -> Generated {
    let stem = file_name.split('.').next().unwrap_or(file_name);
    Generated {
        symbol: stem.to_string(),
        file_name: file_name.to_string(),
        text: text.to_string(),
        lines: text
            .lines()
            .enumerate()
            .map(|(at, _)| {
                Some(Location {
                    file: "kernels/testing.rs",
                    line: 101 + at as u32,
                    column: 5,
                })
            })
            .collect(),
        target: Target::named(target).expect("a target of the table").clone(),
        threads: 64,
        dynamic_shared_bytes: 0,
    }
}

/// Says why a test does not run, or fails when `TILEKILN_REQUIRE` names what it needs.
pub(crate) fn skip(needs: &str, reason: impl std::fmt::Display) {
    let required = std::env::var("TILEKILN_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == needs),
        "TILEKILN_REQUIRE names {needs}, and: {reason}"
    );
    eprintln!("not run: {reason}");
}

/// Uses packed halves, shared memory, a shuffle and the matrix unit.
pub(crate) const MMA_CU: &str = r#"#include <cuda_fp16.h>

__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

extern "C" __global__ void __launch_bounds__(64)
mma_probe(const __half* __restrict__ x, float* __restrict__ y, unsigned count) {
    __shared__ float partial[2];
    const unsigned lane = threadIdx.x % 32;
    unsigned a[4];
    unsigned b[2];
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < 4; ++i)
        a[i] = reinterpret_cast<const unsigned*>(x)[(lane * 4 + i) % count];
    for (int i = 0; i < 2; ++i)
        b[i] = reinterpret_cast<const unsigned*>(x)[(lane * 2 + i) % count];
    mma_16x8x16(c, a, b);
    float sum = c[0] + c[1] + c[2] + c[3];
    for (int offset = 16; offset > 0; offset >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0)
        partial[threadIdx.x / 32] = sum;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = partial[0] + partial[1] + __half2float(x[threadIdx.x % count]);
}
"#;

/// The same idea for gfx11.
pub(crate) const WMMA_HIP: &str = r#"typedef _Float16 half16 __attribute__((ext_vector_type(16)));
typedef float float8 __attribute__((ext_vector_type(8)));

extern "C" __global__ void __launch_bounds__(64)
wmma_probe(const _Float16* __restrict__ x, float* __restrict__ y, unsigned count) {
    __shared__ float partial[64];
    half16 a;
    half16 b;
    float8 c = {};
    for (int i = 0; i < 16; ++i) {
        a[i] = x[(threadIdx.x * 16 + i) % count];
        b[i] = x[(threadIdx.x + i * 16) % count];
    }
    c = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c);
    partial[threadIdx.x] = c[0] + c[7];
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = partial[63 - threadIdx.x];
}
"#;
