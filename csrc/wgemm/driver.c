/* The loops around the kernels: panels, chunks, rows, threads. Nothing here knows an instruction set. */
#include "../common/threads.h"
#include "../gemm/gemm.h"
#include "wgemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_TASK = 192, STREAM_PANELS = 8, INT8_STEPS = 1024, OFFSET_STEPS = 32, ALIGN = 64 };

/* Below this many multiply-adds a thread costs more to start than it saves. */
static const double MIN_WORK_PER_THREAD = 1 << 19;

typedef struct {
    const wgemm_ctx *ctx;
    const wgemm_int8_ctx *int8;
    int bits;
    int64_t m, n, k, group;
    const float *x;
    const uint8_t *packed;
    const float *scale, *zero, *bias;
    float *y;
    int64_t groups, row_step, panel_step, across; /* of a task; panels across it */
    int8_t *x_codes;
    float *x_scale;
    int32_t *x_sums, *x_offsets;
    int64_t x_ld;
    float *x_tail; /* last chunk of each row, padded with zeros; NULL when k is a multiple of 8 */
} product;

static int64_t even_step(int64_t size, int64_t limit) {
    int64_t parts = npk_ceil_div(size, limit);
    return npk_ceil_div(size, parts);
}

/* y (rows, panels * 16) of a task into the output, with the bias. */
static void store_rows(const product *g, int64_t i0, int64_t rows, int64_t j0, const float *y, int64_t ldy) {
    int64_t cols = npk_min(ldy, g->n - j0);
    for (int64_t i = 0; i < rows; i++) {
        float *dst = g->y + (i0 + i) * g->n + j0;
        const float *src = y + i * ldy;
        for (int64_t j = 0; j < cols; j++)
            dst[j] = g->bias ? src[j] + g->bias[j0 + j] : src[j];
    }
}

static wgemm_chunk chunk_of(const product *g, int64_t panel, int64_t p, int64_t len) {
    int64_t at = (panel * g->groups + p / g->group) * WGEMM_NR;
    int64_t bytes = npk_round_up(g->k, 8) * WGEMM_NR * g->bits / 8;
    return (wgemm_chunk){len, g->packed + panel * bytes + p * WGEMM_NR * g->bits / 8, g->scale + at,
                         g->zero ? g->zero + at : NULL};
}

/* Steps from p to the end of its chunk. */
static int64_t chunk_length(const product *g, int64_t p) {
    int64_t in_group = g->group - p % g->group;
    return npk_min(npk_min(WGEMM_CHUNK, in_group), g->k - p);
}

/* Row i of x from k = p on; the last chunk may lie in its padded copy. */
static const float *row_of(const product *g, int64_t i, int64_t p, int64_t len) {
    return g->x_tail && p + len == g->k ? g->x_tail + i * WGEMM_CHUNK : g->x + i * g->k + p;
}

/* Steps p ... p + len of columns j ... j + nr as the matrix product wants them packed. */
typedef struct {
    gemm_panels panels;
    const product *g;
} decoder;

static void decode_panel(const gemm_panels *self, int64_t j, int64_t p, int64_t len, int nr, float *dst) {
    const product *g = ((const decoder *)(const void *)self)->g;
    float w[WGEMM_CHUNK * WGEMM_NR];
    for (int64_t at = p, count; at < p + len; at += count) {
        count = npk_min(chunk_length(g, at), p + len - at);
        for (int64_t q = 0; q < nr && j + q < g->n; q += WGEMM_NR) {
            wgemm_chunk chunk = chunk_of(g, (j + q) / WGEMM_NR, at, npk_round_up(count, 8));
            float *to = dst + (at - p) * nr + q;
            if (nr == WGEMM_NR && count % 8 == 0) {
                g->ctx->decode(g->bits, &chunk, to);
                continue;
            }
            g->ctx->decode(g->bits, &chunk, w);
            size_t wide = (size_t)npk_min(nr, WGEMM_NR) * sizeof *w;
            for (int64_t r = 0; r < count; r++)
                memcpy(to + r * nr, w + r * WGEMM_NR + j % WGEMM_NR, wide);
        }
    }
}

