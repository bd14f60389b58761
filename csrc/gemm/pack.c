#include "gemm.h"

#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* dst[p * width + i] = x[i * si + p] for 4 lines and 4 steps: reads and writes are both contiguous. */
NPK_INLINE void transpose4(const float *x, int64_t si, float *dst, int width) {
#if defined(__SSE2__) /* part of every x86-64 */
    __m128 r0 = _mm_loadu_ps(x), r1 = _mm_loadu_ps(x + si);
    __m128 r2 = _mm_loadu_ps(x + 2 * si), r3 = _mm_loadu_ps(x + 3 * si);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(dst, r0);
    _mm_storeu_ps(dst + width, r1);
    _mm_storeu_ps(dst + 2 * width, r2);
    _mm_storeu_ps(dst + 3 * width, r3);
#else
    for (int i = 0; i < 4; i++)
        for (int p = 0; p < 4; p++)
            dst[p * width + i] = x[i * si + p];
#endif
}

/* One full panel. `width` is a constant of at least 4 at every call, so the inner loops unroll. */
NPK_INLINE void pack_full(const int width, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    int64_t p = 0;
    if (si == 1) { /* lines are adjacent in memory: whole vectors move */
        for (; p < len; p++)
            memcpy(dst + p * width, x + p * sp, (size_t)width * sizeof(float));
        return;
    }
    if (sp == 1) {
        for (; p + 4 <= len; p += 4) {
            NPK_UNROLL
            for (int i = 0; i + 4 <= width; i += 4)
                transpose4(x + i * si + p, si, dst + p * width + i, width);
            if (width % 4 != 0) /* the last four lines, two of them a second time */
                transpose4(x + (width - 4) * si + p, si, dst + p * width + width - 4, width);
        }
    }
    for (; p < len; p++) {
        NPK_UNROLL
        for (int i = 0; i < width; i++)
            dst[p * width + i] = x[i * si + p * sp];
    }
}

/* The last panel, with fewer lines than its width. */
static void pack_edge(int width, int lines, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    for (int64_t p = 0; p < len; p++)
        for (int i = 0; i < width; i++)
            dst[p * width + i] = i < lines ? x[i * si + p * sp] : 0.0f;
}

static void pack_panel(int width, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    switch (width) {
    case 4: pack_full(4, len, x, si, sp, dst); break;
    case 6: pack_full(6, len, x, si, sp, dst); break;
    case 8: pack_full(8, len, x, si, sp, dst); break;
    case 14: pack_full(14, len, x, si, sp, dst); break;
    case 16: pack_full(16, len, x, si, sp, dst); break;
    case 32: pack_full(32, len, x, si, sp, dst); break;
    default: pack_edge(width, width, len, x, si, sp, dst); break;
    }
}

void sgemm_pack(int width, int64_t count, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    for (int64_t line = 0; line < count; line += width, dst += width * len) {
        const float *first = x + line * si;
        if (count - line >= width)
            pack_panel(width, len, first, si, sp, dst);
        else
            pack_edge(width, (int)(count - line), len, first, si, sp, dst);
    }
}
