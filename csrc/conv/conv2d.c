/* Convolution as a matrix product whose left factor is never made: the packing routine gathers the
 * pixels under the kernel, a panel of output pixels at a time (implicit GEMM: Chetlur et al., cuDNN, 2014). */
#include <string.h>

#include "direct.h"

static bool product(int64_t *total, const int64_t *sizes, int count) {
    *total = sizeof(float);
    for (int i = 0; i < count; i++)
        if (__builtin_mul_overflow(*total, sizes[i], total))
            return false;
    return true;
}

int conv_check(int isa, const npk_conv_shape *s, int64_t depth, int64_t filters, int threads, int64_t *taps) {
    int64_t bytes;
    int64_t sizes[] = {s->batch, s->height, s->width, s->channels, filters, s->kernel_height, s->kernel_width,
                       s->out_height, s->out_width, s->pad_top, s->pad_left};
    for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++)
        if (sizes[i] < 0)
            return NPK_EINVAL;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || threads < 1 || s->stride_y < 1 || s->stride_x < 1
        || s->dilation_y < 1 || s->dilation_x < 1)
        return NPK_EINVAL;
    int64_t reach[4][3] = {{s->out_height, s->stride_y, s->pad_top},
                           {s->out_width, s->stride_x, s->pad_left},
                           {s->kernel_height, s->dilation_y, 0},
                           {s->kernel_width, s->dilation_x, 0}};
    for (int i = 0; i < 4; i++) /* coordinates stay far below the limit, so that sums of two cannot overflow */
        if (__builtin_mul_overflow(reach[i][0], reach[i][1], &bytes) || bytes > INT64_MAX / 8
            || reach[i][2] > INT64_MAX / 8)
            return NPK_EOVERFLOW;
    if (!product(&bytes, (int64_t[]){s->batch, s->height, s->width, s->channels}, 4)
        || !product(&bytes, (int64_t[]){s->batch, s->out_height, s->out_width, filters}, 4)
        || !product(&bytes, (int64_t[]){s->kernel_height, s->kernel_width, depth, filters}, 4)
        || !product(&bytes, (int64_t[]){s->kernel_height, s->kernel_width, depth}, 3))
        return NPK_EOVERFLOW;
    *taps = bytes / (int64_t)sizeof(float);
    return gemm_context(isa) && conv_for(isa) ? NPK_OK : NPK_EUNSUPPORTED;
}

const conv_kernels *conv_for(int isa) {
    switch (isa) {
    case NPK_GENERIC: return conv_generic();
    case NPK_AVX2: return conv_avx2();
    case NPK_AVX512: return conv_avx512();
    default: return NULL;
    }
}

/* The rows of the left factor: row i is output pixel i, step p is channel p % depth of tap p / depth. */
typedef struct {
    gemm_lines lines;
    const npk_conv_shape *s;
    const float *x; /* at the first channel of the group */
    int64_t depth;
} patches;

static void fill_row(const patches *self, int64_t i, int64_t p, int64_t len, float *dst) {
    const npk_conv_shape *s = self->s;
    int64_t image = i / (s->out_height * s->out_width), row = i / s->out_width % s->out_height, col = i % s->out_width;
    int64_t top = row * s->stride_y - s->pad_top, left = col * s->stride_x - s->pad_left;
    int64_t tap = p / self->depth, channel = p % self->depth;
    while (len > 0) {
        int64_t count = npk_min(self->depth - channel, len);
        int64_t y = top + tap / s->kernel_width * s->dilation_y, x = left + tap % s->kernel_width * s->dilation_x;
        int64_t pixel = conv_pixel(s, image, y, x);
        if (pixel < 0)
            memset(dst, 0, (size_t)count * sizeof(float));
        else
            memcpy(dst, self->x + pixel + channel, (size_t)count * sizeof(float));
        dst += count;
        len -= count;
        tap++;
        channel = 0;
    }
}

static void fill(const gemm_lines *lines, int64_t i, int64_t count, int64_t p, int64_t len, float *dst, int64_t ld) {
    for (int64_t r = 0; r < count; r++)
        fill_row((const patches *)lines, i + r, p, len, dst + r * ld);
}

/* By the weights w, or packed. */
static int convolve(int isa, const npk_conv_shape *s, const float *x, const float *w, const float *packed, float *out,
                    int threads) {
    int64_t taps;
    if (!s || s->groups < 1 || s->channels % s->groups || s->filters % s->groups)
        return NPK_EINVAL;
    int64_t depth = s->channels / s->groups, filters = s->filters / s->groups;
    int status = conv_check(isa, s, depth, s->filters, threads, &taps);
    int64_t pixels = status == NPK_OK ? s->batch * s->out_height * s->out_width : 0;
    if (status != NPK_OK || pixels == 0 || filters == 0)
        return status;
    if (!out)
        return NPK_EINVAL;
    if (taps == 0 || s->height == 0 || s->width == 0) {
        memset(out, 0, (size_t)(pixels * s->filters) * sizeof(float));
        return NPK_OK;
    }
    if (!x || (!w && !packed))
        return NPK_EINVAL;
    const gemm_ctx *ctx = gemm_context(isa);
    const conv_kernels *kernels = conv_for(isa);
    gemm_args size = {.m = pixels, .n = filters, .k = taps};
    threads = gemm_useful_threads(&size, threads);
    conv_block block;
    bool plain = s->kernel_height == 1 && s->kernel_width == 1 && s->stride_y == 1 && s->stride_x == 1
                 && s->out_height == s->height && s->out_width == s->width && s->pad_top == 0 && s->pad_left == 0;
    bool direct = !plain && conv_direct_block(ctx, kernels, s, threads, &block);
    for (int64_t g = 0; g < s->groups && status == NPK_OK; g++) {
        const float *image = x + g * depth, *weights = packed ? NULL : w + g * filters;
        if (direct) {
            status = conv_direct(ctx, kernels, s, &block, image, weights, packed, out + g * filters, threads);
            continue;
        }
        patches source = {{fill}, s, image, depth};
        gemm_args args = {.m = pixels, .n = filters, .k = taps, .b = {weights, s->filters, 1, NPK_GEMM_F32},
                          .packed_b = packed, .packed_n = filters, .c = out + g * filters, .rsc = s->filters, .csc = 1};
        if (plain)
            args.a = (gemm_matrix){image, s->channels, 1, NPK_GEMM_F32};
        else
            args.lines = &source.lines;
        status = gemm_run(ctx, &args, NPK_GEMM_F32, threads);
    }
    return status;
}

int npk_conv2d(int isa, const npk_conv_shape *s, const float *x, const float *w, float *out, int threads) {
    return convolve(isa, s, x, w, NULL, out, threads);
}

int npk_conv2d_packed(int isa, const npk_conv_shape *s, const float *x, const float *packed, float *out,
                      int threads) {
    return s && s->groups != 1 ? NPK_EINVAL : convolve(isa, s, x, NULL, packed, out, threads);
}
