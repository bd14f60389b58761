/* The portable kernel, and the reference the vector ones are read against. */
#include "qgemm.h"

#define TARGET
#include "finish.h"

enum { MR = 4 };

/* A as s16. */
static void convert(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, int32_t zero,
                           void *dst, int64_t stride) {
    (void)zero;
    for (int64_t i = 0; i < rows; i++, a += lda) {
        int16_t *restrict to = (int16_t *)((char *)dst + i * stride);
        if (is_signed)
            for (int64_t p = 0; p < k; p++)
                to[p] = (int8_t)a[p];
        else
            for (int64_t p = 0; p < k; p++)
                to[p] = a[p];
        for (int64_t p = k; p % 4 != 0; p++)
            to[p] = 0;
    }
}

NPK_INLINE void multiply(const int rows, int64_t k4, const void *a, int64_t lda, const int8_t *b, int32_t *acc,
                         int64_t ldacc, bool accumulate) {
    uint32_t sum[MR][QGEMM_NR] = {{0}}; /* unsigned: wraps modulo 2^32 */
    for (int64_t p = 0; p < k4; p++, b += 4 * QGEMM_NR)
        for (int i = 0; i < rows; i++) {
            const int16_t *x = (const int16_t *)((const char *)a + i * lda) + 4 * p;
            for (int j = 0; j < QGEMM_NR; j++)
                sum[i][j] += (uint32_t)(x[0] * b[4 * j] + x[1] * b[4 * j + 1] + x[2] * b[4 * j + 2]
                                        + x[3] * b[4 * j + 3]);
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < QGEMM_NR; j++) {
            int32_t *dst = acc + i * ldacc + j;
            *dst = (int32_t)(accumulate ? (uint32_t)*dst + sum[i][j] : sum[i][j]);
        }
}

#define ROWS(r)                                                                                                  \
    static void rows##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next, int32_t *acc,     \
                        int64_t ldacc, bool accumulate) {                                                        \
        (void)next;                                                                                              \
        multiply(r, k4, a, lda, b, acc, ldacc, accumulate);                                                      \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const qgemm_tile TILE[MR] = {rows1, rows2, rows3, rows4};
static const qgemm_ctx CTX = {
    .any = {.a_size = 2, .kc = 512, .stride = 1024 + QGEMM_A_EXTRA, .convert = convert, .mr = MR, .tile = TILE,
            .few = MR, .direct_mr = MR, .direct = TILE},
    .panels = 1, .mc = 64, .nc = 256, .sum_row = sum_row, .finish = finish,
};

const qgemm_ctx *qgemm_ctx_generic(void) { return &CTX; }
