/* The loops around the tiles: blocks, edges, zero points, threads. Nothing here knows an instruction set. */
#include "../common/threads.h"
#include "qgemm.h"

#include <stdlib.h>
#include <string.h>

/* Below this many multiply-adds a thread costs more to start than it saves. */
static const double MIN_WORK_PER_THREAD = 1 << 21;

enum {
    ALIGN = 64,
    GROUP = 1024, /* k: blocks of any way divide it */
    A_CACHE = 1 << 18,
    PLAIN = 1 << 17, /* sums of larger results fall into few cache sets */
};

typedef struct {
    const qgemm_ctx *ctx;
    int64_t m, n, k;
    const uint8_t *a;
    int64_t lda;
    bool a_signed;
    const int8_t *packed;
    const uint8_t *small;  /* NULL: no panel goes the way for small weights */
    int32_t b_zero;        /* of all columns, if tiles take it */
    qgemm_output output;
    char *out;
    int64_t out_size;      /* bytes of an output element */
    bool plain;            /* sums are the result, which is small: full tiles write it */
    int64_t mc, nc;        /* output block of a task */
    int64_t blocks_across;
    int failed;            /* set by any task that finds no memory */
} product;

/* Splits `size` into equal blocks of at most `limit`, each a multiple of `unit`. */
static int64_t even_block(int64_t size, int64_t limit, int64_t unit) {
    int64_t blocks = npk_ceil_div(size, limit);
    return npk_round_up(npk_ceil_div(size, blocks), unit);
}

/* Rows of A for one way: blocks of `most` k, one after the other, whose rows are `stride` bytes apart. */
typedef struct {
    char *a;       /* NULL: no panel goes this way */
    bool as_is;    /* few rows multiply panels as they are */
    int64_t most, stride;
} left;

/* A task: a block of the output. Its memory: A for either way, a part of a panel, the sums. */
typedef struct {
    const product *g;
    int64_t i0, rows, j0, cols, panel, panels;
    int64_t direct; /* columns whose sums are written to the result */
    int64_t group;  /* k that A is converted for at a time */
    left left[2];
    char *memory;
    int8_t *expanded;
    int32_t *acc;
    int64_t ldacc;
} block;

static const qgemm_way *way_of(const product *g, bool small) { return small ? g->ctx->small : &g->ctx->any; }

static bool goes_small(const product *g, int64_t panel) { return g->small && g->small[panel]; }

/* As many k at a time as stay in cache, so that panels of few rows are read from end to end. */
static void set_blocks(block *t) {
    const product *g = t->g;
    int64_t units = 1 + A_CACHE / (t->rows * GROUP * g->ctx->any.a_size);
    t->group = npk_min(units * GROUP, npk_round_up(g->k, 4));
    for (int64_t q = 0; q < t->panels; q++) {
        bool small = goes_small(g, t->panel + q);
        const qgemm_way *way = way_of(g, small);
        left *l = &t->left[small];
        l->as_is = t->rows <= way->few;
        l->most = l->as_is ? GROUP * units : way->kc;
        l->stride = l->as_is ? npk_round_up(t->group * way->a_size, ALIGN) + QGEMM_A_EXTRA : way->stride;
    }
}

static bool get_memory(product *g, block *t) {
    int64_t bytes[2] = {0, 0};
    for (int w = 0; w < 2; w++)
        if (t->left[w].stride)
            bytes[w] = npk_round_up(npk_ceil_div(t->group, t->left[w].most) * t->rows * t->left[w].stride, ALIGN);
    t->ldacc = (t->panels | 1) * QGEMM_NR; /* rows of sums in different cache sets */
    int64_t all = bytes[0] + bytes[1] + QGEMM_B_BYTES + npk_round_up(t->rows * t->ldacc * 4, ALIGN);
    t->memory = aligned_alloc(ALIGN, (size_t)all);
    if (!t->memory) {
        __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
        return false;
    }
    t->left[0].a = bytes[0] ? t->memory : NULL;
    t->left[1].a = bytes[1] ? t->memory + bytes[0] : NULL;
    t->expanded = (int8_t *)t->memory + bytes[0] + bytes[1];
    t->acc = (int32_t *)(t->expanded + QGEMM_B_BYTES);
    return true;
}

