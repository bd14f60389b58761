/* The vector operations of vmath.h in AVX-512F. */
#ifndef NPK_VMATH_AVX512_H
#define NPK_VMATH_AVX512_H

#include "npk.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { LANES = 16, V_FUSED = 1 };
typedef __m512 V;
typedef __mmask16 M;
#define TARGET __attribute__((target("avx512f")))
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_sub _mm512_sub_ps
#define v_mul _mm512_mul_ps
#define v_div _mm512_div_ps
#define v_fma _mm512_fmadd_ps
#define v_fnma _mm512_fnmadd_ps
#define v_min _mm512_min_ps
#define v_max _mm512_max_ps
#define v_less(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
/* a > b or unordered */
#define v_above(a, b) _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ)
#define v_none(m) ((m) == 0)
#define v_select(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define v_and(a, b) _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
#define v_or(a, b) _mm512_castsi512_ps(_mm512_or_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
#define v_bits(u) _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)(u)))
#define v_product_error(a, b, product) _mm512_fmsub_ps(a, b, product)
/* The larger of numbers that are not negative; NaN is the largest. */
#define v_largest_of(a, b) _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)))

TARGET NPK_INLINE V v_scale(V x, V t) {
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(t), 20);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent));
}

/* The table twice: four bits choose. */
TARGET NPK_INLINE V v_lookup(const float table[8], V index) {
    __m512d twice = _mm512_broadcast_f64x4(_mm256_load_pd((const double *)table));
    return _mm512_permutexvar_ps(_mm512_castps_si512(index), _mm512_castpd_ps(twice));
}

TARGET NPK_INLINE V v_interval(V z) {
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(z), _mm512_set1_epi32(1 << 21));
    return _mm512_castsi512_ps(_mm512_srli_epi32(bits, 22));
}

TARGET NPK_INLINE __mmask16 v_tail(int64_t count) { return (__mmask16)((1u << count) - 1); }

TARGET NPK_INLINE V v_load_part(const float *x, int64_t count, V fill) {
    return _mm512_mask_loadu_ps(fill, v_tail(count), x);
}

TARGET NPK_INLINE void v_store_part(float *x, V v, int64_t count) { _mm512_mask_storeu_ps(x, v_tail(count), v); }

#define v_fence _mm_sfence
#define v_stream _mm512_stream_ps
TARGET NPK_INLINE void v_stream_part(float *x, V v, int64_t count) {
    _mm_stream_ps(x, _mm512_castps512_ps128(v));
    if (count > 4)
        _mm_stream_ps(x + 4, _mm512_extractf32x4_ps(v, 1));
    if (count > 8)
        _mm_stream_ps(x + 8, _mm512_extractf32x4_ps(v, 2));
    if (count > 12)
        _mm_stream_ps(x + 12, _mm512_extractf32x4_ps(v, 3));
}

TARGET NPK_INLINE V v_load_bf16(const uint16_t *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Round to nearest even; a NaN keeps its sign and becomes quiet. */
TARGET NPK_INLINE void v_store_bf16(uint16_t *x, V v) {
    __m512i bits = _mm512_castps_si512(v), top = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    __m512i quiet = _mm512_or_si512(_mm512_and_si512(top, _mm512_set1_epi32(0x8000)), _mm512_set1_epi32(0x7FC0));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i codes = _mm512_mask_blend_epi32(nan, _mm512_srli_epi32(up, 16), quiet);
    _mm256_storeu_si256((__m256i *)x, _mm512_cvtepi32_epi16(codes));
}

TARGET NPK_INLINE V v_load_f16(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

TARGET NPK_INLINE void v_store_f16(uint16_t *x, V v) {
    _mm256_storeu_si256((__m256i *)x, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#include "vmath.h"
#endif
