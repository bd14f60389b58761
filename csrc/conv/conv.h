/* What both convolutions share; an instruction set contributes one conv_kernels. */
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

/* Where step p of a sum lies from the first tap of its pixel on: taps come in runs of `run` contiguous steps, `runs` of
 * them to a row of the kernel. */
typedef struct {
    int64_t run, runs, run_step, row_step;
} conv_walk;

/* out[i][j] (+)= sum over len steps from p on of pixel i times filter j, for cols <= nr filters; b[p * nr + j] is packed
 * by gemm_pack_block, from step p on. */
typedef void (*conv_tile)(const conv_walk *walk, int64_t p, int64_t len, const float *const *pixels, const float *b,
                          float *const *out, int64_t cols, bool add);

enum { CONV_MAX_MR = 12 };

/* What an instruction set contributes. */
typedef struct {
    depthwise_run depthwise;
    int mr, nr;
    const conv_tile *tile; /* tile[r - 1] computes r = 1 ... mr pixels */
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
