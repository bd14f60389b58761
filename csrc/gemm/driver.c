/* The loops around the micro-kernel: blocking, edge tiles, threads. Nothing here knows an ISA. */
#include "gemm.h"

#include <pthread.h>
#include <stdlib.h>

enum { MAX_THREADS = 64 };

/* Below this many multiply-adds a thread costs more to start than it saves. */
static const double MIN_WORK_PER_THREAD = 1 << 20;

/* Splits `size` into equal blocks of at most `limit`, each a multiple of `unit`: 1.1 blocks become
 * two of 0.55, not one full and one thin. Depends on the shape only. */
static int64_t even_block(int64_t size, int64_t limit, int64_t unit) {
    int64_t blocks = npk_ceil_div(size, limit);
    return npk_round_up(npk_ceil_div(size, blocks), unit);
}

/* c (+)= tile for tiles the micro-kernel cannot write itself: too narrow, or with columns apart. */
static void store_tile(const float *tile, int64_t rows, int64_t cols, int nr, float *c, int64_t rsc, int64_t csc,
                       bool accumulate) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float *dst = c + i * rsc + j * csc;
            *dst = accumulate ? *dst + tile[i * nr + j] : tile[i * nr + j];
        }
}

/* Packed A block (mc x kc) times packed B block (kc x nc). */
static void macro_kernel(const sgemm_ctx *ctx, int64_t mc, int64_t nc, int64_t kc, const float *a, const float *b,
                         float *c, int64_t rsc, int64_t csc, bool accumulate) {
    _Alignas(64) float tile[SGEMM_MAX_TILE];
    for (int64_t j = 0; j < nc; j += ctx->nr) {
        int64_t cols = npk_min(ctx->nr, nc - j);
        for (int64_t i = 0; i < mc; i += ctx->mr) {
            int64_t rows = npk_min(ctx->mr, mc - i);
            float *dst = c + i * rsc + j * csc;
            if (cols == ctx->nr && csc == 1) {
                ctx->ukr[rows - 1](kc, a + i * kc, b + j * kc, dst, rsc, accumulate);
            } else {
                ctx->ukr[rows - 1](kc, a + i * kc, b + j * kc, tile, ctx->nr, false);
                store_tile(tile, rows, cols, ctx->nr, dst, rsc, csc, accumulate);
            }
        }
    }
}

static void fill_zero(const sgemm_args *g) {
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++)
            g->c[i * g->rsc + j * g->csc] = 0.0f;
}

/* The five loops of Goto's algorithm; the two innermost are macro_kernel. */
static int multiply(const sgemm_ctx *ctx, const sgemm_args *g) {
    int64_t kc_max = even_block(g->k, ctx->kc, 1);
    int64_t mc_max = even_block(g->m, ctx->mc, ctx->mr), nc_max = even_block(g->n, ctx->nc, ctx->nr);
    float *a_block = npk_alloc_floats(mc_max * kc_max), *b_block = npk_alloc_floats(nc_max * kc_max);
    int status = a_block && b_block ? NPK_OK : NPK_ENOMEM;
    for (int64_t jc = 0; jc < g->n && status == NPK_OK; jc += nc_max) {
        int64_t nc = npk_min(nc_max, g->n - jc);
        for (int64_t pc = 0; pc < g->k; pc += kc_max) {
            int64_t kc = npk_min(kc_max, g->k - pc);
            sgemm_pack(ctx->nr, nc, kc, g->b + pc * g->rsb + jc * g->csb, g->csb, g->rsb, b_block);
            for (int64_t ic = 0; ic < g->m; ic += mc_max) {
                int64_t mc = npk_min(mc_max, g->m - ic);
                sgemm_pack(ctx->mr, mc, kc, g->a + ic * g->rsa + pc * g->csa, g->rsa, g->csa, a_block);
                macro_kernel(ctx, mc, nc, kc, a_block, b_block, g->c + ic * g->rsc + jc * g->csc, g->rsc, g->csc,
                             pc > 0);
            }
        }
    }
    free(a_block);
    free(b_block);
    return status;
}

typedef struct {
    const sgemm_ctx *ctx;
    sgemm_args args;
    int status;
} job;

static void *run_job(void *arg) {
    job *j = arg;
    j->status = multiply(j->ctx, &j->args);
    return NULL;
}

/* Rows or columns [start, start + size) of the product, for one thread. */
static sgemm_args slice(const sgemm_args *g, bool by_rows, int64_t start, int64_t size) {
    sgemm_args s = *g;
    if (by_rows) {
        s.m = size;
        s.a += start * g->rsa;
        s.c += start * g->rsc;
    } else {
        s.n = size;
        s.b += start * g->csb;
        s.c += start * g->csc;
    }
    return s;
}

