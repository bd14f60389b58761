#include "convert_x86.h"

#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))

/* dst[p * width + i] = x[i * si + p] for 8 lines and 8 steps. */
TARGET NPK_INLINE void transpose8(const float *x, int64_t si, float *dst, const int width) {
    __m256 r[8], s[8];
    NPK_UNROLL
    for (int i = 0; i < 4; i++) { /* halves are paired while loading: fewer shuffles */
        const float *low = x + i * si, *high = x + (i + 4) * si;
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    NPK_UNROLL
    for (int h = 0; h < 8; h += 4) {
        s[h] = _mm256_unpacklo_ps(r[h], r[h + 1]);
        s[h + 1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
        s[h + 2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
        s[h + 3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
        _mm256_storeu_ps(dst + h * width, _mm256_shuffle_ps(s[h], s[h + 2], 0x44));
        _mm256_storeu_ps(dst + (h + 1) * width, _mm256_shuffle_ps(s[h], s[h + 2], 0xEE));
        _mm256_storeu_ps(dst + (h + 2) * width, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0x44));
        _mm256_storeu_ps(dst + (h + 3) * width, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0xEE));
    }
}

/* 16 steps of 8 lines at a time, so that a cache line that aliases with the other lines' is read once. */
TARGET NPK_INLINE void transpose_panel(const int width, int64_t len, const float *x, int64_t si, float *dst) {
    int64_t p = 0;
    for (; p + 16 <= len; p += 16) {
        NPK_UNROLL
        for (int i = 0; i + 8 <= width; i += 8) {
            transpose8(x + i * si + p, si, dst + p * width + i, width);
            transpose8(x + i * si + p + 8, si, dst + (p + 8) * width + i, width);
        }
    }
    for (; p < len; p++)
        for (int i = 0; i < width; i++)
            dst[p * width + i] = x[i * si + p];
}

TARGET void gemm_transpose_avx2(int width, int64_t len, const float *x, int64_t si, float *dst) {
    if (width == 16)
        transpose_panel(16, len, x, si, dst);
    else
        transpose_panel(32, len, x, si, dst);
}

TARGET NPK_INLINE __m256 widen8(int type, const uint16_t *x) {
    __m128i code = _mm_loadu_si128((const __m128i *)x);
    if (type == NPK_GEMM_FP16)
        return _mm256_cvtph_ps(code);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(code), 16));
}

TARGET void gemm_widen_avx2(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld) {
    int64_t body = n / 8 * 8;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < body; j += 8)
            _mm256_storeu_ps(dst + r * ld + j, widen8(type, x + r * rs + j));
    if (body < n)
        gemm_widen_generic(type, rows, n - body, x + body, rs, dst + body, ld);
}

TARGET NPK_INLINE __m128i narrow8(int type, __m256 x) {
    if (type == NPK_GEMM_FP16)
        return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

TARGET void gemm_narrow_avx2(int type, int64_t rows, int64_t n, const float *x, int64_t rs, uint16_t *dst, int64_t ld) {
    int64_t body = n / 8 * 8;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < body; j += 8)
            _mm_storeu_si128((__m128i *)(dst + r * ld + j), narrow8(type, _mm256_loadu_ps(x + r * rs + j)));
    if (body < n)
        gemm_narrow_generic(type, rows, n - body, x + body, rs, dst + body, ld);
}
#endif
