/* Few rows of A against contiguous columns of B: a dot product along memory for every element of C. */
#include "gemm.h"

#include "../common/threads.h"

enum { ROUNDED = 64, PARTS_PER_THREAD = 4, LEAST_PART = 64 }; /* columns */

bool gemm_is_dots(const gemm_ctx *ctx, const gemm_args *g) {
    if (!ctx->dots || g->packed_b || g->lines || g->panels)
        return false;
    return g->m <= GEMM_DOT_ROWS && g->b.rs == 1 && (g->b.cs != 1 || g->n == 1);
}

typedef struct {
    const gemm_ctx *ctx;
    const gemm_args *g;
    int c_type;
    int64_t cols; /* of a part */
} dots_job;

static void round_dots(const dots_job *x, int64_t j, int64_t cols) {
    const gemm_args *g = x->g;
    float sums[GEMM_DOT_ROWS * ROUNDED];
    uint16_t rounded[GEMM_DOT_ROWS * ROUNDED], *c = (uint16_t *)g->c;
    x->ctx->dots(g->b.type, (int)g->m, cols, g->k, g->a.data, g->a.rs, gemm_at(&g->b, 0, j), g->b.cs, sums, ROUNDED, 1);
    x->ctx->narrow(x->c_type, g->m, cols, sums, ROUNDED, rounded, ROUNDED);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t q = 0; q < cols; q++)
            c[i * g->rsc + (j + q) * g->csc] = rounded[i * ROUNDED + q];
}

static void run_dots(void *context, int64_t task) {
    const dots_job *x = context;
    const gemm_args *g = x->g;
    int64_t first = task * x->cols, end = npk_min(first + x->cols, g->n);
    if (x->c_type == NPK_GEMM_F32)
        x->ctx->dots(g->b.type, (int)g->m, end - first, g->k, g->a.data, g->a.rs, gemm_at(&g->b, 0, first),
                     g->b.cs, g->c + first * g->csc, g->rsc, g->csc);
    else
        for (int64_t j = first; j < end; j += ROUNDED)
            round_dots(x, j, npk_min(ROUNDED, end - j));
}

int gemm_dots(const gemm_ctx *ctx, const gemm_args *given, int c_type, int threads) {
    gemm_args g = *given;
    dots_job x = {.ctx = ctx, .g = &g, .c_type = c_type, .cols = g.n};
    if ((g.a.cs != 1 && g.k > 1) || g.a.type != NPK_GEMM_F32) {
        float *rows = gemm_scratch(GEMM_PACKING, g.m * g.k);
        if (!rows)
            return NPK_ENOMEM;
        for (int64_t i = 0; i < g.m; i++)
            gemm_pack_panel(ctx, 1, 1, g.k, g.a.type, gemm_at(&g.a, i, 0), g.a.rs, g.a.cs, rows + i * g.k);
        g.a = (gemm_matrix){rows, g.k, 1, NPK_GEMM_F32};
    }
    int useful = gemm_useful_threads(&g, threads);
    if (useful > 1) {
        int64_t parts = npk_min((int64_t)useful * PARTS_PER_THREAD, npk_ceil_div(g.n, LEAST_PART));
        x.cols = npk_ceil_div(g.n, parts);
    }
    npk_parallel(useful, npk_ceil_div(g.n, x.cols), run_dots, &x);
    return NPK_OK;
}
