/* Depthwise convolution: channels are the vector; a task is one row of the output. */
#include <string.h>

#include "../common/threads.h"
#include "conv.h"

typedef struct {
    const npk_conv_shape *s;
    const float *x, *w;
    float *out;
} job;

/* One output row; an element is the sum over the taps inside the image, in their order, from zero. The
 * compiler makes vectors of the loop over channels, in the instruction set of the caller. */
NPK_INLINE void row_of(const job *j, int64_t task) {
    const npk_conv_shape *s = j->s;
    int64_t image = task / s->out_height, row = task % s->out_height, channels = s->channels;
    for (int64_t col = 0; col < s->out_width; col++) {
        float *restrict dst = j->out + (task * s->out_width + col) * channels;
        memset(dst, 0, (size_t)channels * sizeof(float));
        for (int64_t ky = 0; ky < s->kernel_height; ky++)
            for (int64_t kx = 0; kx < s->kernel_width; kx++) {
                int64_t y = row * s->stride_y - s->pad_top + ky * s->dilation_y;
                int64_t x = col * s->stride_x - s->pad_left + kx * s->dilation_x;
                int64_t pixel = conv_pixel(s, image, y, x);
                if (pixel < 0)
                    continue;
                const float *restrict src = j->x + pixel;
                const float *restrict tap = j->w + (ky * s->kernel_width + kx) * channels;
                for (int64_t c = 0; c < channels; c++)
                    dst[c] += src[c] * tap[c];
            }
    }
}

static void row_generic(void *context, int64_t task) { row_of(context, task); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void row_avx2(void *context, int64_t task) { row_of(context, task); }
__attribute__((target("avx512f"))) static void row_avx512(void *context, int64_t task) { row_of(context, task); }
#else
#define row_avx2 row_generic
#define row_avx512 row_generic
#endif

int npk_depthwise_conv2d(int isa, const npk_conv_shape *s, const float *x, const float *w, float *out, int threads) {
    int64_t taps;
    if (!s)
        return NPK_EINVAL;
    int status = conv_check(isa, s, 1, s->channels, threads, &taps);
    if (status != NPK_OK || s->batch == 0 || s->out_height == 0 || s->out_width == 0 || s->channels == 0)
        return status;
    bool reads = taps > 0 && s->height > 0 && s->width > 0;
    if (!out || (reads && (!x || !w)))
        return NPK_EINVAL;
    void (*rows[])(void *, int64_t) = {row_generic, row_avx2, row_avx512};
    job j = {s, x, w, out};
    return npk_parallel(threads, s->batch * s->out_height, rows[isa], &j);
}
