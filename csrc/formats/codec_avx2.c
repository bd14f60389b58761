/* The casts in AVX2, eight lanes. */
#include "formats.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { LANES = 8 };
typedef __m256i V;
typedef __m256i M;
#define TARGET __attribute__((target("avx2")))
#define AS_FLOAT _mm256_castsi256_ps
#define AS_BITS _mm256_castps_si256
#define v_set1 _mm256_set1_epi32
#define v_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define v_store(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define v_add _mm256_add_epi32
#define v_sub _mm256_sub_epi32
#define v_and _mm256_and_si256
#define v_or _mm256_or_si256
#define v_xor _mm256_xor_si256
#define v_shl _mm256_slli_epi32
#define v_shr _mm256_srli_epi32
#define v_gt _mm256_cmpgt_epi32
#define v_pick(m, a, b) _mm256_blendv_epi8(b, a, m)
#define v_addf(a, b) AS_BITS(_mm256_add_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_subf(a, b) AS_BITS(_mm256_sub_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_mulf(a, b) AS_BITS(_mm256_mul_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_divf(a, b) AS_BITS(_mm256_div_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_minf(a, b) AS_BITS(_mm256_min_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_maxf(a, b) AS_BITS(_mm256_max_ps(AS_FLOAT(a), AS_FLOAT(b)))
#define v_load8(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define v_load16(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))

/* Packing works within halves of a register; the permutations put the elements back in order. */
TARGET NPK_INLINE void v_store8(uint8_t *p, const V v[4]) {
    V low = _mm256_packus_epi32(v[0], v[1]), high = _mm256_packus_epi32(v[2], v[3]);
    V order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    v_store(p, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
}
TARGET NPK_INLINE void v_store16(uint8_t *p, const V v[4]) {
    v_store(p, _mm256_permute4x64_epi64(_mm256_packus_epi32(v[0], v[1]), 0xD8));
    v_store(p + 32, _mm256_permute4x64_epi64(_mm256_packus_epi32(v[2], v[3]), 0xD8));
}

#include "codec_simd.h"

const codec_ctx *codec_ctx_avx2(void) { return npk_cpu_supports("avx2") ? &CTX : NULL; }
#else
const codec_ctx *codec_ctx_avx2(void) { return NULL; }
#endif
