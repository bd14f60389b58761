/* What Python calls; see rows.h. */
#ifndef NPK_ROWS_API_H
#define NPK_ROWS_API_H

#include <stdint.h>

/* Rows of `cols` contiguous elements, `type` an NPK_ number format; stride_x counts elements, out's rows follow
 * each other. out may be x itself. weight and bias are binary32 and may be NULL for 1 and 0. Same bits for any
 * thread count. */
int npk_layernorm(int isa, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                  const float *weight, const float *bias, float eps, void *out, int threads);

/* With `residual` (rows follow each other), x + residual, rounded to the format, replaces it and is normalised. */
int npk_rmsnorm(int isa, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x, const float *weight,
                float eps, void *residual, void *out, int threads);

int npk_softmax(int isa, int type, int logarithm, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                void *out, int threads);

#endif
