/* AVX2: 6 x 16 from decoded weights. */
#include "wgemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { MR = 6, LANES = 8 };
typedef __m256 V;
typedef __m256i I;
#define TARGET __attribute__((target("avx2,fma")))
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_sub _mm256_sub_ps
#define v_mul _mm256_mul_ps
#define v_fma _mm256_fmadd_ps
#define v_of _mm256_cvtepi32_ps
#define i_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define i_bits(v, left, right) _mm256_srai_epi32(_mm256_slli_epi32(v, left), right)
#include "float_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)

static const wgemm_tile TILE[MR] = {rows1, rows2, rows3, rows4, rows5, rows6};
static const wgemm_ctx CTX = {MR, decode, TILE, stream};

const wgemm_ctx *wgemm_ctx_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") ? &CTX : NULL;
}
#else
const wgemm_ctx *wgemm_ctx_avx2(void) { return NULL; }
#endif
