#include "convert_x86.h"

#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "widen_avx2.h"

enum { AHEAD = 2048, AHEAD_HALVES = 1024, COLUMNS_AHEAD = 1024, LINE_BYTES = 64 }; /* bytes */

#define TARGET __attribute__((target("avx2,fma,f16c")))

NPK_INLINE const void *element(const int type, const void *x, int64_t at) {
    return (const char *)x + at * (type == NPK_GEMM_F32 ? 4 : 2);
}

TARGET NPK_INLINE float value_of(const int type, const void *x, int64_t at) {
    if (type == NPK_GEMM_F32)
        return ((const float *)x)[at];
    __m128i code = _mm_cvtsi32_si128(((const uint16_t *)x)[at]);
    return _mm_cvtss_f32(type == NPK_GEMM_FP16 ? _mm_cvtph_ps(code) : _mm_castsi128_ps(_mm_slli_epi32(code, 16)));
}

/* The same elements, some lines of memory on: many short streams, which the hardware prefetcher loses. */
NPK_INLINE void fetch(const void *x, int64_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)x + (uintptr_t)ahead), 0, 2);
}

/* out[p] = steps p of 8 lines, lane i from x[i * si + p], for 8 steps. */
TARGET NPK_INLINE void transposed_floats(const float *x, int64_t si, __m256 out[8]) {
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

/* The same from 16 bits: transposed as integers, and only then widened. */
TARGET NPK_INLINE void transposed_halves(const int type, const uint16_t *x, int64_t si, __m256 out[8]) {
    __m256i r[4], pairs[4];
    NPK_UNROLL
    for (int i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(x + i * si));
        __m128i high = _mm_loadu_si128((const __m128i *)(x + (i + 4) * si));
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    pairs[0] = _mm256_unpacklo_epi16(r[0], r[1]); /* lines 0 1 0 1 ... of steps 0 to 3; upper half: lines 4 5 */
    pairs[1] = _mm256_unpackhi_epi16(r[0], r[1]); /* steps 4 to 7 */
    pairs[2] = _mm256_unpacklo_epi16(r[2], r[3]);
    pairs[3] = _mm256_unpackhi_epi16(r[2], r[3]);
    NPK_UNROLL
    for (int h = 0; h < 2; h++) {
        __m256i quads[2] = {_mm256_unpacklo_epi32(pairs[h], pairs[h + 2]),
                            _mm256_unpackhi_epi32(pairs[h], pairs[h + 2])};
        NPK_UNROLL
        for (int q = 0; q < 2; q++) { /* lines 0 to 3 of two steps; upper half: lines 4 to 7 */
            const int p = 4 * h + 2 * q;
            if (type == NPK_GEMM_BF16) { /* zeros below the code */
                out[p] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), quads[q]));
                out[p + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), quads[q]));
            } else {
                __m256i steps = _mm256_permute4x64_epi64(quads[q], 0xD8);
                out[p] = _mm256_cvtph_ps(_mm256_castsi256_si128(steps));
                out[p + 1] = _mm256_cvtph_ps(_mm256_extracti128_si256(steps, 1));
            }
        }
    }
}

TARGET NPK_INLINE void load_transposed(const int type, const void *x, int64_t si, __m256 out[8]) {
    if (type == NPK_GEMM_F32)
        transposed_floats(x, si, out);
    else
        transposed_halves(type, x, si, out);
}

/* dst[p * width + i] = x[i * si + p] for 8 lines and 8 steps. */
TARGET NPK_INLINE void transpose8(const int type, const void *x, int64_t si, float *dst, const int width) {
    __m256 steps[8];
    load_transposed(type, x, si, steps);
    NPK_UNROLL
    for (int p = 0; p < 8; p++)
        _mm256_storeu_ps(dst + p * width, steps[p]);
}

/* A cache line of 8 lines of the matrix at a time, so that one that aliases with the other lines' is read once. */
TARGET NPK_INLINE void transpose_panel(const int type, const int width, int64_t len, const void *x, int64_t si,
                                       float *dst) {
    const int whole = type == NPK_GEMM_F32 ? 16 : 32, ahead = type == NPK_GEMM_F32 ? AHEAD : AHEAD_HALVES;
    int64_t p = 0;
    for (; p + whole <= len; p += whole) {
        NPK_UNROLL
        for (int i = 0; i + 8 <= width; i += 8) {
            NPK_UNROLL
            for (int line = i; line < i + 8; line++)
                fetch(element(type, x, line * si + p), ahead);
            NPK_UNROLL
            for (int q = 0; q < whole; q += 8)
                transpose8(type, element(type, x, i * si + p + q), si, dst + (p + q) * width + i, width);
        }
    }
    for (; p + 8 <= len; p += 8)
        for (int i = 0; i + 8 <= width; i += 8)
            transpose8(type, element(type, x, i * si + p), si, dst + p * width + i, width);
    for (; p < len; p++)
        for (int i = 0; i < width; i++)
            dst[p * width + i] = value_of(type, x, i * si + p);
}

/* Adds steps `first` ... `end` of the next 8 to the chains of 8 lines of B. */
TARGET NPK_INLINE void eight_steps(const int type, const int rows, const float *a, int64_t rsa, const void *b,
                                   int64_t ldb, int first, int end, __m256 acc[4]) {
    __m256 steps[8];
    load_transposed(type, b, ldb, steps);
    NPK_UNROLL
    for (int q = 0; q < 8; q++)
        if (q >= first && q < end) {
            NPK_UNROLL
            for (int i = 0; i < rows; i++)
                acc[i] = _mm256_fmadd_ps(_mm256_set1_ps(a[i * rsa + q]), steps[q], acc[i]);
        }
}

