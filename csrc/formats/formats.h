/* Casts between fp32 and narrower formats, and integer quantisation: element by element, no sums.
 *
 * All instruction sets run the one template codec_simd.h and give the bits of npukernels/formats.py. */
#ifndef NPK_FORMATS_H
#define NPK_FORMATS_H

#include "../common/npk.h"
#include "api.h"

/* A floating-point format; the fields are those of FloatFormat in npukernels/formats.py. */
typedef struct {
    int exponent_bits, mantissa_bits, bias;
    int max_code;
    int inf_code; /* -1: none */
    int nan_code; /* -1: none */
} npk_float_format;

#define NPK_FORMAT_TABLE(X)                          \
    X(fp16, 5, 10, 15, 0x7BFF, 0x7C00, 0x7E00)       \
    X(bf16, 8, 7, 127, 0x7F7F, 0x7F80, 0x7FC0)       \
    X(fp8, 4, 3, 7, 0x7E, -1, 0x7F)                  \
    X(fp8_e5m2, 5, 2, 15, 0x7B, 0x7C, 0x7E)          \
    X(fp6, 2, 3, 1, 0x1F, -1, -1)                    \
    X(fp6_e3m2, 3, 2, 3, 0x1F, -1, -1)               \
    X(fp4, 2, 1, 1, 0x7, -1, -1)

/* One row of elements whose scales and zero points are `step` (0 or 1) apart. */
typedef struct {
    int64_t n;
    const float *scale;
    const int32_t *zero;
    int64_t step;
} npk_scaled_row;

/* What an instruction set contributes. */
typedef struct {
    void (*encode[NPK_FMT_COUNT])(int64_t n, const float *x, uint8_t *codes, bool saturate);
    void (*decode[NPK_FMT_COUNT])(int64_t n, const uint8_t *codes, float *x);
    void (*quantize)(npk_scaled_row row, const float *x, int low, int high, uint8_t *codes);
    void (*dequantize)(npk_scaled_row row, const uint8_t *codes, bool is_signed, float *x);
} codec_ctx;

/* NULL when the build or the CPU lacks the instruction set. */
const codec_ctx *codec_ctx_generic(void);
const codec_ctx *codec_ctx_avx2(void);
const codec_ctx *codec_ctx_avx512(void);
const codec_ctx *codec_ctx_of(int isa);

/* Of a code of format NPK_FMT_; one of more than 8 takes two bytes. */
int codec_bits(int format);

/* What n stored scales of a kind NPK_SCALE_ multiply by: codes are times `factor`. */
int npk_decode_scales(int isa, int kind, float factor, int64_t n, const void *stored, float *scale);

#endif
