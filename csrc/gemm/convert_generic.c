/* 16-bit floats to and from binary32, by bits. bf16 is the upper half of binary32; IEEE 754-2019 3.4 for fp16. */
#include "gemm.h"

#include <string.h>

NPK_INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
NPK_INLINE uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float widen_fp16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3FF;
    if (exponent == 31) /* NaN becomes quiet, as the hardware makes it */
        return from_bits(sign | 0x7F800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent)
        return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float small = (float)mantissa * 0x1p-24f; /* subnormal or zero, exact */
    return from_bits(sign | to_bits(small));
}

static uint16_t narrow_fp16(float x) {
    uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x477FF000) /* 65520, half-way to what would be 65536 */
        return (uint16_t)(sign | 0x7C00);
    if (magnitude < 0x38800000) { /* below 2^-14: adding 0.5 rounds to multiples of 2^-24, ties to even */
        uint32_t rounded = to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000;
        return (uint16_t)(sign | rounded);
    }
    uint32_t rounded = magnitude - (112u << 23);
    rounded += 0xFFF + (rounded >> 13 & 1);
    return (uint16_t)(sign | rounded >> 13);
}

static uint16_t narrow_bf16(float x) {
    uint32_t bits = to_bits(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

void gemm_widen_generic(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) {
            uint16_t code = x[r * rs + j];
            dst[r * ld + j] = type == NPK_GEMM_BF16 ? from_bits((uint32_t)code << 16) : widen_fp16(code);
        }
}

void gemm_narrow_generic(int type, int64_t rows, int64_t n, const float *x, int64_t rs, uint16_t *dst, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) {
            float value = x[r * rs + j];
            dst[r * ld + j] = type == NPK_GEMM_BF16 ? narrow_bf16(value) : narrow_fp16(value);
        }
}
