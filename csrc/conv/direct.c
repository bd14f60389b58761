/* conv2d on a padded copy of the pixels under a block of the output. In it the taps of a kernel row are contiguous for
 * every output pixel (where taps are adjacent), so tiles read it in place: each pixel is copied about once, not once per
 * tap as in a matrix of patches (Dukhan, The Indirect Convolution Algorithm, 2019, has the same aim). */
#include "direct.h"

#include <string.h>

#include "../common/threads.h"

enum {
    BLOCK = 1 << 16,        /* floats of a copy: a quarter of L2 */
    LARGEST = 1 << 18,      /* where even a few pixels see more, patches are gathered instead */
    PACKED = 1 << 24,       /* floats of weights to keep packed */
    TASKS_PER_THREAD = 4,
};

typedef struct {
    const npk_conv_shape *s;
    const conv_kernels *kernels;
    const gemm_ctx *ctx;
    const conv_block *block;
    conv_walk walk;
    int64_t depth, filters, taps, step_k, down, across, parts;
    const float *x, *w;
    const float *packed;
    float *packing; /* where `packed` is made */
    float *out;
    _Atomic int status;
} job;

static double under(const npk_conv_shape *s, const conv_block *b) {
    double lines = ((double)b->rows - 1) * (double)s->stride_y + ((double)s->kernel_height - 1) * (double)s->dilation_y;
    double line = ((double)b->cols - 1) * (double)s->stride_x + ((double)s->kernel_width - 1) * (double)s->dilation_x;
    return (lines + 1) * (line + 1) * (double)(s->channels / s->groups);
}

/* The same number of equal pieces, the last may be smaller. */
static int64_t even(int64_t size, int64_t piece) { return npk_ceil_div(size, npk_ceil_div(size, piece)); }

bool conv_direct_block(const gemm_ctx *ctx, const conv_kernels *kernels, const npk_conv_shape *s, int threads,
                       conv_block *block) {
    int64_t depth = s->channels / s->groups, filters = s->filters / s->groups;
    double weights = (double)s->kernel_height * (double)s->kernel_width * (double)depth
                     * (double)npk_round_up(filters, ctx->nr);
    *block = (conv_block){.rows = 1, .cols = s->out_width, .filters = filters};
    while (under(s, block) > BLOCK && block->cols > 2 * kernels->mr)
        block->cols = npk_ceil_div(block->cols, 2);
    if (kernels->nr != ctx->nr || under(s, block) > LARGEST || weights > PACKED)
        return false;
    int64_t tasks = threads > 1 ? (int64_t)threads * TASKS_PER_THREAD : 1, images = s->batch * s->out_height;
    int64_t most = npk_min(s->out_height, npk_ceil_div(images, tasks));
    while (block->rows < most && block->cols == s->out_width && under(s, block) <= BLOCK)
        block->rows++;
    if (block->rows > 1 && under(s, block) > BLOCK)
        block->rows--;
    block->rows = even(s->out_height, block->rows);
    block->lines = (block->rows - 1) * s->stride_y + (s->kernel_height - 1) * s->dilation_y + 1;
    block->line = (block->cols - 1) * s->stride_x + (s->kernel_width - 1) * s->dilation_x + 1;
    return true;
}

/* Row y of an image, columns left ... left + line, zero outside. */
static void copy_line(const job *j, const float *image, int64_t y, int64_t left, float *dst) {
    const npk_conv_shape *s = j->s;
    int64_t line = j->block->line, depth = j->depth;
    int64_t begin = npk_min(left < 0 ? -left : 0, line), end = npk_min(s->width - left, line);
    if (y < 0 || y >= s->height || end <= begin)
        begin = end = line;
    memset(dst, 0, (size_t)(begin * depth) * sizeof(float));
    memset(dst + end * depth, 0, (size_t)((line - end) * depth) * sizeof(float));
    if (begin == end)
        return;
    const float *src = image + (y * s->width + left + begin) * s->channels;
    if (depth == s->channels) {
        memcpy(dst + begin * depth, src, (size_t)((end - begin) * depth) * sizeof(float));
        return;
    }
    for (int64_t x = begin; x < end; x++, src += s->channels)
        memcpy(dst + x * depth, src, (size_t)depth * sizeof(float));
}