/* More rows: an ordinary product, whose packing decodes the weights. */
static int multiply_decoded(const product *g, int isa, int threads) {
    decoder source = {{decode_panel}, g};
    gemm_args args = {.m = g->m, .n = g->n, .k = g->k, .a = {g->x, g->k, 1, NPK_GEMM_F32}, .panels = &source.panels,
                      .c = g->y, .rsc = g->n, .csc = 1};
    const gemm_ctx *ctx = gemm_context(isa);
    if (!ctx)
        return NPK_EUNSUPPORTED;
    if (g->k == 0)
        memset(g->y, 0, (size_t)(g->m * g->n) * sizeof *g->y);
    int status = g->k ? gemm_run(ctx, &args, NPK_GEMM_F32, threads) : NPK_OK;
    for (int64_t i = 0; g->bias && status == NPK_OK && i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++)
            g->y[i * g->n + j] += g->bias[j];
    return status;
}

static void stream_task(const product *g, int64_t panel, int64_t panels) {
    float y[WGEMM_STREAM_ROWS * WGEMM_NR];
    for (int64_t q = panel; q < panel + panels; q++) {
        memset(y, 0, sizeof y);
        for (int64_t p = 0, len; p < g->k; p += len) {
            len = chunk_length(g, p);
            wgemm_chunk chunk = chunk_of(g, q, p, npk_round_up(len, 8));
            for (int64_t i = 0; i < g->m; i++)
                g->ctx->stream(g->bits, &chunk, row_of(g, i, p, len), y + i * WGEMM_NR);
        }
        store_rows(g, 0, g->m, q * WGEMM_NR, y, WGEMM_NR);
    }
}

/* Some k at a time, so that a panel's stay in L1 for all rows; sums wait in `y`. */
static void int8_task(const product *g, int64_t i0, int64_t rows, int64_t panel, int64_t panels) {
    float y[ROWS_PER_TASK * WGEMM_NR];
    int64_t k = npk_round_up(g->k, 8), blocks = npk_ceil_div(g->k, OFFSET_STEPS), step = even_step(rows, g->int8->mr);
    int64_t most = INT8_STEPS > g->group ? INT8_STEPS / g->group * g->group : g->group;
    for (int64_t q = panel; q < panel + panels; q++) {
        memset(y, 0, (size_t)(rows * WGEMM_NR) * sizeof *y);
        for (int64_t p = 0; p < k; p += most) {
            int64_t group = p / g->group, at = (q * g->groups + group) * WGEMM_NR;
            for (int64_t i = 0; i < rows; i += step) {
                int64_t row = (i0 + i) * g->groups + group;
                wgemm_rows x = {g->x_codes + (i0 + i) * g->x_ld + p, g->x_ld,        g->groups, blocks,
                                g->x_scale + row,                     g->x_sums + row,
                                g->x_offsets + (i0 + i) * blocks + p / OFFSET_STEPS};
                g->int8->tile[npk_min(step, rows - i) - 1](npk_min(most, k - p), g->group, &x,
                                                           g->packed + (q * k + p) * 8, g->scale + at,
                                                           g->zero ? g->zero + at : NULL, y + i * WGEMM_NR, WGEMM_NR);
            }
        }
        store_rows(g, i0, rows, q * WGEMM_NR, y, WGEMM_NR);
    }
}

static void run_task(void *context, int64_t task) {
    product *g = context;
    int64_t all = npk_ceil_div(g->n, WGEMM_NR);
    int64_t i0 = task / g->across * g->row_step, panel = task % g->across * g->panel_step;
    int64_t rows = npk_min(g->row_step, g->m - i0), panels = npk_min(g->panel_step, all - panel);
    if (g->int8)
        int8_task(g, i0, rows, panel, panels);
    else
        stream_task(g, panel, panels);
}

