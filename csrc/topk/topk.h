/* Largest elements of rows. driver.c splits the rows; an instruction set contributes one function. */
#ifndef NPK_TOPK_H
#define NPK_TOPK_H

#include "../common/npk.h"
#include "api.h"

/* One row; 0 < best <= cols. */
typedef void (*topk_table)(int64_t cols, int64_t best, const float *x, float *values, int64_t *indices);

/* NULL when the build or the CPU lacks the instruction set. */
const topk_table *topk_generic(void);
const topk_table *topk_avx2(void);
const topk_table *topk_avx512(void);

#endif
