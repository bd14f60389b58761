/* The loops around the tiles: blocks, edges, zero points, threads. Nothing here knows an instruction set. */
#include "../common/threads.h"
#include "qgemm.h"

#include <stdlib.h>
#include <string.h>

/* Below this many multiply-adds a thread costs more to start than it saves. */
static const double MIN_WORK_PER_THREAD = 1 << 21;

enum { ALIGN = 64, SMALL_LEAST = 32 }; /* rows that pay for looking at the weights */

typedef struct {
    const qgemm_ctx *ctx;
    int64_t m, n, k;
    const uint8_t *a;
    int64_t lda;
    bool a_signed;
    const int8_t *packed;
    qgemm_output output;
    char *out;
    int64_t out_size;      /* bytes of an output element */
    int64_t mc, nc;        /* output block of a task */
    int64_t blocks_across;
    int failed;            /* set by any task that finds no memory */
} product;

/* Splits `size` into equal blocks of at most `limit`, each a multiple of `unit`. */
static int64_t even_block(int64_t size, int64_t limit, int64_t unit) {
    int64_t blocks = npk_ceil_div(size, limit);
    return npk_round_up(npk_ceil_div(size, blocks), unit);
}

static uint32_t sum_row(int64_t k, const uint8_t *a, bool is_signed) {
    uint32_t sum = 0;
    if (is_signed)
        for (int64_t p = 0; p < k; p++)
            sum += (uint32_t)(int8_t)a[p];
    else
        for (int64_t p = 0; p < k; p++)
            sum += a[p];
    return sum;
}

static void finish_rows(const product *g, int64_t i0, int64_t rows, int64_t j0, int64_t cols, const int32_t *acc,
                        int64_t ldacc) {
    for (int64_t i = i0; i < i0 + rows; i++, acc += ldacc) {
        uint32_t row_sum = 0;
        if (g->output.b_zero)
            row_sum = sum_row(g->k, g->a + i * g->lda, g->a_signed)
                      + (g->a_signed ? (uint32_t)g->ctx->a_flip * (uint32_t)g->k : 0);
        g->ctx->finish(&g->output, i, j0, cols, acc, (int32_t)row_sum, g->out + (i * g->n + j0) * g->out_size);
    }
}

/* All panels of the block times one block of k. */
static void multiply_panels(const product *g, int64_t rows, int64_t panel, int64_t panels, int64_t k0, int64_t kc,
                            const char *a, const char *bytes, int16_t *expanded, int32_t *acc, int64_t ldacc) {
    const qgemm_ctx *ctx = g->ctx;
    int64_t next = npk_round_up(g->k, 4) * QGEMM_NR, k4 = npk_ceil_div(kc, 4);
    int64_t step = even_block(rows, ctx->mr, 1); /* 8 rows are 4 + 4, not 6 + 2 */
    for (int64_t q = 0; q < panels;) {
        int width = panels - q >= ctx->panels ? ctx->panels : 1;
        const qgemm_tile *tiles = width == ctx->panels ? ctx->tile : ctx->single;
        const int8_t *b = g->packed + (panel + q) * next + k0 * QGEMM_NR;
        if (bytes && ctx->is_small(k4, b, next)) {
            for (int64_t i = 0; i < rows; i += ctx->small_rows)
                ctx->small[npk_min(ctx->small_rows, rows - i) - 1](k4, bytes + i * QGEMM_A_STRIDE, QGEMM_A_STRIDE, b, 0,
                                                                   acc + i * ldacc + q * QGEMM_NR, ldacc, k0 > 0);
            q += width;
            continue;
        }
        if (ctx->expand) {
            ctx->expand(k4, b, next, expanded);
            b = (const int8_t *)expanded;
        }
        for (int64_t i = 0; i < rows; i += step)
            tiles[npk_min(step, rows - i) - 1](k4, a + i * QGEMM_A_STRIDE, QGEMM_A_STRIDE, b, next,
                                                  acc + i * ldacc + q * QGEMM_NR, ldacc, k0 > 0);
        q += width;
    }
}

/* Rows of A as they are, k padded with zeros to a multiple of 4. */
static void copy_bytes(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, char *dst) {
    for (int64_t i = 0; i < rows; i++, a += lda, dst += QGEMM_A_STRIDE) {
        memcpy(dst, a, (size_t)k);
        memset(dst + k, 0, (size_t)(-k & 3));
    }
}