/* One panel of filters for all pixels of a block (rows, cols) whose copy is `pixels` and whose first output is `out`. */
static void run_panel(const job *j, int64_t rows, int64_t cols, const float *pixels, int64_t p, int64_t len,
                      const float *b, int64_t filters, float *out) {
    const npk_conv_shape *s = j->s;
    int64_t down = s->stride_y * j->block->line * j->depth, right = s->stride_x * j->depth, row = 0, col = 0;
    for (int64_t left = rows * cols; left > 0;) {
        const float *a[CONV_MAX_MR];
        float *c[CONV_MAX_MR];
        int count = gemm_tile_rows(left, j->kernels->mr);
        for (int i = 0; i < count; i++) {
            a[i] = pixels + row * down + col * right;
            c[i] = out + (row * s->out_width + col) * s->filters;
            if (++col == cols) {
                col = 0;
                row++;
            }
        }
        j->kernels->tile[count - 1](&j->walk, p, len, a, b, c, filters, p > 0);
        left -= count;
    }
}

static void run_block(void *context, int64_t task) {
    job *j = context;
    const npk_conv_shape *s = j->s;
    const conv_block *block = j->block;
    int64_t part = task % j->parts, col = task / j->parts % j->across * block->cols;
    int64_t row = task / j->parts / j->across % j->down * block->rows, image = task / j->parts / j->across / j->down;
    int64_t rows = npk_min(block->rows, s->out_height - row), cols = npk_min(block->cols, s->out_width - col);
    int64_t line = block->line * j->depth;
    float *pixels = gemm_scratch(GEMM_RESULT, block->lines * line);
    if (!pixels) {
        j->status = NPK_ENOMEM;
        return;
    }
    const float *source = j->x + image * s->height * s->width * s->channels;
    int64_t lines = (rows - 1) * s->stride_y + (s->kernel_height - 1) * s->dilation_y + 1;
    for (int64_t y = 0; y < lines; y++)
        copy_line(j, source, row * s->stride_y - s->pad_top + y, col * s->stride_x - s->pad_left, pixels + y * line);
    float *out = j->out + ((image * s->out_height + row) * s->out_width + col) * s->filters;
    int64_t first = part * block->filters, end = npk_min(first + block->filters, j->filters);
    for (int64_t p = 0; p < j->taps; p += j->step_k) {
        int64_t len = npk_min(j->step_k, j->taps - p);
        const float *b = j->packed + p * npk_round_up(j->filters, j->ctx->nr);
        for (int64_t f = first; f < end; f += j->ctx->nr)
            run_panel(j, rows, cols, pixels, p, len, b + f * len, npk_min(j->ctx->nr, end - f), out + f);
    }
}

static void pack(void *context, int64_t task) {
    job *j = context;
    int64_t p = task * j->step_k;
    gemm_matrix part = {j->w + p * j->s->filters, j->s->filters, 1, NPK_GEMM_F32};
    gemm_pack_block(j->ctx, j->filters, npk_min(j->step_k, j->taps - p), &part,
                    j->packing + p * npk_round_up(j->filters, j->ctx->nr));
}

int conv_direct(const gemm_ctx *ctx, const conv_kernels *kernels, const npk_conv_shape *s, const conv_block *block,
                const float *x, const float *w, const float *packed, float *out, int threads) {
    int64_t depth = s->channels / s->groups, filters = s->filters / s->groups;
    bool adjacent = s->dilation_x == 1;
    job j = {.s = s, .kernels = kernels, .ctx = ctx, .block = block, .depth = depth, .filters = filters,
             .taps = s->kernel_height * s->kernel_width * depth, .down = npk_ceil_div(s->out_height, block->rows),
             .across = npk_ceil_div(s->out_width, block->cols), .parts = npk_ceil_div(filters, block->filters),
             .x = x, .w = w, .out = out, .status = NPK_OK};
    j.walk = (conv_walk){.run = adjacent ? s->kernel_width * depth : depth, .runs = adjacent ? 1 : s->kernel_width,
                         .run_step = s->dilation_x * depth, .row_step = s->dilation_y * block->line * depth};
    j.step_k = gemm_block_k(ctx, j.taps);
    if (!packed) {
        packed = j.packing = gemm_scratch(GEMM_PACKING, npk_round_up(filters, ctx->nr) * j.taps);
        if (!packed)
            return NPK_ENOMEM;
        npk_parallel(threads, npk_ceil_div(j.taps, j.step_k), pack, &j);
    }
    j.packed = packed;
    npk_parallel(threads, s->batch * j.down * j.across * j.parts, run_block, &j);
    return j.status;
}
