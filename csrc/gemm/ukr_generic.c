/* The portable micro-kernel, and the reference the vector ones are read against. */
#include "gemm.h"

enum { MR = 4, NR = 8 };

/* `rows` and `full`, which says that cols is NR, are constants at every call. */
NPK_INLINE void tile(const int rows, const bool full, int cols, int64_t kc, const float *a, int64_t rsa,
                     const float *b, int64_t rsb, float *c, int64_t rsc, tile_mode mode) {
    int64_t si = rsa ? rsa : 1, sp = rsa ? 1 : MR;
    float acc[MR][NR] = {{0}};
    if (mode == TILE_CONTINUE)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                acc[i][j] = c[i * rsc + j];
    for (int64_t p = 0; p < kc; p++, b += rsb) {
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            float x = a[i * si + p * sp];
            if (full) {
                NPK_UNROLL
                for (int j = 0; j < NR; j++)
                    acc[i][j] += x * b[j];
            } else {
                for (int j = 0; j < cols; j++)
                    acc[i][j] += x * b[j];
            }
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            c[i * rsc + j] = mode == TILE_ADD ? c[i * rsc + j] + acc[i][j] : acc[i][j];
}

NPK_INLINE void any_tile(const int rows, int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb,
                         float *c, int64_t rsc, int64_t cols, tile_mode mode) {
    if (cols == NR && rsa == 0)
        tile(rows, true, NR, kc, a, 0, b, rsb, c, rsc, mode);
    else if (cols == NR)
        tile(rows, true, NR, kc, a, rsa, b, rsb, c, rsc, mode);
    else
        tile(rows, false, (int)cols, kc, a, rsa, b, rsb, c, rsc, mode);
}

#define ROWS(r)                                                                                                 \
    static void rows##r(int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb, float *c,         \
                        int64_t rsc, int64_t cols, tile_mode mode) {                                            \
        any_tile(r, kc, a, rsa, b, rsb, c, rsc, cols, mode);                                                    \
    }                                                                                                           \
    static void strip##r(int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb, float *c,        \
                         int64_t rsc, int64_t cols, tile_mode mode) {                                           \
        for (int64_t j = 0; j < cols; j += NR)                                                                  \
            any_tile(r, kc, a, rsa, b + j, rsb, c + j, rsc, npk_min(NR, cols - j), mode);                       \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const gemm_tile TILE[MR] = {rows1, rows2, rows3, rows4};
static const gemm_tile STRIP[MR] = {strip1, strip2, strip3, strip4};
static const gemm_ctx CTX = {MR, NR, 128, 256, 2048, TILE, STRIP, NULL, NULL, NULL, NULL, NULL,
                             gemm_widen_generic, gemm_narrow_generic, true};

const gemm_ctx *gemm_ctx_generic(void) { return &CTX; }
