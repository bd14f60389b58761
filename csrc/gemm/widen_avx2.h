/* Eight floats of 16 bits as binary32. */
#ifndef NPK_GEMM_WIDEN_AVX2_H
#define NPK_GEMM_WIDEN_AVX2_H

#include <immintrin.h>

#include "gemm.h"

__attribute__((target("avx2,f16c"))) NPK_INLINE __m256 gemm_widen8(int type, const uint16_t *x) {
    __m128i codes = _mm_loadu_si128((const __m128i *)x);
    if (type == NPK_GEMM_FP16)
        return _mm256_cvtph_ps(codes);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}

#endif