/* A group of k for the ways that panels go. */
static void convert_rows(const block *t, int64_t k0, int64_t kc) {
    const product *g = t->g;
    for (int small = 0; small < 2; small++) {
        const left *l = &t->left[small];
        char *to = l->a;
        for (int64_t p = 0; to && p < kc; p += l->most, to += t->rows * l->stride)
            way_of(g, small)->convert(t->rows, npk_min(l->most, kc - p), g->a + t->i0 * g->lda + k0 + p, g->lda,
                                      g->a_signed, g->b_zero, to, l->stride);
    }
}

/* Fetches some of what will be read next, which may lie past the end. */
static void fetch(const int8_t *b, int64_t next, int64_t lines) {
    for (int64_t line = 0; line < lines; line++)
        __builtin_prefetch((const void *)((uintptr_t)b + (uintptr_t)(next + 64 * line)));
}

/* One block of k of a tile's panels; what follows is `next` bytes after it. */
static void multiply_part(const block *t, bool small, bool narrow, int64_t k4, const char *a, const int8_t *b,
                          int64_t next, int32_t *acc, int64_t ldacc, bool accumulate) {
    const qgemm_way *way = way_of(t->g, small);
    int64_t stride = t->left[small].stride, panel_bytes = npk_round_up(t->g->k, 4) * QGEMM_NR;
    bool as_is = t->left[small].as_is;
    const qgemm_tile *tiles = as_is ? way->direct : narrow ? way->narrow : way->tile;
    const int8_t *packed = b;
    if (!as_is && way->expand) {
        way->expand(k4, b, t->expanded);
        b = t->expanded;
    }
    int64_t step = even_block(t->rows, as_is ? way->direct_mr : way->mr, 1); /* 8 rows are 4 + 4, not 6 + 2 */
    int64_t lines = as_is ? 0 : npk_ceil_div(k4 * step, t->rows);
    for (int64_t i = 0; i < t->rows; i += step, next += 64 * lines) {
        tiles[npk_min(step, t->rows - i) - 1](k4, a + i * stride, stride, b, panel_bytes, acc + i * ldacc, ldacc,
                                              accumulate);
        fetch(packed, next, lines);
    }
}

/* All panels times a group of k. */
static void multiply_panels(const block *t, int64_t k0, int64_t kc) {
    const product *g = t->g;
    int64_t panel_bytes = npk_round_up(g->k, 4) * QGEMM_NR;
    for (int64_t q = 0; q < t->panels;) {
        int64_t width = npk_min(g->ctx->panels, t->panels - q);
        bool narrow = t->cols - q * QGEMM_NR <= g->ctx->narrow;
        bool small = goes_small(g, t->panel + q);
        const left *l = &t->left[small];
        const int8_t *panel = g->packed + (t->panel + q) * panel_bytes + k0 * QGEMM_NR;
        const char *a = l->a;
        bool direct = q * QGEMM_NR < t->direct;
        int32_t *acc = direct ? (int32_t *)g->out + t->i0 * g->n + t->j0 : t->acc;
        for (int64_t p = 0; p < kc; p += l->most, a += t->rows * l->stride) {
            int64_t next = p + l->most < kc ? l->most * QGEMM_NR : width * panel_bytes - p * QGEMM_NR;
            multiply_part(t, small, narrow, npk_ceil_div(npk_min(l->most, kc - p), 4), a, panel + p * QGEMM_NR, next,
                          acc + q * QGEMM_NR, direct ? g->n : t->ldacc, k0 + p > 0);
        }
        q += width;
    }
}

static void finish_rows(const block *t) {
    const product *g = t->g;
    for (int64_t i = t->i0; i < t->i0 + t->rows && t->direct < t->cols; i++) {
        uint32_t row_sum = 0;
        if (g->output.b_zero)
            row_sum = g->ctx->sum_row(g->k, g->a + i * g->lda, g->a_signed)
                      + (g->a_signed ? (uint32_t)g->ctx->a_flip * (uint32_t)g->k : 0);
        g->ctx->finish(&g->output, i, t->j0 + t->direct, t->cols - t->direct,
                       t->acc + (i - t->i0) * t->ldacc + t->direct, (int32_t)row_sum,
                       g->out + (i * g->n + t->j0 + t->direct) * g->out_size);
    }
}

