/* The vector operations of codec_simd.h in AVX-512, sixteen lanes. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512i V;
typedef __mmask16 M;
#define TARGET __attribute__((target("avx512f")))
#define AS_FLOAT _mm512_castsi512_ps
#define AS_BITS _mm512_castps_si512
#define v_set1 _mm512_set1_epi32
#define v_load(p) _mm512_loadu_si512(p)
#define v_store(p, v) _mm512_storeu_si512(p, v)
#define v_add _mm512_add_epi32
#define v_sub _mm512_sub_epi32
#define v_and _mm512_and_si512
#define v_or _mm512_or_si512
#define v_xor _mm512_xor_si512
#define v_shl _mm512_slli_epi32
#define v_shr _mm512_srli_epi32
#define v_gt _mm512_cmpgt_epi32_mask
#define v_pick(m, a, b) _mm512_mask_blend_epi32(m, b, a)
#define v_addf(a, b) AS_BITS(_mm512_add_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_subf(a, b) AS_BITS(_mm512_sub_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_mulf(a, b) AS_BITS(_mm512_mul_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_divf(a, b) AS_BITS(_mm512_div_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_minf(a, b) AS_BITS(_mm512_min_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_maxf(a, b) AS_BITS(_mm512_max_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_load8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define v_load16(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p)))

TARGET NPK_INLINE void v_store8(uint8_t *p, const V v[4]) {
    NPK_UNROLL
    for (int i = 0; i < 4; i++)
        _mm_storeu_si128((__m128i *)(void *)(p + 16 * i), _mm512_cvtepi32_epi8(v[i]));
}
TARGET NPK_INLINE void v_store16(uint8_t *p, const V v[4]) {
    NPK_UNROLL
    for (int i = 0; i < 4; i++)
        _mm256_storeu_si256((__m256i *)(void *)(p + 32 * i), _mm512_cvtepi32_epi16(v[i]));
}
