/* Block-scaled product of codes, which are decoded on the way, with the tiles of the weight kernels. */
#include "../common/threads.h"
#include "../formats/formats.h"
#include "wgemm.h"

#include <stdlib.h>
#include <string.h>

enum { COLS = 256, LEAST_COLS = 64, PARTS_PER_THREAD = 4, ROWS_PER_TASK = 192 };

typedef struct {
    const uint8_t *codes;
    int64_t bytes; /* of a code */
    void (*decode)(int64_t n, const uint8_t *codes, float *x);
} operand;

typedef struct {
    const wgemm_ctx *ctx;
    int64_t m, n, k, block, blocks, cols, across; /* blocks of k, columns of a task, tasks side by side */
    operand a, b;
    const float *a_scale, *b_scale;
    float *packed; /* A: chunks of k one after the other, rows of a chunk likewise */
    float *y;
    _Atomic bool failed;
} product;

/* Steps of k from p to the end of its chunk. */
static int64_t chunk_length(const product *g, int64_t p) {
    return npk_min(npk_min(WGEMM_CHUNK, g->block - p % g->block), g->k - p);
}

static void take(const operand *from, int64_t at, int64_t n, float *dst) {
    from->decode(n, from->codes + at * from->bytes, dst);
}

static void pack_rows(void *context, int64_t task) {
    const product *g = context;
    int64_t first = task * ROWS_PER_TASK, end = npk_min(first + ROWS_PER_TASK, g->m);
    for (int64_t p = 0, len; p < g->k; p += len) {
        len = chunk_length(g, p);
        for (int64_t i = first; i < end; i++)
            take(&g->a, i * g->k + p, len, g->packed + g->m * p + i * len);
    }
}

/* b[p .. p + len) of `cols` columns in panels of 16, missing columns zero. */
static void take_panels(const product *g, int64_t p, int64_t len, int64_t j0, int64_t cols, float *dst) {
    float row[COLS] = {0};
    for (int64_t i = 0; i < len; i++) {
        take(&g->b, (p + i) * g->n + j0, cols, row);
        for (int64_t j = 0; j < cols; j += WGEMM_NR)
            memcpy(dst + j * WGEMM_CHUNK + i * WGEMM_NR, row + j, WGEMM_NR * sizeof *row);
    }
}

static void multiply(const product *g, int64_t i0, int64_t rows, int64_t j0, int64_t cols, float *w, float *y) {
    int64_t mr = g->ctx->mr;
    float scale[COLS] = {0};
    for (int64_t p = 0, len; p < g->k; p += len) {
        int64_t at = p / g->block;
        len = chunk_length(g, p);
        memcpy(scale, g->b_scale + at * g->n + j0, (size_t)cols * sizeof *scale);
        take_panels(g, p, len, j0, cols, w);
        for (int64_t j = 0; j < cols; j += WGEMM_NR)
            for (int64_t i = 0; i < rows; i += mr)
                g->ctx->tile[npk_min(mr, rows - i) - 1](len, g->packed + g->m * p + (i0 + i) * len, len,
                                                        w + j * WGEMM_CHUNK, scale + j,
                                                        g->a_scale + (i0 + i) * g->blocks + at, g->blocks,
                                                        y + i * g->cols + j, g->cols);
    }
}

static void run_task(void *context, int64_t task) {
    product *g = context;
    int64_t i0 = task / g->across * ROWS_PER_TASK, j0 = task % g->across * g->cols;
    int64_t rows = npk_min(ROWS_PER_TASK, g->m - i0), cols = npk_min(g->cols, g->n - j0);
    float *w = npk_alloc_floats(g->cols * (WGEMM_CHUNK + rows));
    if (!w) {
        g->failed = true;
        return;
    }
    float *y = w + g->cols * WGEMM_CHUNK;
    memset(y, 0, (size_t)(rows * g->cols) * sizeof *y);
    multiply(g, i0, rows, j0, cols, w, y);
    for (int64_t i = 0; i < rows; i++)
        memcpy(g->y + (i0 + i) * g->n + j0, y + i * g->cols, (size_t)cols * sizeof *y);
    free(w);
}

static int run(product *g, int threads) {
    int64_t part = npk_round_up(npk_ceil_div(g->n, (int64_t)threads * PARTS_PER_THREAD), WGEMM_NR);
    g->cols = part < LEAST_COLS ? LEAST_COLS : npk_min(part, COLS);
    g->across = npk_ceil_div(g->n, g->cols);
    g->packed = npk_alloc_floats(g->m * g->k);
    if (!g->packed)
        return NPK_ENOMEM;
    int64_t tasks = npk_ceil_div(g->m, ROWS_PER_TASK);
    int status = npk_parallel(threads, tasks, pack_rows, g);
    if (status == NPK_OK)
        status = npk_parallel(threads, tasks * g->across, run_task, g);
    free(g->packed);
    return g->failed ? NPK_ENOMEM : status;
}

