/* What Python calls; see topk.h. */
#ifndef NPK_TOPK_API_H
#define NPK_TOPK_API_H

#include <stdint.h>

/* The `best` largest elements of every row, descending, equal ones by index, NaN above all: values and indices
 * are (rows, best). Same bits for any thread count. */
int npk_topk(int isa, int64_t rows, int64_t cols, int64_t best, const float *x, int64_t stride_x, float *values,
             int64_t *indices, int threads);

#endif
