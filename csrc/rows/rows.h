/* Normalisations of rows: layernorm, rmsnorm, softmax. driver.c splits the rows; an instruction set contributes
 * one table. Every row is computed alike wherever it lies, so results do not depend on the split. */
#ifndef NPK_ROWS_H
#define NPK_ROWS_H

#include "../common/npk.h"
#include "api.h"

typedef struct {
    int64_t rows, cols, stride_x, bytes; /* bytes of an element */
    const char *x;
    const float *weight, *bias; /* may be NULL */
    char *residual;             /* may be NULL */
    float eps;
    char *out;
} rows_args;

enum { LAYERNORM, RMSNORM, SOFTMAX, LOG_SOFTMAX, ROW_OPS };
enum { FORMATS = 4, STREAMED_FP32 = 3 };

/* A row of softmax waits here between its two passes when the result is stored past the caches. */
enum { SCRATCH = 8192 };

/* Rows from `row` to before `end`. */
typedef void (*rows_run)(const rows_args *a, int64_t row, int64_t end);

/* By op and number format; the last format is binary32 with stores past the caches. */
typedef rows_run rows_table[ROW_OPS][FORMATS];

/* NULL when the build or the CPU lacks the instruction set. */
const rows_table *rows_generic(void);
const rows_table *rows_avx2(void);
const rows_table *rows_avx512(void);

#endif
