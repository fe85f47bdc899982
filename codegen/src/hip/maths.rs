//! Mathematical functions without device libraries: definitions a file contains when it calls them.

/// sin and cos share the reduction of their argument: `angle = quadrant * pi/2 + rest`, |rest| <= pi/4.
pub(super) const REDUCE: &str = r"
// angle = quadrant * pi/2 + rest with |rest| <= pi/4, for every finite angle
__device__ __forceinline__ float reduce_angle(float angle, unsigned& quadrant) {
    const float magnitude = __builtin_fabsf(angle);
    if (magnitude < 8192.0f) {
        // pi/2 in three parts
        const float turns = __builtin_rintf(angle * 0.63661977f);
        quadrant = unsigned(int(turns));
        float rest = __builtin_fmaf(turns, -1.57079637f, angle);
        rest = __builtin_fmaf(turns, 4.37113883e-08f, rest);
        return __builtin_fmaf(turns, 1.71512451e-15f, rest);
    }
    if (!(magnitude < __builtin_inff())) {
        quadrant = 0;
        return angle - angle;
    }
    // Fixed point: mantissa times the 96 bits of 2/pi that decide the quadrant and the rest.
    const unsigned two_over_pi[8] = {0, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab};
    const unsigned bits = __builtin_bit_cast(unsigned, magnitude);
    const unsigned mantissa = (bits & 0x7fffff) | 0x800000;
    const unsigned first = (bits >> 23) - 120;
    unsigned window[4];
    #pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        window[i] = 0;
    #pragma unroll
        for (unsigned word = 0; word < 8; ++word)
            if (word == first / 32 + i)
                window[i] = two_over_pi[word];
    }
    const unsigned shift = first % 32;
    unsigned part[3];
    #pragma unroll
    for (unsigned i = 0; i < 3; ++i)
        part[i] = unsigned(((((unsigned long long)window[i] << 32) | window[i + 1]) << shift) >> 32);
    unsigned long long product = ((unsigned long long)mantissa * part[2]) >> 32;
    product += (unsigned long long)mantissa * part[1];
    product += (unsigned long long)(mantissa * part[0]) << 32;
    quadrant = unsigned((product + (1ull << 61)) >> 62);
    const float rest = float((long long)(product << 2)) * 8.51530395e-20f;
    if (angle < 0.0f)
        quadrant = 0u - quadrant;
    return angle < 0.0f ? -rest : rest;
}";

pub(super) const SINE: &str = r"
// sine of any angle in radians
__device__ __forceinline__ float math_sin(float angle) {
    unsigned quadrant;
    const float rest = reduce_angle(angle, quadrant);
    const float value = quadrant & 1 ? cosine_near_zero(rest) : sine_near_zero(rest);
    return quadrant & 2 ? -value : value;
}";

pub(super) const COSINE: &str = r"
// cosine of any angle in radians
__device__ __forceinline__ float math_cos(float angle) {
    unsigned quadrant;
    const float rest = reduce_angle(angle, quadrant);
    const float value = quadrant & 1 ? sine_near_zero(rest) : cosine_near_zero(rest);
    return (quadrant + 1) & 2 ? -value : value;
}";

pub(super) const SINE_NEAR_ZERO: &str = r"
// sine for |x| <= pi/4
__device__ __forceinline__ float sine_near_zero(float x) {
    const float square = x * x;
    float series = __builtin_fmaf(-1.9515296e-4f, square, 8.3321609e-3f);
    series = __builtin_fmaf(series, square, -1.6666655e-1f);
    return __builtin_fmaf(series * square, x, x);
}";

pub(super) const COSINE_NEAR_ZERO: &str = r"
// cosine for |x| <= pi/4
__device__ __forceinline__ float cosine_near_zero(float x) {
    const float square = x * x;
    float series = __builtin_fmaf(2.4433157e-5f, square, -1.3887316e-3f);
    series = __builtin_fmaf(series, square, 4.1666646e-2f);
    series = __builtin_fmaf(series, square, -0.5f);
    return __builtin_fmaf(series, square, 1.0f);
}";

pub(super) const TANH: &str = r"
// hyperbolic tangent: a polynomial near zero, 1 - 2 / (exp(2x) + 1) elsewhere
__device__ __forceinline__ float math_tanh(float x) {
    const float magnitude = __builtin_fabsf(x);
    if (magnitude < 0.625f) {
        const float square = x * x;
        float series = __builtin_fmaf(-5.7049887e-3f, square, 2.0639089e-2f);
        series = __builtin_fmaf(series, square, -5.3739715e-2f);
        series = __builtin_fmaf(series, square, 1.3331442e-1f);
        series = __builtin_fmaf(series, square, -3.3333282e-1f);
        return __builtin_fmaf(series * square, x, x);
    }
    const float value = 1.0f - 2.0f / (__builtin_exp2f(magnitude * 2.8853900f) + 1.0f);
    return __builtin_copysignf(value, x);
}";

pub(super) const RSQRT: &str = r"
// 1 / sqrt(x); the instruction flushes subnormal operands, so they are scaled
__device__ __forceinline__ float math_rsqrt(float x) {
    const bool tiny = x < 1.17549435e-38f;
    const float root = __builtin_amdgcn_rsqf(tiny ? x * 16777216.0f : x);
    return tiny ? root * 4096.0f : root;
}";
