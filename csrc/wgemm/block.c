/* Block-scaled product of decoded operands, with the tiles of the weight kernels. */
#include "../common/threads.h"
#include "wgemm.h"

#include <stdlib.h>
#include <string.h>

enum { PANELS = 4, ROWS_PER_TASK = 192 };

typedef struct {
    const wgemm_ctx *ctx;
    int64_t m, n, k, block, blocks, across;
    const float *a, *b, *a_scale, *b_scale;
    float *y;
    int failed;
} product;

/* b[p .. p + len) of a panel's columns, missing columns zero. */
static void copy_panel(const product *g, int64_t p, int64_t len, int64_t j0, float *dst) {
    int64_t cols = npk_min(WGEMM_NR, g->n - j0);
    memset(dst, 0, (size_t)(len * WGEMM_NR) * sizeof *dst);
    for (int64_t i = 0; i < len; i++)
        memcpy(dst + i * WGEMM_NR, g->b + (p + i) * g->n + j0, (size_t)cols * sizeof *dst);
}

static void multiply(const product *g, int64_t i0, int64_t rows, int64_t j0, int64_t panels, float *w, float *y) {
    int64_t ldy = panels * WGEMM_NR, mr = g->ctx->mr;
    float scale[PANELS * WGEMM_NR] = {0};
    for (int64_t p = 0, len; p < g->k; p += len) {
        int64_t at = p / g->block;
        len = npk_min(npk_min(WGEMM_CHUNK, g->block - p % g->block), g->k - p);
        memcpy(scale, g->b_scale + at * g->n + j0, (size_t)npk_min(ldy, g->n - j0) * sizeof *scale);
        for (int64_t q = 0; q < panels; q++)
            copy_panel(g, p, len, j0 + q * WGEMM_NR, w + q * WGEMM_CHUNK * WGEMM_NR);
        for (int64_t i = 0; i < rows; i += mr)
            for (int64_t q = 0; q < panels; q++)
                g->ctx->tile[npk_min(mr, rows - i) - 1](
                    len, g->a + (i0 + i) * g->k + p, g->k, w + q * WGEMM_CHUNK * WGEMM_NR, scale + q * WGEMM_NR,
                    g->a_scale + (i0 + i) * g->blocks + at, g->blocks, y + i * ldy + q * WGEMM_NR, ldy);
    }
}

static void run_task(void *context, int64_t task) {
    product *g = context;
    int64_t i0 = task / g->across * ROWS_PER_TASK, j0 = task % g->across * PANELS * WGEMM_NR;
    int64_t rows = npk_min(ROWS_PER_TASK, g->m - i0), cols = npk_min(PANELS * WGEMM_NR, g->n - j0);
    int64_t panels = npk_ceil_div(cols, WGEMM_NR), ldy = panels * WGEMM_NR;
    float *scratch = npk_alloc_floats(panels * WGEMM_NR * (WGEMM_CHUNK + rows));
    if (!scratch) {
        __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *y = scratch + panels * WGEMM_CHUNK * WGEMM_NR;
    memset(y, 0, (size_t)(rows * ldy) * sizeof *y);
    multiply(g, i0, rows, j0, panels, scratch, y);
    for (int64_t i = 0; i < rows; i++)
        memcpy(g->y + (i0 + i) * g->n + j0, y + i * ldy, (size_t)cols * sizeof *y);
    free(scratch);
}

int npk_block_gemm(int isa, int64_t m, int64_t n, int64_t k, int64_t block, const float *a, const float *b,
                   const float *a_scale, const float *b_scale, float *y, int threads) {
    int64_t bytes;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || m < 0 || n < 0 || k < 0 || block < 1 || threads < 1)
        return NPK_EINVAL;
    if (m > INT64_MAX / 4096 || n > INT64_MAX / 4096 || k > INT64_MAX / 4096
        || __builtin_mul_overflow(m + 64, 8 * (n + 64), &bytes) || __builtin_mul_overflow(m + 64, 8 * (k + 64), &bytes)
        || __builtin_mul_overflow(k + 64, 8 * (n + 64), &bytes))
        return NPK_EOVERFLOW;
    const wgemm_ctx *ctx = wgemm_ctx_of(isa);
    if (!ctx)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    if (!y || (k > 0 && (!a || !b || !a_scale || !b_scale)))
        return NPK_EINVAL;
    product g = {ctx, m, n, k, block, npk_ceil_div(k, block), npk_ceil_div(n, PANELS * WGEMM_NR), a, b, a_scale,
                 b_scale, y, 0};
    int status = npk_parallel(threads, npk_ceil_div(m, ROWS_PER_TASK) * g.across, run_task, &g);
    return g.failed ? NPK_ENOMEM : status;
}
