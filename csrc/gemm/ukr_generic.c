/* The portable micro-kernel, and the reference the vector ones are read against. */
#include "gemm.h"

enum { MR = 4, NR = 8 };

NPK_INLINE void tile(const int rows, int64_t kc, const float *a, const float *b, float *c, int64_t rsc,
                     bool accumulate) {
    float acc[MR][NR] = {{0}};
    for (int64_t p = 0; p < kc; p++, a += MR, b += NR) {
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            NPK_UNROLL
            for (int j = 0; j < NR; j++)
                acc[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NR; j++)
            c[i * rsc + j] = accumulate ? c[i * rsc + j] + acc[i][j] : acc[i][j];
}

#define ROWS(r)                                                                                                 \
    static void rows##r(int64_t kc, const float *a, const float *b, float *c, int64_t rsc, bool accumulate) {   \
        tile(r, kc, a, b, c, rsc, accumulate);                                                                  \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const sgemm_ukr UKR[MR] = {rows1, rows2, rows3, rows4};
static const sgemm_ctx CTX = {MR, NR, 128, 256, 2048, UKR};

const sgemm_ctx *sgemm_ctx_generic(void) { return &CTX; }
