/* AVX2: vpmaddubsw of u4 weights and s8 activations, 4 x 16. A pair is at most 2 * 15 * 127 = 3810, so nothing
 * saturates; sums of 8 pairs wrap modulo 2^16 on the way and end, offset included, within 8 * 2 * 8 * 127 = 16256. */
#include "wgemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

enum { MR = 4, LANES = 8 };
typedef __m256 V;
typedef __m256i I;
typedef __m256i P;
#define TARGET __attribute__((target("avx2")))
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_mul _mm256_mul_ps
#define v_of _mm256_cvtepi32_ps
#define i_zero _mm256_setzero_si256
#define i_load(p) _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(p)), _mm256_set1_epi8((char)0x88))
#define i_low(v) _mm256_and_si256(v, _mm256_set1_epi8(15))
#define i_high(v) _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15))
#define i_add _mm256_add_epi32
#define i_sub _mm256_sub_epi32
#define i_mul _mm256_mullo_epi32
#define i_set1 _mm256_set1_epi32
#define i_of _mm256_cvtps_epi32
#define p_start _mm256_set1_epi32
#define p_sum(p) _mm256_madd_epi16(p, _mm256_set1_epi16(1))

TARGET NPK_INLINE I i_quad(const int8_t *x) {
    int32_t quad;
    memcpy(&quad, x, sizeof quad);
    return _mm256_set1_epi32(quad);
}

/* The empty assembly keeps GCC from adding in another order, for which it has not registers enough. */
TARGET NPK_INLINE P p_dot(P p, I u, I s) {
    p = _mm256_add_epi16(p, _mm256_maddubs_epi16(u, s));
    __asm__("" : "+x"(p));
    return p;
}
#include "int8_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const wgemm_int8_tile TILE[MR] = {rows1, rows2, rows3, rows4};
static const wgemm_int8_ctx CTX = {MR, TILE};

const wgemm_int8_ctx *wgemm_int8_ctx_avx2(void) { return npk_cpu_supports("avx2") ? &CTX : NULL; }
#else
const wgemm_int8_ctx *wgemm_int8_ctx_avx2(void) { return NULL; }
#endif
