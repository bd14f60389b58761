/* What both convolutions share. driver code is plain C; an instruction set contributes one conv_kernels. */
#ifndef NPK_CONV_H
#define NPK_CONV_H

#include "../common/npk.h"
#include "api.h"

/* Rows of the weights, or columns, or channels: a range with no elements where end <= begin. */
typedef struct {
    int64_t begin, end;
} conv_span;

/* One row of the output of the depthwise convolution of one image; out (out_width, channels). */
typedef void (*depthwise_run)(const npk_conv_shape *s, const float *image, const float *w, int64_t row, float *out);

/* What an instruction set contributes. */
typedef struct {
    depthwise_run depthwise;
} conv_kernels;

/* NULL when the build or the CPU lacks the instruction set. */
const conv_kernels *conv_generic(void);
const conv_kernels *conv_avx2(void);
const conv_kernels *conv_avx512(void);
const conv_kernels *conv_for(int isa);

/* Sizes, steps and that no array's size in bytes exceeds int64; an NPK_ status. `taps` gets the terms of a sum. */
int conv_check(int isa, const npk_conv_shape *s, int64_t depth, int64_t filters, int threads, int64_t *taps);

/* Offset of pixel (y, x) of an image; -1 in the padding. */
NPK_INLINE int64_t conv_pixel(const npk_conv_shape *s, int64_t image, int64_t y, int64_t x) {
    if (y < 0 || y >= s->height || x < 0 || x >= s->width)
        return -1;
    return ((image * s->height + y) * s->width + x) * s->channels;
}

#endif