static void run_task(void *context, int64_t task) {
    product *g = context;
    int64_t i0 = task / g->blocks_across * g->mc, j0 = task % g->blocks_across * g->nc;
    block t = {.g = g, .i0 = i0, .rows = npk_min(g->mc, g->m - i0), .j0 = j0, .cols = npk_min(g->nc, g->n - j0),
               .panel = j0 / QGEMM_NR};
    t.panels = npk_ceil_div(t.cols, QGEMM_NR);
    t.direct = g->plain ? t.cols - t.cols % (g->ctx->panels * QGEMM_NR) : 0;
    set_blocks(&t);
    if (!get_memory(g, &t))
        return;
    for (int64_t k0 = 0; k0 < g->k; k0 += t.group) {
        convert_rows(&t, k0, npk_min(t.group, g->k - k0));
        multiply_panels(&t, k0, npk_min(t.group, g->k - k0));
    }
    if (g->k == 0)
        memset(t.acc, 0, (size_t)(t.rows * t.ldacc) * sizeof *t.acc);
    finish_rows(&t);
    free(t.memory);
}

/* Blocks small enough that all threads have some. The sums are exact, so blocks may depend on the threads. */
static int run(product *g, int threads) {
    const qgemm_ctx *ctx = g->ctx;
    double by_work = (double)g->m * (double)g->n * (double)g->k / MIN_WORK_PER_THREAD;
    if (by_work < threads)
        threads = by_work < 1.0 ? 1 : (int)by_work;
    g->mc = even_block(g->m, ctx->mc, ctx->any.mr);
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

/* A zero point that all columns share goes to the tiles. */
static void take_zero(product *g) {
    const int32_t *zero = g->output.b_zero;
    int32_t differ = 0;
    for (int64_t j = 0; zero && j < g->n; j++)
        differ |= zero[j] ^ zero[0];
    if (zero && g->ctx->takes_zero && !differ) {
        g->b_zero = zero[0];
        g->output.b_zero = NULL;
    }
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
                    const uint8_t *small, const int32_t *b_zero, const int32_t *bias, int kind, const float *row_scale, const float *scale,
                    const float *float_bias, const int32_t *shift, const void *out) {
    int64_t size = m * n * (kind <= NPK_QOUT_F32 ? 4 : 1);
    int64_t panels = npk_round_up(n, QGEMM_NR) * npk_round_up(k, 4);
    if (npk_overlap(out, size, a, (m - 1) * lda + k) || npk_overlap(out, size, packed, panels)
        || npk_overlap(out, size, row_scale, 4 * m) || npk_overlap(out, size, small, npk_ceil_div(n, QGEMM_NR)))
        return true;
    const void *columns[] = {b_zero, bias, scale, float_bias, shift};
    for (int i = 0; i < 5; i++)
        if (npk_overlap(out, size, columns[i], 4 * n))
            return true;
    return false;
}

int npk_qgemm(int isa, int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, int a_signed,
              const int8_t *packed, const int32_t *sums, const uint8_t *small, int32_t a_zero, const int32_t *b_zero,
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
    if (clashes(m, n, k, a, lda, packed, small, b_zero, bias, kind, row_scale, scale, float_bias, shift, out))
        return NPK_EALIAS;
    qgemm_output output = {kind, double_round, zero, NULL, b_zero, row_scale, scale, float_bias,
                           (const int32_t *)scale, shift};
    product g = {.ctx = ctx, .m = m, .n = n, .k = k, .a = a, .lda = lda, .a_signed = a_signed, 
                 .packed = packed, .small = ctx->small && !a_signed ? small : NULL, .output = output, .out = out,
                 .out_size = kind <= NPK_QOUT_F32 ? 4 : 1};
    int32_t *offset = column_offsets(&g, sums, moved_zero, bias);
    if (!offset)
        return NPK_ENOMEM;
    g.output.offset = offset;
    take_zero(&g);
    g.plain = kind == NPK_QOUT_S32 && !bias && !moved_zero && !g.output.b_zero && k > 0 && m <= PLAIN / n;
    int status = run(&g, threads);
    free(offset);
    return status;
}
