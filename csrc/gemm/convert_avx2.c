#include "convert_x86.h"

#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { AHEAD = 512, COLUMNS_AHEAD = 256, LINE = 16 }; /* floats */

#define TARGET __attribute__((target("avx2,fma,f16c")))

/* out[p] = steps p of 8 lines, lane i from x[i * si + p], for 8 steps. */
TARGET NPK_INLINE void load_transposed(const float *x, int64_t si, __m256 out[8]) {
    __m256 r[8];
    NPK_UNROLL
    for (int i = 0; i < 4; i++) { /* halves are paired while loading: fewer shuffles */
        const float *low = x + i * si, *high = x + (i + 4) * si;
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    NPK_UNROLL
    for (int h = 0; h < 8; h += 4) {
        __m256 s0 = _mm256_unpacklo_ps(r[h], r[h + 1]), s1 = _mm256_unpackhi_ps(r[h], r[h + 1]);
        __m256 s2 = _mm256_unpacklo_ps(r[h + 2], r[h + 3]), s3 = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
        out[h] = _mm256_shuffle_ps(s0, s2, 0x44);
        out[h + 1] = _mm256_shuffle_ps(s0, s2, 0xEE);
        out[h + 2] = _mm256_shuffle_ps(s1, s3, 0x44);
        out[h + 3] = _mm256_shuffle_ps(s1, s3, 0xEE);
    }
}

/* dst[p * width + i] = x[i * si + p] for 8 lines and 8 steps. */
TARGET NPK_INLINE void transpose8(const float *x, int64_t si, float *dst, const int width) {
    __m256 steps[8];
    load_transposed(x, si, steps);
    NPK_UNROLL
    for (int p = 0; p < 8; p++)
        _mm256_storeu_ps(dst + p * width, steps[p]);
}

/* 16 steps of 8 lines at a time, so that a cache line that aliases with the other lines' is read once. */
TARGET NPK_INLINE void transpose_panel(const int width, int64_t len, const float *x, int64_t si, float *dst) {
    int64_t p = 0;
    for (; p + 16 <= len; p += 16) {
        NPK_UNROLL
        for (int i = 0; i + 8 <= width; i += 8) {
            NPK_UNROLL
            for (int line = i; line < i + 8; line++) /* many short streams: the hardware prefetcher loses them */
                __builtin_prefetch(x + line * si + p + AHEAD, 0, 2);
            transpose8(x + i * si + p, si, dst + p * width + i, width);
            transpose8(x + i * si + p + 8, si, dst + (p + 8) * width + i, width);
        }
    }
    for (; p < len; p++)
        for (int i = 0; i < width; i++)
            dst[p * width + i] = x[i * si + p];
}

/* Adds steps `first` ... `end` of the next 8 to the chains of 8 lines of B. */
TARGET NPK_INLINE void eight_steps(const int rows, const float *a, int64_t rsa, const float *b, int64_t ldb,
                                   int first, int end, __m256 acc[4]) {
    __m256 steps[8];
    load_transposed(b, ldb, steps);
    NPK_UNROLL
    for (int q = 0; q < 8; q++)
        if (q >= first && q < end) {
            NPK_UNROLL
            for (int i = 0; i < rows; i++)
                acc[i] = _mm256_fmadd_ps(_mm256_set1_ps(a[i * rsa + q]), steps[q], acc[i]);
        }
}

/* The same for one step, reading nothing else. */
TARGET NPK_INLINE void one_step(const int rows, const float *a, int64_t rsa, const float *x, int64_t ldb,
                                __m256 acc[4]) {
    __m256 step = _mm256_setr_ps(x[0], x[ldb], x[2 * ldb], x[3 * ldb], x[4 * ldb], x[5 * ldb], x[6 * ldb], x[7 * ldb]);
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        acc[i] = _mm256_fmadd_ps(_mm256_set1_ps(a[i * rsa]), step, acc[i]);
}

/* `groups` x 8 columns of C, each of whose chains runs down a line of B; a few chains hide the latency.
 * Whole cache lines are read at once: lines of B may all share one set of the cache, where half a line would not
 * wait for its other half. */
TARGET NPK_INLINE void columns(const int rows, const int groups, int64_t kc, const float *a, int64_t rsa,
                               const float *b, int64_t ldb, float *c, int64_t rsc, bool add) {
    __m256 acc[4][4];
    NPK_UNROLL
    for (int g = 0; g < groups; g++)
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            acc[g][i] = _mm256_setzero_ps();
    int64_t p = 0, head = (int64_t)(-((uintptr_t)b / sizeof(float)) % LINE);
    for (; kc < 8 && p < kc; p++)
        for (int g = 0; g < groups; g++)
            one_step(rows, a + p, rsa, b + g * 8 * ldb + p, ldb, acc[g]);
    for (int64_t end = npk_min(head, kc); p < end;) {
        int64_t from = npk_min(p, kc - 8), next = npk_min(from + 8, end);
        for (int g = 0; g < groups; g++)
            eight_steps(rows, a + from, rsa, b + g * 8 * ldb + from, ldb, (int)(p - from), (int)(next - from), acc[g]);
        p = next;
    }
    for (; p + LINE <= kc; p += LINE) {
        NPK_UNROLL
        for (int g = 0; g < groups; g++) {
            const float *lines = b + g * 8 * ldb + p;
            NPK_UNROLL
            for (int line = 0; line < 8; line++) { /* many short streams: the hardware prefetcher loses them */
                uintptr_t next = (uintptr_t)(lines + line * ldb) + COLUMNS_AHEAD * sizeof(float);
                __builtin_prefetch((const void *)next, 0, 2);
            }
            eight_steps(rows, a + p, rsa, lines, ldb, 0, 8, acc[g]);
            eight_steps(rows, a + p + 8, rsa, lines + 8, ldb, 0, 8, acc[g]);
        }
    }
    while (p < kc) {
        int64_t from = npk_min(p, kc - 8), next = from + 8;
        for (int g = 0; g < groups; g++)
            eight_steps(rows, a + from, rsa, b + g * 8 * ldb + from, ldb, (int)(p - from), 8, acc[g]);
        p = next;
    }
    NPK_UNROLL
    for (int g = 0; g < groups; g++)
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            float *dst = c + i * rsc + g * 8;
            _mm256_storeu_ps(dst, add ? _mm256_add_ps(_mm256_loadu_ps(dst), acc[g][i]) : acc[g][i]);
        }
}

