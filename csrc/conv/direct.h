/* conv2d whose tiles read the image in place, see direct.c. */
#ifndef NPK_CONV_DIRECT_H
#define NPK_CONV_DIRECT_H

#include "../gemm/gemm.h"
#include "conv.h"

/* A task: `rows` x `cols` output pixels of an image by `filters` filters; `line` columns of the image, and `lines` rows,
 * are under the kernel there. */
typedef struct {
    int64_t rows, cols, filters, lines, line;
} conv_block;

/* Whether the pixels under a block fit the cache. */
bool conv_direct_block(const gemm_ctx *ctx, const conv_kernels *kernels, const npk_conv_shape *s, int threads,
                       conv_block *block);

/* All images for one group, whose channels begin at x, filters at w and out; `packed` are its weights as gemm_pack_b
 * leaves them, or NULL. */
int conv_direct(const gemm_ctx *ctx, const conv_kernels *kernels, const npk_conv_shape *s, const conv_block *block,
                const float *x, const float *w, const float *packed, float *out, int threads);

#endif