static void multiply_block(product *g, int64_t i0, int64_t rows, int64_t j0, int64_t cols) {
    const qgemm_ctx *ctx = g->ctx;
    int64_t panels = npk_ceil_div(cols, QGEMM_NR), ldacc = panels * QGEMM_NR;
    int64_t kc = QGEMM_A_BYTES / ctx->a_size;
    int64_t a_bytes = rows * QGEMM_A_STRIDE, b_bytes = ctx->expand ? QGEMM_A_BYTES * QGEMM_NR : 0;
    bool may_be_small = ctx->is_small && !g->a_signed && rows >= SMALL_LEAST;
    int64_t more = may_be_small ? a_bytes : 0;
    char *scratch = aligned_alloc(ALIGN, (size_t)npk_round_up(a_bytes + b_bytes + rows * ldacc * 4 + more, ALIGN));
    if (!scratch) {
        __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    int16_t *expanded = (int16_t *)(scratch + a_bytes);
    int32_t *acc = (int32_t *)(scratch + a_bytes + b_bytes);
    char *bytes = may_be_small ? (char *)(acc + rows * ldacc) : NULL;
    for (int64_t k0 = 0; k0 < g->k; k0 += kc) {
        int64_t steps = npk_min(kc, g->k - k0);
        ctx->convert(rows, steps, g->a + i0 * g->lda + k0, g->lda, g->a_signed, scratch, QGEMM_A_STRIDE);
        if (bytes)
            copy_bytes(rows, steps, g->a + i0 * g->lda + k0, g->lda, bytes);
        multiply_panels(g, rows, j0 / QGEMM_NR, panels, k0, steps, scratch, bytes, expanded, acc, ldacc);
    }
    if (g->k == 0)
        memset(acc, 0, (size_t)(rows * ldacc) * sizeof *acc);
    finish_rows(g, i0, rows, j0, cols, acc, ldacc);
    free(scratch);
}

/* Few rows: every panel is read once from end to end. */
static void stream_block(product *g, int64_t j0, int64_t cols) {
    const qgemm_ctx *ctx = g->ctx;
    int64_t panels = npk_ceil_div(cols, QGEMM_NR), ldacc = panels * QGEMM_NR;
    int64_t k4 = npk_ceil_div(g->k, 4), stride = npk_round_up(4 * k4 * ctx->a_size, ALIGN);
    char *scratch = aligned_alloc(ALIGN, (size_t)npk_round_up(g->m * (stride + ldacc * 4), ALIGN));
    if (!scratch) {
        __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    int32_t *acc = (int32_t *)(scratch + g->m * stride);
    ctx->convert(g->m, g->k, g->a, g->lda, g->a_signed, scratch, stride);
    for (int64_t q = 0; q < panels; q++)
        ctx->direct[g->m - 1](k4, scratch, stride, g->packed + (j0 / QGEMM_NR + q) * k4 * 64, 0, acc + q * QGEMM_NR,
                              ldacc, false);
    finish_rows(g, 0, g->m, j0, cols, acc, ldacc);
    free(scratch);
}

static void run_task(void *context, int64_t task) {
    product *g = context;
    int64_t i0 = task / g->blocks_across * g->mc, j0 = task % g->blocks_across * g->nc;
    int64_t rows = npk_min(g->mc, g->m - i0), cols = npk_min(g->nc, g->n - j0);
    if (g->m <= g->ctx->direct_rows)
        stream_block(g, j0, cols);
    else
        multiply_block(g, i0, rows, j0, cols);
}

/* Blocks small enough that all threads have some. The sums are exact, so blocks may depend on the threads. */
static int run(product *g, int threads) {
    const qgemm_ctx *ctx = g->ctx;
    double by_work = (double)g->m * (double)g->n * (double)g->k / MIN_WORK_PER_THREAD;
    if (by_work < threads)
        threads = by_work < 1.0 ? 1 : (int)by_work;
    g->mc = even_block(g->m, ctx->mc, ctx->mr);
    int64_t down = npk_ceil_div(g->m, g->mc), unit = (int64_t)ctx->panels * QGEMM_NR;
    int64_t share = npk_ceil_div(threads > 1 ? 4 * threads : 1, down);
    int64_t limit = npk_ceil_div(g->n, share);
    limit = limit < 4 * unit ? 4 * unit : limit;
    g->nc = even_block(g->n, npk_min(limit, ctx->nc), unit);
    g->blocks_across = npk_ceil_div(g->n, g->nc);
    int status = npk_parallel(threads, down * g->blocks_across, run_task, g);
    return g->failed ? NPK_ENOMEM : status;
}

/* What every sum of a column gets: bias - za s + k za zb. */
static int32_t *column_offsets(const product *g, const int32_t *sums, uint32_t a_zero, const int32_t *bias) {
    int32_t *offset = malloc((size_t)g->n * sizeof *offset);
    if (!offset)
        return NULL;
    for (int64_t j = 0; j < g->n; j++)
        offset[j] = bias ? bias[j] : 0;
    if (a_zero)
        for (int64_t j = 0; j < g->n; j++) {
            uint32_t b_zero = g->output.b_zero ? (uint32_t)g->output.b_zero[j] : 0;
            offset[j] = (int32_t)((uint32_t)offset[j] - a_zero * ((uint32_t)sums[j] - (uint32_t)g->k * b_zero));
        }
    return offset;
}

static const qgemm_ctx *context_of(int isa) {
    switch (isa) {
    case NPK_GENERIC: return qgemm_ctx_generic();
    case NPK_AVX2: return qgemm_ctx_avx2();
    case NPK_AVX512: return qgemm_ctx_vnni();
    default: return NULL;
    }
}

/* Whether every product of sizes, in bytes and with padding, stays within int64. */
static bool sizes_fit(int64_t m, int64_t n, int64_t k, int64_t lda) {
    int64_t bytes;
    return m < INT64_MAX / 8192 && n < INT64_MAX / 8192 && k < INT64_MAX / 8192
           && !__builtin_mul_overflow(m, lda, &bytes) && !__builtin_mul_overflow(n + 64, 8 * (k + 64), &bytes)
           && !__builtin_mul_overflow(m + 64, 8 * (n + 64), &bytes)
           && !__builtin_mul_overflow(m + 64, 8 * (k + 64), &bytes);
}

static bool output_complete(int kind, int64_t n, const float *scale, const int32_t *shift) {
    if (kind < NPK_QOUT_S32 || kind > NPK_QOUT_TOSA_U8 || (kind != NPK_QOUT_S32 && !scale))
        return false;
    if (kind < NPK_QOUT_TOSA_S8)
        return true;
    for (int64_t j = 0; shift && j < n; j++)
        if (shift[j] < 2 || shift[j] > 62)
            return false;
    return shift != NULL;
}

/* Whether the result shares memory with an input. */
static bool clashes(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *packed,
                    const int32_t *b_zero, const int32_t *bias, int kind, const float *row_scale, const float *scale,
                    const float *float_bias, const int32_t *shift, const void *out) {
    int64_t size = m * n * (kind <= NPK_QOUT_F32 ? 4 : 1);
    int64_t panels = npk_round_up(n, QGEMM_NR) * npk_round_up(k, 4);
    if (npk_overlap(out, size, a, (m - 1) * lda + k) || npk_overlap(out, size, packed, panels)
        || npk_overlap(out, size, row_scale, 4 * m))
        return true;
    const void *columns[] = {b_zero, bias, scale, float_bias, shift};
    for (int i = 0; i < 5; i++)
        if (npk_overlap(out, size, columns[i], 4 * n))
            return true;
    return false;
}

int npk_qgemm(int isa, int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, int a_signed,
              const int8_t *packed, const int32_t *sums, int32_t a_zero, const int32_t *b_zero,
              const int32_t *bias, int kind, const float *row_scale, const float *scale, const float *float_bias,
              const int32_t *shift, int double_round, int32_t zero, void *out, int threads) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || m < 0 || n < 0 || k < 0 || lda < 0 || threads < 1)
        return NPK_EINVAL;
    if (!sizes_fit(m, n, k, lda))
        return NPK_EOVERFLOW;
    const qgemm_ctx *ctx = context_of(isa);
    if (!ctx)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    uint32_t moved_zero = (uint32_t)a_zero + (a_signed ? (uint32_t)ctx->a_flip : 0);
    if (!out || (k > 0 && (!a || !packed)) || (moved_zero && !sums) || !output_complete(kind, n, scale, shift))
        return NPK_EINVAL;
    if (clashes(m, n, k, a, lda, packed, b_zero, bias, kind, row_scale, scale, float_bias, shift, out))
        return NPK_EALIAS;
    qgemm_output output = {kind, double_round, zero, NULL, b_zero, row_scale, scale, float_bias,
                           (const int32_t *)scale, shift};
    product g = {.ctx = ctx, .m = m, .n = n, .k = k, .a = a, .lda = lda, .a_signed = a_signed, .packed = packed,
                 .output = output, .out = out,
                 .out_size = kind <= NPK_QOUT_F32 ? 4 : 1};
    int32_t *offset = column_offsets(&g, sums, moved_zero, bias);
    if (!offset)
        return NPK_ENOMEM;
    g.output.offset = offset;
    int status = run(&g, threads);
    free(offset);
    return status;
}