/* The offsets of wgemm_rows for one row. */
static void offset_row(const product *g, int64_t i) {
    int64_t blocks = npk_ceil_div(g->k, OFFSET_STEPS);
    const int8_t *codes = g->x_codes + i * g->x_ld;
    for (int64_t b = 0; b < blocks; b++, codes += OFFSET_STEPS) {
        int32_t halves[2] = {0, 0};
        for (int p = 0; p < OFFSET_STEPS; p++) /* rows are padded with zeros */
            halves[p / 2 % 2] += codes[p];
        uint32_t low = (uint32_t)(-8 * halves[0]), high = (uint32_t)(-8 * halves[1]);
        g->x_offsets[i * blocks + b] = (int32_t)((low & 0xFFFF) | high << 16);
    }
}

/* q = rint(x * (127 / max |x|)) of every group of one row, its scale max / 127 and the sum of q. */
static void round_row(void *context, int64_t i) {
    const product *g = context;
    const float *x = g->x + i * g->k;
    int8_t *codes = g->x_codes + i * g->x_ld;
    memset(codes + g->k, 0, (size_t)(g->x_ld - g->k));
    for (int64_t group = 0; group < g->groups; group++) {
        int64_t first = group * g->group, end = npk_min(first + g->group, g->k);
        float largest = 0.0f, nothing = 0.0f; /* nothing: NaN when a value is not finite */
        for (int64_t p = first; p < end; p++) {
            float magnitude = fabsf(x[p]);
            largest = magnitude > largest ? magnitude : largest;
            nothing += x[p] - x[p];
        }
        /* Subnormal maxima count as zero: their inverse overflows. */
        float inverse = largest >= 0x1p-120f ? 127.0f / largest : 0.0f;
        int32_t sum = 0;
        for (int64_t p = first; p < end; p++) {
            /* Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even. */
            float rounded = x[p] * inverse + 12582912.0f - 12582912.0f;
            rounded = rounded < 127.0f ? rounded : 127.0f; /* also for NaN */
            int32_t code = (int32_t)(rounded > -127.0f ? rounded : -127.0f);
            codes[p] = (int8_t)code;
            sum += code;
        }
        g->x_scale[i * g->groups + group] = (inverse > 0.0f ? largest / 127.0f : 0.0f) + nothing;
        g->x_sums[i * g->groups + group] = sum;
    }
    offset_row(g, i);
}

/* Pads the last chunk of every row to a multiple of 8, as decoded weights are. */
static bool pad_rows(product *g) {
    if (g->k % 8 == 0)
        return true;
    g->x_tail = calloc((size_t)g->m, WGEMM_CHUNK * sizeof(float));
    if (!g->x_tail)
        return false;
    int64_t last = 0;
    for (int64_t p = 0; p < g->k; p += chunk_length(g, p))
        last = p;
    for (int64_t i = 0; i < g->m; i++)
        memcpy(g->x_tail + i * WGEMM_CHUNK, g->x + i * g->k + last, (size_t)(g->k - last) * sizeof(float));
    return true;
}

static int run(product *g, int threads) {
    double by_work = (double)g->m * (double)g->n * (double)g->k / MIN_WORK_PER_THREAD;
    if (by_work < threads)
        threads = by_work < 1.0 ? 1 : (int)by_work;
    g->row_step = g->int8 ? even_step(g->m, ROWS_PER_TASK) : g->m;
    g->panel_step = STREAM_PANELS;
    g->across = npk_ceil_div(npk_ceil_div(g->n, WGEMM_NR), g->panel_step);
    int status = NPK_OK;
    if (g->int8)
        status = npk_parallel(threads, g->m, round_row, g);
    if (status == NPK_OK)
        status = npk_parallel(threads, npk_ceil_div(g->m, g->row_step) * g->across, run_task, g);
    return status;
}

const wgemm_ctx *wgemm_ctx_of(int isa) {
    return isa == NPK_GENERIC ? wgemm_ctx_generic() : isa == NPK_AVX2 ? wgemm_ctx_avx2() : wgemm_ctx_avx512();
}

