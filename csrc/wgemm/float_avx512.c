/* AVX-512: 14 x 16 from decoded weights. */
#include "wgemm.h"

#if defined(__x86_64__)
#ifndef NPK_WGEMM_AVX512 /* the tests put plain C here, to run this tile on CPUs that lack AVX-512 */
#define NPK_WGEMM_AVX512 "simd_avx512.h"
#endif
#include NPK_WGEMM_AVX512

enum { MR = 14 };
#include "float_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)

static const wgemm_tile TILE[MR] = {rows1, rows2, rows3,  rows4,  rows5,  rows6,  rows7,
                                    rows8, rows9, rows10, rows11, rows12, rows13, rows14};
static const wgemm_ctx CTX = {MR, decode, TILE, stream};

const wgemm_ctx *wgemm_ctx_avx512(void) { return npk_cpu_supports("avx512f") ? &CTX : NULL; }
#else
const wgemm_ctx *wgemm_ctx_avx512(void) { return NULL; }
#endif