static int useful_threads(const sgemm_args *g, int64_t units, int threads) {
    double by_work = (double)g->m * (double)g->n * (double)g->k / MIN_WORK_PER_THREAD;
    int64_t limit = npk_min(npk_min(threads, MAX_THREADS), units);
    return by_work < (double)limit ? (by_work < 1.0 ? 1 : (int)by_work) : (int)limit;
}

/* Each thread computes its own stripe of C, along the longer side, and packs for itself: no barrier,
 * and K is never split, so the bits are those of one thread. */
static int multiply_threaded(const sgemm_ctx *ctx, const sgemm_args *g, int threads) {
    bool by_rows = g->m >= g->n;
    int64_t size = by_rows ? g->m : g->n, unit = by_rows ? ctx->mr : ctx->nr;
    int count = useful_threads(g, npk_ceil_div(size, unit), threads);
    if (count <= 1)
        return multiply(ctx, g);

    job jobs[MAX_THREADS] = {{0}};
    pthread_t ids[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    int64_t share = npk_round_up(npk_ceil_div(size, count), unit);
    count = (int)npk_ceil_div(size, share);
    for (int t = 0; t < count; t++) {
        int64_t start = t * share;
        jobs[t] = (job){ctx, slice(g, by_rows, start, npk_min(share, size - start)), NPK_OK};
    }
    for (int t = 1; t < count; t++)
        started[t] = pthread_create(&ids[t], NULL, run_job, &jobs[t]) == 0;
    run_job(&jobs[0]);
    int status = jobs[0].status;
    for (int t = 1; t < count; t++) {
        if (started[t])
            pthread_join(ids[t], NULL);
        else
            run_job(&jobs[t]); /* no thread to be had: do it here */
        status = status != NPK_OK ? status : jobs[t].status;
    }
    return status;
}

/* The same product seen as C^T = B^T A^T. */
static sgemm_args transposed(const sgemm_args *g) {
    return (sgemm_args){g->n, g->m, g->k, g->b, g->csb, g->rsb, g->a, g->csa, g->rsa, g->c, g->csc, g->rsc};
}

/* Whether every offset i * rs + j * cs, in bytes, of a (rows, cols) operand stays within int64. */
static bool spans_fit(int64_t rows, int64_t cols, int64_t rs, int64_t cs) {
    int64_t down, across, span, bytes, elements;
    if (rs == INT64_MIN || cs == INT64_MIN) /* has no magnitude */
        return false;
    return !__builtin_mul_overflow(rows, rs < 0 ? -rs : rs, &down)
           && !__builtin_mul_overflow(cols, cs < 0 ? -cs : cs, &across)
           && !__builtin_add_overflow(down, across, &span)
           && !__builtin_mul_overflow(span, (int64_t)sizeof(float), &bytes)
           && !__builtin_mul_overflow(rows, cols, &elements)
           && !__builtin_mul_overflow(elements, (int64_t)sizeof(float), &bytes);
}

static const sgemm_ctx *context(int isa) {
    switch (isa) {
    case NPK_GENERIC: return sgemm_ctx_generic();
    case NPK_AVX2: return sgemm_ctx_avx2();
    case NPK_AVX512: return sgemm_ctx_avx512();
    default: return NULL;
    }
}

int npk_sgemm(int isa, int64_t m, int64_t n, int64_t k, const float *a, int64_t rsa, int64_t csa, const float *b,
              int64_t rsb, int64_t csb, float *c, int64_t rsc, int64_t csc, int threads) {
    sgemm_args g = {m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, csc};
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || m < 0 || n < 0 || k < 0 || threads < 1)
        return NPK_EINVAL;
    if (!spans_fit(m, k, rsa, csa) || !spans_fit(k, n, rsb, csb) || !spans_fit(m, n, rsc, csc))
        return NPK_EOVERFLOW;
    const sgemm_ctx *ctx = context(isa);
    if (!ctx)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    if (!c || (k > 0 && (!a || !b)))
        return NPK_EINVAL;
    if (k == 0) {
        fill_zero(&g);
        return NPK_OK;
    }
    /* Micro-kernels write along rows; a column-major or one-column C is turned over. */
    if (rsc == 1 && (csc != 1 || n == 1))
        g = transposed(&g);
    return multiply_threaded(ctx, &g, threads);
}