static int checked(const product *g, int isa, int threads) {
    int64_t bytes;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || g->m < 0 || g->n < 0 || g->k < 0 || g->group < 8 || g->group % 8
        || threads < 1)
        return NPK_EINVAL;
    if (g->m > INT64_MAX / 4096 || g->n > INT64_MAX / 4096 || g->k > INT64_MAX / 4096 || g->group > INT64_MAX / 2
        || __builtin_mul_overflow(g->m + 64, 8 * (g->n + 64), &bytes)
        || __builtin_mul_overflow(g->m + 64, 8 * (g->k + 64), &bytes)
        || __builtin_mul_overflow(g->k + 64, 8 * (g->n + 64), &bytes))
        return NPK_EOVERFLOW;
    if (g->m && g->n && (!g->y || (g->k && (!g->x || !g->packed || !g->scale))))
        return NPK_EINVAL;
    return NPK_OK;
}

/* Whether the result shares memory with an input. */
static bool clashes(const product *g) {
    int64_t size = 4 * g->m * g->n, columns = npk_round_up(g->n, 16);
    int64_t scales = 4 * columns * npk_ceil_div(g->k, g->group), codes = columns * npk_round_up(g->k, 8) * g->bits / 8;
    return npk_overlap(g->y, size, g->x, 4 * g->m * g->k) || npk_overlap(g->y, size, g->packed, codes)
           || npk_overlap(g->y, size, g->scale, scales) || npk_overlap(g->y, size, g->zero, scales)
           || npk_overlap(g->y, size, g->bias, 4 * g->n);
}

int npk_wgemm(int isa, int bits, int64_t m, int64_t n, int64_t k, int64_t group, const float *x,
              const uint8_t *packed, const float *scale, const float *zero, const float *bias, float *y,
              int threads) {
    product g = {.bits = bits, .m = m, .n = n, .k = k, .group = group, .x = x, .packed = packed, .scale = scale,
                 .zero = zero, .bias = bias, .y = y};
    int status = checked(&g, isa, threads);
    if (status != NPK_OK)
        return status;
    if (bits != 4 && bits != 8)
        return NPK_EINVAL;
    g.ctx = wgemm_ctx_of(isa);
    if (!g.ctx)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    if (clashes(&g))
        return NPK_EALIAS;
    g.groups = npk_ceil_div(k, group);
    if (m > WGEMM_STREAM_ROWS)
        return multiply_decoded(&g, isa, threads);
    status = pad_rows(&g) ? run(&g, threads) : NPK_ENOMEM;
    free(g.x_tail);
    return status;
}

int npk_wgemm_int8(int isa, int64_t m, int64_t n, int64_t k, int64_t group, const float *x, const uint8_t *packed,
                   const float *scale, const float *zero, const float *bias, float *y, int threads) {
    product g = {.bits = 4, .m = m, .n = n, .k = k, .group = group, .x = x, .packed = packed, .scale = scale,
                 .zero = zero, .bias = bias, .y = y};
    int status = checked(&g, isa, threads);
    if (status != NPK_OK)
        return status;
    if (group % 32 || group > 65536) /* a sum of a group is at most 15 * 127 * group, its offset 16 * 127 * group */
        return NPK_EINVAL;
    g.int8 = isa == NPK_GENERIC ? wgemm_int8_ctx_generic()
             : isa == NPK_AVX2  ? wgemm_int8_ctx_avx2()
                                : wgemm_int8_ctx_vnni();
    if (!g.int8)
        return NPK_EUNSUPPORTED;
    if (m == 0 || n == 0)
        return NPK_OK;
    if (clashes(&g))
        return NPK_EALIAS;
    g.groups = npk_ceil_div(k, group);
    g.x_ld = npk_round_up(k, ALIGN) + ALIGN;
    g.x_codes = malloc((size_t)(m * g.x_ld));
    g.x_scale = malloc((size_t)(m * g.groups + 1) * sizeof(float));
    g.x_sums = malloc((size_t)(m * g.groups + 1) * sizeof(int32_t));
    g.x_offsets = malloc((size_t)(m * npk_ceil_div(k, OFFSET_STEPS) + 1) * sizeof(int32_t));
    status = g.x_codes && g.x_scale && g.x_sums && g.x_offsets ? run(&g, threads) : NPK_ENOMEM;
    free(g.x_codes);
    free(g.x_scale);
    free(g.x_sums);
    free(g.x_offsets);
    return status;
}