/* Sizes whose products, in bytes, all fit. */
static bool fits(int64_t m, int64_t n, int64_t k) {
    int64_t limit = INT64_MAX / 4096, bytes;
    return m <= limit && n <= limit && k <= limit && !__builtin_mul_overflow(m + 64, 16 * (n + 64), &bytes)
           && !__builtin_mul_overflow(m + 64, 16 * (k + 64), &bytes)
           && !__builtin_mul_overflow(k + 64, 16 * (n + 64), &bytes);
}

/* Codes of a format, NPK_EINVAL when one has more bits than it. */
static int take_operand(const codec_ctx *codec, int format, int64_t n, const uint8_t *codes, operand *x) {
    if (format < 0 || format >= NPK_FMT_COUNT)
        return NPK_EINVAL;
    int bits = codec_bits(format), used = 0;
    *x = (operand){codes, bits > 8 ? 2 : 1, codec->decode[format]};
    for (int64_t i = 0; i < n && bits < 8; i++)
        used |= codes[i];
    return bits < 8 && used >> bits ? NPK_EINVAL : NPK_OK;
}

/* Scales (rows, cols) of a matrix whose elements lie `down` and `across` apart, each `repeat` times along its row. */
static int take_scales(int isa, int kind, int64_t rows, int64_t cols, int64_t repeat, const void *stored, int64_t down,
                       int64_t across, float *scale) {
    if (repeat == 1 && across == 1 && down == cols)
        return npk_decode_scales(isa, kind, 1.0f, rows * cols, stored, scale);
    int64_t size = kind == NPK_SCALE_FLOAT ? 4 : 1;
    char *gathered = malloc((size_t)(rows * cols * size));
    if (!gathered)
        return NPK_ENOMEM;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const char *from = (const char *)stored + (i * down + j / repeat * across) * size;
            memcpy(gathered + (i * cols + j) * size, from, (size_t)size);
        }
    int status = npk_decode_scales(isa, kind, 1.0f, rows * cols, gathered, scale);
    free(gathered);
    return status;
}

/* The checked product; `scale` has room for the scales of both operands. */
static int scaled_product(int isa, const npk_block_rule *r, product *g, const void *a_scale, const void *b_scale,
                          float *scale, int threads) {
    g->a_scale = scale;
    g->b_scale = scale + g->m * g->blocks;
    int status = take_scales(isa, r->scale_kind, g->m, g->blocks, 1, a_scale, r->a_down, r->a_across, scale);
    if (status == NPK_OK)
        status = take_scales(isa, r->scale_kind, g->blocks, g->n, r->columns, b_scale, r->b_down, r->b_across,
                             scale + g->m * g->blocks);
    if (status == NPK_OK)
        status = run(g, threads);
    for (int64_t i = 0; status == NPK_OK && r->alpha != 1.0f && i < g->m * g->n; i++)
        g->y[i] *= r->alpha;
    return status;
}

int npk_block_gemm(int isa, const npk_block_rule *r, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                   const uint8_t *b, const void *a_scale, const void *b_scale, float *y, int threads) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || !r || m < 0 || n < 0 || k < 0 || r->block < 1 || r->columns < 1
        || threads < 1 || r->scale_kind < NPK_SCALE_FLOAT || r->scale_kind > NPK_SCALE_FP8)
        return NPK_EINVAL;
    if (!fits(m, n, k))
        return NPK_EOVERFLOW;
    const codec_ctx *codec = codec_ctx_of(isa);
    product g = {.ctx = wgemm_ctx_of(isa), .m = m, .n = n, .k = k, .block = r->block, .y = y,
                 .blocks = npk_ceil_div(k, r->block)};
    if (!g.ctx || !codec)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    if (!y || (k > 0 && (!a || !b || !a_scale || !b_scale)))
        return NPK_EINVAL;
    int status = take_operand(codec, r->a_format, m * k, a, &g.a);
    if (status == NPK_OK)
        status = take_operand(codec, r->b_format, k * n, b, &g.b);
    if (status != NPK_OK)
        return status;
    float *scale = npk_alloc_floats(g.blocks * (m + n));
    if (!scale)
        return NPK_ENOMEM;
    status = scaled_product(isa, r, &g, a_scale, b_scale, scale, threads);
    free(scale);
    return status;
}