/* The same for one step, reading nothing else. */
TARGET NPK_INLINE void one_step(const int type, const int rows, const float *a, int64_t rsa, const void *x,
                                int64_t ldb, __m256 acc[4]) {
    float line[8];
    for (int i = 0; i < 8; i++)
        line[i] = value_of(type, x, i * ldb);
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        acc[i] = _mm256_fmadd_ps(_mm256_set1_ps(a[i * rsa]), _mm256_loadu_ps(line), acc[i]);
}

/* `groups` x 8 columns of C, each of whose chains runs down a line of B; a few chains hide the latency.
 * Whole cache lines are read at once: lines of B may all share one set of the cache, where a part of a line would not
 * wait for the others. */
TARGET NPK_INLINE void columns(const int type, const int rows, const int groups, int64_t kc, const float *a,
                               int64_t rsa, const void *b, int64_t ldb, float *c, int64_t rsc, bool add) {
    const int size = type == NPK_GEMM_F32 ? 4 : 2, whole = LINE_BYTES / size;
    __m256 acc[4][4];
    NPK_UNROLL
    for (int g = 0; g < groups; g++)
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            acc[g][i] = _mm256_setzero_ps();
    int64_t p = 0, head = (int64_t)(-((uintptr_t)b / (uintptr_t)size) % (uintptr_t)whole);
    for (; kc < 8 && p < kc; p++)
        for (int g = 0; g < groups; g++)
            one_step(type, rows, a + p, rsa, element(type, b, g * 8 * ldb + p), ldb, acc[g]);
    for (int64_t end = npk_min(head, kc); p < end;) {
        int64_t from = npk_min(p, kc - 8), next = npk_min(from + 8, end);
        for (int g = 0; g < groups; g++)
            eight_steps(type, rows, a + from, rsa, element(type, b, g * 8 * ldb + from), ldb, (int)(p - from),
                        (int)(next - from), acc[g]);
        p = next;
    }
    for (; p + whole <= kc; p += whole) {
        NPK_UNROLL
        for (int g = 0; g < groups; g++) {
            NPK_UNROLL
            for (int line = 0; line < 8; line++)
                fetch(element(type, b, (g * 8 + line) * ldb + p), COLUMNS_AHEAD);
            NPK_UNROLL
            for (int q = 0; q < whole; q += 8)
                eight_steps(type, rows, a + p + q, rsa, element(type, b, g * 8 * ldb + p + q), ldb, 0, 8, acc[g]);
        }
    }
    while (p < kc) {
        int64_t from = npk_min(p, kc - 8), next = from + 8;
        for (int g = 0; g < groups; g++)
            eight_steps(type, rows, a + from, rsa, element(type, b, g * 8 * ldb + from), ldb, (int)(p - from), 8,
                        acc[g]);
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

TARGET NPK_INLINE int64_t all_columns(const int type, int rows, int64_t n, int64_t kc, const float *a, int64_t rsa,
                                      const void *b, int64_t ldb, float *c, int64_t rsc, bool add) {
    int64_t j = 0;
    for (; j + 16 <= n; j += 16)
        if (rows == 3)
            columns(type, 3, 2, kc, a, rsa, element(type, b, j * ldb), ldb, c + j, rsc, add);
        else
            columns(type, 4, 2, kc, a, rsa, element(type, b, j * ldb), ldb, c + j, rsc, add);
    return j;
}

TARGET int64_t gemm_columns_avx2(int type, int rows, int64_t n, int64_t kc, const float *a, int64_t rsa, const void *b,
                                 int64_t ldb, float *c, int64_t rsc, bool add) {
    switch (type) {
    case NPK_GEMM_F32: return all_columns(NPK_GEMM_F32, rows, n, kc, a, rsa, b, ldb, c, rsc, add);
    case NPK_GEMM_FP16: return all_columns(NPK_GEMM_FP16, rows, n, kc, a, rsa, b, ldb, c, rsc, add);
    default: return all_columns(NPK_GEMM_BF16, rows, n, kc, a, rsa, b, ldb, c, rsc, add);
    }
}

TARGET NPK_INLINE void transpose_type(const int type, int width, int64_t len, const void *x, int64_t si, float *dst) {
    if (width == 16)
        transpose_panel(type, 16, len, x, si, dst);
    else
        transpose_panel(type, 32, len, x, si, dst);
}

TARGET void gemm_transpose_avx2(int type, int width, int64_t len, const void *x, int64_t si, float *dst) {
    switch (type) {
    case NPK_GEMM_F32: transpose_type(NPK_GEMM_F32, width, len, x, si, dst); break;
    case NPK_GEMM_FP16: transpose_type(NPK_GEMM_FP16, width, len, x, si, dst); break;
    default: transpose_type(NPK_GEMM_BF16, width, len, x, si, dst); break;
    }
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

TARGET void gemm_widen_avx2(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld) {
    int64_t body = n / 8 * 8;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < body; j += 8)
            _mm256_storeu_ps(dst + r * ld + j, gemm_widen8(type, x + r * rs + j));
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
