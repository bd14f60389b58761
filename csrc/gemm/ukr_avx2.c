/* AVX2 + FMA: 6 x 16, i.e. 12 accumulators, 2 vectors of B and a broadcast in 16 registers. */
#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "convert_x86.h"
#include "widen_avx2.h"

enum { MR = 6, NV = 2, LANES = 8 };
typedef __m256 V;
typedef __m256i MASK;
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#define v_mask(count) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define v_load_some(x, mask) _mm256_maskload_ps(x, mask)
#define v_store_some(x, mask, v) _mm256_maskstore_ps(x, mask, v)
#define v_widen gemm_widen8
#include "ukr_simd.h"

/* out[q] = sum of the 16 lanes of x[q], for four dot products; in the order of dots_simd.h. */
TARGET NPK_INLINE void v_sums(V (*x)[2], float *out) {
    __m128 four[4];
    NPK_UNROLL
    for (int q = 0; q < 4; q++) {
        V eight = v_add(x[q][0], x[q][1]);
        four[q] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    }
    _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(four[0], four[2]), _mm_add_ps(four[1], four[3])));
}
#include "dots_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
STRIPS

static const gemm_tile TILE[MR] = {rows1, rows2, rows3, rows4, rows5, rows6};
static const gemm_ctx CTX = {MR, NR, 240, 384, 4080, TILE, STRIP, HALF_STRIP, gemm_transpose_avx2,
                             gemm_copy_avx2, gemm_columns_avx2, dots, gemm_widen_avx2, gemm_narrow_avx2, false};

const gemm_ctx *gemm_ctx_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &CTX : NULL;
}
#else
const gemm_ctx *gemm_ctx_avx2(void) { return NULL; }
#endif
