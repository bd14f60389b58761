/* What Python calls: convolutions of images in NHWC by weights in HWIO, in binary32. */
#ifndef NPK_CONV_API_H
#define NPK_CONV_API_H

#include <stdint.h>

/* Images (batch, height, width, channels), kernels (kernel_height, kernel_width, channels / groups, filters). */
typedef struct {
    int64_t batch, height, width, channels, filters, kernel_height, kernel_width;
    int64_t stride_y, stride_x, dilation_y, dilation_x;
    int64_t pad_top, pad_left, out_height, out_width;
    int64_t groups;
} npk_conv_shape;

/* out (batch, out_height, out_width, filters), all arrays C-contiguous and apart. */
int npk_conv2d(int isa, const npk_conv_shape *shape, const float *x, const float *w, float *out, int threads);

/* The same with the weights, a (kernel_height kernel_width channels, filters) matrix, as npk_gemm_pack leaves them for
 * this isa; one group. */
int npk_conv2d_packed(int isa, const npk_conv_shape *shape, const float *x, const float *packed, float *out, int threads);

/* The same as npk_conv2d with one filter a channel: weights (kernel_height, kernel_width, channels); groups and filters are ignored. */
int npk_depthwise_conv2d(int isa, const npk_conv_shape *shape, const float *x, const float *w, float *out, int threads);

#endif
