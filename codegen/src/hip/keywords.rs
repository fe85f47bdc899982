//! Names an author's name must not become in a HIP file, beyond those of both languages.

/// What hipRTC and the HIP headers predefine on top.
pub(super) const RESERVED: &[&str] = &[
    "__half",
    "__half2",
    "_Float16",
    "hip_bfloat16",
    "float_t",
    "uint8_t",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "int8_t",
    "int16_t",
    "int32_t",
    "int64_t",
    "expf",
    "logf",
    "powf",
    "clock",
    "clock64",
    "printf",
    "atomicAdd",
    "wavefront",
];
