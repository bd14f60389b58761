/* Checks and decisions that all ops on rows share. */
#ifndef NPK_ROWSPAN_H
#define NPK_ROWSPAN_H

#include "npk.h"

/* Whether `rows` rows of `cols` elements of `bytes` each, `stride` elements apart, span less than 2^62 bytes. */
static inline bool npk_rows_fit(int64_t rows, int64_t cols, int64_t stride, int64_t bytes) {
    int64_t down, span, dense;
    if (stride == INT64_MIN)
        return false;
    return !__builtin_mul_overflow(rows, stride < 0 ? -stride : stride, &down)
           && !__builtin_add_overflow(down, cols, &span) && !__builtin_mul_overflow(span, bytes, &span)
           && !__builtin_mul_overflow(rows, cols, &dense) && !__builtin_mul_overflow(dense, bytes, &dense)
           && span < INT64_MAX / 2 && dense < INT64_MAX / 2;
}

/* Whether a dense `out` may not be written while such rows are read, which npk_rows_fit has passed: it shares memory
 * with them and is not the very same elements. */
static inline bool npk_rows_clash(const void *out, const void *x, int64_t rows, int64_t cols, int64_t stride,
                                  int64_t bytes) {
    if (rows == 0 || cols == 0 || (out == x && (stride == cols || rows == 1)))
        return false;
    int64_t down = (rows - 1) * stride * bytes, length = (down < 0 ? -down : down) + cols * bytes;
    uintptr_t start = (uintptr_t)x + (down < 0 ? (uintptr_t)down : 0);
    return npk_overlap((const void *)start, length, out, rows * cols * bytes);
}

/* Whether a result of so many bytes is better stored past the caches: it would not stay in them, and a store
 * that misses first reads the line it is about to overwrite. Not when that line was just read (in place). */
static inline bool npk_streams(const void *out, int64_t bytes, bool in_place) {
    return bytes >= (int64_t)16 << 20 && !in_place && (uintptr_t)out % 16 == 0;
}

static inline int64_t npk_type_bytes(int type) { return type == NPK_FP32 ? 4 : 2; }

#endif
