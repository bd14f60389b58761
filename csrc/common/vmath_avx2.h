/* The vector operations of vmath.h in AVX2 with FMA and F16C. */
#ifndef NPK_VMATH_AVX2_H
#define NPK_VMATH_AVX2_H

#include "npk.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { LANES = 8, V_FUSED = 1 };
typedef __m256 V;
typedef __m256 M;
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_add _mm256_add_ps
#define v_sub _mm256_sub_ps
#define v_mul _mm256_mul_ps
#define v_div _mm256_div_ps
#define v_fma _mm256_fmadd_ps
#define v_fnma _mm256_fnmadd_ps
#define v_min _mm256_min_ps
#define v_max _mm256_max_ps
#define v_less(a, b) _mm256_cmp_ps(a, b, _CMP_LT_OQ)
/* a > b or unordered */
#define v_above(a, b) _mm256_cmp_ps(a, b, _CMP_NLE_UQ)
#define v_none(m) (_mm256_movemask_ps(m) == 0)
#define v_select(m, a, b) _mm256_blendv_ps(b, a, m)
#define v_and _mm256_and_ps
#define v_or _mm256_or_ps
#define v_bits(u) _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)(u)))

#define v_product_error(a, b, product) _mm256_fmsub_ps(a, b, product)
/* The larger of numbers that are not negative; NaN is the largest. */
#define v_largest_of(a, b) _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)))

TARGET NPK_INLINE V v_scale(V x, V t) {
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(t), 20);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}

TARGET NPK_INLINE V v_lookup(const float table[8], V index) {
    return _mm256_permutevar8x32_ps(_mm256_load_ps(table), _mm256_castps_si256(index));
}

TARGET NPK_INLINE V v_interval(V z) {
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(1 << 21));
    return _mm256_castsi256_ps(_mm256_srli_epi32(bits, 22));
}

static const int32_t V_TAIL[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};

TARGET NPK_INLINE __m256i v_tail(int64_t count) {
    return _mm256_loadu_si256((const __m256i *)(V_TAIL + LANES - count));
}

TARGET NPK_INLINE V v_load_part(const float *x, int64_t count, V fill) {
    __m256i tail = v_tail(count);
    return v_select(_mm256_castsi256_ps(tail), _mm256_maskload_ps(x, tail), fill);
}

TARGET NPK_INLINE void v_store_part(float *x, V v, int64_t count) { _mm256_maskstore_ps(x, v_tail(count), v); }

#define v_fence _mm_sfence
#define v_stream _mm256_stream_ps
TARGET NPK_INLINE void v_stream_part(float *x, V v, int64_t count) {
    _mm_stream_ps(x, _mm256_castps256_ps128(v));
    if (count > 4)
        _mm_stream_ps(x + 4, _mm256_extractf128_ps(v, 1));
}

TARGET NPK_INLINE V v_load_bf16(const uint16_t *x) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* Round to nearest even; a NaN keeps its sign and becomes quiet. */
TARGET NPK_INLINE void v_store_bf16(uint16_t *x, V v) {
    __m256i bits = _mm256_castps_si256(v), top = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(_mm256_and_si256(top, _mm256_set1_epi32(0x8000)), _mm256_set1_epi32(0x7FC0));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i codes = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(codes, codes), 0x08);
    _mm_storeu_si128((__m128i *)x, _mm256_castsi256_si128(packed));
}

TARGET NPK_INLINE V v_load_f16(const uint16_t *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }

TARGET NPK_INLINE void v_store_f16(uint16_t *x, V v) {
    _mm_storeu_si128((__m128i *)x, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#include "vmath.h"
#endif
