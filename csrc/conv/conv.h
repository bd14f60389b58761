/* What both convolutions share. */
#ifndef NPK_CONV_H
#define NPK_CONV_H

#include "../common/npk.h"
#include "api.h"

/* Sizes, steps and that no array's size in bytes exceeds int64; an NPK_ status. `taps` gets the terms of a sum. */
int conv_check(int isa, const npk_conv_shape *s, int64_t depth, int64_t filters, int threads, int64_t *taps);

/* Offset of pixel (y, x) of an image; -1 in the padding. */
NPK_INLINE int64_t conv_pixel(const npk_conv_shape *s, int64_t image, int64_t y, int64_t x) {
    if (y < 0 || y >= s->height || x < 0 || x >= s->width)
        return -1;
    return ((image * s->height + y) * s->width + x) * s->channels;
}

#endif
