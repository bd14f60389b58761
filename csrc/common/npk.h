/* What every kernel source shares: status codes, overflow-checked sizes, buffers, CPU features. */
#ifndef NPK_H
#define NPK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"

#define NPK_INLINE static inline __attribute__((always_inline))

/* GCC unrolls short constant loops only late, after it has decided what lives in registers; without
 * this the accumulator arrays of the micro-kernels stay on the stack. */
#if defined(__clang__)
#define NPK_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define NPK_UNROLL _Pragma("GCC unroll 64")
#else
#define NPK_UNROLL
#endif

NPK_INLINE int64_t npk_min(int64_t a, int64_t b) { return a < b ? a : b; }
NPK_INLINE int64_t npk_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }
NPK_INLINE int64_t npk_round_up(int64_t a, int64_t b) { return npk_ceil_div(a, b) * b; }

/* Whether two pieces of memory have a byte in common; an empty piece and NULL have none. */
NPK_INLINE bool npk_overlap(const void *x, int64_t x_bytes, const void *y, int64_t y_bytes) {
    return x && y && x_bytes > 0 && y_bytes > 0 && (uintptr_t)x < (uintptr_t)y + (uintptr_t)y_bytes
           && (uintptr_t)y < (uintptr_t)x + (uintptr_t)x_bytes;
}

/* Cache-line aligned memory for `count` floats; NULL when the size overflows or there is no memory.
 * Released by free(). */
float *npk_alloc_floats(int64_t count);

/* Whether this CPU and its operating system support the feature of that name. */
bool npk_cpu_supports(const char *name);

#endif
