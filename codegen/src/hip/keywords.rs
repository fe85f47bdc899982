//! Names an author's name must not become in a HIP file.

/// C++ keywords, what hipRTC and the HIP headers predefine.
pub(super) const RESERVED: &[&str] = &[
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch", "char",
    "char16_t", "char32_t", "char8_t", "class", "compl", "concept", "const", "consteval", "constexpr", "constinit",
    "const_cast", "continue", "co_await", "co_return", "co_yield", "decltype", "default", "delete", "do", "double",
    "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if",
    "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr", "operator", "or",
    "or_eq", "private", "protected", "public", "register", "reinterpret_cast", "requires", "return", "short", "signed",
    "sizeof", "static", "static_assert", "static_cast", "struct", "switch", "template", "this", "thread_local", "throw",
    "true", "try", "typedef", "typeid", "typename", "typeof", "union", "unsigned", "using", "virtual", "void",
    "volatile", "wchar_t", "while", "xor", "xor_eq",
    // predefined by HIP
    "blockDim", "blockIdx", "gridDim", "threadIdx", "warpSize", "dim3", "half", "half2", "nv_bfloat16", "nv_bfloat162",
    "char1", "char2", "char3", "char4", "uchar1", "uchar2", "uchar3", "uchar4", "short1", "short2", "short3", "short4",
    "ushort1", "ushort2", "ushort3", "ushort4", "int1", "int2", "int3", "int4", "uint", "uint1", "uint2", "uint3",
    "uint4", "long1", "long2", "ulong1", "ulong2", "longlong1", "longlong2", "ulonglong1", "ulonglong2", "float1",
    "float2", "float3", "float4", "double1", "double2", "double3", "double4", "size_t", "clock_t", "ushort", "ulong",
    // functions and types of the HIP headers
    "abs", "cosf", "exp2f", "fabsf", "floorf", "fmaf", "fmaxf", "fminf", "fmodf", "log2f", "make_char2", "make_char4",
    "make_float2", "make_float4", "make_int2", "make_int4", "make_short2", "make_short4", "make_uchar2", "make_uchar4",
    "make_uint2", "make_uint4", "make_ulonglong2", "make_ushort2", "make_ushort4", "max", "memcpy", "min", "rintf",
    "rsqrtf", "sinf", "sqrtf", "tanhf",
    "__half", "__half2", "_Float16", "hip_bfloat16", "float_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "int8_t",
    "int16_t", "int32_t", "int64_t", "expf", "logf", "powf", "clock", "clock64", "printf", "atomicAdd", "wavefront",
    // macros of the usual headers
    "INFINITY", "NAN", "NULL", "assert", "std",
];