TARGET int64_t gemm_columns_avx2(int rows, int64_t n, int64_t kc, const float *a, int64_t rsa, const float *b,
                                 int64_t ldb, float *c, int64_t rsc, bool add) {
    int64_t j = 0;
    for (; j + 16 <= n; j += 16, b += 16 * ldb, c += 16)
        if (rows == 3)
            columns(3, 2, kc, a, rsa, b, ldb, c, rsc, add);
        else
            columns(4, 2, kc, a, rsa, b, ldb, c, rsc, add);
    return j;
}

TARGET void gemm_transpose_avx2(int width, int64_t len, const float *x, int64_t si, float *dst) {
    if (width == 16)
        transpose_panel(16, len, x, si, dst);
    else
        transpose_panel(32, len, x, si, dst);
}

TARGET NPK_INLINE void copy_panels(const int width, int64_t rows, int64_t n, const float *x, int64_t rs, float *dst,
                                   int64_t step) {
    for (int64_t j = 0; j < n; j += width, dst += step)
        for (int64_t r = 0; r < rows; r++) {
            const float *from = x + r * rs + j;
            NPK_UNROLL
            for (int v = 0; v < width; v += 8)
                _mm256_storeu_ps(dst + r * width + v, _mm256_loadu_ps(from + v));
        }
}

TARGET void gemm_copy_avx2(int width, int64_t rows, int64_t n, const float *x, int64_t rs, float *dst, int64_t step) {
    if (width == 16)
        copy_panels(16, rows, n, x, rs, dst, step);
    else
        copy_panels(32, rows, n, x, rs, dst, step);
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
