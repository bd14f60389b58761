/* The vector operations of engine_simd.h in AVX-512 F. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 V;
#define TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_sub _mm512_sub_ps
#define v_mul _mm512_mul_ps
#define v_div _mm512_div_ps
#define v_fma _mm512_fmadd_ps
#define v_hold(x) __asm__("" : "+v"(x))
#define v_max _mm512_max_ps /* the second operand where either is NaN */

TARGET NPK_INLINE V v_load_part(const float *x, int count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), x);
}

/* y where x >= low or x is NaN, else 0. */
TARGET NPK_INLINE V v_keep_from(V x, V low, V y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), y);
}

/* y where x is -inf, else x. */
TARGET NPK_INLINE V v_replace_minus_inf(V x, V y) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ), y);
}

/* 2^n, n in the lowest bits of a float that lies in [2^23, 2^24). */
TARGET NPK_INLINE V v_pow2(V n) {
    __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f800000)));
}

/* Sums of the lanes of four vectors, each in the same order. */
TARGET NPK_INLINE void v_sum4(V a, V b, V c, V d, float *dst) {
    dst[0] = _mm512_reduce_add_ps(a);
    dst[1] = _mm512_reduce_add_ps(b);
    dst[2] = _mm512_reduce_add_ps(c);
    dst[3] = _mm512_reduce_add_ps(d);
}

TARGET NPK_INLINE float v_largest(V a) { return _mm512_reduce_max_ps(a); }

TARGET NPK_INLINE V v_from_f16(const uint16_t *x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x)); }
TARGET NPK_INLINE V v_from_bf16(const uint16_t *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TARGET NPK_INLINE V v_from_int8(const int8_t *x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x)));
}
/* e4m3 has the exponent bias 7 and binary16 has 15: shifted into place, a code is 2^-8 of its value. */
TARGET NPK_INLINE V v_from_e4m3(const uint8_t *x) {
    __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)x));
    __m256i size = _mm256_and_si256(code, _mm256_set1_epi16(0x7f));
    __m256i nan = _mm256_srli_epi16(_mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f)), 1);
    __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(code, size), 8);
    __m256i half = _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(size, 7), sign), nan);
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}
