/* The vector operations of ukr_simd.h in AVX-512. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 V;
typedef __mmask16 MASK;
#define TARGET __attribute__((target("avx512f")))
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_mask(count) ((__mmask16)((1u << (count)) - 1u))
#define v_load_some(x, mask) _mm512_maskz_loadu_ps(mask, x)
#define v_store_some(x, mask, v) _mm512_mask_storeu_ps(x, mask, v)

TARGET static inline __attribute__((always_inline)) V v_widen(int type, const uint16_t *x) {
    __m256i codes = _mm256_loadu_si256((const __m256i *)x);
    if (type == NPK_GEMM_FP16)
        return _mm512_cvtph_ps(codes);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16));
}

/* out[q] = sum of the 16 lanes of x[q], for four dot products; in the order of dots_simd.h. */
TARGET static inline void v_sums(V (*x)[1], float *out) {
    __m128 four[4];
    for (int q = 0; q < 4; q++) {
        __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x[q][0]), 1));
        __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x[q][0]), high);
        four[q] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    }
    _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(four[0], four[2]), _mm_add_ps(four[1], four[3])));
}
