/* AVX-512: 14 x 32, i.e. 28 accumulators, 2 vectors of B and a broadcast in 32 registers. */
#include "gemm.h"

#if defined(__x86_64__)
#ifndef NPK_SIMD_AVX512 /* the tests put plain C here, to run this tile on CPUs that lack AVX-512 */
#define NPK_SIMD_AVX512 "simd_avx512.h"
#endif
#include NPK_SIMD_AVX512
#include "convert_x86.h"

enum { MR = 14, NV = 2 };
#include "ukr_simd.h"

#include "dots_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
STRIPS

static const gemm_tile TILE[MR] = {rows1, rows2, rows3,  rows4,  rows5,  rows6,  rows7,
                                   rows8, rows9, rows10, rows11, rows12, rows13, rows14};
static const gemm_ctx CTX = {MR, NR, 252, 384, 4096, TILE, STRIP, HALF_STRIP, gemm_transpose_avx2,
                             gemm_copy_avx2, gemm_columns_avx2, dots, gemm_widen_avx2, gemm_narrow_avx2, false};

/* Every CPU with AVX-512 has AVX2 and F16C, which the conversions use. */
const gemm_ctx *gemm_ctx_avx512(void) {
    return npk_cpu_supports("avx512f") && npk_cpu_supports("f16c") ? &CTX : NULL;
}
#else
const gemm_ctx *gemm_ctx_avx512(void) { return NULL; }
#endif
