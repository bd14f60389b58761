/* AVX2 + FMA: 6 x 16, i.e. 12 accumulators, 2 vectors of B and a broadcast in 16 registers. */
#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { MR = 6, NV = 2, LANES = 8 };
typedef __m256 V;
#define TARGET __attribute__((target("avx2,fma")))
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#include "ukr_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)

static const sgemm_ukr UKR[MR] = {rows1, rows2, rows3, rows4, rows5, rows6};
static const sgemm_ctx CTX = {MR, NR, 240, 384, 4080, UKR};

const sgemm_ctx *sgemm_ctx_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") ? &CTX : NULL;
}
#else
const sgemm_ctx *sgemm_ctx_avx2(void) { return NULL; }
#endif
