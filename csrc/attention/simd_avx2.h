/* The vector operations of engine_simd.h in AVX2, FMA and F16C. */
#include <immintrin.h>

enum { LANES = 8 };
typedef __m256 V;
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_sub _mm256_sub_ps
#define v_mul _mm256_mul_ps
#define v_div _mm256_div_ps
#define v_fma _mm256_fmadd_ps
/* Keeps x in a register: GCC would read an operand from memory once for every use. */
#define v_hold(x) __asm__("" : "+x"(x))
#define v_max _mm256_max_ps /* the second operand where either is NaN */

TARGET NPK_INLINE __m256i v_first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TARGET NPK_INLINE V v_load_part(const float *x, int count) { return _mm256_maskload_ps(x, v_first(count)); }

/* y where x >= low or x is NaN, else 0. */
TARGET NPK_INLINE V v_keep_from(V x, V low, V y) { return _mm256_and_ps(_mm256_cmp_ps(x, low, _CMP_NLT_UQ), y); }

/* y where x is -inf, else x. */
TARGET NPK_INLINE V v_replace_minus_inf(V x, V y) {
    return _mm256_blendv_ps(x, y, _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ));
}

/* 2^n, n in the lowest bits of a float that lies in [2^23, 2^24). */
TARGET NPK_INLINE V v_pow2(V n) {
    __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f800000)));
}

/* Sums of the lanes of four vectors, each in the same order. */
TARGET NPK_INLINE void v_sum4(V a, V b, V c, V d, float *dst) {
    V pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(dst, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

TARGET NPK_INLINE float v_largest(V a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

TARGET NPK_INLINE V v_from_f16(const uint16_t *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
TARGET NPK_INLINE V v_from_bf16(const uint16_t *x) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TARGET NPK_INLINE V v_from_int8(const int8_t *x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)x)));
}
/* e4m3 has the exponent bias 7 and binary16 has 15: shifted into place, a code is 2^-8 of its value. */
TARGET NPK_INLINE V v_from_e4m3(const uint8_t *x) {
    __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)x));
    __m128i size = _mm_and_si128(code, _mm_set1_epi16(0x7f));
    __m128i nan = _mm_srli_epi16(_mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f)), 1);
    __m128i sign = _mm_slli_epi16(_mm_xor_si128(code, size), 8);
    __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(size, 7), sign), nan);
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}
